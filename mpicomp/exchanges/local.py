"""The in-process exchange: one process is the server and hosts all clients. Messages are really encoded and decoded, not sent."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import Clock
from ..cluster.ledger import IN_MEMORY, Ledger
from ..cluster.placement import Placement
from ..compressors import Codec
from ..kernels.random import Keys
from .base import Exchange, ExchangeSetting, Vectors, exchanges, frame_capacity


@exchanges.register("local")
class LocalExchange(Exchange):
    """Gives bit for bit the trajectory of the MPI exchanges.

    Parameters
    ----------
    n_clients, dim, dtype, weights : as in Exchange; `weights` defaults to 1/n.
    clients : host only these (for warm-up); all by default.
    """

    summary = "one process is the server and hosts all clients; messages are encoded and decoded, not sent"
    over_mpi = False

    def __init__(
        self,
        n_clients: int,
        dim: int,
        dtype: DTypeLike = np.float64,
        weights: np.ndarray | None = None,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        clients: np.ndarray | None = None,
    ):
        placement = Placement.single(n_clients)
        if clients is not None:
            placement = Placement(n_clients, np.array([clients[0], clients[-1] + 1], np.int64))
        weights = np.full(n_clients, 1.0 / n_clients) if weights is None else weights
        super().__init__(placement, 0, dim, dtype, weights, ledger or Ledger(), clock or Clock(time.perf_counter))

    @classmethod
    def create(cls, setting: ExchangeSetting) -> LocalExchange:
        return cls(setting.n_clients, setting.dim, setting.dtype, setting.weights, Ledger(), setting.clock)

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        buf = self.buffer(("frame",), plan.frame_nbytes)
        fold = self.fold(codec, total, weights, separate)
        for group in self.speaking(plan, 0, active):
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, buf)
            self.record_uplink(nbytes, len(group.rows))
            self.accumulate(codec, buf, nbytes, group, keys, round, fold)
            if add_to is not None:
                self.absorb(codec, buf, nbytes, group, keys, round, add_to, scale)

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        buf = self.buffer(("frame",), frame_capacity(codec))
        group = self._server_row
        nbytes = self.write_frame(codec, v, group.rows, group.clients, keys, round, buf)
        self.record_downlink(nbytes, 1, IN_MEMORY, self.n_clients)
        self.deliver(codec, buf, nbytes, keys, round, into, add, False)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        buf = self.buffer(("frame",), plan.frame_nbytes)
        for group in self.addressed(plan, 0, active):
            nbytes = self.write_scattered(codec, v, group, keys, round, buf, mirror, add)
            self.record_downlink(nbytes, len(group.rows), IN_MEMORY)
            self.set_rows(codec, buf, nbytes, group, keys, round, into, add)

    def broadcast_model(self, x: np.ndarray) -> None:
        pass

    def chain(self, vector: np.ndarray, add: Callable[[np.ndarray], None]) -> None:
        add(vector)

    def gather_rows(self, row: np.ndarray) -> np.ndarray:
        return row[None].copy()
