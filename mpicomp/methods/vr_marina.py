"""VR-MARINA: MARINA with minibatches."""

from __future__ import annotations

from ..errors import ConfigError, TheoryError
from ..oracles.large_batch import LargeBatch
from .base import Parts, Setting, methods
from .finite_sum import batch_size, mean_samples, minibatch, own_batch, sample_constant
from .marina import Marina


@methods.register("vr-marina")
class VRMarina(Marina):
    """VR-MARINA (Gorbunov, Burlachenko, Li and Richtárik 2021, Algorithms 2 and 3).

    Between dense rounds the compressed differences are those of a minibatch of b' samples (--batch, one by default), the
    same at both points.

    Finite sum: dense rounds take exact gradients. p = min{ζ/d, b'/(m+b')}, m the mean number of samples of a client,
    and

        γ = 1/(L₋ + √((1−p)/p · (V + (A + 1/n) 𝓛²/b'))),   V = (A−B) L₊² + B L±²,

    which for independent compressors, A = ω/n, is the paper's with L₊, L₋ for its L: 1/(L + √((1−p)/(pn) (ωL² +
    (1+ω)𝓛²/b'))). For dependent ones it is derived here (docs/methods/vr-marina.md): E‖mean C_i(v_i) − mean a_i‖² ≤ A
    E mean‖v_i‖² − B E‖mean v_i‖² + (1/n) mean E‖v_i − a_i‖². 𝓛² is the mean of `Problem.sample_smoothness` squared.
    E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    Online (sync=b): dense rounds, round 0 among them, take b fresh samples instead, p = min{ζ/d, b'/(b+b')}. The same
    γ; the bound has (1 + 1/(pT)) σ²/(nb) more.

    Where f_i is not a finite sum this is MARINA.

    Parameters
    ----------
    p : as in MARINA, with the rule above. sync : b for the online form; 0 for exact gradients.
    """

    summary = "MARINA with minibatch differences between dense rounds (finite sum, online)"
    formulas = "p = min{ζ/d, b'/(m+b')}, γ = 1/(L₋ + √((1−p)/p · (V + (A + 1/n)𝓛²/b')))"
    paper = "Gorbunov, Burlachenko, Li and Richtárik 2021, VR-MARINA"
    default_compressor = "randk:fraction=0.1"

    def __init__(self, p: float | str | None = "auto", sync: int = 0):
        super().__init__(p)
        if not isinstance(sync, int) or sync < 0:
            raise ConfigError(f"vr-marina: sync={sync!r} must be a number of samples, or 0 for exact gradients")
        self.sync = sync

    def auto_probability(self, setting: Setting) -> float:
        p = super().auto_probability(setting)
        m = mean_samples(setting)
        if not m:
            return p
        return min(p, batch_size(setting) / ((self.sync or m) + batch_size(setting)))

    def variance(self, setting: Setting) -> float:
        if not mean_samples(setting):
            return super().variance(setting)
        A, B = setting.compressor.ab(
            setting.dim, setting.n_clients
        )  # what gradient_variance knows of exact gradients does not count
        V = max((A - B) * setting.smoothness.L_plus**2 + B * setting.smoothness.L_pm**2, 0.0)
        return V + (A + 1.0 / setting.n_clients) * sample_constant(setting) ** 2 / batch_size(setting)

    def own_batch(self, setting: Setting) -> int:
        return own_batch(setting)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        if mean_samples(setting):
            if self.sync:
                parts.oracle = lambda oracle: LargeBatch(minibatch(oracle, setting), self.sync)
            else:
                parts.oracle = lambda oracle: minibatch(oracle, setting)
        elif self.sync:
            raise ConfigError(f"vr-marina: sync={self.sync} needs a problem whose f_i are finite sums")
        return parts

    def step_size(self, setting: Setting) -> float:
        if mean_samples(setting) and setting.problem is None:
            raise TheoryError("vr-marina needs the problem for the constants of its samples")
        return self.step_for(setting, self.probability(setting))
