"""EF21: error feedback by compressed differences."""

from __future__ import annotations

from math import sqrt

from ..compressors import Compressor
from ..mechanisms.ef21 import EF21Uplink
from .base import Method, Parts, Setting, methods


def xi(alpha: float) -> float:
    """ξ(α) = √(β/θ) = √(1−α)/(1−√(1−α)) = (1+√(1−α))/α − 1, with θ = 1−√(1−α) and β = (1−α)/θ.

    >>> round(xi(1 / 112), 3), xi(1.0)
    (222.499, 0.0)
    """
    return (1.0 + sqrt(1.0 - alpha)) / alpha - 1.0


def theta(alpha: float) -> float:
    """θ = 1 − √(1−α): the part of the error that a round removes where the gradients stand still."""
    return 1.0 - sqrt(1.0 - alpha)


def expansion(compressor: Compressor) -> float:
    """q with E‖C(v)‖² ≤ q‖v‖², C in its contractive form: 1 where it is known, else 4 (2‖v‖² + 2(1−α)‖v‖² at most)."""
    return 1.0 if compressor.nonexpansive or (compressor.unbiased and not compressor.contractive) else 4.0


def ef21_step(setting: Setting) -> float:
    """γ = 1/(L + L_QM ξ(α)). Richtárik, Sokolov and Fatkhullin 2021, the nonconvex theorem."""
    s = setting.smoothness
    return 1.0 / (s.L + s.L_QM * xi(setting.alpha))


@methods.register("ef21")
class EF21(Method):
    """EF21 (Richtárik, Sokolov and Fatkhullin 2021, Algorithm 1).

    Nonconvex theorem: γ ≤ 1/(L + L_QM ξ(α)) gives E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) + E G⁰/(θT), G^t = (1/n) Σ‖g_i^t − ∇f_i(x^t)‖².

    Parameters
    ----------
    start : g_i⁰ = C(∇f_i(x⁰)) ("compressed"), ∇f_i(x⁰) ("dense"), or 0 ("zero"). What is sent is counted.
        The published code takes the dense start and charges nothing for it.
    """

    summary = "error feedback by compressed differences"
    formulas = "γ = 1/(L + L_QM ξ(α)), ξ(α) = (1+√(1−α))/α − 1"
    paper = "Richtárik, Sokolov and Fatkhullin 2021, EF21"
    default_compressor = "topk:k=1"
    needs = "contractive"

    def __init__(self, start: str = "compressed"):
        self.start = start

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(EF21Uplink(setting.compressor, self.start))

    # What the variants change in γ = 1/(L + L̂ ξ(α̂)).
    def mean_smoothness(self, setting: Setting) -> float:
        """L̂, here L_QM."""
        return setting.smoothness.L_QM

    def contraction(self, setting: Setting) -> float:
        """α̂, here α."""
        return setting.alpha

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / (setting.smoothness.L + self.mean_smoothness(setting) * xi(self.contraction(setting)))

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """G⁰/θ, with G⁰ ≤ (1−α) (1/n) Σ‖∇f_i(x⁰)‖² for the compressed start."""
        return self.first_error(setting) * mean_squared_gradient / theta(self.contraction(setting))

    def first_error(self, setting: Setting) -> float:
        """E G⁰ divided by (1/n) Σ‖∇f_i(x⁰)‖², at most."""
        return {"compressed": 1.0 - setting.alpha, "dense": 0.0, "zero": 1.0}[self.start]
