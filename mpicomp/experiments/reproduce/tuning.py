"""The rule by which all studies tune: absolute steps 2^k, and no best step at an edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

PATIENCE = 2  # steps in a row, in each direction, that must be no better than the best

Quality = TypeVar("Quality", float, "tuple[float, ...]")


def best_exponent(quality: Callable[[int], Quality], start: int, patience: int = PATIENCE) -> int:
    """k of the best of all steps 2^k, as far as they help: from `start` up, then down, until `patience` in a row are no better.

    The grid is thus the same for every method, and as wide as it has to be: the best step has neighbours on both sides that are worse.

    Parameters
    ----------
    quality : of the step 2^k, less is better; asked once for each k. start : where to begin, which only costs time.

    >>> best_exponent(lambda k: abs(k + 5), 0), best_exponent(lambda k: abs(k - 3), 0)
    (-5, 3)
    """
    known: dict[int, Quality] = {start: quality(start)}
    for direction in (1, -1):
        k, worse = start, 0
        while worse < patience:
            k += direction
            best = min(known.values())
            known[k] = quality(k)
            worse = 0 if known[k] < best else worse + 1
    return min(known, key=lambda k: (known[k], k))
