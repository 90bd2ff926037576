"""Memory that the ranks of a node share, by an MPI window: what one of them writes the others read where it lies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EnvironmentMismatch

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

SHARED_MEMORY = "/dev/shm"  # where MPI libraries keep it on Linux
_reserved = 0  # bytes of the windows of this process's node, some of which may not have been touched yet


def free_bytes() -> int | None:
    """The room that is left for shared memory; None where the system does not tell."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_room(nbytes: int) -> None:
    """Look whether there is room for a window before its memory is touched: what is beyond ends the process by SIGBUS, without a word.

    The system gives pages when they are first written, so those of the windows that are there count as not yet taken.

    Parameters
    ----------
    nbytes : of all ranks of the node together.

    Raises
    ------
    EnvironmentMismatch : there is not; names the sizes and the remedies.
    """
    free = free_bytes()
    if free is not None and nbytes + _reserved > free:
        left, needed = free / 2**20, (nbytes + _reserved) / 2**20
        raise EnvironmentMismatch(
            f"{SHARED_MEMORY} has {left:.1f} MiB left, and the ranks of this node need {needed:.1f} MiB of shared memory for messages; "
            "make it larger (docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm), or use «exchange='p2p'»"
        )


class Window:
    """A window with a part for each rank of a node. Making and freeing it is collective over the node.

    Ranks tell each other by messages when there is something to read; `sync` goes between the message and the memory.

    Parameters
    ----------
    node : mpi4py communicator of the ranks that share memory. nbytes : of this rank's part.

    Attributes
    ----------
    parts : uint8 arrays, one for each rank of `node`.

    Raises
    ------
    EnvironmentMismatch : there is not enough shared memory.
    """

    def __init__(self, node: Intracomm, nbytes: int):
        from mpi4py import MPI

        global _reserved
        self.nbytes, self._whole = nbytes, 0
        if node.Get_size() > 1:
            self._whole = nbytes * node.Get_size()
            check_room(self._whole)
        _reserved += self._whole
        self._window = MPI.Win.Allocate_shared(max(nbytes, 1), 1, comm=node)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        memory: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(node.Get_size())]
        self.parts = [np.frombuffer(part, np.uint8) for part in memory]

    def sync(self) -> None:
        """What this rank wrote before can be seen by the others, and what they wrote before by this one."""
        self._window.Sync()

    def free(self) -> None:
        """Give the memory back; the arrays are dead."""
        global _reserved
        _reserved -= self._whole
        self.parts = []
        self._window.Unlock_all()
        self._window.Free()
