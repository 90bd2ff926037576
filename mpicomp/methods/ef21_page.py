"""EF21-PAGE: EF21 on variance-reduced gradients."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

from ..errors import ConfigError
from ..mechanisms.base import probability
from ..mechanisms.ef21 import EF21Uplink
from ..oracles import Minibatch, Page
from ..oracles.page import COINS
from ..problems import Problem
from .base import Parts, Setting, methods
from .ef21 import EF21, xi


@methods.register("ef21-page")
class EF21Page(EF21):
    """EF21-PAGE (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021) for f_i = (1/N_i) Σ_j f_ij:
    c_i = C(v_i^{t+1} − g_i^t), v_i from PAGE.

        γ = 1/(L + √(4ξ(α)² L_QM² + 2(3ξ(α)² + 1/p) 𝓛²)),   𝓛² = (1/n) Σ (1−p) 𝓛_i²/τ,   𝓛_i as in Problem.sample_smoothness,

    derived here (docs/methods/ef21-page.md): with V^t = (1/n) Σ‖v_i^t − ∇f_i(x^t)‖² and P^t = (1/n) Σ‖g_i^t −
    v_i^t‖², ‖g − ∇f‖² ≤ 2P + 2V, E V^{t+1} ≤ (1−p)V^t + 𝓛²R^t, E P^{t+1} ≤ (1−θ)P^t + β(2pV^t + 2L_QM²R^t + 𝓛²R^t)
    with R^t = ‖x^{t+1} − x^t‖². Hence E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + 2E P⁰/(θT), V⁰ = 0. For p = 1 it is EF21, with its
    step.

    Parameters
    ----------
    p : probability of an exact gradient; by default the mean of τ/(τ + N_i), as the published code has it.
    coin : "private", each client tosses its own (the paper), or "shared" (its code).
    start : as for EF21, with v_i⁰ = ∇f_i(x⁰).

    τ is --batch; without it √N̄ rounded up, N̄ the mean of the N_i.
    """

    summary = "EF21 on PAGE's variance-reduced gradients"
    formulas = "p = mean τ/(τ+N_i), γ = 1/(L + √(4ξ²L_QM² + 2(3ξ²+1/p)𝓛²)) [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"

    def __init__(self, p: float | None = None, coin: str = "private", start: str = "compressed"):
        super().__init__(start)
        if coin not in COINS:
            raise ConfigError(f"ef21-page: coin={coin!r}; allowed: {', '.join(COINS)}")
        self.p, self.coin = None if p is None else probability(p, "ef21-page"), coin

    def own_batch(self, setting: Setting) -> int:
        return max(1, ceil(sqrt(np.mean(sample_counts(setting)))))

    def batch(self, setting: Setting) -> int:
        """τ."""
        return setting.batch or self.own_batch(setting)

    def probability(self, setting: Setting) -> float:
        """p."""
        if self.p is not None:
            return self.p
        tau = self.batch(setting)
        return float(np.mean(tau / (tau + sample_counts(setting))))

    def compose(self, setting: Setting, step_size: float) -> Parts:
        p, tau = self.probability(setting), self.batch(setting)
        return Parts(
            EF21Uplink(setting.compressor, self.start),
            oracle=lambda base: Page(Minibatch(base.block, base.dim, tau, setting.seed), p, setting.seed, self.coin),
        )

    def step_size(self, setting: Setting) -> float:
        s, p, ratio = setting.smoothness, self.probability(setting), xi(setting.alpha)
        if p == 1:
            return 1.0 / (s.L + s.L_QM * ratio)
        variance = (1.0 - p) / self.batch(setting) * float(np.mean(the_problem(setting).sample_smoothness() ** 2))
        return 1.0 / (s.L + sqrt(4.0 * ratio**2 * s.L_QM**2 + 2.0 * (3.0 * ratio**2 + 1.0 / p) * variance))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """2P⁰/θ."""
        return (1.0 if self.probability(setting) == 1 else 2.0) * super().initial_term(setting, mean_squared_gradient)


def the_problem(setting: Setting) -> Problem:
    """The run's problem. Raises ConfigError where the setting has none."""
    if setting.problem is None:
        raise ConfigError("this method needs facts of the problem, but the setting holds none")
    return setting.problem


def sample_counts(setting: Setting) -> np.ndarray:
    """N_i, float64, shape (n,).

    Raises
    ------
    ConfigError : an f_i is not a finite sum.
    """
    problem = the_problem(setting)
    counts = np.array([problem.n_samples(i) for i in range(problem.n_clients)], np.float64)
    if counts.min() < 1:
        raise ConfigError(
            f"problem {problem.name!r} is not a finite sum, so there are no samples to draw; use method ef21, or problem logistic"
        )
    return counts
