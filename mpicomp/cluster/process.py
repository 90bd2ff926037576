"""Whose process this is: the command line's own, or that of a program that calls the library.

A run leaves what belongs to the whole process alone (`os._exit`, the files of MPI's shared memory), unless it is the command line's.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1  # of Linux's prctl

_owned = False


def is_owned() -> bool:
    """The process is the command line's own."""
    return _owned


@contextmanager
def own_process() -> Iterator[None]:
    """Within this the process is the command line's own."""
    global _owned
    before, _owned = _owned, True
    try:
        yield
    finally:
        _owned = before


def ended_with_parent() -> Callable[[], None]:
    """What a child of this process calls before its program (`preexec_fn`): it then gets SIGTERM when this process dies, where that is
    Linux."""
    parent, library = os.getpid(), ctypes.CDLL(None)

    def tie() -> None:
        if hasattr(library, "prctl"):  # Linux
            library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    return tie
