"""EF21-P for the model, under an uplink that is compressed, too."""

from __future__ import annotations

from math import sqrt

from ..errors import TheoryError
from ..mechanisms.base import Uplink
from ..mechanisms.diana import DianaUplink
from ..mechanisms.direct import DirectUplink
from ..mechanisms.ef21 import EF21PDownlink, EF21Uplink
from .base import Method, Parts, Setting, methods
from .diana import checked_shift
from .ef21 import EF21, expansion, xi


class Stacked(Method):
    """The downlink is EF21-P with the compressor C_M of --downlink-compressor; the clients' gradients are those at w^t, which chases x^t.

    What all step sizes below rest on, derived in docs/methods/ef21-p.md, for W^t = ‖w^t − x^t‖² (0 at the start), with E‖C_M(v)‖² ≤ q‖v‖²:

        Σ W^t ≤ ξ_M² Σ‖x^{t+1} − x^t‖²,   Σ‖w^{t+1} − w^t‖² ≤ q (1 + ξ_M)² Σ‖x^{t+1} − x^t‖².
    """

    paper = "Gruntkowska, Tyurin and Richtárik 2023, EF21-P and Friends"
    default_downlink_compressor = "topk:k=1"
    takes_downlink_compressor = True

    def uplink(self, setting: Setting) -> Uplink:
        """The uplink."""
        raise NotImplementedError

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(self.uplink(setting), EF21PDownlink(setting.downlink_compressor))

    def down(self, setting: Setting) -> tuple[float, float]:
        """ξ_M and q."""
        compressor = setting.downlink_compressor
        return xi(compressor.alpha(setting.dim, setting.n_clients)), expansion(compressor)


@methods.register("ef21-p+ef21")
class EF21PWithEF21(Stacked, EF21):
    """EF21-P down, EF21 up. Step size, derived here, with ξ_w of the uplink:

        γ = 1/((1 + ξ_M)(L + √q L_QM ξ_w)),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + (1 + a) E G⁰/(θ_w T),   a = Lξ_M/(√q L_QM ξ_w (1 + ξ_M)),

    by ‖g − ∇f(x)‖² ≤ (1+a) G + (1+1/a) L² W, G^t = (1/n) Σ‖g_i^t − ∇f_i(w^t)‖². Either compressor as the identity leaves the step of
    the other method.
    """

    summary = "error feedback in both directions: EF21-P for the model, EF21 for the gradients"
    formulas = "γ = 1/((1+ξ_M)(L + √q L_QM ξ_w)), q = 1 for Top-k, sign and C/(1+ω), else 4 [derived]"
    paper = Stacked.paper

    def uplink(self, setting: Setting) -> Uplink:
        return EF21Uplink(setting.compressor, self.start)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Stacked.compose(self, setting, step_size)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        (master, q), s = self.down(setting), setting.smoothness
        return 1.0 / ((1.0 + master) * (s.L + self.up_error(setting, master, q)))

    def up_error(self, setting: Setting, master: float, q: float) -> float:
        """√q L_QM ξ_w; without compression of the model q does not enter."""
        return sqrt(q if master > 0 else 1.0) * setting.smoothness.L_QM * xi(setting.alpha)

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """(1 + a) G⁰/θ_w."""
        master, q = self.down(setting)
        error = self.up_error(setting, master, q)
        a = setting.smoothness.L * master / (error * (1.0 + master)) if error > 0 else 0.0
        return (1.0 + a) * EF21.initial_term(self, setting, mean_squared_gradient)


@methods.register("ef21-p+diana")
class EF21PWithDiana(Stacked):
    """EF21-P down, DIANA up (unbiased, A of the AB inequality), a = 1/(1+ω). Step size for nonconvex f, derived here:

        γ = min{ 1/(L(2 + √2 ξ_M)), a/(√(8Aq) (1 + ξ_M) L₊) },   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + 2A H⁰/(aT),

    H⁰ = (1/n) Σ‖∇f_i(x⁰)‖². The paper's theorems are about convex f, and their constants are far smaller.

    Parameters
    ----------
    shift_step : a in (0, 1/(1+ω)]; the step needs the default, 1/(1+ω).
    """

    summary = "EF21-P for the model, DIANA for the gradients"
    formulas = "a = 1/(1+ω), γ = min{1/(L(2+√2ξ_M)), a/(√(8Aq)(1+ξ_M)L₊)} [derived]"
    default_compressor = "randk:fraction=0.1"
    needs = "unbiased"

    def __init__(self, shift_step: float | None = None):
        self.shift_step = shift_step

    def uplink(self, setting: Setting) -> Uplink:
        return DianaUplink(setting.compressor, checked_shift(self.shift_step, setting, self.name))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        if self.shift_step not in (None, best := 1.0 / (1.0 + setting.omega)):
            raise TheoryError(
                f"ef21-p+diana: the step wants shift_step = 1/(1+ω) = {best:.6g}; leave it out, or give the step as a number, "
                "for example «step=0.05»"
            )
        (master, q), s = self.down(setting), setting.smoothness
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        largest = 1.0 / (s.L * (2.0 + sqrt(2.0) * master))
        if A == 0 or s.L_plus == 0:
            return largest
        return min(largest, 1.0 / ((1.0 + setting.omega) * sqrt(8.0 * A * q) * (1.0 + master) * s.L_plus))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """2A H⁰/a."""
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        return 2.0 * A * (1.0 + setting.omega) * mean_squared_gradient


@methods.register("ef21-p+dcgd")
class EF21PWithDCGD(Stacked):
    """EF21-P down, DCGD up (unbiased): a neighbourhood of a stationary point. Step size, derived here, with m = 1 + √2 ξ_M:

        γ = min{ 1/(L m), L/(2A L₊² m), √(1/(2A L L_max m T)) }.

    From Ψ = f − inf f + (γL²/θ_M) W and (1/n) Σ‖∇f_i(x)‖² ≤ 2L_max(f(x) − mean inf f_i): E Ψ^{t+1} ≤ (1 + 1/T) Ψ^t − (γ/2)‖∇f(x^t)‖²
    + const. As for DCGD, the size of the neighbourhood is left to --step.
    """

    neighbourhood = True
    summary = "EF21-P for the model, compressed gradients without memory"
    formulas = "γ = min{1/(Lm), L/(2AL₊²m), √(1/(2ALL_max m T))}, m = 1+√2ξ_M [derived]"
    default_compressor = "randk:fraction=0.1"
    needs = "unbiased"

    def uplink(self, setting: Setting) -> Uplink:
        return DirectUplink(setting.compressor)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        (master, _), s = self.down(setting), setting.smoothness
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        m = 1.0 + sqrt(2.0) * master
        if A == 0:
            return 1.0 / (s.L * m)
        slow = sqrt(1.0 / (2.0 * A * s.L * s.L_max * m * max(setting.rounds, 1)))
        return min(1.0 / (s.L * m), s.L / (2.0 * A * s.L_plus**2 * m), slow)
