"""Step sizes for functions that satisfy the Polyak–Łojasiewicz inequality, μ(f(x) − f*) ≤ ½‖∇f(x)‖²: linear convergence."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import cast

from ..errors import TheoryError
from .base import Method, Setting
from .ef21 import EF21, theta, xi
from .marina import Marina


def pl_constant(setting: Setting) -> float:
    """μ.

    Raises
    ------
    TheoryError : it is not known, or zero.
    """
    mu = setting.smoothness.mu
    if not mu:
        raise TheoryError(
            "the PŁ constant μ of this problem is not known, so step 'pl' does not exist; use «step='theory'», or a problem with a ridge "
            "(problem.regularizer=ridge)"
        )
    return float(mu)


def ef21_pl_step(method: Method, setting: Setting) -> float:
    """min{1/(L + √2 L̂ ξ), θ/(2μ)}: the PŁ theorem of Richtárik, Sokolov and Fatkhullin 2021 for EF21, L̂ = L_QM.

    For ef21-am and EF21-W, L̂ = L_AM, derived here (docs/derivations/pl.md).
    """
    ef21 = cast(EF21, method)
    alpha = ef21.contraction(setting)
    largest = 1.0 / (setting.smoothness.L + sqrt(2.0) * ef21.mean_smoothness(setting) * xi(alpha))
    return min(largest, theta(alpha) / (2.0 * pl_constant(setting)))


def marina_pl_step(method: Method, setting: Setting) -> float:
    """min{1/(L + √(2(1−p)/p V)), p/(2μ)}: Gorbunov, Burlachenko, Li and Richtárik 2021 and Szlendak, Tyurin and Richtárik 2022."""
    marina = cast(Marina, method)
    p = marina.probability(setting)
    largest = 1.0 / (setting.smoothness.L + sqrt(2.0 * (1.0 - p) / p * marina.variance(setting)))
    return min(largest, p / (2.0 * pl_constant(setting)))


def gd_pl_step(method: Method, setting: Setting) -> float:
    """1/L: Polyak 1963."""
    pl_constant(setting)
    return 1.0 / setting.smoothness.L


# by the method's own name, since a method that is built on another one does not inherit its theorem
STEPS: dict[str, Callable[[Method, Setting], float]] = {
    "gd": gd_pl_step,
    "marina": marina_pl_step,
    **dict.fromkeys(("ef21", "ef21-am", "ef21-w"), ef21_pl_step),
}


def pl_step(method: Method, setting: Setting) -> float:
    """γ with E[f(x^T) − f*] ≤ (1 − γμ)^T Ψ⁰, Ψ⁰ = f(x⁰) − f* + the method's multiple of G⁰ (docs/derivations/pl.md).

    Raises
    ------
    TheoryError : the method has no theorem of this kind here, μ is not known, or gradients are of minibatches.
    """
    if method.name not in STEPS:
        raise TheoryError(
            f"method {method.name!r} has no theorem for the PŁ inequality here; methods that have one: {', '.join(sorted(STEPS))}; "
            "«step='theory'» is that for nonconvex f"
        )
    method.refuse_minibatch(setting)
    return STEPS[method.name](method, setting)
