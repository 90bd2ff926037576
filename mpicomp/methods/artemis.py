"""Artemis: DIANA up, and the aggregated gradient compressed on its way down."""

from __future__ import annotations

from math import sqrt

from ..mechanisms.diana import DianaUplink
from ..mechanisms.error_feedback import DirectDownlink
from .base import Parts, Setting, methods
from .diana import Diana


def damped_step(setting: Setting, a: float, gradient: float, noise: float) -> float:
    """min{1/(gradient · L D), a/(L₊ √(noise · A D))}, D = 1 + ω of the downlink: the shape of the steps of Artemis and DORE."""
    d, n, s = setting.dim, setting.n_clients, setting.smoothness
    A, D = setting.compressor.ab(d, n)[0], 1.0 + setting.downlink_compressor.omega(d, n)
    largest = 1.0 / (gradient * s.L * D)
    return min(largest, a / (s.L_plus * sqrt(noise * A * D))) if A > 0 and s.L_plus > 0 else largest


@methods.register("artemis")
class Artemis(Diana):
    """Artemis (Philippenko and Dieuleveut 2020): ĝ = h + mean C_i(∇f_i(x) − h_i) as in DIANA; everybody steps by C_down(ĝ), broadcast.

    Step size for nonconvex f and exact gradients, derived here as DIANA's (docs/methods/artemis.md); the paper's own theorems are
    for strongly convex f. With D = 1 + ω_down,

        γ = min{ 1/(2LD), a/(L₊ √(8AD)) },   E‖∇f(x̂^T)‖² ≤ 2(δ⁰ + (2Lγ²AD/a) H⁰)/(γT),   H⁰ = mean‖∇f_i(x⁰)‖².

    Parameters
    ----------
    shift_step : a in (0, 1/(1+ω)].
    """

    summary = "DIANA uplink, the aggregated gradient compressed on its way down; replicated models"
    formulas = "a = 1/(1+ω), γ = min{1/(2LD), a/(L₊√(8AD))}, D = 1 + ω_down [derived]"
    paper = "Philippenko and Dieuleveut 2020, Artemis"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    downlink_needs = "unbiased"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink = DianaUplink(setting.compressor, self.shift(setting))
        return Parts(uplink, DirectDownlink(setting.downlink_compressor), replicated=True)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return damped_step(setting, self.covered_shift(setting), 2.0, 8.0)

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        d, n = setting.dim, setting.n_clients
        A, D = setting.compressor.ab(d, n)[0], 1.0 + setting.downlink_compressor.omega(d, n)
        return (
            4.0 * setting.smoothness.L * self.step_size(setting) * A * D / self.shift(setting) * mean_squared_gradient
        )
