"""1-bit Adam: Adam until its variance settles, then compressed momentum."""

from __future__ import annotations

from ..errors import ConfigError, TheoryError
from ..mechanisms.onebit import MomentumDownlink, MomentumUplink
from ..optimizers.adam import OneBitAdam as OneBitAdamOptimizer
from .base import Method, Parts, Setting, methods


@methods.register("onebit-adam")
class OneBitAdam(Method):
    """1-bit Adam (Tang et al. 2021, Algorithm 1), its server in one place.

    T_w rounds of Adam, dense in both directions. Then v is frozen; each client sends C(b₁m + (1−b₁)∇f_i(x) + e_i), the server sends C of
    their mean plus its own error, and all take the result as their new m. There is no bias correction (as in DeepSpeed). The published
    experiments of CD-Adam run something else under this name: they compress gradients after the warm-up, not the momentum.

    Parameters
    ----------
    warmup : T_w, a number of rounds; below 1, a fraction of all rounds (13 of 200 epochs by default, as on CIFAR-10).
    b1, b2, eps, weight_decay, schedule : of Adam; the decay is added to the update.
    """

    summary = "Adam, then frozen variance and 1-bit momentum with error feedback in both directions"
    formulas = "no computable step size; give a number"
    paper = "Tang et al. 2021, 1-bit Adam"
    default_compressor = "sign:norm=l2"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    own_optimizer = True

    def __init__(
        self,
        warmup: float = 0.065,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        schedule: str = "constant",
    ):
        if not (0 < warmup < 1 or (1 <= warmup < 2**63 and warmup == int(warmup))):
            raise ConfigError(
                f"onebit-adam: warmup={warmup} must be a whole number of rounds, at least 1, or a fraction below 1"
            )
        self.warmup, self.b1, self.b2, self.eps = warmup, b1, b2, eps
        self.weight_decay, self.schedule = weight_decay, schedule

    def warmup_rounds(self, setting: Setting) -> int:
        """T_w."""
        return int(self.warmup) if self.warmup >= 1 else max(1, round(self.warmup * setting.rounds))

    def compose(self, setting: Setting, step_size: float) -> Parts:
        optimizer = OneBitAdamOptimizer(
            self.warmup_rounds(setting),
            self.b1,
            self.b2,
            self.eps,
            self.weight_decay,
            schedule=self.schedule,
            rounds=max(setting.rounds, 1),
        )
        downlink = MomentumDownlink(setting.downlink_compressor, optimizer.dense_rounds)
        return Parts(MomentumUplink(setting.compressor, optimizer), downlink, optimizer, replicated=True)

    def step_size(self, setting: Setting) -> float:
        raise TheoryError(
            "the theorem of 1-bit Adam names no step size that could be computed here; give a number, for example «step=0.01»"
        )
