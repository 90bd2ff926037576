"""EF21-SGDM and EF21-SGD2M: momentum at the clients takes the noise out of what EF21 compresses."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError
from ..oracles import DoubleMomentum, Momentum
from .base import Parts, Setting, methods
from .ef21 import EF21, xi
from .ef21_sgd import EF21SGD


@methods.register("ef21-sgdm")
class EF21SGDM(EF21SGD):
    """EF21-SGDM (Fatkhullin, Tyurin and Richtárik 2023): c_i = C(v_i^{t+1} − g_i^t), v_i^{t+1} = (1−η) v_i^t + η ∇̂f_i(x^{t+1}).

    It works with single samples, and n clients divide the noise by n, where EF21-SGD needs large batches. Derived here
    (docs/derivations/ef21-sgdm.md), for noise of variance σ²:

        γ = 1/(L + √(4ξ(α)² (η² + (1−η)²) L_QM² + 2((1−η)/η)² L²)),
        E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + (2/T)(V⁰/η + P⁰/θ + 2ηβṼ⁰/θ) + 2(η/n + 2βη³/θ + (1−α)η²/θ) σ²,

    V = ‖v − ∇f‖² (v the mean), Ṽ = (1/n) Σ‖v_i − ∇f_i‖², P = (1/n) Σ‖g_i − v_i‖². η = 1 is EF21-SGD, with its step.
    v_i⁰ is the first minibatch gradient.

    Parameters
    ----------
    eta : η in (0, 1], one minus what others call momentum. start : as for EF21.
    """

    summary = "EF21 with momentum at the clients: works with single samples"
    formulas = "γ = 1/(L + √(4ξ²(η²+(1−η)²)L_QM² + 2((1−η)/η)²L²)) [derived]"
    paper = "Fatkhullin, Tyurin and Richtárik 2023, Momentum Provably Improves Error Feedback!"
    oracle: type[Momentum] = Momentum

    def __init__(self, eta: float = 0.1, start: str = "compressed"):
        super().__init__(start)
        if not 0 < eta <= 1:
            raise ConfigError(f"{self.name}: eta={eta} is not in (0, 1]")
        self.eta = eta

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        parts.oracle = lambda base: self.oracle(base, self.eta)
        return parts

    def error_squared(self, setting: Setting) -> float:
        """E², where the sum of the errors ‖g^t − ∇f(x^t)‖² is at most E² Σ‖x^{t+1} − x^t‖² plus the terms of start and noise."""
        s, eta, ratio = setting.smoothness, self.eta, xi(setting.alpha)
        compression = 4.0 * ratio**2 * (eta**2 + (1 - eta) ** 2) * s.L_QM**2
        return compression + 2.0 * ((1 - eta) / eta) ** 2 * s.L**2

    def step_size(self, setting: Setting) -> float:
        if self.eta == 1:
            return super().step_size(setting)
        return 1.0 / (setting.smoothness.L + sqrt(self.error_squared(setting)))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """2P⁰/θ; what noise adds is not in it."""
        if self.eta == 1:
            return super().initial_term(setting, mean_squared_gradient)
        return 2.0 * EF21.initial_term(self, setting, mean_squared_gradient)


@methods.register("ef21-sgd2m")
class EF21SGD2M(EF21SGDM):
    """EF21-SGD2M (Fatkhullin, Tyurin and Richtárik 2023): c_i = C(u_i^{t+1} − g_i^t), u_i^{t+1} = (1−η) u_i^t + η v_i^{t+1},
    v_i as in EF21-SGDM.

    Derived in the same way from ‖g − ∇f‖² ≤ 3(‖g − u‖² + ‖u − v‖² + ‖v − ∇f‖²), with a = (1−η)²:

        γ = 1/(L + √(3E²)),   E² = 3ξ(α)² L_QM² (2a(η² + a) + η⁴ + η²a) + (a/η²)(1 + 2(η² + a)) L².

    The compressed vectors carry η⁴σ² of noise where those of EF21-SGDM carry η²σ².
    """

    summary = "EF21 with double momentum at the clients"
    formulas = "γ = 1/(L + √(3E²)), E² = 3ξ²L_QM²(2a(η²+a)+η⁴+η²a) + (a/η²)(1+2(η²+a))L², a = (1−η)² [derived]"
    oracle = DoubleMomentum

    def error_squared(self, setting: Setting) -> float:
        s, eta, ratio = setting.smoothness, self.eta, xi(setting.alpha)
        a = (1 - eta) ** 2
        compression = 3.0 * ratio**2 * s.L_QM**2 * (2 * a * (eta**2 + a) + eta**4 + eta**2 * a)
        return 3.0 * (compression + a / eta**2 * (1 + 2 * (eta**2 + a)) * s.L**2)

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """3P⁰/θ."""
        return super().initial_term(setting, mean_squared_gradient) * (1.0 if self.eta == 1 else 1.5)
