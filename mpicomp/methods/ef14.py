"""EF14: the original error feedback."""

from __future__ import annotations

from ..mechanisms.ef14 import EF14Uplink
from .base import Method, Parts, Setting, methods
from .ef21 import ef21_step


@methods.register("ef14")
class EF14(Method):
    """EF14 (Seide et al. 2014): e_i remembers what compression left out.

    Experimental: its theorems need bounded gradients or a decreasing step, so `step="theory"` takes EF21's step, as the experiments of the
    EF21 paper do; no theorem of EF14 promises it. With a deterministic, positively homogeneous and additive C the two methods have the
    same iterates (EF21 paper).
    """

    summary = "the original error feedback"
    formulas = "γ = EF21's, a convention and not a theorem"
    paper = "Seide, Fu, Droppo, Li and Yu 2014; Stich, Cordonnier and Jaggi 2018"
    experimental = (
        "the step of the theory is EF21's step, a convention of the EF21 experiments; no theorem of EF14 promises it"
    )
    default_compressor = "topk:k=1"
    needs = "contractive"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(EF14Uplink(setting.compressor, step_size))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return ef21_step(setting)
