"""DASHA and its stochastic variants."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError, TheoryError
from ..mechanisms.base import probability
from ..mechanisms.dasha import DashaUplink
from ..oracles.mvr import MVR
from ..oracles.page import Page
from .base import Method, Parts, Setting, assumed_omega, methods
from .finite_sum import batch_size, mean_samples, minibatch, own_batch, sample_constant


@methods.register("dasha")
class Dasha(Method):
    """DASHA (Tyurin and Richtárik 2023, Algorithm 1) with exact gradients.

    Step size, derived here (docs/derivations/dasha.md): with u_i = g_i − h_i the recursion is u_i⁺ = (1−a)u_i + noise, and
    θ = 2a − (1+2ω)a² > 0,

        γ = 1/(L + L₊ √(2A/θ)),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT)   from a dense start;

    a = 1/(2ω+1) is the best and gives θ = a: γ = 1/(L + L₊ √(2ω(2ω+1)/n)) for independent compressors (A = ω/n).

    Parameters
    ----------
    a : momentum in (0, 1]; 1/(2ω+1) by default.
    start : g_i⁰ = ∇f_i(x⁰) ("dense", as in the theorem, sent once and counted), C_i(∇f_i(x⁰)) ("compressed": nothing dense is ever
        sent) or 0 ("zero").
    """

    summary = "compressed gradient differences with momentum; nothing dense after the first round"
    formulas = "a = 1/(2ω+1), γ = 1/(L + L₊√(2A(2ω+1))), A = ω/n [derived]"
    paper = "Tyurin and Richtárik 2023, DASHA"
    default_compressor = "randk:fraction=0.1"
    needs = "unbiased"

    def __init__(self, a: float | None = None, start: str = "dense"):
        self.a, self.start = a, start

    def compose(self, setting: Setting, step_size: float) -> Parts:
        a = 1.0 / (2.0 * assumed_omega(setting.compressor, setting) + 1.0) if self.a is None else self.a
        return Parts(DashaUplink(setting.compressor, a, self.start))

    # ---- theory -------------------------------------------------------------------------------------------------
    def momentum(self, setting: Setting) -> tuple[float, float]:
        """(a, θ)."""
        omega = setting.omega
        a = 1.0 / (2.0 * omega + 1.0) if self.a is None else self.a
        theta = 2.0 * a - (1.0 + 2.0 * omega) * a * a
        if not 0 < a <= 1 or theta <= 0:
            raise TheoryError(
                f"dasha: no theorem covers a={a}; it must lie below 2/(2ω+1) = {2 / (2 * omega + 1):.6g}, and the best is half of that"
            )
        return a, theta

    def inflation(self, setting: Setting) -> float:
        """K = 2A/θ of Σ E‖mean (g_i − h_i)‖² ≤ K Σ E mean‖h_i⁺ − h_i‖²."""
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        return 2.0 * A / self.momentum(setting)[1]

    def error(self, setting: Setting) -> float:
        """M² of Σ E‖g − ∇f‖² ≤ M² Σ E‖x⁺ − x‖²."""
        self.refuse_minibatch(setting)
        return self.inflation(setting) * setting.smoothness.L_plus**2

    def step_size(self, setting: Setting) -> float:
        return 1.0 / (setting.smoothness.L + sqrt(self.error(setting)))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """[E‖mean u_i⁰‖² + (2Aa²/θ) E mean‖u_i⁰‖²]/(2a − a²), u_i⁰ = g_i⁰ − ∇f_i(x⁰)."""
        a, theta = self.momentum(setting)
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        of_mean, of_each = {"dense": (0.0, 0.0), "compressed": (A, setting.omega), "zero": (1.0, 1.0)}[self.start]
        return (of_mean + 2.0 * A * a * a / theta * of_each) / (2.0 * a - a * a) * mean_squared_gradient


@methods.register("dasha-page")
class DashaPage(Dasha):
    """DASHA-PAGE: h_i = ∇f_i(x^{t+1}) with probability p, one coin for all, else h_i + (1/B) Σ_j (∇f_ij(x^{t+1}) − ∇f_ij(x^t)).

    Step size, derived here (docs/derivations/dasha.md), K = 2A/θ:

        γ = 1/(L + M),   M² = K [(√p L₊ + √((1−p)/B) 𝓛)² + (1−p)(L₊² + 𝓛²/B)] + (1−p)𝓛²/(pnB),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    Without --batch it draws one sample; where f_i is not a finite sum, or with p = 1, this is DASHA.

    Parameters
    ----------
    p : probability of exact gradients; B/(m + B), m the mean number of samples, by default. a, start : as for dasha.
    coin : "shared", one for all as the paper prints it, or "private".
    """

    summary = "DASHA with PAGE's estimate: exact gradients now and then, minibatch differences otherwise"
    formulas = "p = B/(m+B), γ = 1/(L+M), M² = K[(√p L₊ + √((1−p)/B) 𝓛)² + (1−p)(L₊² + 𝓛²/B)] + (1−p)𝓛²/(pnB) [derived]"

    def __init__(self, p: float | None = None, a: float | None = None, start: str = "dense", coin: str = "shared"):
        super().__init__(a, start)
        self.p, self.coin = p, coin

    def probability(self, setting: Setting) -> float:
        """p."""
        B, m = batch_size(setting), mean_samples(setting)
        if not m:
            return 1.0
        return B / (m + B) if self.p is None else probability(self.p, self.name)

    def own_batch(self, setting: Setting) -> int:
        return own_batch(setting)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        if mean_samples(setting):
            p, coin = self.probability(setting), self.coin
            parts.oracle = lambda oracle: Page(minibatch(oracle, setting), p, setting.seed, coin)
        return parts

    def error(self, setting: Setting) -> float:
        K, L_plus, p = self.inflation(setting), setting.smoothness.L_plus, self.probability(setting)
        if p == 1:
            return K * L_plus**2
        noise = sample_constant(setting) ** 2 / batch_size(setting)
        change = (sqrt(p) * L_plus + sqrt((1.0 - p) * noise)) ** 2 + (1.0 - p) * (L_plus**2 + noise)
        return K * change + (1.0 - p) / (p * setting.n_clients) * noise


@methods.register("dasha-mvr")
class DashaMVR(Dasha):
    """DASHA-MVR: h_i = ∇f_i(x^{t+1}, ξ) + (1−b)(h_i − ∇f_i(x^t, ξ)), minibatches of B samples ξ; h_i⁰ = ∇f_i(x⁰).

    Step size, derived here (docs/derivations/dasha.md), K = 2A/θ, κ = (2+b)/(2−b):

        γ = 1/(L + M),   M² = 2K L₊² + 2(1−b)² (𝓛²/B) [κK + 1/(nb(2−b))],
        E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + 2b² (σ²/B) [κK + 1/(nb(2−b))],   σ² the mean variance of one sample's gradient.

    The last term does not vanish with T: choose b small for a small ε. Without --batch it draws one sample; where f_i is not a
    finite sum this is DASHA.

    Parameters
    ----------
    b : momentum in (0, 1]. a, start : as for dasha.
    """

    summary = "DASHA with momentum variance reduction: minibatches only, after the first round"
    formulas = "γ = 1/(L+M), M² = 2KL₊² + 2(1−b)²(𝓛²/B)[κK + 1/(nb(2−b))] [derived]"

    def __init__(self, b: float = 0.1, a: float | None = None, start: str = "dense"):
        super().__init__(a, start)
        if not 0 < b <= 1:
            raise ConfigError(f"dasha-mvr: b={b} is not in (0, 1]")
        self.b = b

    def own_batch(self, setting: Setting) -> int:
        return own_batch(setting)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        if mean_samples(setting):
            parts.oracle = lambda oracle: MVR(minibatch(oracle, setting), self.b)
        return parts

    def error(self, setting: Setting) -> float:
        K, L_plus, b = self.inflation(setting), setting.smoothness.L_plus, self.b
        if not mean_samples(setting):
            return K * L_plus**2
        noise = sample_constant(setting) ** 2 / batch_size(setting)
        return 2.0 * K * L_plus**2 + 2.0 * (1.0 - b) ** 2 * noise * self.memory(setting)

    def memory(self, setting: Setting) -> float:
        """κK + 1/(nb(2−b)): what one round's noise adds up to over the rounds."""
        b = self.b
        return (2.0 + b) / (2.0 - b) * self.inflation(setting) + 1.0 / (setting.n_clients * b * (2.0 - b))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        if mean_samples(setting):
            raise TheoryError(
                "dasha-mvr reaches a neighbourhood whose size depends on the variance of the samples' gradients, which is not known; "
                "no number of rounds is promised"
            )
        return super().initial_term(setting, mean_squared_gradient)
