"""How curves look: colours that colour-blind readers tell apart, and marks and lines that survive a grey print."""

from __future__ import annotations

import os
from typing import Any

from ..errors import UserError

# Okabe and Ito 2008, "Color universal design"; their black is the dense baseline's, their yellow, faint on white, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLACK, GREY = "#000000", "#767676"
MARKERS = ("o", "^", "D", "v", "P", "X", "*", "s")
LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)))


class MissingExtra(UserError):
    """A figure needs packages that are not installed."""


def import_matplotlib() -> Any:
    """matplotlib, whatever MPLBACKEND says: a notebook's may name a package that is not here. Raises ImportError where there is none."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    return matplotlib


def colours(count: int) -> list[str]:
    """So many colours, no two the same: the palette, or where it is too small steps from dark to light."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [str(to_hex(colormaps["viridis"](0.92 * k / (count - 1)))) for k in range(count)]


def looks(dense: list[bool]) -> list[dict[str, Any]]:
    """matplotlib's keywords for each curve: the first dense baseline is black, and no two share colour, or marker and line.

    Parameters
    ----------
    dense : for each curve, whether it is a dense baseline.
    """
    black = dense.index(True) if True in dense else -1
    palette = colours(len(dense) - (black >= 0))
    found: list[dict[str, Any]] = []
    for k in range(len(dense)):
        if k == black:
            found.append({"color": BLACK, "marker": "s", "linestyle": "-"})
            continue
        i = k - (0 <= black < k)
        found.append(
            {"color": palette[i], "marker": MARKERS[i % 7], "linestyle": LINES[(i + (black >= 0)) % len(LINES)]}
        )
    return found
