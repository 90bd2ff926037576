"""The random quadratic task of the PermK paper: all constants are known, one number says how the clients differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import tridiagonal
from .base import LARGEST_NUMBER, SEED_BITS, Block, BlockProblem, Smoothness, problems


@problems.register("quadratic")
class Quadratic(BlockProblem):
    """f_i(x) = ½ xᵀA_i x − b_iᵀx with A_i = (ν_i/4) T + shift·I, b_i = (ν_i/4)(−1 + s ζ_i) e_1, T = tridiag(−1, 2, −1).

    ν_i = 1 + s ξ_i, and ξ_i, ζ_i are standard normal: `numpy.random.default_rng(seed)` draws ξ_1, ζ_1, ξ_2, ζ_2, ...
    The shift makes λ_min of the mean matrix equal to `reg`, so f is strongly convex, while a single f_i need not be
    convex. With s = 0 all f_i are equal.

    Parameters
    ----------
    dim, clients : d and n.
    noise : s ≥ 0; L± is close to s.
    reg : λ_min of the mean of the A_i.

    References
    ----------
    Szlendak, Tyurin, Richtárik 2021, "Permutation Compressors for Provably Faster Distributed Nonconvex Optimization"
    (arXiv 2110.03300), Algorithm 11 (task generation).

    >>> Quadratic(dim=50, clients=10, noise=0.0).smoothness().L_pm
    0.0
    """

    summary = "½ xᵀA_i x − b_iᵀx, A_i = (ν_i/4) tridiag(−1, 2, −1) + shift; noise s sets how much the clients differ"
    convex = True

    def __init__(self, dim: int = 1000, clients: int = 10, noise: float = 0.1, reg: float = 1e-6, seed: int = 0):
        if dim < 2 or clients < 1:
            raise ConfigError(f"problem 'quadratic' needs dim >= 2 and clients >= 1, got dim={dim}, clients={clients}")
        if not (0 <= noise <= LARGEST_NUMBER and 0 <= reg <= LARGEST_NUMBER):
            raise ConfigError(f"problem 'quadratic' needs finite noise >= 0 and reg >= 0, got noise={noise}, reg={reg}")
        self.dim, self.n_clients, self.noise, self.reg = dim, clients, noise, reg
        xi, zeta = np.random.default_rng(seed & SEED_BITS).standard_normal((clients, 2)).T
        self.scales = (1.0 + noise * xi) / 4.0
        self.linear = self.scales * (noise * zeta - 1.0)
        self.spectrum = (
            4.0 * np.sin(np.array([1, dim]) * np.pi / (2 * (dim + 1))) ** 2
        )  # least and largest 2 − 2cos(jπ/(d+1))
        self.shift = reg - float(np.min(np.mean(self.scales) * self.spectrum))

    def paper_start(self) -> np.ndarray:
        """x⁰ = (√d, 0, ..., 0), where the paper's experiments start."""
        start = np.zeros(self.dim)
        start[0] = np.sqrt(self.dim)
        return start

    def smoothness(self) -> Smoothness:
        """Exact: the A_i share T's eigenvectors; each constant is the maximum of a convex function of an eigenvalue."""
        eigenvalues = self.scales[:, None] * self.spectrum + self.shift
        return Smoothness.quadratic(
            L=float(np.max(np.abs(np.mean(eigenvalues, axis=0)))),
            L_i=np.max(np.abs(eigenvalues), axis=1),
            L_plus=float(np.sqrt(np.max(np.mean(eigenvalues**2, axis=0)))),
            L_pm=float(np.std(self.scales) * self.spectrum[1]),
            mu=self.reg or None,
        )

    def lower_bound(self) -> float | None:
        """inf f = −½ b̄ᵀĀ⁻¹b̄; b̄ lies along e_1, and (Ā⁻¹)_11 is a continued fraction."""
        off, pivot = float(np.mean(self.scales)), 0.0
        diagonal = 2.0 * off + self.shift
        for _ in range(self.dim):
            pivot = diagonal - (off**2 / pivot if pivot else 0.0)
        return -0.5 * float(np.mean(self.linear)) ** 2 / pivot

    def weighted_smoothness(self, weights: np.ndarray) -> tuple[float, float]:
        """Exact: both are convex functions of an eigenvalue of T (Cauchy and Schwarz), largest at an end of the spectrum."""
        eigenvalues = self.scales[:, None] * self.spectrum + self.shift
        square = np.mean(eigenvalues**2 / (self.n_clients * np.asarray(weights))[:, None], axis=0)
        variance = np.max(square - np.mean(eigenvalues, axis=0) ** 2)
        return float(np.sqrt(np.max(square))), float(np.sqrt(max(variance, 0.0)))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "noise": self.noise, "reg": self.reg}

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> QuadraticBlock:
        return QuadraticBlock(self, clients, np.dtype(dtype))


class QuadraticBlock(Block):
    """Some clients of a `Quadratic`."""

    def __init__(self, problem: Quadratic, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        self._terms = (
            problem.scales[self.clients].astype(dtype),
            dtype.type(problem.shift),
            problem.linear[self.clients].astype(dtype),
        )

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        tridiagonal.losses(*self._terms, W, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        tridiagonal.gradients(*self._terms, W, out)
