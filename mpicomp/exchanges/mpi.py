"""What the exchanges over MPI share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import Clock
from ..cluster.comm import Comm
from ..errors import WireError
from .base import Exchange, ExchangeSetting

TAG_EVALUATION = 3


class MPIExchange(Exchange):
    """What the exchanges over MPI share: evaluation, which is off the clock and entered in the ledger apart from the rounds."""

    def __init__(self, comm: Comm, n_clients: int, dim: int, dtype: DTypeLike, weights: np.ndarray, clock: Clock):
        super().__init__(self.place(n_clients, comm.size), comm.rank, dim, dtype, weights, comm.ledger, clock)
        self.comm, self.nodes = comm, comm.nodes

    @classmethod
    def create(cls, setting: ExchangeSetting) -> Self:
        assert setting.comm is not None
        return cls(setting.comm, setting.n_clients, setting.dim, setting.dtype, setting.weights, setting.clock)

    def broadcast_model(self, x: np.ndarray) -> None:
        self.comm.bcast(x)

    def chain(self, vector: np.ndarray, add: Callable[[np.ndarray], None]) -> None:
        way = [*self.workers, 0]
        for rank, following in pairwise(way):
            if rank == self.rank:
                add(vector)
                if following != rank:
                    self.comm.send(vector, following, TAG_EVALUATION)
            elif following == self.rank:
                nbytes = self.comm.recv(vector, rank, TAG_EVALUATION)
                if nbytes != vector.nbytes:
                    raise WireError(f"a sum of {nbytes} bytes from rank {rank}, expected {vector.nbytes}")

    def gather_rows(self, row: np.ndarray) -> np.ndarray | None:
        rows = np.empty((self.placement.size, len(row))) if self.is_root else None
        self.comm.gather(row, rows)
        return rows
