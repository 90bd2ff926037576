"""Numbers with their units, as tables, figures and messages show them."""

from __future__ import annotations


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
