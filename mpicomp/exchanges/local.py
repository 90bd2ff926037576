"""The in-process exchange: one process is the server and hosts all clients. Messages are really encoded and decoded, not sent."""

from __future__ import annotations

import time

import numpy as np

from ..cluster.clock import Clock
from ..cluster.ledger import IN_MEMORY, Ledger
from ..cluster.placement import Placement
from .base import Exchange, frame_capacity


class LocalExchange(Exchange):
    """Gives bit for bit the trajectory of the MPI exchanges.

    Parameters
    ----------
    n_clients, dim, dtype, weights : as in Exchange; `weights` defaults to 1/n.
    clients : host only these (for warm-up); all by default.
    """

    name = "local"

    def __init__(self, n_clients, dim, dtype=np.float64, weights=None, ledger=None, clock=None, clients=None):
        placement = Placement.single(n_clients)
        if clients is not None:
            placement = Placement(n_clients, np.array([clients[0], clients[-1] + 1], np.int64))
        weights = np.full(n_clients, 1.0 / n_clients) if weights is None else weights
        super().__init__(placement, 0, dim, dtype, weights, ledger or Ledger(), clock or Clock(time.perf_counter))

    def gather(
        self, codec, V, keys, round, total, into=None, into_scale=1.0, active=None, weights=None, separate=False
    ):
        plan = self.plan(codec)
        buf = self.buffer(("frame",), plan.frame_nbytes)
        fold = self.fold(codec, total, weights, separate)
        for group in self.speaking(plan, 0, active):
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, buf)
            self.record_uplink(nbytes, len(group.rows))
            self.accumulate(codec, buf, nbytes, group, keys, round, fold)
            if into is not None:
                self.absorb(codec, buf, nbytes, group, keys, round, into, into_scale)

    def broadcast(self, codec, v, keys, round, into, overwrite=False):
        buf = self.buffer(("frame",), frame_capacity(codec))
        group = self._server_row
        nbytes = self.write_frame(codec, v, group.rows, group.clients, keys, round, buf)
        self.record_downlink(nbytes, 1, IN_MEMORY, self.n_clients)
        self.deliver(codec, buf, nbytes, keys, round, into, overwrite, False)

    def scatter(self, codec, v, keys, round, into, mirror=None, active=None):
        plan = self.plan(codec)
        buf = self.buffer(("frame",), plan.frame_nbytes)
        for group in self.addressed(plan, 0, active):
            nbytes = self.write_scattered(codec, v, group, keys, round, buf, mirror)
            self.record_downlink(nbytes, len(group.rows), IN_MEMORY)
            self.absorb(codec, buf, nbytes, group, keys, round, into)

    def broadcast_model(self, x):
        pass

    def chain(self, vector, add):
        add(vector)

    def gather_rows(self, row):
        return row[None].copy()
