"""Arrays that are handed to parts of one's own: what is not theirs they cannot write to."""

from __future__ import annotations

import numpy as np


def ours(part: object) -> bool:
    """The part is one of mpicomp's own, which write only to what is theirs."""
    return type(part).__module__.partition(".")[0] == "mpicomp"


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to.

    >>> read_only(np.zeros(2))[0] = 1
    Traceback (most recent call last):
    ValueError: assignment destination is read-only
    """
    view = array.view()
    view.flags.writeable = False
    return view
