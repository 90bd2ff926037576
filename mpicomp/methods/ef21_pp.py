"""EF21 with partial participation, plain and weighted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..participation import Bernoulli, Nice, Participation
from .base import Parts, Setting, methods
from .ef21 import EF21
from .ef21_w import EF21W


@methods.register("ef21-pp")
class EF21PP(EF21):
    """EF21-PP (Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021): in a round only the clients of a random S_t speak.

    Silence with probability 1 − p_i followed by C is a contractive compressor with p_i α in place of α, hence, derived here
    (docs/methods/ef21-pp.md),

        γ = 1/(L + L_QM ξ(p_min α)),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + E G⁰/(θT),   θ = 1 − √(1 − p_min α).

    All clients speak in round 0, which makes the g_i⁰. Silent clients receive the model like all others, and it is counted.

    Parameters
    ----------
    p : probability of speaking, each client by itself: a number, or n of them; 0.5 where s is not given either.
    s : in place of p: so many clients, uniformly without replacement.
    start : as for EF21.
    """

    summary = "EF21 in which only some clients speak in a round"
    formulas = "γ = 1/(L + L_QM ξ(p_min α)) [derived]"
    paper = "Fatkhullin, Sokolov, Gorbunov, Li and Richtárik 2021, EF21 with Bells & Whistles"

    def __init__(
        self, p: float | Sequence[float] | np.ndarray | None = None, s: int | None = None, start: str = "compressed"
    ):
        if p is not None and s is not None:
            raise ConfigError(f"{self.name}: give p={p} or s={s}, not both")
        super().__init__(start)
        self.p, self.s = 0.5 if p is None else p, s

    def participation(self, setting: Setting) -> Participation:
        """Who speaks."""
        if self.s is not None:
            return Nice(self.s, setting.n_clients, setting.seed)
        return Bernoulli(self.p, setting.n_clients, setting.seed)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        parts.participation = self.participation(setting)
        return parts

    def contraction(self, setting: Setting) -> float:
        """p_min α."""
        return float(np.min(self.participation(setting).probabilities())) * setting.alpha


@methods.register("ef21-w-pp")
class EF21WPP(EF21W, EF21PP):
    """EF21-W-PP (Richtárik, Gasanov and Burlachenko 2024): EF21-W in which only some clients speak; γ = 1/(L + L_AM ξ(p_min α)) [derived].

    For the options see EF21-PP.
    """

    summary = "EF21-W in which only some clients speak in a round"
    formulas = "w_i = L_i/ΣL, γ = 1/(L + L_AM ξ(p_min α)) [derived]"
    paper = "Richtárik, Gasanov and Burlachenko 2024, Error Feedback Reloaded (EF21-W-PP)"
