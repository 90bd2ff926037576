"""f*, the minimum of a convex problem, to high accuracy: Newton's method with conjugate gradients, from gradients alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, TheoryError
from .base import Problem

GRADIENTS = 200_000  # of all clients, at most
_NEWTON = 200
_EPS = float(np.finfo(np.float64).eps)
_ACCURACY = 1e-13  # of f(x⁰) − f*, where nothing better is reached


@dataclass(frozen=True)
class Optimum:
    """The minimum of f.

    Attributes
    ----------
    value : f at the point that was found. error : f* is between value − error and value, apart from rounding.
    proved : by f − f* ≤ ‖∇f‖²/(2μ) with the problem's own μ; otherwise the error is 1e-13 of f(0) − f*, which Newton's ½ gᵀH⁻¹g is below.
    gradients : full gradients that it took.
    """

    value: float
    error: float
    proved: bool
    gradients: int


class _Function:
    """f and ∇f of a problem in float64, with all clients in this process."""

    def __init__(self, problem: Problem):
        clients = np.arange(problem.n_clients)
        self._block = problem.block(clients, np.float64)
        self._losses, self._rows = np.empty(len(clients)), np.empty((len(clients), problem.dim))
        self.calls = 0

    def value(self, x: np.ndarray) -> float:
        self._block.losses(x[None], self._losses)
        return float(np.mean(self._losses))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        self._block.gradients(x[None], self._rows)
        return np.asarray(self._rows.mean(axis=0))


def minimum(problem: Problem) -> Optimum:
    """f* of a problem that is convex, or has a μ (strong convexity or Polyak–Łojasiewicz).

    Each step solves H p = −∇f by conjugate gradients, with products of the Hessian from differences of gradients, and goes as far along p
    as f falls; it ends where rounding ends it.

    Raises
    ------
    ConfigError : the problem is not known to be convex, or its minimum was not found to 1e-13 of f(0) − f*.

    References
    ----------
    Nocedal and Wright 2006, "Numerical Optimization", Algorithm 7.1 (line search Newton-CG).

    >>> from mpicomp.problems import problems
    >>> quadratic = problems.build("quadratic", {"dim": 20, "clients": 3, "reg": 0.1})
    >>> found = minimum(quadratic)
    >>> abs(found.value - quadratic.lower_bound()) < 1e-12
    True
    """
    try:
        mu = problem.smoothness().mu
    except TheoryError:
        mu = None
    if not (problem.convex or mu):
        raise ConfigError(
            f"problem {problem.name!r} is not known to be convex, so its minimum cannot be computed: give «f_star=VALUE», or plot "
            "«y='grad'»"
        )
    function = _Function(problem)
    x = np.zeros(problem.dim)
    first = value = function.value(x)
    g = function.gradient(x)
    error = np.inf
    for _ in range(_NEWTON):
        p, decrement = _newton_direction(function, x, g)
        error = float(g @ g) / (2 * mu) if mu else decrement
        if error <= _EPS * max(abs(value), _EPS) or function.calls >= GRADIENTS:
            break
        moved = _step(function, x, value, g, p)
        if moved is None:
            break
        x, value, g = moved
    error = float(g @ g) / (2 * mu) if mu else error
    enough = _ACCURACY * max(first - value, abs(value))
    if not error <= enough:
        raise ConfigError(
            f"the minimum of problem {problem.name!r} was not found: after {function.calls} gradients f = {value:.9g} may be {error:.2g} "
            "above it, and some problems have none; give «f_star=VALUE», or plot «y='grad'»"
        )
    return Optimum(value, error if mu else enough, bool(mu), function.calls)


def _newton_direction(function: _Function, x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, float]:
    """p with H p ≈ −g, and ½ gᵀH⁻¹g by it."""
    norm = float(np.linalg.norm(g))
    if norm == 0:
        return np.zeros_like(g), 0.0
    tolerance = min(0.1, np.sqrt(norm)) * norm * 0.1
    p, r = np.zeros_like(g), g.copy()
    d, rr = -r, float(r @ r)
    for _ in range(2 * len(g) + 20):
        if np.sqrt(rr) <= tolerance or function.calls >= GRADIENTS:
            break
        Hd = _product(function, x, d)
        curvature = float(d @ Hd)
        if curvature <= 1e-14 * float(d @ d) * max(1.0, float(np.linalg.norm(Hd) / np.linalg.norm(d))):
            break
        a = rr / curvature
        p += a * d
        r += a * Hd
        before, rr = rr, float(r @ r)
        d = -r + (rr / before) * d
    if not p.any():
        p = -g
    return p, 0.5 * abs(float(g @ p))


def _product(function: _Function, x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """H(x) d by central differences."""
    h = _EPS ** (1 / 3) * max(1.0, float(np.linalg.norm(x))) / float(np.linalg.norm(d))
    return (function.gradient(x + h * d) - function.gradient(x - h * d)) / (2 * h)


def _step(
    function: _Function, x: np.ndarray, value: float, g: np.ndarray, p: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The next point, f and ∇f there; None where no step makes f or, within the rounding of f, ‖∇f‖ smaller."""
    slope, length = float(g @ p), 1.0
    rounding = 4 * _EPS * max(abs(value), 1e-300)
    for _ in range(60):
        there = x + length * p
        new = function.value(there)
        if new <= value + 1e-4 * length * slope or abs(new - value) <= rounding:
            gradient = function.gradient(there)
            if new < value - rounding or np.linalg.norm(gradient) < 0.9 * np.linalg.norm(g):
                return there, new, gradient
            return None
        length /= 2
    return None
