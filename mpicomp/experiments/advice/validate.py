"""Is the advice good? Every combination of contender, step and exchange, run in the place to the target; all runs are kept and listed."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

from ..runtime import DataError, csv_cell
from ..study.compare import Stored
from ..tuning.grid import Point
from ..tuning.pool import Leg
from ..tuning.trials import FAULT, Trial
from .advise import Advice, Adviser

ALLOWED = 1.25  # times the best
SHARE = 0.1  # of the grid's seconds


@dataclass
class Judgement:
    """The grid beside the advice.

    Attributes
    ----------
    runs : (seconds to the target or infinity, contender, step, exchange, what became of it), the soonest first. chosen : seconds of
    what was advised, in a run of its own. grid_seconds : wall seconds of all of them, starts included; NaN where some were there before.
    advice_seconds : wall seconds of the advice.
    """

    runs: list[tuple[float, str, str, str, str]]
    chosen: float
    grid_seconds: float
    advice_seconds: float

    @property
    def ratio(self) -> float:
        """Seconds of the advice by those of the best."""
        return self.chosen / self.runs[0][0] if self.runs and math.isfinite(self.runs[0][0]) else math.nan

    @property
    def share(self) -> float:
        """Of the grid's wall seconds, what the advice took."""
        return self.advice_seconds / self.grid_seconds

    def write_csv(self, path: Path) -> None:
        """All runs."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", "contender", "step", "exchange", "ended"])
            writer.writerows([f"{s!r}" if math.isfinite(s) else "", *map(csv_cell, rest)] for s, *rest in self.runs)


def judge(adviser: Adviser, advice: Advice) -> Judgement:
    """Run the grid, and what was advised where that is no part of it."""
    assert adviser.there is not None
    made: list[tuple[Point, str, Trial]] = []
    for contender in [adviser.dense, *adviser.others]:
        for point in contender.points(adviser.steps):
            for exchange in adviser.carries[contender.label]:
                made.append((point, exchange, adviser.whole(point, exchange)))
    best = advice.best
    extra = [adviser.whole(best.point, best.exchange)] if best is not None else []
    legs = [Leg(trial, math.inf, math.inf) for trial in [*(t for _, _, t in made), *extra]]
    left = {leg.trial.directory: leg for leg in legs if not _over(leg.trial)}
    start = time.monotonic()
    adviser.there.objective = "rounds"
    adviser.there.run(list(left.values()))
    wall = time.monotonic() - start
    whole = len(left) >= len(made)
    runs = [(*_result(trial, adviser.target), point, exchange) for point, exchange, trial in made]
    listed = sorted((seconds, point.contender, point.step, exchange, ended) for seconds, ended, point, exchange in runs)
    chosen = _result(extra[0], adviser.target)[0] if extra else math.inf
    return Judgement(listed, chosen, wall if whole else math.nan, advice.spent.total)


def _over(trial: Trial) -> bool:
    if (trial.directory / FAULT).exists():
        return True
    try:
        summary = Stored.load(trial.directory).summary
    except DataError:
        return False
    return bool(summary["diverged"] or summary.get("reached_tol") or summary["rounds"] >= trial.config.rounds)


def _result(trial: Trial, target: float) -> tuple[float, str]:
    """Seconds to the target in the place, and what became of the run."""
    try:
        stored = Stored.load(trial.directory)
    except DataError:
        return math.inf, "cannot run"
    row = stored.first_at(target)
    if row is not None:
        return row["seconds_total"], f"{row['round']:.0f} rounds"
    return math.inf, "diverged" if stored.summary["diverged"] else "not at the target"
