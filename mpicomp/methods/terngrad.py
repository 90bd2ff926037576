"""TernGrad: ternary gradients with one scale for all clients."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError, TheoryError
from ..mechanisms.terngrad import TernGradDownlink, TernGradUplink
from .base import Method, Parts, Setting, methods


@methods.register("terngrad")
class TernGrad(Method):
    """x^{t+1} = x^t − γ (s/n) Σ_i q_i on every worker, q_ij = sign(g_ij) with probability |g_ij|/s, else 0 (Wen et al. 2017).

    First |g_ij| ≤ cσ_i is enforced, σ_i the standard deviation of g_i's entries about their mean; then s = max_ij |g_ij| is agreed on
    ("scaler sharing": a number up from each client, one down). Up 1.6 bits an entry; down the integers Σ q_i, ⌈log2(2n+1)⌉ bits each.

    Clipping makes the estimate biased, and the paper's theorem assumes bounded gradients: no step size from theory.

    Parameters
    ----------
    clip : c; 0 for no clipping.
    """

    summary = "ternary gradients with a common scale, their sum sent back as integers"
    formulas = "no computable step size; give a number"
    paper = "Wen, Xu, Yan, Wu, Wang, Chen and Li 2017, TernGrad"

    def __init__(self, clip: float = 2.5):
        if not clip >= 0:
            raise ConfigError(f"terngrad: clip={clip} is negative; 0 means no clipping")
        self.clip = clip

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(
                f"method 'terngrad' has its own coding; drop «compressor={compressor.spec!r}», or take method dcgd"
            )

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink = TernGradUplink(self.clip)
        return Parts(uplink, TernGradDownlink(uplink, setting.n_clients), replicated=True)

    def step_size(self, setting: Setting) -> float:
        raise TheoryError("terngrad has no step size from theory; give a number, for example «step=0.1»")
