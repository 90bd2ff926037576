"""What the theory promises of a run, before an allocation is spent on it: constants, step size, rounds and bytes to ‖∇f‖² ≤ ε."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compressors import Compressor
from ..errors import TheoryError
from ..problems import Problem
from ..problems.linear_model import LinearModel
from .config import Config
from .loop import run
from .session import Composition, build_problem, start_of

SAMPLE_ROUNDS = 300


@dataclass(frozen=True)
class Promise:
    """A method's theory on a problem.

    Attributes
    ----------
    step : γ. rounds : T with E‖∇f(x̂^T)‖² ≤ ε by the theorem; None where inf f is not known or the bound has a floor.
    up, down : bytes a round, measured over a short run in this process (headers of one worker included).
    """

    method: str
    compressor: str
    step: float
    rounds: int | None
    up: float
    down: float


def promise(config: Config, epsilon: float, problem: Problem | None = None) -> Promise:
    """The promise for one configuration.

    Raises
    ------
    TheoryError : no theorem covers it, or the problem's constants are unknown.
    """
    problem = problem or build_problem(config)
    composition = Composition(config, problem)
    step = composition.step_size(config.step)
    gap, squared = _start(config, problem)
    rounds = None
    if gap is not None and not composition.method.neighbourhood:
        method, setting = composition.method, composition.setting
        terms = method.gap_factor(setting) * gap / step + method.initial_term(setting, squared)
        rounds = max(0, int(np.ceil(terms / epsilon)))
    short = dataclasses.replace(
        config,
        rounds=SAMPLE_ROUNDS,
        eval_every=SAMPLE_ROUNDS // 10,
        tol=0.0,
        out=None,
        exchange="local",
        step=str(step),
    )
    history = run(short, problem=problem).history
    first, last = history[1], history[-1]
    per_round = [
        (last[f"{way}_message"] - first[f"{way}_message"]) / (last["round"] - first["round"])
        for way in ("uplink", "downlink")
    ]
    return Promise(composition.method.name, composition.compressor.spec, step, rounds, per_round[0], per_round[1])


def constants(config: Config, problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the problem's constants and how its clients differ, the compressor's) by name; a constant that does not exist is left out."""
    s = problem.smoothness()
    smooth = {
        "L": s.L,
        "L_AM": s.L_AM,
        "L_QM": s.L_QM,
        "L_max": s.L_max,
        "L₊": s.L_plus,
        "L±": s.L_pm,
        "L_A": s.L_A,
        "L_B": s.L_B,
    }
    if s.mu is not None:
        smooth["μ"] = s.mu
    known = {"name", "dim", "clients"}
    smooth.update({key: value for key, value in problem.describe().items() if key not in known})
    if isinstance(problem, LinearModel):
        smooth["L_pooled"] = problem.pooled_smoothness()
    compressor = Composition(dataclasses.replace(config, allow_unsafe=True), problem).compressor
    d, n = problem.dim, problem.n_clients
    return smooth, _compressor_constants(compressor, d, n)


def _compressor_constants(compressor: Compressor, d: int, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {"ζ (values a message)": compressor.density(d, n)}
    for name, constant in (
        ("ω", compressor.omega),
        ("α", compressor.alpha),
        ("(A, B)", compressor.ab),
        ("θ", compressor.theta),
    ):
        try:
            found[name] = constant(d, n)
        except TheoryError:
            continue
    return found


def _start(config: Config, problem: Problem) -> tuple[float | None, float]:
    """(δ⁰ or a bound of it, (1/n) Σ‖∇f_i(x⁰)‖²)."""
    x = start_of(config, problem)
    clients = np.arange(problem.n_clients)
    block = problem.block(clients, np.float64)
    losses, gradients = np.zeros(len(clients)), np.zeros((len(clients), problem.dim))
    block.losses(x[None], losses)
    block.gradients(x[None], gradients)
    bound = problem.lower_bound()
    gap = None if bound is None else float(losses.mean()) - bound
    return gap, float(np.mean(np.sum(gradients**2, axis=1)))
