"""Numbers with their units, as tables, figures and messages show them."""

from __future__ import annotations

import math


def size(nbytes: float) -> str:
    """Bytes with a decimal unit.

    >>> size(999), size(1234567)
    ('999 B', '1.23 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(nbytes) < 1000 or unit == "TB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    raise AssertionError


def rate(bits_per_second: float) -> str:
    """A link speed.

    >>> rate(2.5e6)
    '2.5 Mbit/s'
    """
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"):
        if abs(bits_per_second) < 1000 or unit == "Tbit/s":
            return f"{bits_per_second:.3g} {unit}"
        bits_per_second /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.00034), seconds(12.3456)
    ('340 µs', '12.35 s')
    """
    if value >= 1 or value == 0:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def duration(value: float) -> str:
    """A time to wait, to two figures or so.

    >>> duration(7.3), duration(95), duration(4000), duration(200_000)
    ('8 s', '1 min 35 s', '1 h 06 min', '2 d 7 h')
    """
    whole = math.ceil(value)
    for unit, part, name, smaller in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit} {name} {rest:{'' if smaller == 'h' else '02'}} {smaller}"
    return f"{whole} s"
