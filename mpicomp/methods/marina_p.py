"""MARINA-P: compressed model differences from the server, a different message for each client."""

from __future__ import annotations

from math import sqrt

from ..mechanisms.direct import DirectUplink
from ..mechanisms.marina import MarinaPDownlink
from .base import Parts, Setting, methods
from .marina import Marina


@methods.register("marina-p")
class MarinaP(Marina):
    """MARINA-P (Gruntkowska, Tyurin and Richtárik 2024) with a dense uplink; the clients' models w_i differ.

    Step size derived here from the functional (L_A, L_B) inequality (docs/methods/marina-p.md):

        γ = 1/(L + √((L_A² ω + L_B² θ)(1/p − 1))),   and   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    θ is 0 for PermK, ω/n for independent RandK and ω for one mask for all (SameRandK, which is broadcast); min(ω/n,
    δ²ρ²/n²) for correlated quantizers. L_A² = 2L±², L_B² = 2L² for quadratics; where all f_i are equal L_A = 0, L_B =
    L.

    Parameters
    ----------
    p : probability of a dense round: "auto", which is ζ/d, "bits", or a number, as in MARINA.
    """

    summary = "compressed model differences (downlink), correlated over the clients; dense uplink"
    formulas = "p = ζ/d, γ = 1/(L + √((L_A²ω + L_B²θ)(1/p − 1))) [derived]"
    paper = "Gruntkowska, Tyurin and Richtárik 2024, MARINA-P"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DirectUplink(), MarinaPDownlink(setting.compressor, self.probability(setting)))

    def step_for(self, setting: Setting, p: float) -> float:
        s, theta = setting.smoothness, setting.compressor.theta(setting.dim, setting.n_clients)
        return 1.0 / (s.L + sqrt((s.L_A**2 * setting.omega + s.L_B**2 * theta) * (1.0 / p - 1.0)))
