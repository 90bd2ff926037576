"""Linear least squares: a quadratic problem on real data."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from ..data import Data
from ..kernels.sparse import RIDGE, SQUARES
from .base import Smoothness, problems
from .gram import Grams
from .linear_model import LinearModel, Reading


@problems.register("least_squares")
class LeastSquares(LinearModel):
    """f_i(x) = (1/N_i) Σ_r (a_rᵀx − y_r)² + (λ/2)‖x‖² (no factor ½ before the squares: the gradient has a 2).

    The labels are numbers, taken as they are. For the options see `LinearModel`.

    References
    ----------
    Richtárik, Sokolov, Fatkhullin 2021, "EF21" (arXiv 2106.05203), experiments under the Polyak–Łojasiewicz condition.
    """

    summary = "(1/N_i) Σ (aᵀx − y)²; regularizer=ridge|nonconvex|none"
    link = SQUARES
    curvature = 2.0

    def __init__(
        self,
        data: Data = "a9a",
        clients: int = 20,
        partition: str = "contiguous",
        reg: float = 0.0,
        regularizer: str = "ridge",
        seed: int = 0,
        features: int | None = None,
        bias: bool = False,
        **options: Unpack[Reading],
    ):
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias, **options)

    def compute_constants(self) -> Smoothness:
        """Exact, from the Hessians 2G_i + λI; with the nonconvex regularizer L₊, L_A are bounds (docs/explanation/smoothness.md)."""
        grams, r = Grams(self.rows, self.dim), self.penalty_smoothness
        L_i = self.curvature * grams.client_eigenvalues + r
        L = self.curvature * grams.eigenvalue(grams.mean_weights()) + r
        if self.penalty == RIDGE:
            second_moment, variance = (self.curvature * root for root in grams.moments(r / self.curvature))
            return Smoothness.quadratic(L, L_i, second_moment, variance, self.reg or None)
        second_moment, variance = (self.curvature * root for root in grams.moments())
        L_plus = min(float(np.sqrt(np.mean(L_i**2))), second_moment + r)
        return Smoothness(L, L_i, L_plus, variance, L_plus, 0.0)
