"""Huber regression: least squares that outliers pull at with a bounded force."""

from __future__ import annotations

from typing import Unpack

from ..data import Data
from ..errors import ConfigError
from ..kernels.sparse import HUBER
from .base import LARGEST_NUMBER, problems
from .linear_model import LinearModel, Reading


@problems.register("huber")
class Huber(LinearModel):
    """f_i(x) = (1/N_i) Σ_r h(a_rᵀx − y_r) + (λ/2)‖x‖², h(t) = t²/2 where |t| ≤ δ, δ(|t| − δ/2) beyond.

    h′ is the residual cut off at ±δ: its difference quotients are in [0, 1]. So the change of a client's gradient along v is
    A_iᵀD_iA_iv/N_i with D_i diagonal in [0, 1], which is what the bounds of `Grams.smoothness` need, with c = 1.

    Parameters
    ----------
    delta : δ > 0. For the others see `LinearModel`; the labels are numbers, taken as they are.

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter".
    """

    summary = "(1/N_i) Σ huber(aᵀx − y), delta=1 where it becomes linear; regularizer=ridge|nonconvex|none"
    link = HUBER
    curvature = 1.0

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
        delta: float = 1.0,
        **options: Unpack[Reading],
    ):
        if not 0 < delta <= LARGEST_NUMBER:
            raise ConfigError(f"problem 'huber' needs delta > 0, up to {LARGEST_NUMBER:g}, got delta={delta}")
        self.delta = self.knee = float(delta)
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias, **options)
