"""Linear least squares: a quadratic problem on real data."""

from __future__ import annotations

import numpy as np

from ..kernels.sparse import RIDGE, SQUARES
from .base import Smoothness, problems
from .linear_model import LinearModel


@problems.register("least_squares")
class LeastSquares(LinearModel):
    """f_i(x) = (1/N_i) Σ_r (a_rᵀx − y_r)² + (λ/2)‖x‖² (no factor ½ before the squares: the gradient has a 2).

    The labels are taken as they are in the file. For the options see `LinearModel`.

    References
    ----------
    Richtárik, Sokolov, Fatkhullin 2021, "EF21" (arXiv 2106.05203), experiments under the Polyak–Łojasiewicz condition.
    """

    summary = "(1/N_i) Σ (aᵀx − y)²; regularizer=ridge|nonconvex|none"
    link = SQUARES

    def __init__(
        self,
        data: str = "a9a",
        clients: int = 20,
        partition: str = "contiguous",
        reg: float = 0.0,
        regularizer: str = "ridge",
        seed: int = 0,
        features: int | None = None,
        bias: bool = False,
    ):
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias)

    def compute_constants(self) -> Smoothness:
        """Exact, from the Hessians 2G_i + λI; with the nonconvex regularizer L₊, L_A are bounds (docs/explanation/smoothness.md)."""
        r = self.penalty_smoothness
        L_i = self.curvature * self.client_eigenvalues + r
        L = self.curvature * self.gram_eigenvalue(self.mean_weights()) + r
        if self.penalty == RIDGE:
            second_moment, variance = (self.curvature * root for root in self.gram_moments(r / self.curvature))
            return Smoothness.quadratic(L, L_i, second_moment, variance, self.reg or None)
        second_moment, variance = (self.curvature * root for root in self.gram_moments())
        L_plus = min(float(np.sqrt(np.mean(L_i**2))), second_moment + r)
        return Smoothness(L, L_i, L_plus, variance, L_plus, 0.0)
