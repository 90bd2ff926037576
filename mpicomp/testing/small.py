"""A small convex problem whose constants are known, to run methods on."""

from __future__ import annotations

import numpy as np

from ..problems import Problem, Smoothness


class SmallLeastSquares(Problem):
    """f_i(x) = (1/N) Σ_j ½(a_ijᵀx − b_ij)² + (reg/2)‖x‖², N terms for each client, with exact constants; in the simple contract.

    Parameters
    ----------
    dim, clients, samples : d, n, N. reg : > 0, so that f is strongly convex. seed : of the a_ij and b_ij.

    >>> SmallLeastSquares(dim=10, clients=3).smoothness().mu > 0
    True
    """

    summary = "least squares with a ridge, small and dense"

    def __init__(self, dim: int = 120, clients: int = 6, samples: int = 8, reg: float = 0.1, seed: int = 0):
        self.dim, self.n_clients, self.samples, self.reg = dim, clients, samples, reg
        rng = np.random.default_rng(seed)
        self.rows = rng.standard_normal((clients, samples, dim)) / np.sqrt(dim)
        self.targets = rng.standard_normal((clients, samples)) + self.rows @ np.ones(dim)

    def loss(self, i: int, x: np.ndarray) -> float:
        x = x.astype(np.float64)
        residuals = self.rows[i] @ x - self.targets[i]
        return float(0.5 * np.mean(residuals**2) + 0.5 * self.reg * (x @ x))

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        self.batch_gradient(i, x, np.arange(self.samples), out)

    def n_samples(self, i: int) -> int:
        return self.samples

    def batch_gradient(self, i: int, x: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        x, rows = x.astype(np.float64), self.rows[i, samples]
        residuals = rows @ x - self.targets[i, samples]
        out[:] = residuals @ rows / len(samples) + self.reg * x

    def smoothness(self) -> Smoothness:
        hessians = np.einsum("isj,isk->ijk", self.rows, self.rows) / self.samples + self.reg * np.eye(self.dim)
        mean, square = hessians.mean(axis=0), np.mean(hessians @ hessians, axis=0)
        spectrum = np.linalg.eigvalsh(mean)
        return Smoothness.quadratic(
            L=float(spectrum[-1]),
            L_i=np.linalg.eigvalsh(hessians)[:, -1],
            L_plus=float(np.sqrt(np.linalg.eigvalsh(square)[-1])),
            L_pm=float(np.sqrt(np.linalg.eigvalsh(square - mean @ mean)[-1])),
            mu=float(spectrum[0]),
        )

    def sample_smoothness(self) -> np.ndarray:
        return np.max(np.sum(self.rows**2, axis=2), axis=1) + self.reg

    def lower_bound(self) -> float:
        return 0.0
