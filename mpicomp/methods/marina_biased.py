"""MARINA with biased compressors, under a step-size rule that is derived here."""

from __future__ import annotations

from math import sqrt

from .base import Setting, methods
from .marina import Marina


def biased_factor(bias: float, variance: float, p: float) -> float:
    """M² = min over 0 < s < p/(1−p) of (1−p)((1+1/s) bias + variance)/(p − (1−p)s).

    The minimiser is the root of a quadratic equation.

    >>> biased_factor(0.0, 3.0, 0.25), biased_factor(1.0, 0.0, 0.75)
    (9.0, 1.0)
    """
    q = 1.0 - p
    if q == 0.0 or bias + variance == 0.0:
        return 0.0
    if bias == 0.0:
        return q / p * variance
    total = bias + variance
    s = (sqrt((q * bias) ** 2 + q * total * bias * p) - q * bias) / (q * total)
    return q * ((1.0 + 1.0 / s) * bias + variance) / (p - q * s)


@methods.register("marina-biased")
class MarinaBiased(Marina):
    """MARINA's recursion with compressors that may be biased: Top-k, sign, clipped correlated quantizers.

    Derived here (docs/methods/marina.md): let mean C_i(a_i) − mean a_i have an expectation b with ‖b‖² ≤ β mean‖a_i‖² and a
    variance ≤ A mean‖a_i‖² (`Compressor.bias_variance`; β = 1 − α, A = 0 for a contractive compressor, by Jensen; β =
    0 for an unbiased one). With e^t = g^t − ∇f(x^t), in a compressed round E‖e^{t+1}‖² = ‖e^t + b‖² + variance ≤
    (1+s)‖e^t‖² + ((1+1/s)β + A) L₊²‖x^{t+1} − x^t‖², in a dense one e^{t+1} = 0. Summed over t, as e⁰ = 0: Σ E‖e^t‖² ≤
    M² Σ E‖x^{t+1} − x^t‖² with

        M² = min_s (1−p)((1+1/s)β + A)/(p − (1−p)s) · L₊²,   γ = 1/(L + M),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT)

    by the descent lemma of MARINA. For β = 0 it is MARINA's rule with B = 0; for A = 0, M = L₊√β √(1−p)/(1 − √(1−p)) ≈
    2L₊√β/p.

    Parameters
    ----------
    p : as in MARINA.
    """

    summary = "MARINA with biased compressors (step size derived here)"
    formulas = "γ = 1/(L + M), M² = min_s (1−p)((1+1/s)β + A)/(p − (1−p)s) L₊² [derived]"
    paper = "Gorbunov, Burlachenko, Li and Richtárik 2021 (recursion)"
    default_compressor = "topk:k=1"
    needs = "any"

    def step_for(self, setting: Setting, p: float) -> float:
        bias, variance = setting.compressor.bias_variance(setting.dim, setting.n_clients)
        s = setting.smoothness
        return 1.0 / (s.L + s.L_plus * sqrt(biased_factor(bias, variance, p)))
