"""DCGD: distributed compressed gradient descent, without memory (QSGD with exact gradients)."""

from __future__ import annotations

from math import sqrt

from ..mechanisms.direct import DirectUplink
from .base import Method, Parts, Setting, methods


@methods.register("dcgd")
class DCGD(Method):
    """x^{t+1} = x^t − γ Σ w_i C_i(∇f_i(x^t)), C_i unbiased.

    With a fixed step it reaches only a neighbourhood of a stationary point, unless all ∇f_i vanish there. Step, as Khaled and
    Richtárik 2020 give it for independent C_i (A = ω/n; A from the AB inequality otherwise):

        γ = min{1/L, √(1/(A L L_max T))}.

    The theorem's third term, which sets the size of the neighbourhood, depends on the wanted ε and on Δ* = f* − mean f_i*; it is
    left to `--step`.
    """

    summary = "compressed gradients, no memory (QSGD's scheme); converges to a neighbourhood"
    formulas = "γ = min{1/L, √(n/(ω L L_max T))}"
    paper = "Khirirat, Feyzmahdavian and Johansson 2018; Khaled and Richtárik 2020"
    default_compressor = "randk:fraction=0.1"
    needs = "unbiased"
    neighbourhood = True

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DirectUplink(setting.compressor))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        s, A = setting.smoothness, setting.compressor.ab(setting.dim, setting.n_clients)[0]
        if A == 0:
            return 1.0 / s.L
        return min(1.0 / s.L, sqrt(1.0 / (A * s.L * s.L_max * max(setting.rounds, 1))))
