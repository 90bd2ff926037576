"""Of several ranks that fail at once one tells the whole story, the lowest, and the others say one line."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

TAG_FAILS, TAG_TOLD = 32001, 32002  # MPI has tags up to 32767 at least
STEP_SECONDS, MOST_SECONDS = 0.1, 1.0  # that a rank waits for each rank below it, and at most
REACH = 64  # ranks above and below that are told
_LOOK_SECONDS = 0.01
_sent: list[object] = []  # what is under way when the job ends


def turn(rank: int) -> float:
    """Seconds that a rank leaves to those below it."""
    return min(STEP_SECONDS * rank, MOST_SECONDS)


def told_by_another(comm: MPIComm) -> bool:
    """Say that this rank fails, wait for its turn, and hear whether another one tells the whole story: a lower one that fails, or one
    whose turn came before. Where MPI cannot say any more, this rank tells it."""
    try:
        rank, size = comm.Get_rank(), comm.Get_size()
        deadline = time.monotonic() + turn(rank)
        _tell(comm, range(rank + 1, min(size, rank + REACH)), TAG_FAILS)
        while not (comm.Iprobe(tag=TAG_FAILS) or comm.Iprobe(tag=TAG_TOLD)):
            if time.monotonic() >= deadline:
                _tell(comm, range(max(0, rank - REACH), rank), TAG_TOLD)
                return False
            time.sleep(_LOOK_SECONDS)
    except Exception:  # MPI's own
        return False
    return True


def _tell(comm: MPIComm, ranks: range, tag: int) -> None:
    for other in ranks:
        with suppress(Exception):  # one that is dead
            _sent.append(comm.Isend(np.empty(0, np.uint8), other, tag))
