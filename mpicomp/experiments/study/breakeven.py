"""The break-even link between two sets of runs, with an interval from the scatter of their rounds and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import ENOUGH
from .compare import LOCAL_PHASES, Cost, Stored, break_even

RESAMPLES = 2000


@dataclass(frozen=True)
class BreakEven:
    """Link speed, bit/s, below which the first of two pays: 0 nowhere, infinite on any link.

    Attributes
    ----------
    low, high : its 95 % interval; NaN where there are too few blocks of rounds to know.
    """

    speed: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """There is an interval."""
        return not math.isnan(self.low)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each part over runs that differ in the seed."""
    parts = [float(np.median([getattr(c, name) for c in costs])) for name in ("rounds", "up", "down", "work", "total")]
    return Cost(round(parts[0]), *parts[1:])


def break_even_of(few: Sequence[Stored], many: Sequence[Stored], target: float) -> BreakEven:
    """The link below which `few` reaches ‖∇f‖² ≤ target sooner than `many`; all of these runs reach it.

    The interval is a percentile bootstrap: 2000 times runs are drawn with replacement, and of each run its blocks of rounds between two
    evaluations, whose seconds of work scatter.

    References
    ----------
    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    sides = [[_until(run, target) for run in side] for side in (few, many)]
    speed = _speed(*(median_cost([cost for cost, _ in side]) for side in sides))
    if min(len(blocks) for side in sides for _, blocks in side) < ENOUGH:
        return BreakEven(speed, math.nan, math.nan)
    rng = np.random.default_rng(0)
    (few_bytes, few_work), (many_bytes, many_work) = (_resampled(side, rng) for side in sides)
    saved, extra = many_bytes - few_bytes, few_work - many_work
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(
            saved > 0, np.where(extra > 0, 8 * saved / extra, np.inf), np.where((saved == 0) & (extra < 0), np.inf, 0.0)
        )
    low, high = np.quantile(drawn, 0.025, method="lower"), np.quantile(drawn, 0.975, method="higher")
    return BreakEven(speed, float(low), float(high))


def _until(run: Stored, target: float) -> tuple[Cost, np.ndarray]:
    """What the run took to the target, and its seconds of work in each block on the way."""
    end = next(k for k, row in enumerate(run.rows) if row["grad_norm_sq"] <= target)
    work = [sum(row[f"seconds_{phase}"] for phase in LOCAL_PHASES) for row in run.rows[: end + 1]]
    return Cost.of(run.rows[end]), np.diff(work)


def _resampled(side: Sequence[tuple[Cost, np.ndarray]], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and seconds of work of RESAMPLES resamples, each the median over as many runs as there are."""
    chosen = rng.integers(len(side), size=(RESAMPLES, len(side)))
    nbytes = np.array([cost.up + cost.down for cost, _ in side])[chosen]
    work = np.empty(chosen.shape)
    for slot in range(len(side)):
        for k, (_, blocks) in enumerate(side):
            here = chosen[:, slot] == k
            work[here, slot] = rng.choice(blocks, (int(here.sum()), len(blocks))).sum(axis=1)
    return np.median(nbytes, axis=1), np.median(work, axis=1)


def _speed(few: Cost, many: Cost) -> float:
    speed = break_even(few, many)
    return 0.0 if speed is None else speed
