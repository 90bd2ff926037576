"""The controls of CD-Adam: AMSGrad without compression, with naive compression, and with error feedback."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError
from ..mechanisms.direct import DirectUplink
from ..mechanisms.ef14 import EF14Uplink
from ..mechanisms.error_feedback import DirectDownlink, EF14Downlink
from .base import Parts, Setting, methods
from .cd_adam import AMSGradMethod

_PAPER = "control in Wang, Lin and Chen 2022, CD-Adam"


@methods.register("amsgrad")
class AMSGradDense(AMSGradMethod):
    """AMSGrad on the server; gradients and models travel as they are. Reddi, Kale and Kumar 2018."""

    summary = "uncompressed AMSGrad"
    formulas = "no computable step size; give a number"
    paper = "Reddi, Kale and Kumar 2018"

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(
                f"method 'amsgrad' sends dense vectors; with compressor {compressor.spec!r} take cd-adam, ef-amsgrad or amsgrad-naive"
            )

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DirectUplink(), optimizer=self.amsgrad(setting))


@methods.register("amsgrad-naive")
class AMSGradNaive(AMSGradMethod):
    """c_i = C(∇f_i(x)) up, C(mean c_i) down, AMSGrad on every worker. With a biased C it stalls: that is what memory is for."""

    summary = "AMSGrad from gradients compressed in both directions without memory; stalls"
    formulas = "no computable step size; give a number"
    paper = _PAPER
    default_compressor = "sign"
    default_downlink_compressor = None
    takes_downlink_compressor = True

    def compose(self, setting: Setting, step_size: float) -> Parts:
        downlink = DirectDownlink(setting.downlink_compressor)
        return Parts(DirectUplink(setting.compressor), downlink, self.amsgrad(setting), replicated=True)


@methods.register("ef-amsgrad")
class EFAMSGrad(AMSGradMethod):
    """Error feedback on the raw gradient, at the workers and at the server, then AMSGrad on every worker.

    u_i = ∇f_i(x) + e_i; c_i = C(u_i), e_i = u_i − c_i; u = mean c_i + e; c = C(u), e = u − c; AMSGrad steps by c.
    """

    summary = "AMSGrad with the original error feedback in both directions"
    formulas = "no computable step size; give a number"
    paper = _PAPER
    default_compressor = "sign"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    needs = "contractive"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink, downlink = EF14Uplink(setting.compressor, 1.0), EF14Downlink(setting.downlink_compressor)
        return Parts(uplink, downlink, self.amsgrad(setting), replicated=True)
