"""EF21 with the step size for rare features."""

from __future__ import annotations

from math import sqrt

from ..compressors.identity import Identity
from ..compressors.randk import RandK
from ..compressors.topk import TopK
from ..errors import TheoryError
from .base import Setting, methods
from .ef21 import EF21
from .ef21_page import the_problem


@methods.register("ef21-rare")
class EF21Rare(EF21):
    """EF21 with the step of Richtárik, Gasanov and Burlachenko 2023, larger where each feature occurs at few clients.

    Derived here (docs/methods/ef21-rare.md), with c = the most clients that a coordinate has, r = the most coordinates that a client
    has, from `Problem.feature_counts`:

        γ = 1/(L + √(c/n) L̂ ξ(α)),   L̂ = min{L₊, √(c/n) max L_i},   α = min{k/r, 1} for Top-k,

    since ‖(1/n) Σ v_i‖² ≤ (c/n) (1/n) Σ‖v_i‖² for v_i = g_i − ∇f_i, which live on the client's own coordinates, and a message of Top-k has
    k of at most r entries. Hence the compressor must send zeros as zeros: Top-k, RandK and identity do. A regulariser that
    every client has on every coordinate makes c = n and r = d. (The published code takes α = k/d, a smaller step.)
    """

    summary = "EF21 with the larger step for rare features"
    formulas = "γ = 1/(L + √(c/n) L̂ ξ(α)), L̂ = min{L₊, √(c/n) L_max}, α = k/r for Top-k [derived]"
    paper = "Richtárik, Gasanov and Burlachenko 2023, Error Feedback Shines when Features are Rare"

    def mean_smoothness(self, setting: Setting) -> float:
        """√(c/n) L̂."""
        s, share = setting.smoothness, sqrt(the_problem(setting).feature_counts().c / setting.n_clients)
        return share * min(s.L_plus, share * s.L_max)

    def contraction(self, setting: Setting) -> float:
        """α on the coordinates of a client."""
        compressor = setting.compressor
        if not isinstance(compressor, TopK | RandK | Identity):
            raise TheoryError(
                f"the theorem of ef21-rare needs messages without new coordinates, which is known of topk, randk and identity, not of "
                f"{compressor.spec!r}; use one of those, or method ef21"
            )
        if isinstance(compressor, TopK):
            return min(1.0, compressor.count(setting.dim) / the_problem(setting).feature_counts().r)
        return setting.alpha

    def first_error(self, setting: Setting) -> float:
        """1 − α with the same α."""
        return 1.0 - self.contraction(setting) if self.start == "compressed" else super().first_error(setting)
