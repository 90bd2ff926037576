"""Whose process this is: the command line's own, or that of a program that calls the library.

A run leaves what belongs to the whole process alone (`os._exit`, the files of MPI's shared memory), unless it is the command line's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
