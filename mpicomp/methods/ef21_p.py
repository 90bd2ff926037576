"""EF21-P: error feedback for the model, from the server to the clients."""

from __future__ import annotations

from ..mechanisms.direct import DirectUplink
from ..mechanisms.ef21 import EF21PDownlink
from .base import Method, Parts, Setting, methods
from .ef21 import xi


@methods.register("ef21-p")
class EF21P(Method):
    """EF21-P (Gruntkowska, Tyurin and Richtárik 2023, Algorithm 1) with a dense uplink: gradients are taken at w^t, which chases x^t.

    Step size, derived here (docs/methods/ef21-p.md) by the descent lemma with G^t = L²‖w^t − x^t‖², which satisfies E
    G^{t+1} ≤ (1−θ) G^t + βL²‖x^{t+1} − x^t‖²:

        γ = 1/(L (1 + ξ(α))).

    The paper's Theorem E.3 has α/(8L), which is smaller by a factor of 4 to 8.
    """

    summary = "error feedback for the model (downlink); dense uplink"
    formulas = "γ = 1/(L(1 + ξ(α))) [derived]"
    paper = "Gruntkowska, Tyurin and Richtárik 2023, EF21-P and Friends"
    default_compressor = "topk:k=1"
    needs = "contractive"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DirectUplink(), EF21PDownlink(setting.compressor))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / (setting.smoothness.L * (1.0 + xi(setting.alpha)))
