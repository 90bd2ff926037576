"""EF21+: EF21 or plain compression, whichever is nearer to the gradient."""

from __future__ import annotations

from ..errors import TheoryError
from ..mechanisms.ef21_plus import EF21PlusUplink
from .base import Parts, Setting, methods
from .ef21 import EF21


@methods.register("ef21+")
class EF21Plus(EF21):
    """EF21+ (Richtárik, Sokolov and Fatkhullin 2021, Algorithm 2). The server holds every g_i: O(nd).

    For a deterministic C the error of the branch that is taken is at most that of EF21's branch, so EF21's theorem and step hold.
    """

    summary = "EF21 or plain compression, whichever is nearer to the gradient; O(nd) at the server"
    formulas = "γ = 1/(L + L_QM ξ(α)), C deterministic"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(EF21PlusUplink(setting.compressor, self.start))

    def step_size(self, setting: Setting) -> float:
        if not setting.compressor.deterministic:
            raise TheoryError(
                f"the theorem of ef21+ is about deterministic compressors, {setting.compressor.spec!r} is random; use topk or sign, "
                "or give a number, for example «step=0.05» (method ef21 has a theorem for it)"
            )
        return super().step_size(setting)
