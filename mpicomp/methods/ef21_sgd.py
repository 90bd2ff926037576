"""EF21 with minibatch gradients, plain and weighted."""

from __future__ import annotations

from math import sqrt

from .base import Setting, methods
from .ef21 import EF21
from .ef21_w import EF21W


def noisy_error_feedback(alpha: float) -> tuple[float, float, float]:
    """(θ̂, β̂, c) of E G^{t+1} ≤ (1−θ̂) G^t + β̂ L̂² ‖x^{t+1} − x^t‖² + c σ².

    G^t measures g_i^t against the exact gradient, and σ² is the variance of the minibatch gradients. For any ρ, s >
    0, derived in docs/methods/ef21-sgd.md:

        θ̂ = 1 − (1−α)(1+ρ)(1+s),   β̂ = (1−α)(1+ρ)(1+1/s),   c = (1−α)(1+ρ) + 1 + 1/ρ;

    here ρ = s = α/4, which gives θ̂ ≥ α/2.
    """
    rho = s = alpha / 4.0
    shrunk = (1.0 - alpha) * (1.0 + rho)
    return 1.0 - shrunk * (1.0 + s), shrunk * (1.0 + 1.0 / s), shrunk + 1.0 + 1.0 / rho


@methods.register("ef21-sgd")
class EF21SGD(EF21):
    """EF21-SGD (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021): EF21 with the gradients of --batch samples.

    With E‖∇̂f_i(x) − ∇f_i(x)‖² ≤ σ_i²/τ (bounded variance; on data: logistic regression), derived here (docs/methods/ef21-sgd.md):

        γ = 1/(L + L_QM √(β̂/θ̂)),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + E G⁰/(θ̂T) + (c/θ̂) (1/n) Σ σ_i²/τ,

    θ̂, β̂, c as in `noisy_error_feedback`. The floor is O(σ²/(α²τ)): the batch must grow as 1/α². Without --batch the gradients are exact
    and this is EF21, with its step.
    """

    summary = "EF21 with minibatch gradients; its floor asks for batches of order 1/α²"
    formulas = "γ = 1/(L + L_QM √(β̂/θ̂)), θ̂ = 1−(1−α)(1+α/4)², β̂ = (1−α)(1+α/4)(1+4/α) [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"

    def step_size(self, setting: Setting) -> float:
        if not setting.batch:
            return super().step_size(setting)
        theta, beta, _ = noisy_error_feedback(self.contraction(setting))
        return 1.0 / (setting.smoothness.L + self.mean_smoothness(setting) * sqrt(beta / theta))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """E G⁰/θ̂; the floor, which does not fall with T, is not in it."""
        if not setting.batch:
            return super().initial_term(setting, mean_squared_gradient)
        theta = noisy_error_feedback(self.contraction(setting))[0]
        return self.first_error(setting) * mean_squared_gradient / theta


@methods.register("ef21-w-sgd")
class EF21WSGD(EF21W, EF21SGD):
    """EF21-W-SGD (Richtárik, Gasanov and Burlachenko 2024): EF21-W with the gradients of --batch samples.

    As EF21-SGD with L_AM in place of L_QM. The noise enters as (1/n) Σ (L_AM/L_i) σ_i²/τ: noisy clients with a small L_i hurt.
    """

    summary = "EF21-W with minibatch gradients"
    formulas = "w_i = L_i/ΣL, γ = 1/(L + L_AM √(β̂/θ̂)), θ̂, β̂ as for ef21-sgd [derived]"
    paper = "Richtárik, Gasanov and Burlachenko 2024, Error Feedback Reloaded (EF21-W-SGD)"
