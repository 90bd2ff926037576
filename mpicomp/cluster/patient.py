"""A communicator that yields the processor while it waits, and gives up with a message when a rank does not come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RankFailure
from .comm import Comm
from .counts import pieces
from .ledger import Ledger
from .messages import AnyRequest, Receiving

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

_TAG_HERE, _ANSWER = 9, 2.0  # seconds in which ranks that wait hear of each other
_SPIN, _NAP = 1e-3, 2e-5  # seconds of looking without sleep; of each sleep after that


class PatientComm(Comm):
    """For loops of somebody else's, in which ranks come late and processors are shared.

    Attributes
    ----------
    timeout : seconds after which a wait ends with RankFailure. call : number of the call, for the message.
    """

    timeout: float = 300.0
    call: int = 0

    def __init__(self, comm: MPIComm, ledger: Ledger | None = None, by_node: bool = False):
        super().__init__(comm, ledger, by_node)
        self._sources: dict[int, int] = {}  # of the receives that are under way

    def irecv(self, buf: np.ndarray, source: int, tag: int = 0) -> AnyRequest:
        request = super().irecv(buf, source, tag)
        self._sources[id(request)] = source
        return request

    def wait(self, request: AnyRequest) -> int:
        source = self._sources.pop(id(request), None)
        if isinstance(request, Receiving):
            return super().wait(request)
        self._until(lambda: request.Test(self._status), source)
        return self._status.Get_count(self._mpi.BYTE)

    def allreduce_sum(self, values: np.ndarray) -> None:
        self._add_up(None, values.reshape(-1))

    def sum_into(self, values: np.ndarray, total: np.ndarray) -> None:
        """total = the sum of all ranks' values; both contiguous, of one shape and dtype, and no part of each other."""
        self._add_up(values, total)

    def _add_up(self, values: np.ndarray | None, total: np.ndarray) -> None:
        """The same; where there are no `values`, `total` has them."""
        for s in pieces(total.size, self._most):
            self.ledger.handed(self.purpose, "Iallreduce", total[s].nbytes)
            own = self._mpi.IN_PLACE if values is None else values[s]
            self._until(self._comm.Iallreduce(own, total[s], self._mpi.SUM).Test, None)

    def _until(self, test: Callable[[], Any], source: int | None) -> None:
        if test():
            return
        began = time.perf_counter()
        while not test():
            waited = time.perf_counter() - began
            if waited < _SPIN:
                os.sched_yield()
            elif waited < self.timeout:
                time.sleep(_NAP)
            else:
                silent = [source] if source is not None else self._silent()
                who = "rank " + " and rank ".join(map(str, silent)) if silent else "some rank"
                raise RankFailure(
                    f"rank {self.rank} waits in call {self.call + 1} of the aggregator since {self.timeout:g} s: {who} has not made this "
                    "call; all ranks have to make the same calls (see the aggregator's timeout)"
                )

    def _silent(self) -> list[int]:
        """The ranks that do not wait as this one does: those that have waited as long say so to each other now."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        word, heard = np.zeros(1, np.uint8), np.zeros((self.size, 1), np.uint8)
        for rank in others:
            self._isend(word, rank, _TAG_HERE)
        answers = {rank: self._irecv(heard[rank], rank, _TAG_HERE) for rank in others}
        end = time.perf_counter() + _ANSWER
        while answers and time.perf_counter() < end:
            answers = {rank: request for rank, request in answers.items() if not request.Test()}
            time.sleep(_NAP)
        for request in answers.values():
            request.Cancel()
        return sorted(answers)
