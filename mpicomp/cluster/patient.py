"""A communicator that yields the processor while it waits, and gives up with a message when a rank does not come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import RankFailure
from .comm import Comm
from .counts import pieces
from .messages import AnyRequest, Receiving

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

    def irecv(self, buf: np.ndarray, source: int, tag: int = 0) -> AnyRequest:
        request = super().irecv(buf, source, tag)
        self._sources()[id(request)] = source
        return request

    def wait(self, request: AnyRequest) -> int:
        source = self._sources().pop(id(request), None)
        if isinstance(request, Receiving):
            return super().wait(request)
        self._until(lambda: request.Test(self._status), source)
        return self._status.Get_count(self._mpi.BYTE)

    def allreduce_sum(self, values: np.ndarray) -> None:
        for s in pieces(values.size, self._most):
            part = values.reshape(-1)[s]
            self.ledger.handed(self.purpose, "Iallreduce", part.nbytes)
            self._until(self._comm.Iallreduce(self._mpi.IN_PLACE, part, self._mpi.SUM).Test, None)

    def sum_into(self, values: np.ndarray, total: np.ndarray) -> None:
        """total = the sum of all ranks' values; both contiguous, of one shape and dtype, and no part of each other."""
        for s in pieces(values.size, self._most):
            self.ledger.handed(self.purpose, "Iallreduce", values[s].nbytes)
            self._until(self._comm.Iallreduce(values[s], total[s], self._mpi.SUM).Test, None)

    def _sources(self) -> dict[int, int]:
        if "sources" not in self.__dict__:
            self.sources: dict[int, int] = {}
        return self.sources

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
