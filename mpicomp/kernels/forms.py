"""Which form of a kernel runs, where it has two: plain Numba, or LLVM's own instructions.

The environment variable MPICOMP_KERNELS chooses, and is read once, when `mpicomp.kernels` is imported:

- `fast`, the default: LLVM's instructions; where they do not compile, the plain form, with one warning.
- `plain`: Numba's loops, which compute the same bits several times as slowly, and read like the papers.
"""

from __future__ import annotations

import os

from ..errors import unknown

VARIABLE = "MPICOMP_KERNELS"
FORMS = ("fast", "plain")


def _requested() -> str:
    form = os.environ.get(VARIABLE, "fast")
    if form not in FORMS:
        raise unknown(VARIABLE, form, FORMS)
    return form


form = _requested()


def fall_back() -> None:
    """From now on, in this process, the form is `plain`. What is compiled already stays: its bits are the same."""
    global form
    form = "plain"
