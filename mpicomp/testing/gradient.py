"""Gradients against finite differences of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compressors.vectors import vector_of
from ..errors import ConfigError
from ..problems import Problem

STEPS = (
    1e-2,
    1e-3,
    1e-1,
    1e-4,
    1e-5,
    1e-6,
)  # the best of them counts: which it is depends on the loss's scale and on kinks
ENOUGH = 1e-9  # no need to try further steps


def check_gradient(
    problem: Problem, x: Any = None, clients: Sequence[int] | None = None, directions: int = 3, seed: int = 0
) -> float:
    """The largest relative error between gradients and finite differences, for a quick look; below 1e-6 is fine.

    Central differences of `loss` in float64, with one step of Richardson's extrapolation, along random unit directions u, against
    ⟨∇f_i(x), u⟩.
    Errors are relative to the larger of the two, or to ‖∇f_i(x)‖/√d, the size of such a product, where that is larger still.

    Parameters
    ----------
    problem : asked for `loss` and `gradient`.
    x : d real numbers; standard normal ones where None. clients : which; the first, the middle and the last where None.
    directions : how many for each client. seed : of x and the directions.

    Raises
    ------
    ConfigError : x is not a vector of dimension d.

    >>> import mpicomp as mc
    >>> problem = mc.FunctionProblem(lambda i, x: 0.5 * x @ x, lambda i, x: x, dim=3, n_clients=2)
    >>> mc.check_gradient(problem) < 1e-6
    True
    >>> wrong = mc.FunctionProblem(lambda i, x: 0.5 * x @ x, lambda i, x: 2 * x, dim=3, n_clients=2)
    >>> round(mc.check_gradient(wrong), 6)
    0.5
    """
    rng = np.random.default_rng(seed)
    point = rng.standard_normal(problem.dim) if x is None else vector_of(x).astype(np.float64)
    if point.shape != (problem.dim,):
        raise ConfigError(f"x has {point.size} entries, the problem's dimension is {problem.dim}")
    problem.begin_evaluation({})  # in which nothing is random
    errors = [0.0]
    for i in some_clients(problem) if clients is None else clients:
        gradient = np.zeros(problem.dim)
        problem.gradient(int(i), point.copy(), gradient)
        for _ in range(directions):
            u = rng.standard_normal(problem.dim)
            errors.append(relative_error(problem, int(i), point, gradient, u / np.linalg.norm(u)))
    return float(np.max(errors))


def some_clients(problem: Problem) -> list[int]:
    """The first, the middle and the last one."""
    return sorted({0, problem.n_clients // 2, problem.n_clients - 1})


def relative_error(problem: Problem, i: int, x: np.ndarray, gradient: np.ndarray, u: np.ndarray) -> float:
    """Of ⟨gradient, u⟩ against differences of f_i along the unit vector u."""
    product = float(gradient @ u)
    best = np.inf
    for step in STEPS:
        values = [float(problem.loss(i, x + t * step * u)) for t in (1.0, -1.0, 0.5, -0.5)]
        wide, narrow = (values[0] - values[1]) / (2 * step), (values[2] - values[3]) / step
        # The error of a central difference is of order step², or of order step at a kink (ReLU): extrapolate either way.
        for slope in ((4.0 * narrow - wide) / 3.0, 2.0 * narrow - wide):
            scale = max(abs(slope), abs(product), float(np.linalg.norm(gradient)) / np.sqrt(len(x)))
            scale = max(scale, 1e-6 * max(map(abs, values)))  # below that the loss's own rounding decides
            if np.isfinite(scale):
                best = min(best, abs(slope - product) / scale if scale else 0.0)
        if best < ENOUGH:
            break
    return best
