"""MARINA: compressed gradient differences, and now and then the gradient itself."""

from __future__ import annotations

from math import sqrt

from ..mechanisms.base import probability
from ..mechanisms.marina import Marina as MarinaUplink
from .base import Method, Parts, methods


@methods.register("marina")
class Marina(Method):
    """MARINA (Gorbunov, Burlachenko, Li and Richtárik 2021, Algorithm 1), with independent or correlated compressors {C_i} ∈ U(A, B).

    Step size (Szlendak, Tyurin and Richtárik 2022, the theorem for {C_i} ∈ U(A, B)):

        γ = 1/(L₋ + √((1−p)/p · ((A−B) L₊² + B L±²))),   and   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    With --batch b this is VR-MARINA (Algorithm 2, finite sum), for which only a number is taken as the step here.

    Parameters
    ----------
    p : probability of a dense round; ζ/d by default, ζ the expected number of values of a compressed message
        (1/n for PermK, K/d for RandK).
    """

    summary = "compressed gradient differences, dense with probability p"
    formulas = "p = ζ/d, γ = 1/(L₋ + √((1−p)/p · ((A−B)L₊² + B L±²)))"
    paper = "Gorbunov, Burlachenko, Li and Richtárik 2021; Szlendak, Tyurin and Richtárik 2022"
    default_compressor = "permk"
    needs = "unbiased"

    def __init__(self, p: float | None = None):
        self.p = p

    def probability(self, setting) -> float:
        """p."""
        if self.p is not None:
            return probability(self.p, "marina")
        return min(1.0, setting.compressor.density(setting.dim, setting.n_clients) / setting.dim)

    def compose(self, setting, step_size):
        return Parts(MarinaUplink(setting.compressor, self.probability(setting)))

    def step_size(self, setting):
        self.refuse_minibatch(setting)
        s, p = setting.smoothness, self.probability(setting)
        A, B = setting.compressor.ab(setting.dim, setting.n_clients)
        variance = max((A - B) * s.L_plus**2 + B * s.L_pm**2, 0.0)
        return 1.0 / (s.L + sqrt((1.0 - p) / p * variance))
