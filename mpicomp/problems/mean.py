"""Distributed mean estimation as a problem: the minimiser is the mean of the clients' vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, unknown
from .base import LARGEST_NUMBER, SEED_BITS, Block, BlockProblem, Smoothness, problems

MEANS = ("uniform", "spikes")


@problems.register("mean")
class Mean(BlockProblem):
    """f_i(x) = ½‖x − a_i‖², so that ∇f(x) = x − ā and f has its minimum at ā, the mean of the a_i.

    One round of method dcgd with step 1 from x⁰ = 0 is one-shot mean estimation: x¹ = mean −C_i(−a_i), and ‖∇f(x¹)‖²
    is its squared error.

    a_i(j) = μ(j) + U_ij, U uniform on [−4σ, 4σ], drawn by `numpy.random.default_rng(seed)`: first μ, then U, client by
    client.

    Parameters
    ----------
    dim, clients : d and n.
    sigma : σ, how much the clients differ.
    means : μ is uniform on [0, 1] ("uniform"), or (1, −1, 0, ..., 0) ("spikes").

    References
    ----------
    Suresh, Sun, Ro and Yu 2022, "Correlated quantization for distributed mean estimation and optimization",
    experiments (as reproductions print them).

    >>> Mean(dim=8, clients=3).smoothness().L_pm
    0.0
    """

    summary = "½‖x − a_i‖²: distributed mean estimation, a_i = μ + U[−4σ, 4σ]"
    convex = True

    def __init__(self, dim: int = 1024, clients: int = 100, sigma: float = 0.04, means: str = "uniform", seed: int = 0):
        if dim < 2 or clients < 1 or not 0 <= sigma <= LARGEST_NUMBER:
            raise ConfigError(
                f"problem 'mean' needs dim >= 2, clients >= 1 and a finite sigma >= 0, got dim={dim}, clients={clients}, sigma={sigma}"
            )
        if means not in MEANS:
            raise unknown("means", means, MEANS)
        self.dim, self.n_clients, self.sigma, self.means = dim, clients, sigma, means
        rng = np.random.default_rng(seed & SEED_BITS)
        mu = rng.random(dim) if means == "uniform" else np.concatenate([[1.0, -1.0], np.zeros(dim - 2)])
        self.vectors = mu + rng.uniform(-4.0 * sigma, 4.0 * sigma, (clients, dim))

    @property
    def deviation(self) -> float:
        """σ_md: the mean over coordinates of (1/n) Σ|a_i(j) − ā(j)|."""
        return float(np.mean(np.abs(self.vectors - self.vectors.mean(axis=0))))

    def smoothness(self) -> Smoothness:
        """Exact: every Hessian is the identity."""
        return Smoothness.quadratic(1.0, np.ones(self.n_clients), 1.0, 0.0, mu=1.0)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "sigma": self.sigma, "means": self.means, "sigma_md": self.deviation}

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> MeanBlock:
        return MeanBlock(self, clients, np.dtype(dtype))


class MeanBlock(Block):
    """Some clients of a `Mean`."""

    def __init__(self, problem: Mean, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        self._vectors = problem.vectors[self.clients].astype(dtype)
        self._work = np.empty_like(self._vectors)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        np.subtract(W, self._vectors, out=self._work)
        np.square(self._work, out=self._work)
        np.sum(self._work, axis=1, dtype=np.float64, out=out)
        out *= 0.5

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        np.subtract(W, self._vectors, out=out)
