"""M3: compression in both directions, MARINA up, MARINA-P down, and momentum between them."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError
from ..mechanisms.base import probability
from ..mechanisms.marina import MarinaPDownlink, MarinaUplink
from ..oracles.smoothing import Smoothing
from .base import Method, Parts, Setting, assumed_omega, methods
from .marina import default_probability


@methods.register("m3")
class M3(Method):
    """M3 = MARINA-P + Momentum + MARINA (Gruntkowska, Tyurin and Richtárik 2024).

    x^{t+1} = x^t − γg^t. Down, MARINA-P: w_i^{t+1} = x^{t+1} with probability p_P, else w_i^t + Q_i(x^{t+1} − x^t).
    Momentum: z_i^{t+1} = (1−β) z_i^t + β w_i^{t+1}. Up, MARINA at the z_i: g^{t+1} = mean ∇f_i(z_i^{t+1}) with
    probability p_D, else g^t + mean C_i(∇f_i(z_i^{t+1}) − ∇f_i(z_i^t)).

    Step size derived here (docs/derivations/m3.md); the constants are this project's, not the paper's, and multiples such as
    --step theory*4 often converge faster:

        γ = 1/(L + M),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT),
        M² = 4 (1−p_D)A/p_D · L_max² (1 + 2(1−p_P) ω_P (p_P + β)) + 4((L_A² ω_P + L_B² θ)(1−p_P)/p_P + L²(1−β)²/β²).

    A is the uplink compressors' of the AB inequality with B = 0 (ω_D/n for independent ones), ω_P and θ are the
    downlink compressor's. β = min{1, (p_D/(A ω_P))^{1/3}}, about n^{−2/3} where p_D = 1/n, A = 1, ω_P = n − 1.

    Parameters
    ----------
    beta : β in (0, 1]. p_up, p_down : p_D, p_P; ζ/d of the direction's compressor by default.
    """

    summary = "compressed both ways: MARINA up, MARINA-P down, momentum on the clients' models"
    formulas = "β = min{1, (p_D/(Aω_P))^{1/3}}, γ = 1/(L + M) [derived], see docs/derivations/m3.md"
    paper = "Gruntkowska, Tyurin and Richtárik 2024, M3"
    default_compressor = "permk"
    default_downlink_compressor = "permk"
    takes_downlink_compressor = True
    downlink_needs = "unbiased"
    needs = "unbiased"

    def __init__(self, beta: float | None = None, p_up: float | None = None, p_down: float | None = None):
        if beta is not None and not 0 < beta <= 1:
            raise ConfigError(f"m3: beta={beta} is not in (0, 1]")
        self.beta, self.p_up, self.p_down = None if beta is None else float(beta), p_up, p_down

    def probabilities(self, setting: Setting) -> tuple[float, float]:
        """(p_D, p_P)."""
        given = ((self.p_up, setting.compressor), (self.p_down, setting.downlink_compressor))
        up, down = (default_probability(c, setting) if p is None else probability(p, "m3") for p, c in given)
        return up, down

    def momentum(self, setting: Setting) -> float:
        """β."""
        if self.beta is not None:
            return self.beta
        product = self.uplink_variance(setting) * assumed_omega(setting.downlink_compressor, setting)
        return min(1.0, (self.probabilities(setting)[0] / product) ** (1.0 / 3.0)) if product > 0 else 1.0

    @staticmethod
    def uplink_variance(setting: Setting) -> float:
        """A of the uplink's compressors; of one without ω see `assumed_omega`."""
        compressor, d, n = setting.compressor, setting.dim, setting.n_clients
        return compressor.ab(d, n)[0] if compressor.unbiased else assumed_omega(compressor, setting) / n

    def compose(self, setting: Setting, step_size: float) -> Parts:
        up, down = self.probabilities(setting)
        beta = self.momentum(setting)
        return Parts(
            MarinaUplink(setting.compressor, up),
            MarinaPDownlink(setting.downlink_compressor, down),
            oracle=lambda oracle: Smoothing(oracle, beta),
        )

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        d, n, s = setting.dim, setting.n_clients, setting.smoothness
        up, down = self.probabilities(setting)
        beta, A, down_compressor = self.momentum(setting), setting.compressor.ab(d, n)[0], setting.downlink_compressor
        omega, theta = down_compressor.omega(d, n), down_compressor.theta(d, n)
        uplink = (1.0 - up) * A / up * s.L_max**2 * (1.0 + 2.0 * (1.0 - down) * omega * (down + beta))
        downlink = (s.L_A**2 * omega + s.L_B**2 * theta) * (1.0 - down) / down
        lag = s.L**2 * (1.0 - beta) ** 2 / beta**2
        return 1.0 / (s.L + 2.0 * sqrt(uplink + downlink + lag))
