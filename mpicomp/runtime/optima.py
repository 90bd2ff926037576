"""f* of runs, given or computed from the problem that a run's configuration names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..figures.axes import Optimum
from ..figures.runs import Run
from ..problems import Problem
from ..problems.optimum import minimum
from .config import Config
from .session import build_problem

COMPUTE = "compute"


def optima(f_star: float | str | None) -> tuple[Optimum | None, list[str]]:
    """What gives f* for each run, and the sentences that a caption says of it, which grow as it is asked.

    Parameters
    ----------
    f_star : a number; "compute": of the problem that is made again from a run's options, which runs what they import; None: not known.

    Raises
    ------
    ConfigError : neither a finite number nor "compute".
    """
    notes: list[str] = []
    if f_star is None:
        return None, notes
    if f_star == COMPUTE:
        return _Computed(notes), notes
    try:
        value = float(f_star)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ConfigError(f"«f_star={f_star!r}»: expected a finite number, or 'compute'")
    notes.append(f"f* = {value:.12g} was given.")
    return lambda run: (value, 0.0), notes


class _Computed:
    """Computes the minimum of each problem once."""

    def __init__(self, notes: list[str]):
        self._notes = notes
        self._asked: dict[str, tuple[float, float]] = {}
        self._known: dict[str, tuple[float, float]] = {}

    def __call__(self, run: Run) -> tuple[float, float]:
        names = ("problem", "data", "partition", "clients", "seed", "imports")
        options: dict[str, Any] = {name: run.options[name] for name in names if name in run.options}
        problem = options.get("problem", "")
        name = problem.get("name", "") if isinstance(problem, dict) else problem
        if isinstance(problem, dict) and "seed" in problem:
            options.pop("seed", None)  # the run's is not the problem's
        if not name or str(name).startswith("<"):
            raise ConfigError(
                f"{run.where or 'this run'} is of a problem that only a Python program can make, so its minimum cannot be computed here: "
                "give «f_star=VALUE»"
            )
        asked = json.dumps(options, sort_keys=True)
        if asked not in self._asked:
            self._asked[asked] = self._minimum(build_problem(Config.load(None, options)), asked)
        return self._asked[asked]

    def _minimum(self, problem: Problem, asked: str) -> tuple[float, float]:
        """Once for each problem: the same data may have been dealt with another seed that changes nothing."""
        digests = problem.digests(np.arange(problem.n_clients))
        facts = [problem.describe(), digests] if all(digests) else asked
        key = json.dumps(facts, sort_keys=True)
        if key not in self._known:
            found = minimum(problem)
            self._known[key] = found.value, found.error
            sure = "proved by ‖∇f‖²/(2μ)" if found.proved else "estimated"
            error = max(found.error, float(np.finfo(np.float64).eps) * abs(found.value))
            told = f"f* = {found.value:.12g} was computed, with an error of at most {error:.1g} ({sure})."
            if len(self._known) == 1:
                self._notes.append(told)
            else:
                self._notes[:] = [f"f* was computed for each of {len(self._known)} problems."]
        return self._known[key]
