"""EF21-Prox: EF21 for f plus a simple function."""

from __future__ import annotations

from math import sqrt

from ..optimizers.prox import Prox
from .base import Parts, Setting, methods
from .ef21 import EF21, xi


@methods.register("ef21-prox")
class EF21Prox(EF21):
    """EF21-Prox (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021) for Φ = f + r, r convex: x^{t+1} = prox_{γr}(x^t − γ g^t).

    Derived here (docs/methods/ef21-prox.md), with the gradient mapping 𝒢(x) = (x − prox_{γr}(x − γ∇f(x)))/γ:

        γ = 1/(2L + √3 L_QM ξ(α)),   (1/T) Σ E‖𝒢(x^t)‖² ≤ 8(Φ(x⁰) − inf Φ)/(γT) + 6 E G⁰/(θT).

    Loss and gradient norm in the results are those of f alone.

    Parameters
    ----------
    r : "l1", "ridge", "elastic" (the elastic net) or "box". weight : of all but the box. low, high : of the box. start : as for EF21.
    l1_ratio : of the elastic net, the share of the 1-norm in [0, 1]; None for 0.5.
    """

    summary = "EF21 for f + r: r = l1, ridge, elastic (net) or box"
    formulas = "γ = 1/(2L + √3 L_QM ξ(α)) [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"
    own_optimizer = True

    def __init__(
        self,
        r: str = "l1",
        weight: float = 1e-3,
        low: float = -1.0,
        high: float = 1.0,
        start: str = "compressed",
        l1_ratio: float | None = None,
    ):
        super().__init__(start)
        Prox(r, weight, low, high, l1_ratio)
        self.r, self.weight, self.low, self.high, self.l1_ratio = r, weight, low, high, l1_ratio

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        parts.optimizer = Prox(self.r, self.weight, self.low, self.high, self.l1_ratio)
        return parts

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        s = setting.smoothness
        return 1.0 / (2.0 * s.L + sqrt(3.0) * s.L_QM * xi(setting.alpha))
