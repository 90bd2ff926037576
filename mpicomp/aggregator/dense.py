"""The plain mean by one Allreduce, without mechanisms: what `Aggregator` does where nothing is to be compressed."""

from __future__ import annotations

import numpy as np

from ..cluster.clock import DECODE, WAIT, Clock
from ..cluster.ledger import BETWEEN_NODES, IN_NODE, UPLINK, Ledger
from ..cluster.patient import PatientComm
from ..cluster.ring import ring_nbytes, ring_pays, ring_scratch, ring_sum
from ..kernels.rows import scaled_finite
from .bucket import Given, Vector
from .rules import Group

_NOBODY = np.zeros(2, np.int64)


class DenseBucket(Vector):
    """MPI adds the ranks' vectors, or a ring where that moves less, in an order of its own; the sum is divided once.

    A vector that is not finite makes the sum so, on all ranks: so a rank that has none to give puts a NaN in its place.
    """

    exchange_name = "allreduce"
    hosts = True

    def __init__(self, group: Group, comm: PatientComm, clock: Clock, ledger: Ledger):
        super().__init__(group)
        self._comm, self._clock, self._ledger = comm, clock, ledger
        self.given = Given(self.dim, self.dtype)
        self._hosts = len(np.unique(comm.nodes))
        self._work: np.ndarray | None = None
        self._level = IN_NODE if self._hosts == 1 else BETWEEN_NODES
        self._own_result = np.zeros((1, self.dim), self.dtype)
        self.result = self._own_result
        self.target: np.ndarray | None = None

    def exchange_mean(self, call: int, flagged: bool) -> bool:
        V = self.given.V
        if flagged:
            V = self.given.own
            V[0, 0] = np.nan
        self.result = total = self._own_result if self.target is None else self.target
        nbytes, size = V.nbytes, self._comm.size
        goes_round = ring_pays(self._comm, self._hosts, nbytes)
        if goes_round:
            nbytes = ring_nbytes(self._comm.rank, size, self.dim, V.itemsize)
        self._ledger.frame(UPLINK, _NOBODY + 8 * nbytes, nbytes, 1, self._level)
        if goes_round:
            if total is not V:
                total[:] = V
            if self._work is None:
                self._work = np.zeros(ring_scratch(size, V[0]), np.uint8)
            ring_sum(self._comm, total[0], self._work)
        elif total is V:
            self._comm.allreduce_sum(V[0])
        else:
            self._comm.sum_into(V[0], total[0])
        self._clock.lap(WAIT)
        sound = bool(scaled_finite(total[0], 1.0 / self._comm.size, total[0]))
        self._clock.lap(DECODE)
        return not sound

    def mean_weight(self, weight: float, call: int) -> float:
        total = np.zeros(1)
        self._comm.sum_into(np.array([weight], np.float64), total)
        return float(total[0]) / self._comm.size
