"""Eigenvalues of Gram matrices of sparse rows, and the smoothness constants that follow from them."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..kernels import sparse
from ..kernels.sparse import ClientRows
from .base import Smoothness
from .spectral import largest_eigenvalue


class Grams:
    """G_i = A_iᵀA_i/N_i of the clients' rows, and Ḡ, the mean of the G_i. No d × d matrix is formed.

    Parameters
    ----------
    rows : of all clients. dim : d.
    """

    def __init__(self, rows: ClientRows, dim: int):
        self.rows, self.dim, self.n_clients = rows, dim, len(rows.offsets) - 1

    @cached_property
    def client_eigenvalues(self) -> np.ndarray:
        """g_i = λ_max(G_i), shape (n,)."""
        weights = 1.0 / np.diff(self.rows.offsets)
        return np.array([self.eigenvalue(weights, i, i + 1) for i in range(self.n_clients)])

    def eigenvalue(self, weights: np.ndarray, first: int = 0, last: int | None = None) -> float:
        """λ_max of Σ_i weights[i] A_iᵀA_i over the clients first ≤ i < last."""
        stop = self.n_clients if last is None else last
        return largest_eigenvalue(lambda v, out: sparse.gram_sum(self.rows, first, stop, weights, v, out), self.dim)

    def mean_weights(self) -> np.ndarray:
        """The weights with which Σ_i weights[i] A_iᵀA_i is Ḡ."""
        return 1.0 / (self.n_clients * np.diff(self.rows.offsets))

    def moments(self, shift: float = 0.0) -> tuple[float, float]:
        """λ_max^½ of the mean of (G_i + shift·I)², and of the variance, the mean of (G_i − Ḡ)²."""
        weights, mean, deviation, square = self.mean_weights(), *np.empty((3, self.dim))

        def variance(v: np.ndarray, out: np.ndarray) -> None:
            sparse.gram_sum(self.rows, 0, self.n_clients, weights, v, mean)
            sparse.gram_variance(self.rows, v, mean, deviation, out)

        def second_moment(v: np.ndarray, out: np.ndarray) -> None:
            variance(v, out)
            sparse.gram_sum(self.rows, 0, self.n_clients, weights, mean, square)
            out += square + 2.0 * shift * mean + shift**2 * v

        largest = largest_eigenvalue(second_moment, self.dim)
        floor = 1e-6 * largest
        return float(np.sqrt(largest)), float(np.sqrt(largest_eigenvalue(variance, self.dim, floor)))

    def smoothness(self, curvature: float, r: float, mu: float | None = None) -> Smoothness:
        """The constants of f_i(x) = (1/N_i) Σ_r φ_r(a_rᵀx) + ρ(x), proved in docs/explanation/smoothness.md.

        With c the largest second derivative of the φ_r, which are convex, Q² = λ_max((1/n) Σ g_i G_i) and
        V² = λ_max((1/n) Σ (G_i − Ḡ)²):

            L_i = c g_i + r,   L = c λ_max(Ḡ) + r,   L₊ = L_A = min(L_QM, cQ + r),   L± = c(V + Q)/2,   L_B = 0.

        So it is for a_r ⊗ I in place of a_r, where φ_r takes a vector and c is the largest eigenvalue of its Hessians.

        Parameters
        ----------
        curvature : c. r : the smoothness constant of ρ, the same function for all clients. mu : as in `Smoothness`.
        """
        weights = self.mean_weights()
        L_i = curvature * self.client_eigenvalues + r
        Q = float(np.sqrt(self.eigenvalue(weights * self.client_eigenvalues)))
        V = self.moments()[1]
        L_plus = min(float(np.sqrt(np.mean(L_i**2))), curvature * Q + r)
        return Smoothness(
            L=curvature * self.eigenvalue(weights) + r,
            L_i=L_i,
            L_plus=L_plus,
            L_pm=curvature * (V + Q) / 2.0,
            L_A=L_plus,
            L_B=0.0,
            mu=mu,
        )
