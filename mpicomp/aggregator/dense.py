"""The plain mean by one Allreduce, without mechanisms: what `Aggregator` does where nothing is to be compressed."""

from __future__ import annotations

import numpy as np

from ..cluster.clock import DECODE, WAIT, Clock
from ..cluster.ledger import BETWEEN_NODES, IN_NODE, UPLINK, Ledger
from ..cluster.patient import PatientComm
from ..cluster.ring import RankSum
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
        self._adder = RankSum(comm, len(np.unique(comm.nodes)))
        self._level = IN_NODE if self._adder.nodes == 1 else BETWEEN_NODES
        self._own_result = np.zeros((1, self.dim), self.dtype)
        self.result = self._own_result
        self.target: np.ndarray | None = None

    def exchange_mean(self, call: int, flagged: bool) -> bool:
        V = self.given.V
        if flagged:
            V = self.given.own
            V[0, 0] = np.nan
        self.result = total = self._own_result if self.target is None else self.target
        nbytes = self._adder.sent_nbytes(V[0])
        self._ledger.frame(UPLINK, _NOBODY + 8 * nbytes, nbytes, 1, self._level)
        if total is not V and not self._adder.goes_round(V[0]):
            self._comm.sum_into(V[0], total[0])
        else:
            if total is not V:
                total[:] = V
            self._adder.add_up(total[0])
        self._clock.lap(WAIT)
        sound = bool(scaled_finite(total[0], 1.0 / self._comm.size, total[0]))
        self._clock.lap(DECODE)
        return not sound

    def mean_weight(self, weight: float, call: int) -> float:
        total = np.zeros(1)
        self._comm.sum_into(np.array([weight], np.float64), total)
        return float(total[0]) / self._comm.size
