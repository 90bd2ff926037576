"""EF21-HB: EF21 with the heavy ball."""

from __future__ import annotations

from ..optimizers import HeavyBall
from .base import Parts, Setting, methods
from .ef21 import EF21, xi


@methods.register("ef21-hb")
class EF21HB(EF21):
    """EF21-HB (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021): x^{t+1} = x^t − γ v^t, v^t = η v^{t−1} + g^t, at the server alone.

    Derived here (docs/methods/ef21-hb.md): with Γ = γ/(1−η) the points z^t = x^t − (ηΓ) v^{t−1} satisfy z^{t+1} = z^t
    − Γ g^t, and Σ‖v^t‖² ≤ Σ‖g^t‖²/(1−η)². The descent lemma at z^t with ⟨∇f(x^t), g^t⟩, Cauchy–Schwarz for ∇f(z^t) −
    ∇f(x^t), and EF21's recursion for G^t give

        γ = 1/(L (1+η)/(1−η)² + L_QM ξ(α)/(1−η)),   E‖∇f(x̂^T)‖² ≤ 2(1−η)δ⁰/(γT) + E G⁰/(θT),

    that is, the paper's complexity (1/(1−η) + 1/α)/ε²; η = 0 is EF21. (The paper's poster writes v^{t+1} = ηv^t + γg^{t+1}, which would
    apply γ twice.)

    Parameters
    ----------
    momentum : η in [0, 1). start : as for EF21.
    """

    summary = "EF21 with the heavy ball at the server"
    formulas = "γ = 1/(L(1+η)/(1−η)² + L_QM ξ(α)/(1−η)) [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"
    own_optimizer = True

    def __init__(self, momentum: float = 0.9, start: str = "compressed"):
        super().__init__(start)
        self.momentum = HeavyBall(momentum).momentum

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        parts.optimizer = HeavyBall(self.momentum)
        return parts

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        s, eta = setting.smoothness, self.momentum
        return 1.0 / (s.L * (1 + eta) / (1 - eta) ** 2 + s.L_QM * xi(setting.alpha) / (1 - eta))
