"""EF21-Muon: error feedback in both directions, layer by layer, under steps in the spectral norm."""

from __future__ import annotations

from math import prod

from ..compressors import Compressor
from ..compressors.layers import Layers
from ..errors import ConfigError, TheoryError
from ..mechanisms.ef21 import EF21PDownlink, EF21Uplink, checked_start
from ..optimizers.muon import Muon, format_shapes, parse_shapes
from ..oracles import Momentum
from .base import Method, Parts, Setting, methods


@methods.register("ef21-muon")
class EF21Muon(Method):
    """EF21-Muon (Gruntkowska, Gaponov, Tovmasyan and Richtárik 2025), the layer-wise algorithm with momentum:

        server:      x ← x − γ ρ_l O(g), layer by layer;   broadcast s = C_M(x − w);   w ← w + s
        client i:    v_i ← (1−η) v_i + η ∇f_i(w, ξ_i);   send c_i = C(v_i − g_i);   g_i ← g_i + c_i
        server:      g ← g + mean c_i

    O is the optimizer's, `Muon`. The compressors go layer by layer: topk:fraction=0.1 keeps a tenth of each tensor. Without compression
    and with one client it is Muon. Its steps have lengths of their own, whatever the gradient, so γ has to fall in the end.

    Parameters
    ----------
    eta : η in (0, 1], one minus what others call momentum. start : as for EF21.
    shapes : of the tensors of x, "64x32+64"; by default the problem's, and where that has none x is one vector.
    """

    summary = "EF21-P for the model, EF21 for momentum, each layer by itself; steps in the spectral norm"
    formulas = "the theory's constants are those of spectral norms, which are not known here; give a number"
    paper = "Gruntkowska, Gaponov, Tovmasyan and Richtárik 2025, Error Feedback for Muon and Friends"
    default_compressor = "topk:fraction=0.1"
    default_downlink_compressor = "topk:fraction=0.1"
    takes_downlink_compressor = True
    needs = "contractive"

    def __init__(self, eta: float = 0.1, start: str = "compressed", shapes: str = ""):
        if not 0 < eta <= 1:
            raise ConfigError(f"{self.name}: eta={eta} is not in (0, 1]")
        parse_shapes(shapes)
        self.eta, self.start, self.shapes = eta, checked_start(start), shapes

    def compose(self, setting: Setting, step_size: float) -> Parts:
        text = str(self.shapes)
        if not text and setting.problem is not None:
            text = format_shapes([shape for shape in setting.problem.shapes.values() if prod(shape)])
        sizes = [prod(shape) for shape in parse_shapes(text)] or [setting.dim]
        if sum(sizes) != setting.dim:
            raise ConfigError(f"{self.name}: the tensors {text} have {sum(sizes)} entries, and x has {setting.dim}")

        def by_layer(compressor: Compressor) -> Compressor:
            return compressor if len(sizes) == 1 else Layers([(size, compressor) for size in sizes])

        return Parts(
            EF21Uplink(by_layer(setting.compressor), self.start),
            EF21PDownlink(by_layer(setting.downlink_compressor)),
            Muon(text),
            oracle=lambda base: Momentum(base, self.eta),
        )

    def step_size(self, setting: Setting) -> float:
        raise TheoryError(
            "the theorems of ef21-muon need the smoothness of each layer in its own norm, which is not known here; give a number, "
            "for example «step=0.02»"
        )
