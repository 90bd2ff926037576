"""CD-Adam: Adam with compressed messages in both directions and an optimizer on every worker."""

from __future__ import annotations

from ..errors import TheoryError
from ..mechanisms.ef21 import EF21PDownlink, EF21Uplink
from ..optimizers.adam import AMSGrad
from .base import Method, Parts, Setting, methods


class AMSGradMethod(Method):
    """What CD-Adam and its controls share: AMSGrad's options, and a step size that is the user's.

    Parameters
    ----------
    b1, b2, nu, variant, eps, weight_decay : of `AMSGrad`. schedule : of γ_t, "constant", "cosine", "sqrt" or "steps" (γ/10 from T/2
        on, γ/100 from 3T/4 on, as in the experiments of CD-Adam); `optimizer.warmup` and the other options of a schedule add to it.
    """

    def __init__(
        self,
        b1: float = 0.9,
        b2: float = 0.99,
        nu: float = 1e-8,
        variant: str = "paper",
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        schedule: str = "constant",
    ):
        self.b1, self.b2, self.nu, self.variant, self.eps = b1, b2, nu, variant, eps
        self.weight_decay, self.schedule = weight_decay, schedule

    def amsgrad(self, setting: Setting) -> AMSGrad:
        """The optimizer."""
        return AMSGrad(
            self.b1, self.b2, self.nu, self.variant, self.eps, self.weight_decay, schedule=self.schedule,
            rounds=max(setting.rounds, 1),
        )  # fmt: skip

    def step_size(self, setting: Setting) -> float:
        raise TheoryError(
            f"no step size is known for method {self.name!r}: the theorems of AMSGrad assume bounded gradients and name no constant "
            "that could be computed here; give a number, for example «step=0.01» (the steps of Adam are coordinates' lengths)"
        )


@methods.register("cd-adam")
class CDAdam(AMSGradMethod):
    """CD-Adam (Wang, Lin and Chen 2022, Algorithm 1): EF21 up from g_i = 0, EF21 of the mean down, AMSGrad on every worker.

    No dense vector ever travels. The workers' models are equal bit for bit, because all step from the same decoded messages; the
    server keeps a copy only to evaluate. With `--optimizer gd` this is EF21-BC's estimator.
    """

    summary = "error feedback by differences in both directions, AMSGrad on every worker; nothing dense travels"
    formulas = "no computable step size; give a number"
    paper = "Wang, Lin and Chen 2022, CD-Adam"
    default_compressor = "sign"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    needs = "contractive"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink, downlink = EF21Uplink(setting.compressor), EF21PDownlink(setting.downlink_compressor)
        return Parts(uplink, downlink, self.amsgrad(setting), replicated=True)
