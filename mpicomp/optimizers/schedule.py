"""The step's size by the round: one schedule for all optimizers, with a warm-up before it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from math import cos, pi, sqrt
from typing import TypedDict

import numpy as np

from ..errors import ConfigError, unknown
from ..state import ModelState
from .base import Optimizer

SCHEDULES = ("constant", "cosine", "sqrt", "steps")


class ScheduleOptions(TypedDict, total=False):
    """The options that all scheduled optimizers share, see `Scheduled`."""

    schedule: str
    warmup: int
    rounds: int
    milestones: int | str
    drop: float
    floor: float


class Scheduled(Optimizer):
    """An optimizer whose step size is γ_t in its t-th step, t = 1, 2, ...; γ is the run's step size.

    With W = `warmup`, γ_t = (t/W)·γ for t ≤ W. After that, and for all t where there is no warm-up,

        constant   γ_t = γ
        cosine     γ_t = γ·(φ + (1−φ)(1 + cos(π(t−1−W)/(T−W)))/2), γφ from round T on (Loshchilov and Hutter 2017, without restarts)
        sqrt       γ_t = γ/√(t/max(W, 1)) (Vaswani et al. 2017)
        steps      γ_t = γ/ρᵏ, where k of the milestones are below t; also in the warm-up

    These are PyTorch's `LinearLR(start_factor=1/W, total_iters=W−1)`, followed by `CosineAnnealingLR`, and `MultiStepLR`.

    Parameters
    ----------
    schedule : one of the four. warmup : W, a number of rounds.
    rounds : T, for cosine and steps; 0 for the run's. A run that goes on from a checkpoint keeps the T that it began with.
    milestones : for steps, rounds in increasing order, "300+450"; by default T/2 and 3T/4. drop : ρ ≥ 1. floor : φ in [0, 1].

    Raises
    ------
    ConfigError : an option outside of its range, or of another schedule than the one that is chosen.
    """

    schedule: str = "constant"
    warmup: int = 0
    rounds: int = 0
    milestones: int | str = ""
    drop: float = 10.0
    floor: float = 0.0

    t = ModelState(columns=1, dtype=np.int64, allocate=False)  # steps taken, where anything depends on them
    horizon = ModelState(columns=1, dtype=np.int64, allocate=False)  # T, where anything depends on it
    counts = False  # the steps are counted in any case

    def __init__(
        self,
        *,
        schedule: str = "constant",
        warmup: int = 0,
        rounds: int = 0,
        milestones: int | str = "",
        drop: float = 10.0,
        floor: float = 0.0,
    ):
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        for name, count in (("warmup", warmup), ("rounds", rounds)):
            if not count >= 0:
                raise ConfigError(f"{self.name}: {name}={count} is negative; it is a number of rounds")
        if not drop >= 1 or drop == np.inf:
            raise ConfigError(
                f"{self.name}: drop={drop}: the step is divided by it, so a number of at least 1 is needed"
            )
        if not 0 <= floor <= 1:
            raise ConfigError(f"{self.name}: floor={floor} is not in [0, 1]; it is a part of the step")
        for name, given, kind in (
            ("milestones", milestones != "", "steps"),
            ("drop", drop != 10.0, "steps"),
            ("floor", floor != 0, "cosine"),
        ):
            if given and schedule != kind:
                raise ConfigError(f"{self.name}: {name} is of schedule={kind}, and the schedule is {schedule}")
        self.schedule, self.warmup, self.rounds = schedule, warmup, rounds
        self.milestones, self.drop, self.floor = milestones, drop, floor
        self._milestones = _rounds(self.name, milestones)

    def start(self, x: np.ndarray, step_size: float) -> None:
        super().start(x, step_size)
        if self.schedule != "constant" or self.warmup:
            self.counts = True
        if self.counts:
            self.t = np.zeros((1, 1), np.int64)
        if self.schedule == "cosine" or (self.schedule == "steps" and not self.milestones):
            rounds = self.rounds or self.rounds_of_run
            if rounds is None:
                raise ConfigError(
                    f"{self.name}: schedule={self.schedule} needs the number of rounds, for example optimizer.rounds=1000"
                )
            self.horizon = np.full((1, 1), max(rounds, 1), np.int64)

    def advance(self) -> float:
        """Count the step; returns γ_t."""
        if not self.counts:
            return self.step_size
        self.t += 1
        return self.step_at(int(self.t[0, 0]))

    def step_at(self, t: int) -> float:
        """γ_t."""
        step, W = self.step_size, self.warmup
        if self.schedule == "steps":
            step *= 1.0 / self.drop ** self._passed(t)
        if t <= W:
            return step * (t / W)
        if self.schedule == "sqrt":
            return step / sqrt(t / max(W, 1))
        if self.schedule == "cosine":
            left = int(self.horizon[0, 0]) - W
            done = (t - 1 - W) / left if t - 1 - W < left else 1.0
            return step * (self.floor + (1.0 - self.floor) * (1.0 + cos(pi * done)) / 2.0)
        return step

    def _passed(self, t: int) -> int:
        """How many milestones are below t."""
        if self.milestones:
            return bisect_left(self._milestones, t)
        T = int(self.horizon[0, 0])
        return (2 * t > T) + (4 * t > 3 * T)


def _rounds(name: str, milestones: int | str) -> list[int]:
    """Rounds in increasing order.

    >>> _rounds("sgd", "300+450"), _rounds("sgd", 7), _rounds("sgd", "")
    ([300, 450], [7], [])
    """
    if milestones == "":
        return []
    try:
        found = [int(part) for part in str(milestones).split("+")]
    except ValueError:
        found = [0]
    if found[0] < 1 or any(a >= b for a, b in pairwise(found)):
        raise ConfigError(f"{name}: milestones={milestones!r}: rounds in increasing order are needed, as in 300+450")
    return found
