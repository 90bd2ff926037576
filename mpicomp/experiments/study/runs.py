"""Runs from directories: single ones, those that lie in a directory, and the finished cells of a study."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..records import COMPLETE, MANIFEST, read_json
from ..runtime import DataError, Run, problem_differences, read_plain
from .cells import Results
from .compare import Stored


@dataclass(frozen=True)
class StoredRun(Run):
    """A run that was read from its directory."""

    @cached_property
    def stored(self) -> Stored:
        """Its summary and rows."""
        return Stored(Path(self.where), dict(self.summary), self.rows)


def load_runs(paths: Sequence[str | Path], evaluated: bool = True) -> tuple[list[StoredRun], list[str]]:
    """The runs of these directories, each once, and for each one that is left out a line that begins with its name.

    A directory is that of a run; or of a study, which gives its finished cells; or has directories of runs in it, which it gives. Those
    that a directory gives begin with the dense ones, so that the first is the usual yardstick.

    Parameters
    ----------
    evaluated : leave out runs without a finite ‖∇f‖².

    Raises
    ------
    DataError : no run is left.
    """
    runs: list[StoredRun] = []
    broken: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        found: list[StoredRun] = []
        for where, configuration in _directories(Path(path), broken):
            if where.resolve() not in seen:
                seen.add(where.resolve())
                found += _usable(where, configuration, evaluated, broken)
        runs += sorted(found, key=lambda run: not run.dense)
    if not runs:
        raise DataError("; ".join(broken))
    return runs, broken


def _usable(where: Path, configuration: str, evaluated: bool, broken: list[str]) -> list[StoredRun]:
    """The run of a directory; or none, and a line that says why."""
    try:
        run = _load(where, configuration)
    except DataError as error:
        broken.append(str(error))
        return []
    if evaluated and not run.stored.evaluated:
        broken.append(f"{where} did not evaluate ‖∇f‖², so there is nothing to compare at; run it with --evaluate full")
    elif evaluated and math.isinf(run.stored.best):
        broken.append(f"{where} has no evaluation at which ‖∇f‖² is finite")
    else:
        return [run]
    return []


def _directories(path: Path, broken: list[str]) -> list[tuple[Path, str]]:
    """The runs' directories in a path, each with the key of its configuration where it is a cell of a study."""
    if (path / "study.toml").is_file() and not (path / "summary.json").exists():
        results = Results.load(path)
        broken += [
            f"{path / 'cells' / name} is {state}{': ' + why if why else ''}" for name, state, why in results.unfinished
        ]
        return [(run.stored.directory, group.cell.key) for group in results.groups for run in group.runs]
    if not (path / "summary.json").exists() and path.is_dir():
        below = sorted(p.parent for p in path.glob("*/summary.json"))
        if below:
            return [(where, "") for where in below]
    return [(path, "")]


def _load(where: Path, configuration: str) -> StoredRun:
    stored = Stored.load(where) if configuration else Stored.load(where, COMPLETE)
    try:
        manifest = read_json(where / "manifest.json", MANIFEST if configuration else {}, missing=True)
        options = _options(where / "config.toml")
    except DataError as error:
        raise DataError(f"{where} does not hold a finished run: {error}") from None
    problem = manifest.get("problem", {})
    return StoredRun(
        options, stored.summary, problem if isinstance(problem, dict) else {}, stored.rows, str(where), configuration
    )


def _options(path: Path) -> dict[str, Any]:
    """What config.toml says, as it stands there; empty where there is none, as in results of somebody else's making."""
    try:
        return tomllib.loads(read_plain(path, links=True).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is damaged, it is no TOML: {error}") from None


def refuse_mixture(runs: Sequence[Run], allowed: bool, what: str) -> list[str]:
    """What differs between the problems of the runs, a line each, where that is allowed.

    Raises
    ------
    DataError : it is not allowed, and they differ.
    """
    different = problem_differences(runs)
    if different and not allowed:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise DataError(
            f"these runs are of different problems, so {what} would mean nothing: beside {runs[0].where}, {different[0]}{more}; leave them "
            "out, or give --different-problems"
        )
    return different
