"""Logistic regression, the standard problem of the field."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..kernels.sparse import LOGISTIC, RIDGE
from .base import Smoothness, problems
from .linear_model import LinearModel


@problems.register("logistic")
class Logistic(LinearModel):
    """f_i(x) = (1/N_i) Σ_r log(1 + exp(−y_r a_rᵀx)) + λ Σ_c x_c²/(1 + x_c²), or + (λ/2)‖x‖² with `regularizer="ridge"`.

    Any two labels become −1 and +1 in increasing order. For the options see `LinearModel`.

    References
    ----------
    Richtárik, Sokolov, Fatkhullin 2021, "EF21" (arXiv 2106.05203), experiments: mushrooms, n = 20, λ = 0.1.
    """

    summary = "(1/N_i) Σ log(1 + exp(−y aᵀx)) + λ Σ x²/(1 + x²); regularizer=nonconvex|ridge|none"
    link = LOGISTIC

    def __init__(
        self,
        data: str = "mushrooms",
        clients: int = 20,
        partition: str = "contiguous",
        reg: float = 0.1,
        regularizer: str = "nonconvex",
        seed: int = 0,
        features: int | None = None,
        bias: bool = False,
    ):
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias)

    def labels(self, labels: np.ndarray, source: str) -> np.ndarray:
        values = np.unique(labels)
        if len(values) != 2:
            shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
            raise DataError(
                f"{source}: logistic regression needs two different labels, the file has {len(values)}: {shown}"
            )
        return np.where(labels == values[0], -1.0, 1.0)

    def compute_constants(self) -> Smoothness:
        """L and L_i are exact (the Hessians are largest at 0), the others are bounds, proved in docs/explanation/smoothness.md.

        With G_i = A_iᵀA_i/N_i, g_i = λ_max(G_i), Q² = λ_max((1/n) Σ g_i G_i), V² = λ_max((1/n) Σ (G_i − Ḡ)²), r = 2λ
        (ridge: λ):

            L_i = g_i/4 + r,   L = λ_max(Ḡ)/4 + r,   L₊ = L_A = min(L_QM, Q/4 + r),   L± = (V + Q)/8,   L_B = 0.
        """
        weights, r = self.mean_weights(), self.penalty_smoothness
        L_i = self.curvature * self.client_eigenvalues + r
        Q = float(np.sqrt(self.gram_eigenvalue(weights * self.client_eigenvalues)))
        V = self.gram_moments()[1]
        L_plus = min(float(np.sqrt(np.mean(L_i**2))), self.curvature * Q + r)
        return Smoothness(
            L=self.curvature * self.gram_eigenvalue(weights) + r,
            L_i=L_i,
            L_plus=L_plus,
            L_pm=self.curvature * (V + Q) / 2.0,
            L_A=L_plus,
            L_B=0.0,
            mu=self.reg if self.penalty == RIDGE and self.reg > 0 else None,
        )
