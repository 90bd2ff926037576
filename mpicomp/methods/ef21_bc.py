"""EF21-BC: error feedback in both directions."""

from __future__ import annotations

from math import sqrt

from ..mechanisms.ef21 import EF21PDownlink, EF21Uplink
from .base import Parts, Setting, methods
from .ef21 import EF21, expansion, theta, xi


@methods.register("ef21-bc")
class EF21BC(EF21):
    """EF21-BC (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021): EF21 from the clients, and EF21 on the estimate back to them.

    Clients send c_i = C_w(∇f_i(x^{t+1}) − g̃_i), the server broadcasts b = C_M(g̃ − g); all sides have g ← g + b and take the step
    themselves, so that no dense vector travels. g⁰ = C_M(g̃⁰). With q = 8, or q = 2 where E‖C_w(v)‖² ≤ ‖v‖² (Top-k, sign, C/(1+ω)),

        γ = 1/(L + L_QM √(2q ξ_M² + 2ξ_w²(1 + q ξ_M²))),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + 2(E⁰/θ_M + (1 + q ξ_M²) G⁰/θ_w)/T,

    E⁰ = ‖g⁰ − g̃⁰‖², G⁰ = (1/n) Σ‖g̃_i⁰ − ∇f_i(x⁰)‖². Derived here (docs/methods/ef21-bc.md).
    An identity downlink makes it EF21, which then has its own step.
    """

    summary = "EF21 in both directions: the downlink carries compressed changes of the gradient estimate"
    formulas = "γ = 1/(L + L_QM √(2qξ_M² + 2ξ_w²(1 + qξ_M²))), q = 2 for Top-k, sign and C/(1+ω), else 8 [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"
    default_downlink_compressor = None
    takes_downlink_compressor = True

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(
            EF21Uplink(setting.compressor, self.start), EF21PDownlink(setting.downlink_compressor), replicated=True
        )

    def ratios(self, setting: Setting) -> tuple[float, float, float]:
        """ξ_w, ξ_M, q."""
        down = setting.downlink_compressor.alpha(setting.dim, setting.n_clients)
        return xi(setting.alpha), xi(down), 2.0 * expansion(setting.compressor)

    def step_size(self, setting: Setting) -> float:
        worker, master, q = self.ratios(setting)
        if master == 0:
            return super().step_size(setting)
        self.refuse_minibatch(setting)
        s = setting.smoothness
        return 1.0 / (s.L + s.L_QM * sqrt(2 * q * master**2 + 2 * worker**2 * (1 + q * master**2)))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """With ‖g̃⁰‖² ≤ (1/n) Σ‖g̃_i⁰‖² ≤ (q/2) (1/n) Σ‖∇f_i(x⁰)‖²."""
        _, master, q = self.ratios(setting)
        alpha = setting.downlink_compressor.alpha(setting.dim, setting.n_clients)
        if master == 0:
            return super().initial_term(setting, mean_squared_gradient)
        first = 0.0 if self.start == "zero" else 0.5 * q * (1.0 - alpha) / theta(alpha)
        clients = (1.0 + q * master**2) * super().initial_term(setting, mean_squared_gradient)
        return 2.0 * (first * mean_squared_gradient + clients)
