"""Support vector machines with a hinge that is smoothed."""

from __future__ import annotations

from typing import Unpack

from ..data import Data
from ..errors import ConfigError
from ..kernels.sparse import HINGE
from .base import LARGEST_NUMBER, problems
from .linear_model import Classifier, Classifying

LEAST = 1e-100  # of the width, whose inverse is a constant


@problems.register("smoothed_hinge")
class SmoothedHinge(Classifier):
    """f_i(x) = (1/N_i) Σ_r s(1 − y_r a_rᵀx) + (λ/2)‖x‖², s(m) = 0 where m ≤ 0, m²/(2w) where m ≤ w, m − w/2 beyond.

    s is max(0, m) within w/2. s′ rises from 0 to 1 over a width w: its difference quotients are in [0, 1/w], and those of s(1 − yz) by z,
    y = ±1, too. So the change of a client's gradient along v is A_iᵀD_iA_iv/N_i with D_i diagonal in [0, 1/w], which is what the bounds of
    `Grams.smoothness` need, with c = 1/w.

    Parameters
    ----------
    width : w > 0. For the others see `Classifier` and `LinearModel`.

    References
    ----------
    Shalev-Shwartz and Zhang 2013, "Stochastic dual coordinate ascent methods for regularized loss minimization" (arXiv 1209.1873).
    """

    summary = "(1/N_i) Σ of the hinge max(0, 1 − y aᵀx), smoothed over width=1; regularizer=ridge|nonconvex|none"
    link = HINGE

    def __init__(
        self,
        data: Data = "mushrooms",
        clients: int = 20,
        partition: str = "contiguous",
        reg: float = 0.1,
        regularizer: str = "ridge",
        seed: int = 0,
        features: int | None = None,
        bias: bool = False,
        width: float = 1.0,
        **options: Unpack[Classifying],
    ):
        if not LEAST <= width <= LARGEST_NUMBER:
            raise ConfigError(
                f"problem 'smoothed_hinge' needs width > 0, from {LEAST:g} to {LARGEST_NUMBER:g}, got width={width}"
            )
        self.width = self.knee = float(width)
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias, **options)

    @property
    def curvature(self) -> float:
        """1/w."""
        return 1.0 / self.width
