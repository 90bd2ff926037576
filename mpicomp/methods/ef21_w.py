"""EF21-W, smoothness-aware weights, and EF21 with the step size that they justify."""

from __future__ import annotations

import numpy as np

from ..errors import TheoryError
from .base import Parts, Setting, methods
from .ef21 import EF21


def smoothness_weights(setting: Setting) -> np.ndarray:
    """w_i = L_i/Σ_j L_j.

    Raises
    ------
    TheoryError : an L_i is zero, so that its client would have no weight.
    """
    L_i = setting.smoothness.L_i
    if not np.all(L_i > 0):
        raise TheoryError(
            f"weights L_i/ΣL need L_i > 0, but the least is {np.min(L_i):.3g}; use the method without weights"
        )
    return np.asarray(L_i / np.sum(L_i))


@methods.register("ef21-am")
class EF21AM(EF21):
    """EF21 with the larger step γ = 1/(L + L_AM ξ(α)); the algorithm is that of EF21 (Richtárik, Gasanov and Burlachenko 2024).

    Derived here (docs/methods/ef21.md): G^t = (1/n) Σ (L_AM/L_i) ‖g_i^t − ∇f_i(x^t)‖² satisfies E G^{t+1} ≤ (1−θ) G^t
    + β L_AM² ‖x^{t+1} − x^t‖², since each term contributes L_AM L_i, and ‖g − ∇f‖² ≤ G by Cauchy–Schwarz. Then
    E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + E G⁰/(θT).
    """

    summary = "EF21 with the larger step of the arithmetic mean of the L_i"
    formulas = "γ = 1/(L + L_AM ξ(α))"
    paper = "Richtárik, Gasanov and Burlachenko 2024, Error Feedback Reloaded"

    def mean_smoothness(self, setting: Setting) -> float:
        """L̂ = L_AM."""
        return setting.smoothness.L_AM

    def first_error(self, setting: Setting) -> float:
        """As for EF21 times max L_AM/L_i."""
        return super().first_error(setting) / (setting.n_clients * float(np.min(smoothness_weights(setting))))


@methods.register("ef21-w")
class EF21W(EF21AM):
    """EF21-W: client i compresses ∇f_i(x)/(n w_i) − g_i, the server averages with weights w_i = L_i/ΣL, which both know.

    γ = 1/(L + L_AM ξ(α)), E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + E G⁰/(θT), G^t = Σ w_i ‖g_i^t − ∇f_i(x^t)/(n w_i)‖² [derived
    here, docs/methods/ef21-w.md]. For a positively homogeneous C (Top-k, sign) the iterates are those of EF21 with
    the same step: put g_i^W = g_i/(n w_i).
    """

    summary = "EF21 with weights L_i/ΣL: the arithmetic mean of the L_i in place of the quadratic one"
    formulas = "w_i = L_i/ΣL, γ = 1/(L + L_AM ξ(α))"
    paper = "Richtárik, Gasanov and Burlachenko 2024, Error Feedback Reloaded (EF21-W)"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts = super().compose(setting, step_size)
        parts.weights = smoothness_weights(setting)
        return parts
