"""Logistic regression, the standard problem of the field."""

from __future__ import annotations

from typing import Unpack

from ..data import Data
from ..kernels.sparse import LOGISTIC
from .base import problems
from .linear_model import Classifier, Classifying


@problems.register("logistic")
class Logistic(Classifier):
    """f_i(x) = (1/N_i) Σ_r log(1 + exp(−y_r a_rᵀx)) + λ Σ_c x_c²/(1 + x_c²), or + (λ/2)‖x‖² with `regularizer="ridge"`.

    Any two labels become −1 and +1 in increasing order; for the options see `Classifier` and `LinearModel`. L and L_i are exact, because
    the Hessians are largest at 0; the other constants are bounds (docs/explanation/smoothness.md).

    References
    ----------
    Richtárik, Sokolov, Fatkhullin 2021, "EF21" (arXiv 2106.05203), experiments: mushrooms, n = 20, λ = 0.1.
    """

    summary = "(1/N_i) Σ log(1 + exp(−y aᵀx)) + λ Σ x²/(1 + x²); regularizer=nonconvex|ridge|none"
    link = LOGISTIC
    curvature = 0.25

    def __init__(
        self,
        data: Data = "mushrooms",
        clients: int = 20,
        partition: str = "contiguous",
        reg: float = 0.1,
        regularizer: str = "nonconvex",
        seed: int = 0,
        features: int | None = None,
        bias: bool = False,
        **options: Unpack[Classifying],
    ):
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias, **options)
