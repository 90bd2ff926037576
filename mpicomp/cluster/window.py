"""Memory that the ranks of a node share, by an MPI window: what one of them writes the others read where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


class Window:
    """A window with a part for each rank of a node. Making and freeing it is collective over the node.

    Ranks tell each other by messages when there is something to read; `sync` goes between the message and the memory.

    Parameters
    ----------
    node : mpi4py communicator of the ranks that share memory. nbytes : of this rank's part.

    Attributes
    ----------
    parts : uint8 arrays, one for each rank of `node`.
    """

    def __init__(self, node: Intracomm, nbytes: int):
        from mpi4py import MPI

        self.nbytes = nbytes
        self._window = MPI.Win.Allocate_shared(max(nbytes, 1), 1, comm=node)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        memory: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(node.Get_size())]
        self.parts = [np.frombuffer(part, np.uint8) for part in memory]

    def sync(self) -> None:
        """What this rank wrote before can be seen by the others, and what they wrote before by this one."""
        self._window.Sync()

    def free(self) -> None:
        """Give the memory back; the arrays are dead."""
        self.parts = []
        self._window.Unlock_all()
        self._window.Free()
