"""MCM and Rand-MCM: the server keeps the exact model, the clients follow it by compressed differences to a memory."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError, TheoryError
from ..mechanisms.diana import DianaUplink
from ..mechanisms.mcm import MCMDownlink, RandMCMDownlink, memory_rate
from .base import Parts, Setting, assumed_omega, methods
from .diana import Diana


@methods.register("mcm")
class MCM(Diana):
    """MCM (Philippenko and Dieuleveut 2021): DIANA up from gradients at w; down Ω = C_down(x − H), w = H + Ω, H ← H + rate·Ω.

    Step size for nonconvex f and exact gradients, derived here (docs/derivations/mcm.md); the paper's theorems are
    for convex f, or for clients that are alike. With θ = 1 − √(1−rate), θ_a = 1 − √(1−a), P = ω_down/θ²:

        γ = 1/(L + M),   M² = L²P + A L₊² (1 + 2√P)²/θ_a²,   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + A H⁰/(θ_a T).

    It grows like ω_down^{3/2} even for the largest rate, 1/(1+ω_down): a safe step, far from what runs bear.

    Parameters
    ----------
    shift_step : a in (0, 1/(1+ω)]. rate : of the downlink memory, in (0, 1/(1+ω_down)]; 1/(8ω_down), at most 1/(1+ω_down), by default.
    """

    summary = "DIANA uplink, compressed differences of the model to a memory down; the server keeps the exact model"
    formulas = "γ = 1/(L+M), M² = L²P + A L₊²(1+2√P)²/θ_a², P = ω_down/θ² [derived]"
    paper = "Philippenko and Dieuleveut 2021, MCM"
    default_downlink_compressor = None
    takes_downlink_compressor = True
    downlink_needs = "unbiased"
    downlink: type[MCMDownlink] | type[RandMCMDownlink] = MCMDownlink

    def __init__(self, shift_step: float | None = None, rate: float | None = None):
        super().__init__(shift_step)
        if rate is not None and not 0 < rate <= 1:
            raise ConfigError(f"{self.name}: rate={rate} is not in (0, 1]")
        self.rate = rate

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink = DianaUplink(setting.compressor, self.shift(setting))
        down, rate = setting.downlink_compressor, self.rate
        if rate is None:
            rate = memory_rate(assumed_omega(down, setting))
        return Parts(uplink, type(self).downlink(down, rate))

    # ---- theory -------------------------------------------------------------------------------------------------
    def lag(self, setting: Setting) -> tuple[float, float]:
        """(ω_down, θ); Σ E‖w − x‖² ≤ (ω_down/θ²) Σ E‖x⁺ − x‖²."""
        d, n = setting.dim, setting.n_clients
        omega = setting.downlink_compressor.omega(d, n)
        rate = memory_rate(omega) if self.rate is None else self.rate
        if rate > (1.0 + 1e-12) / (1.0 + omega):
            raise TheoryError(
                f"{self.name}: no theorem covers rate={rate} above 1/(1+ω_down) = {1 / (1 + omega):.6g}; take that, or give "
                "the step as a number, for example «step=0.05»"
            )
        return omega, 1.0 - sqrt(1.0 - rate)

    def constants(self, setting: Setting, omega: float) -> tuple[float, float]:
        """(mean² ω_down, each²) with ‖mean [∇f_i(w_i) − ∇f_i(x)]‖² ≤ mean² (1/n) Σ‖w_i − x‖² and the same for each gradient's change."""
        s = setting.smoothness
        return s.L**2 * omega, s.L_plus**2

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        omega, theta = self.lag(setting)
        of_mean, of_each = self.constants(setting, omega)
        A, theta_a = (
            setting.compressor.ab(setting.dim, setting.n_clients)[0],
            1.0 - sqrt(1.0 - self.covered_shift(setting)),
        )
        noise = A * of_each * (1.0 + 2.0 * sqrt(omega) / theta) ** 2 / theta_a**2
        return 1.0 / (setting.smoothness.L + sqrt(of_mean / theta**2 + noise))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        return A / (1.0 - sqrt(1.0 - self.shift(setting))) * mean_squared_gradient


@methods.register("rand-mcm")
class RandMCM(MCM):
    """Rand-MCM: MCM with an independent downlink message and memory for each client. **The server holds n memories, O(nd).**

    Step size derived there, too: as for MCM, with L_QM in place of L₊, and L²P replaced by the smaller of L_QM² P and
    (L_A² ω_down + L_B² A_down)/θ² (functional inequality; the errors of independent messages average out: A_down =
    ω_down/n).
    """

    summary = "MCM with a message of its own for each client; O(nd) on the server"
    formulas = "as mcm with L_QM for L₊, min{L_QM² ω_down, L_A² ω_down + L_B² A_down}/θ² for L²P [derived]"
    paper = "Philippenko and Dieuleveut 2021, Rand-MCM"
    downlink = RandMCMDownlink

    def constants(self, setting: Setting, omega: float) -> tuple[float, float]:
        s = setting.smoothness
        A_down = setting.downlink_compressor.ab(setting.dim, setting.n_clients)[0]
        return min(s.L_QM**2 * omega, s.L_A**2 * omega + s.L_B**2 * A_down), s.L_QM**2
