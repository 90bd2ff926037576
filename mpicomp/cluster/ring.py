"""A sum over all ranks round a ring: no link carries more than twice the vector each way, whatever the number of ranks.

Libraries' Allreduce for long vectors does the same with a power of two of ranks. With another number the ranks beyond it first hand their
vectors over and at the end get the sum back, which is twice as much through some links: five ranks of MPICH move 2.8 vectors, a ring 1.6.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .comm import Comm
    from .messages import AnyRequest

TAG_RING = 6
LEAST_NBYTES = 1 << 16  # a rank: of shorter vectors the 2 (P − 1) steps of a ring cost more than its bytes save
PIECE_NBYTES = 1 << 18  # a piece goes on while the next one arrives


def moves_less(size: int, nodes: int, nbytes: int) -> bool:
    """A ring of so many ranks moves fewer bytes than a library's Allreduce, and enough for its steps to be worth it.

    nodes : hosts. Within one, a library sums in shared memory.
    """
    return nodes > 1 and size > 2 and size & (size - 1) > 0 and nbytes >= size * LEAST_NBYTES


class RankSum:
    """Sums over all ranks, round a ring where that moves less than the communicator's own sum.

    Parameters
    ----------
    nodes : hosts of the ranks.
    """

    def __init__(self, comm: Comm, nodes: int):
        self.comm, self.nodes = comm, nodes
        self._work = np.zeros(0, np.uint8)

    def goes_round(self, values: np.ndarray) -> bool:
        """Such numbers, 1-D, are summed by `ring_sum`."""
        return not self.comm.sums_in_a_ring and moves_less(self.comm.size, self.nodes, values.nbytes)

    def sent_nbytes(self, values: np.ndarray) -> int:
        """Bytes that this rank hands over for them."""
        if not self.goes_round(values):
            return values.nbytes
        return ring_nbytes(self.comm.rank, self.comm.size, len(values), values.itemsize)

    def add_up(self, values: np.ndarray) -> None:
        """The sum of all ranks' values, in their place."""
        if not self.goes_round(values):
            self.comm.allreduce_sum(values)
            return
        if len(self._work) < (room := ring_scratch(self.comm.size, values)):
            self._work = np.zeros(room, np.uint8)
        ring_sum(self.comm, values, self._work)


def ring_scratch(size: int, values: np.ndarray) -> int:
    """Bytes that `ring_sum` works in."""
    return 2 * values.itemsize * -(-len(values) // size)


def ring_nbytes(rank: int, size: int, count: int, itemsize: int) -> int:
    """Bytes that a rank sends in `ring_sum` of so many numbers."""
    widths = np.diff(ring_bounds(count, size))
    return itemsize * int(sum(widths[(rank - step) % size] for step in range(2 * size - 2)))


def ring_sum(comm: Comm, values: np.ndarray, work: np.ndarray) -> None:
    """Sum over all ranks, in place: of P segments each goes round once and is added up, and once more to tell the sum.

    Every rank ends up with the same bits: segment s is x_s + x_{s+1} + … in the order of ranks from s on.

    Parameters
    ----------
    values : float32 or float64, 1-D, contiguous, of one length on all ranks. work : uint8, scratch, `ring_scratch` bytes at least.
    """
    size, rank = comm.size, comm.rank
    halves = work[: ring_scratch(size, values)].view(values.dtype).reshape(2, -1)
    right, left, bounds = (rank + 1) % size, (rank - 1) % size, ring_bounds(len(values), size)
    last, piece = 2 * size - 3, PIECE_NBYTES // values.itemsize

    def pieces(step: int) -> list[np.ndarray]:
        """What is received in a step, and sent on in the next one; step −1 has what this rank sends first."""
        s = (rank - step - 1) % size
        return [values[at : min(at + piece, bounds[s + 1])] for at in range(bounds[s], bounds[s + 1], piece)]

    def post(step: int) -> list[tuple[AnyRequest, np.ndarray, np.ndarray]]:
        """Receive a step's pieces: beside what they are added to, or in the second round in its place."""
        found, at = [], 0
        for target in pieces(step):
            into = target if step > size - 2 else halves[step % 2, at : at + len(target)]
            found.append((comm.irecv(into, left, TAG_RING), into, target))
            at += len(target)
        return found

    arriving = post(0)
    sent: deque[list[AnyRequest]] = deque([[comm.isend(part, right, TAG_RING) for part in pieces(-1)]])
    for step in range(last + 1):
        if len(sent) >= size - 1:  # the segment of that step is the next one to be received in place
            for request in sent.popleft():
                comm.wait(request)
        following = post(step + 1) if step < last else []
        on_their_way = []
        for request, into, target in arriving:
            comm.wait(request)
            if into is not target:
                target += into
            if step < last:
                on_their_way.append(comm.isend(target, right, TAG_RING))
        sent.append(on_their_way)
        arriving = following
    for requests in sent:
        for request in requests:
            comm.wait(request)


def ring_bounds(count: int, size: int) -> np.ndarray:
    """Of the segments: segment s is [bounds[s], bounds[s+1]); int64, shape (size + 1,)."""
    return np.arange(size + 1) * count // size
