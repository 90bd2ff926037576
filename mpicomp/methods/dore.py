"""DORE: residuals compressed in both directions, with an error memory on the server."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError, TheoryError
from ..mechanisms.diana import DianaUplink
from ..mechanisms.dore import DoubleResidualDownlink
from .artemis import damped_step
from .base import Parts, Setting, assumed_omega, methods
from .diana import Diana


@methods.register("dore")
class DORE(Diana):
    """DORE (Liu, Li, Tang and Yan 2020, Algorithm 1, smooth case): DIANA up; q = −γĝ + ηe, x ← x + βC_down(q) on every rank.

    Step size for nonconvex f and exact gradients, derived here (docs/methods/dore.md), D = 1 + ω_down; the paper's theorems are for
    strongly convex f:

        η = 0:              γ = (1/β) min{ 1/(2LD), a/(L₊ √(8AD)) }    (this is Artemis with step βγ),
        0 < η² ≤ 1/(12ω_down): γ = (1/β) min{ 1/(16LD), a/(L₊ √(32AD)) },   E‖∇f(x̂^T)‖² ≤ 4(δ⁰ + (γβA/(2a)) H⁰)/(βγT).

    Parameters
    ----------
    shift_step : a in (0, 1/(1+ω)]. beta : β in (0, 1].
    eta : η in [0, 1]; by default the largest that the step covers, 1/√(12ω_down), at most 1. The paper's experiments take β = η = 1.
    """

    summary = "DIANA uplink, compressed model changes with error memory down; replicated models"
    formulas = "η = 1/√(12ω_down), γ = (1/β) min{1/(16LD), a/(L₊√(32AD))}, D = 1 + ω_down [derived]"
    paper = "Liu, Li, Tang and Yan 2020, DORE"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    downlink_needs = "unbiased"

    def __init__(self, shift_step: float | None = None, beta: float = 1.0, eta: float | None = None):
        super().__init__(shift_step)
        if not 0 < beta <= 1 or (eta is not None and not 0 <= eta <= 1):
            raise ConfigError(f"dore: beta={beta} must be in (0, 1], eta={eta} in [0, 1]")
        self.beta, self.eta = beta, eta

    def largest_eta(self, setting: Setting) -> float:
        """1/√(12ω_down), at most 1."""
        omega = assumed_omega(setting.downlink_compressor, setting)
        return 1.0 / sqrt(12.0 * omega) if 12.0 * omega > 1 else 1.0

    def compose(self, setting: Setting, step_size: float) -> Parts:
        eta = self.largest_eta(setting) if self.eta is None else self.eta
        downlink = DoubleResidualDownlink(setting.downlink_compressor, step_size, self.beta, eta)
        return Parts(DianaUplink(setting.compressor, self.shift(setting)), downlink, replicated=True)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        a, eta = self.covered_shift(setting), self.eta
        if eta == 0:
            return damped_step(setting, a, 2.0, 8.0) / self.beta
        largest = self.largest_eta(setting)
        if eta is not None and eta > largest * (1 + 1e-12):
            raise TheoryError(
                f"dore: no theorem here covers eta={eta} with {setting.downlink_compressor.spec!r}; up to eta={largest:.4g} there is one, "
                "beyond it give the step as a number, for example «step=0.05»"
            )
        return damped_step(setting, a, 16.0, 32.0) / self.beta

    def gap_factor(self, setting: Setting) -> float:
        return (2.0 if self.eta == 0 else 4.0) / self.beta

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        A, a = setting.compressor.ab(setting.dim, setting.n_clients)[0], self.shift(setting)
        if self.eta != 0:
            return 2.0 * A / a * mean_squared_gradient
        D = 1.0 + setting.downlink_compressor.omega(setting.dim, setting.n_clients)
        return 4.0 * setting.smoothness.L * self.beta * self.step_size(setting) * A * D / a * mean_squared_gradient
