"""EF21 with the step size for rare features."""

from __future__ import annotations

from math import sqrt

import numpy as np

from ..compressors.identity import Identity
from ..compressors.randk import RandK
from ..compressors.topk import TopK
from ..errors import TheoryError, unknown
from .base import Setting, methods
from .ef21 import EF21
from .ef21_page import the_problem
from .ef21_w import smoothness_weights

BEST, UNIFORM, SMOOTHNESS = WEIGHTS = ("best", "uniform", "smoothness")


@methods.register("ef21-rare")
class EF21Rare(EF21):
    """EF21 with a larger step where each feature occurs at few clients; the algorithm is EF21's, whatever the weights.

    Derived here (docs/derivations/rare-features.md), with I_j the clients whose f_i depends on coordinate j, c = max_j |I_j|, r = the most
    coordinates that a client has, from `Problem.feature_counts` and `Problem.feature_weights`:

        γ = 1/(L + L̂ ξ(α)),   α = min{k/r, 1} for Top-k,
        uniform weights:     L̂ = √(c/n) min{L₊, √(c/n) max L_i}         (Richtárik, Gasanov and Burlachenko 2023)
        w_i = L_i/ΣL:        L̂ = √(max_j Σ_{i∈I_j} w_i) L_AM            (Richtárik, Gasanov and Burlachenko 2024)

    since ‖(1/n) Σ v_i‖² ≤ max_j Σ_{i∈I_j} w_i · Σ‖v_i‖²/(n² w_i) for v_i = g_i − ∇f_i, which live on the client's own coordinates, and a
    message of Top-k has k of at most r entries. Hence the compressor must send zeros as zeros: Top-k, RandK and identity do. A
    regulariser that every client has on every coordinate makes c = n and r = d. (The published code takes α = k/d, a smaller step.)

    Parameters
    ----------
    weights : of the proof: "uniform", "smoothness", L_i/ΣL, or "best", whichever gives the larger step. start : as for EF21.
    """

    summary = "EF21 with the larger step for rare features"
    formulas = "γ = 1/(L + L̂ ξ(α)), L̂ = min{√(c/n) min{L₊, √(c/n) L_max}, √(max_j Σ_{i∈I_j} L_i/ΣL) L_AM}, α = k/r for Top-k [derived]"
    paper = "Richtárik, Gasanov and Burlachenko 2023, Error Feedback Shines when Features are Rare; 2024, Error Feedback Reloaded"

    def __init__(self, weights: str = BEST, start: str = "compressed"):
        super().__init__(start)
        if weights not in WEIGHTS:
            raise unknown("weights of ef21-rare:", weights, WEIGHTS)
        self.weights = weights

    def mean_smoothness(self, setting: Setting) -> float:
        """L̂."""
        return min(self.constants(setting).values())

    def constants(self, setting: Setting) -> dict[str, float]:
        """L̂ by the weights that the proof may take.

        Raises
        ------
        TheoryError : an L_i is zero, so that weights L_i/ΣL do not exist, and these were asked for.
        """
        s, problem = setting.smoothness, the_problem(setting)
        found = {}
        if self.weights != SMOOTHNESS:
            share = sqrt(problem.feature_counts().c / setting.n_clients)
            found[UNIFORM] = share * min(s.L_plus, share * s.L_max)
        if self.weights == SMOOTHNESS or (self.weights == BEST and np.all(s.L_i > 0)):
            most = float(np.max(problem.feature_weights(smoothness_weights(setting))))
            found[SMOOTHNESS] = sqrt(min(most, 1.0)) * s.L_AM
        return found

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
        """1 − α with the same α; with weights L_i/ΣL times max L_AM/L_i."""
        first = 1.0 - self.contraction(setting) if self.start == "compressed" else super().first_error(setting)
        constants = self.constants(setting)
        if min(constants, key=lambda name: constants[name]) == SMOOTHNESS:
            first /= setting.n_clients * float(np.min(smoothness_weights(setting)))
        return first
