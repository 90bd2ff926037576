"""PowerSGD: one step of a power iteration a round, and what it misses is fed back. Vogels, Karimireddy and Jaggi 2019."""

from __future__ import annotations

from math import isqrt

import numpy as np

from ..compressors.identity import Identity
from ..errors import ConfigError
from ..kernels.lowrank import add_product, orthonormalize, times, transposed_times
from ..kernels.random import client_key, fill_normal
from ..oracles import Oracle
from ..state import ClientState, CommonState
from .base import Uplink, uplinks


def matrix_shape(d: int, rows: int | None, rank: int | None) -> tuple[int, int, int]:
    """(rows, columns, rank) of the matrix that a vector of dimension d is read as, by default nearly square and of rank 2.

    Raises
    ------
    ConfigError : rows outside 1..d, or a rank that such a matrix cannot have.
    """
    if rows is not None and (not isinstance(rows, int) or not 1 <= rows <= d):
        raise ConfigError(f"powersgd: rows={rows} must be an integer from 1 to the dimension, {d}")
    rows = rows or max(1, isqrt(d))
    cols = -(-d // rows)
    largest = min(rows, cols)
    if rank is not None and (not isinstance(rank, int) or not 1 <= rank <= largest):
        raise ConfigError(f"powersgd: rank={rank} must be an integer from 1 to {largest}, for a {rows} × {cols} matrix")
    return rows, cols, min(2, largest) if rank is None else rank


@uplinks.register("powersgd")
class PowerSGDUplink(Uplink):
    """Algorithms 1 and 2 of the paper, for one matrix: M_i is the vector ∇f_i(x^t) + e_i, row after row, filled up with zeros.

    M_i Q up, P = Σ w_i M_i Q down, orthonormalised by every rank (Gram and Schmidt, the same bits); Q_i = M_iᵀP up, Q = Σ w_i Q_i down;
    g = PQᵀ on every rank, e_i ← M_i − PQ_iᵀ. Four exchanges a round, 2r(rows + cols) values for each client. The next round starts
    from this Q (warm start).

    The published code has e_i ← M_i − g in place of M_i − PQ_iᵀ. The mean of the e_i, and so every iterate, is the same, but there the e_i
    grow without bound where the clients' gradients differ.

    Parameters
    ----------
    rank, rows : r and the number of rows, see `matrix_shape`. warm_start : False draws a fresh Gaussian Q in every round.
    """

    e_i = ClientState()
    Q = CommonState()  # flat, shape (1, cols · r)

    def __init__(self, rank: int | None = None, rows: int | None = None, warm_start: bool = True):
        self.rank, self.rows, self.warm_start = rank, rows, warm_start

    def prepare(self) -> None:
        link = self.link
        rows, self.cols, r = matrix_shape(link.dim, self.rows, self.rank)
        self.r = r
        self.p_codec, self.q_codec = link.codec(Identity(), dim=rows * r), link.codec(Identity(), dim=self.cols * r)
        self.P, self.Q = np.zeros((1, rows * r), link.dtype), np.zeros((1, self.cols * r), link.dtype)
        self.P_i, self.P_mean = np.zeros((link.hosted, rows * r), link.dtype), np.zeros_like(self.P)
        self.Q_i, self.Q_mean = np.zeros((link.hosted, self.cols * r), link.dtype), np.zeros_like(self.Q)
        self.sent_Q_i = np.zeros_like(self.Q_i)
        self.g, self._column = np.zeros((1, link.dim), link.dtype), np.zeros(self.cols)
        self.tiny = 16 * float(np.finfo(link.dtype).eps)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        P, Q = self.P.reshape(-1, self.r), self.Q.reshape(-1, self.r)  # views
        self._fill(Q, round)
        if link.is_worker:
            self.e_i += oracle.value()  # M_i
            times(self.e_i, self.cols, Q, self.P_i)
        link.gather(self.p_codec, self.P_i, round, self.P_mean if link.is_server else None)
        link.broadcast(self.p_codec, self.P_mean, round, self.P)
        orthonormalize(P, self.tiny)
        if link.is_worker:
            transposed_times(self.e_i, self.cols, P, self.Q_i)
            self.sent_Q_i[:] = 0
        link.gather(self.q_codec, self.Q_i, round, self.Q_mean if link.is_server else None, add_to=self.sent_Q_i)
        link.broadcast(self.q_codec, self.Q_mean, round, self.Q)
        if link.is_worker:
            add_product(-1.0, P, self.sent_Q_i, self.cols, self.e_i)  # M_i − PQ_iᵀ
        self.g[:] = 0
        add_product(1.0, P, self.Q, self.cols, self.g)
        return self.g

    def _fill(self, Q: np.ndarray, round: int) -> None:
        """Draw the columns of Q that are to be fresh: all at first and without warm start, else those that came out as zero."""
        everything = round == 0 or not self.warm_start
        key = self.link.keys(round).shared
        for s in range(self.r):
            if everything or not Q[:, s].any():
                fill_normal(np.uint64(client_key(key, s)), self._column)
                Q[:, s] = self._column
