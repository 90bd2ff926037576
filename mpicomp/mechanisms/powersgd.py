"""PowerSGD: one step of a power iteration a round, and what it misses is fed back. Vogels, Karimireddy and Jaggi 2019."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import NamedTuple

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


class Matrix(NamedTuple):
    """Coordinates [lo, lo + size) of the vectors, read as rows × cols, and the rank of what is sent of it."""

    lo: int
    size: int
    rows: int
    cols: int
    rank: int


@uplinks.register("powersgd")
class PowerSGDUplink(Uplink):
    """Algorithms 1 and 2 of the paper. M_i is the vector ∇f_i(x^t) + e_i, row after row, filled up with zeros; or several such matrices.

    M_i Q up, P = Σ w_i M_i Q down, orthonormalised by every rank (Gram and Schmidt, the same bits); Q_i = M_iᵀP up, Q = Σ w_i Q_i down;
    g = PQᵀ on every rank, e_i ← M_i − PQ_iᵀ. Four exchanges a round for all matrices together, 2r(rows + cols) values of each for each
    client. The next round starts from this Q (warm start).

    The published code has e_i ← M_i − g in place of M_i − PQ_iᵀ. The mean of the e_i, and so every iterate, is the same, but there the e_i
    grow without bound where the clients' gradients differ.

    Parameters
    ----------
    rank, rows : r and the number of rows, see `matrix_shape`. warm_start : False draws a fresh Gaussian Q in every round.
    shapes : (rows, columns) of consecutive matrices that make up the vector; None for one. A smaller matrix has the largest rank it can.
    """

    e_i = ClientState()
    Q = CommonState()  # flat, shape (1, Σ cols · r)

    def __init__(
        self,
        rank: int | None = None,
        rows: int | None = None,
        warm_start: bool = True,
        shapes: Sequence[tuple[int, int]] | None = None,
    ):
        self.rank, self.rows, self.warm_start, self.shapes = rank, rows, warm_start, shapes

    def _matrices(self, d: int) -> list[Matrix]:
        if self.shapes is None:
            return [Matrix(0, d, *matrix_shape(d, self.rows, self.rank))]
        matrices, lo = [], 0
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 1):
            raise ConfigError(f"powersgd: rank={self.rank} must be an integer from 1 on")
        for rows, cols in self.shapes:
            matrices.append(Matrix(lo, rows * cols, rows, cols, min(self.rank or 2, rows, cols)))
            lo += rows * cols
        if lo != d:
            raise ConfigError(f"powersgd: matrices of {lo} entries for vectors of {d}")
        return matrices

    def prepare(self) -> None:
        link = self.link
        self.matrices = self._matrices(link.dim)
        p_dim, q_dim = (sum(n * m.rank for n, m in zip(counts, self.matrices, strict=True)) for counts in self._sides())
        self.p_codec, self.q_codec = link.codec(Identity(), dim=p_dim), link.codec(Identity(), dim=q_dim)
        self.P, self.Q = np.zeros((1, p_dim), link.dtype), np.zeros((1, q_dim), link.dtype)
        self.P_i, self.P_mean = np.zeros((link.hosted, p_dim), link.dtype), np.zeros_like(self.P)
        self.Q_i, self.Q_mean = np.zeros((link.hosted, q_dim), link.dtype), np.zeros_like(self.Q)
        self.sent_Q_i = np.zeros_like(self.Q_i)
        self.g, self._column = np.zeros((1, link.dim), link.dtype), np.zeros(max(m.cols for m in self.matrices))
        self.tiny = 16 * float(np.finfo(link.dtype).eps)

    def _sides(self) -> tuple[list[int], list[int]]:
        """The numbers of rows and of columns."""
        return [m.rows for m in self.matrices], [m.cols for m in self.matrices]

    def _places(self) -> Iterator[tuple[Matrix, slice, slice, slice]]:
        """Each matrix with its coordinates, and its parts of P and Q."""
        p = q = 0
        for m in self.matrices:
            p_next, q_next = p + m.rows * m.rank, q + m.cols * m.rank
            yield m, slice(m.lo, m.lo + m.size), slice(p, p_next), slice(q, q_next)
            p, q = p_next, q_next

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        self._fill(round)
        if link.is_worker:
            self.e_i += oracle.value()  # M_i
            for m, own, p, q in self._places():
                times(self.e_i[:, own], m.cols, self.Q[0, q].reshape(-1, m.rank), self.P_i[:, p])
        link.gather(self.p_codec, self.P_i, round, self.P_mean if link.is_server else None)
        link.broadcast(self.p_codec, self.P_mean, round, self.P)
        for m, _, p, _ in self._places():
            orthonormalize(self.P[0, p].reshape(-1, m.rank), self.tiny)
        if link.is_worker:
            for m, own, p, q in self._places():
                transposed_times(self.e_i[:, own], m.cols, self.P[0, p].reshape(-1, m.rank), self.Q_i[:, q])
            self.sent_Q_i[:] = 0
        link.gather(self.q_codec, self.Q_i, round, self.Q_mean if link.is_server else None, add_to=self.sent_Q_i)
        link.broadcast(self.q_codec, self.Q_mean, round, self.Q)
        self.g[:] = 0
        for m, own, p, q in self._places():
            P = self.P[0, p].reshape(-1, m.rank)
            if link.is_worker:
                add_product(-1.0, P, self.sent_Q_i[:, q], m.cols, self.e_i[:, own])  # M_i − PQ_iᵀ
            add_product(1.0, P, self.Q[:, q], m.cols, self.g[:, own])
        return self.g

    def _fill(self, round: int) -> None:
        """Draw the columns of Q that are to be fresh: all at first and without warm start, else those that came out as zero."""
        everything = round == 0 or not self.warm_start
        key, number = self.link.keys(round).shared, 0
        for m, _, _, q in self._places():
            Q, column = self.Q[0, q].reshape(-1, m.rank), self._column[: m.cols]
            for s in range(m.rank):
                if everything or not Q[:, s].any():
                    fill_normal(np.uint64(client_key(key, number)), column)
                    Q[:, s] = column
                number += 1
