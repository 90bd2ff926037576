"""A trial: one point with one seed, a run in a directory of its own; what it has come to is read from the run's files alone."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..records import TEXT, read_json
from ..runtime import Config, DataError, write_text
from ..study.compare import Stored
from .grid import Contender, Point
from .halving import DIVERGED, EXHAUSTED, FAILED, PAUSED, REACHED
from .place import Place

Row = dict[str, Any]
FAULT = "failed.json"
WANTED = "wanted.toml"
KEEP_SECONDS = 30.0  # between checkpoints of a trial whose run has not its own
OBJECTIVES: dict[str, Callable[[Row, int], float]] = {
    "rounds": lambda row, n: float(row["round"]),
    "bits": lambda row, n: 8.0 * row["uplink_payload"] / n,
    "bytes": lambda row, n: float(row["uplink_message"] + row["downlink_message"]),
    "seconds": lambda row, n: float(row["seconds_total"]),
}
"""What a run has cost at a row of rounds.csv: rounds; bits up for each of n clients, headers apart; bytes both ways; seconds."""
PREDICTED = "predicted:"  # and a file with a place: the seconds that the run would have taken there
_NOT_ITS_OWN = (
    "out",
    "resume",
    "checkpoint_every",
    "checkpoint_seconds",
    "time_limit",
    "stall_timeout",
    "threads",
    "imports",
)


def measure_of(objective: str, config: Config) -> Callable[[Row], float]:
    """What a run of this configuration has cost at a row."""
    if objective.startswith(PREDICTED):
        place, label = _place(Path(objective.removeprefix(PREDICTED))), Contender.of(config).label
        return lambda row: place.soonest(row, label)[1]
    return lambda row: OBJECTIVES[objective](row, config.clients)


@cache
def _place(path: Path) -> Place:
    return Place.load(path)


@dataclass(frozen=True)
class Trial:
    """A point with a seed. `config` is the whole run: all its rounds, to the target."""

    point: Point
    config: Config
    directory: Path

    @classmethod
    def of(cls, point: Point, config: Config, seed: int, target: float, ranks: int, out: Path) -> Trial:
        """The trial of a point's configuration."""
        own = dataclasses.replace(config, seed=seed, tol=target, resume=None)
        if not (own.checkpoint_every or own.checkpoint_seconds):
            own.checkpoint_seconds = KEEP_SECONDS
        facts = {k: v for k, v in dataclasses.asdict(own).items() if k not in _NOT_ITS_OWN}
        key = hashlib.sha256(json.dumps([facts, ranks], sort_keys=True).encode()).hexdigest()[:12]
        words = "-".join([config.method, *(str(value) for _, value in point.axes), point.step])
        safe = re.sub(r"[^A-Za-z0-9.+=_-]+|^[.-]|[.](?=[.])", "_", words)[:80]
        directory = out / "trials" / f"{safe}-{key}-s{seed}"
        own.out = str(directory)
        return cls(point, own, directory)

    def prepare(self, threads: int) -> None:
        """Make the directory with the run's configuration, for the process that will run it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        text = dataclasses.replace(self.config, threads=threads).to_toml()
        wanted = self.directory / WANTED
        if not wanted.exists() or wanted.read_text("utf-8") != text:
            write_text(wanted, text)


@dataclass(frozen=True)
class Progress:
    """How far a trial is. `trace` : a digest of all that was evaluated up to there. The others are as in `halving.Outcome`."""

    ended: str
    cost: float
    level: float
    rounds: int
    per_round: float
    trace: str = ""
    outlook: float = math.inf
    reason: str = ""


def progress(trial: Trial, objective: str, cost: float, rounds: float) -> Progress | None:
    """What the trial has come to by the first evaluation at which it has cost so much or run so many rounds; None where it has to run on.

    What it did beyond that evaluation, in a search with other budgets, does not count.

    Raises
    ------
    DataError : its files are damaged.
    """
    if (trial.directory / FAULT).exists():
        reason = read_json(trial.directory / FAULT, {"reason": TEXT})["reason"]
        return Progress(FAILED, math.inf, math.inf, 0, 0.0, reason=reason)
    if not (trial.directory / "summary.json").exists():
        return None
    try:
        stored = Stored.load(trial.directory)
    except DataError as error:
        raise DataError(f"{error}; remove {trial.directory}, and the search runs it again") from None
    return _judge(stored, trial.config, objective, cost, rounds)


def _judge(stored: Stored, config: Config, objective: str, cost: float, rounds: float) -> Progress | None:
    measure, summary = measure_of(objective, config), stored.summary
    rows = stored.rows
    spent = [measure(row) for row in rows]
    cut = next((k for k, row in enumerate(rows) if k and (spent[k] >= cost or row["round"] >= rounds)), len(rows) - 1)
    seen = rows[: cut + 1]
    level = min((row["grad_norm_sq"] for row in seen if math.isfinite(row["grad_norm_sq"])), default=math.inf)
    at = seen[-1]
    per_round = spent[cut] / at["round"] if at["round"] else 0.0
    outlook = foresee(spent[: cut + 1], [row["grad_norm_sq"] for row in seen], config.tol)
    so_far = partial(Progress, level=level, per_round=per_round, trace=_trace(seen), outlook=outlook)
    here = int(at["round"])
    for k, row in enumerate(seen):
        if row["grad_norm_sq"] <= config.tol:
            return so_far(REACHED, spent[k], rounds=int(row["round"]))
    ended = cut == len(rows) - 1
    if ended and summary["diverged"]:
        why = f"diverged in round {summary['rounds']}"
        return dataclasses.replace(so_far(DIVERGED, math.inf, rounds=here, reason=why), level=math.inf)
    if ended and summary["rounds"] >= config.rounds:
        return so_far(EXHAUSTED, math.inf, rounds=here, reason=f"not in {config.rounds:,} rounds")
    enough = spent[cut] >= cost or at["round"] >= rounds
    return so_far(PAUSED, math.inf, rounds=here) if enough else None


def foresee(spent: Sequence[float], levels: Sequence[float], target: float) -> float:
    """The cost at which the target would be reached if the smallest ‖∇f‖² went on falling as in the second half; infinite if it does not.

    >>> foresee([0, 1, 2, 3, 4], [1e0, 1e0, 1e-1, 1e-2, 1e-3], 1e-6)
    7.0
    """
    least = list(itertools.accumulate((v if math.isfinite(v) else math.inf for v in levels), min))
    half = max((k for k, cost in enumerate(spent) if cost <= spent[-1] / 2), default=0)
    fall = math.log(least[half]) - math.log(least[-1]) if 0 < least[-1] < least[half] < math.inf else 0.0
    if fall <= 0.0:
        return math.inf
    left = math.log(least[-1]) - math.log(target)
    return round(spent[-1] + (spent[-1] - spent[half]) * left / fall, 9)


def _trace(rows: list[Row]) -> str:
    values = [(row["round"], row["loss"], row["grad_norm_sq"]) for row in rows]
    return hashlib.sha256(repr(values).encode()).hexdigest()


def fail(directory: Path, reason: str) -> None:
    """Note that a trial cannot be run."""
    write_text(directory / FAULT, json.dumps({"reason": reason}, ensure_ascii=False) + "\n")
