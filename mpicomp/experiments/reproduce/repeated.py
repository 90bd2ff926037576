"""A method with every seed: its step once, tuned with seed 0 or the theory's, then what each seed took to a target."""

from __future__ import annotations

from typing import Any

from ..study.compare import Stored
from .axes import costs
from .evidence import Evidence, Row
from .runner import ExperimentRunner

CHECKS = (1001, 1002)  # seeds with which a tuned step is checked
MOST_HALVINGS = 4


def with_seeds(
    runner: ExperimentRunner,
    label: str,
    target: float,
    count: int,
    tuned: bool = True,
    start: float | None = None,
    random: bool = True,
    **options: Any,
) -> list[Row]:
    """`axes.costs` of the seeds 1, ..., count, a row for each with its "seed".

    The run of seed 0, with which the step is tuned, stays in the evidence under `label`, for figures.

    Parameters
    ----------
    tuned, start : by the rule for all studies, `ExperimentRunner.tune` and `safe_step`; else with the step of the options, or the
        theory's own.
    random : False where all seeds give the same bits: one run is made, and stands for all.
    """
    wanted = {**options, "tol": target}
    if tuned:
        best = runner.tune(label, target, start=start, **options)
        if random and best.first_at(target):
            best = safe_step(runner, label, target, best, **wanted)
        wanted["step"] = repr(best.summary["step"])
    else:
        runner.run(label, **wanted)
    runs = runner.seeds(label, count, **wanted) if random else [runner.evidence.curves[label]] * count
    return [{"seed": seed, **costs(run, target)} for seed, run in enumerate(runs, 1)]


def safe_step(runner: ExperimentRunner, label: str, target: float, best: Stored, **options: Any) -> Stored:
    """The tuned step, halved until two more seeds get to the target, too: a step that one seed survives by luck is not a best one."""
    step = best.summary["step"]
    for _ in range(MOST_HALVINGS):
        runs = [runner.run(f"{label}, check {seed}", **options, step=repr(step), seed=seed) for seed in CHECKS]
        if all(run.first_at(target) for run in runs):
            break
        step /= 2
    return runner.run(label, **options, step=repr(step))


def by_seed(evidence: Evidence, table: str, column: str, **where: Any) -> list[float]:
    """A column of the rows that `where` selects, in the order of their seeds.

    Raises
    ------
    LookupError : there are none, or two with the same seed.
    """
    rows = sorted(evidence.rows(table, **where), key=lambda row: row["seed"])
    if not rows or len({row["seed"] for row in rows}) < len(rows):
        raise LookupError(f"table {table!r} has {len(rows)} rows with {where}, expected one for each seed")
    return [float(row[column]) for row in rows]


def pair_by_seed(
    evidence: Evidence, table: str, column: str, key: str, pair: tuple[Any, Any], **where: Any
) -> tuple[list[float], list[float]]:
    """`by_seed` of two values of the column `key`, for instance of two methods."""
    mine, other = (by_seed(evidence, table, column, **{key: value}, **where) for value in pair)
    return mine, other
