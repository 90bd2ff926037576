"""MARINA: compressed gradient differences, and now and then the gradient itself."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from ..compressors import Compressor
from ..errors import ConfigError
from ..mechanisms.base import probability
from ..mechanisms.marina import MarinaUplink
from .base import Method, Parts, Setting, methods

AUTO, BITS = "auto", "bits"


def marina_step(L: float, variance: float, p: float) -> float:
    """γ = 1/(L + √((1−p)/p V)), V the variance of the compressed mean of gradient differences in units of ‖x − y‖²."""
    return 1.0 / (L + sqrt((1.0 - p) / p * variance))


def relative_length(compressor: Compressor, setting: Setting) -> float:
    """c: the length of a message, with the scalar that a common radius needs, over a dense one's."""
    wire = np.dtype(setting.wire_dtype)
    codec = compressor.bind(setting.dim, setting.n_clients, wire)
    nbytes = codec.max_nbytes + (wire.itemsize if codec.round_maximum is not None else 0)
    return min(1.0, nbytes / (setting.dim * wire.itemsize))


def default_probability(compressor: Compressor, setting: Setting) -> float:
    """p = ζ/d, ζ the expected number of values of a message; or c, its relative length, where that is less
    (quantizers).
    """
    return min(compressor.density(setting.dim, setting.n_clients) / setting.dim, relative_length(compressor, setting))


def cheapest_probability(step: Callable[[float], float], c: float) -> float:
    """argmin_p (p + (1−p)c)/γ(p): the fewest expected bytes for a given accuracy, T being proportional to 1/γ.

    >>> cheapest_probability(lambda p: 1.0, 0.01)  # nothing to be gained from dense rounds
    1e-06
    """
    grid = np.geomspace(1e-6, 1.0, 4001)
    costs = [(p + (1.0 - p) * c) / step(p) for p in grid.tolist()]
    return float(grid[int(np.argmin(costs))])


@methods.register("marina")
class Marina(Method):
    """MARINA (Gorbunov, Burlachenko, Li and Richtárik 2021, Algorithm 1).

    Compressors are unbiased, independent or correlated, {C_i} ∈ U(A, B).

    Step size (Szlendak, Tyurin and Richtárik 2022, the theorem for {C_i} ∈ U(A, B)):

        γ = 1/(L₋ + √((1−p)/p · ((A−B) L₊² + B L±²))),   and   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    The bracket is `Compressor.gradient_variance`, which is sharper for quantizers with a common radius and where all
    f_i are equal (L± = 0, θ in place of A − B). With --batch b this is VR-MARINA, whose step size method vr-marina has.

    Parameters
    ----------
    p : probability of a dense round. "auto", the paper's rule: ζ/d, ζ the expected number of values of a compressed
        message (1/n for PermK, K/d for RandK), or for quantizers its relative length c. "bits": the p with the fewest
        expected bytes, argmin (p + (1−p)c)/γ(p), (Panferov, Demidovich, Rammal and Richtárik 2024). Or a number.
    """

    summary = "compressed gradient differences, dense with probability p"
    formulas = "p = ζ/d, γ = 1/(L₋ + √((1−p)/p · ((A−B)L₊² + B L±²)))"
    paper = "Gorbunov, Burlachenko, Li and Richtárik 2021; Szlendak, Tyurin and Richtárik 2022"
    default_compressor = "permk"
    needs = "unbiased"

    def __init__(self, p: float | str | None = AUTO):
        if isinstance(p, str) and p not in (AUTO, BITS):
            raise ConfigError(f"method {self.name!r}: p={p!r} is neither {AUTO!r}, {BITS!r} nor a number")
        self.p = AUTO if p is None else p

    # ---- what variants replace ----------------------------------------------------------------------------------
    def auto_probability(self, setting: Setting) -> float:
        """The paper's rule for p."""
        return default_probability(setting.compressor, setting)

    def variance(self, setting: Setting) -> float:
        """V."""
        return setting.compressor.gradient_variance(setting.dim, setting.n_clients, setting.smoothness)

    def step_for(self, setting: Setting, p: float) -> float:
        """γ(p)."""
        return marina_step(setting.smoothness.L, self.variance(setting), p)

    # ---- the rest -----------------------------------------------------------------------------------------------
    def probability(self, setting: Setting) -> float:
        """p."""
        if self.p == AUTO:
            return min(1.0, self.auto_probability(setting))
        if self.p == BITS:
            return cheapest_probability(
                lambda p: self.step_for(setting, p), relative_length(setting.compressor, setting)
            )
        return probability(float(self.p), self.name)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(MarinaUplink(setting.compressor, self.probability(setting)))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return self.step_for(setting, self.probability(setting))
