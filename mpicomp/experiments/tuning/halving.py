"""Successive halving (Jamieson and Talwalkar, 2016), with stops that cannot lose the winner.

A bracket asks for points to be run up to a budget, keeps the better part, and asks for more. Budgets are in the unit of the objective, so a
point that spends more in a round runs fewer rounds. Nothing is started from another point's iterate, and a point that goes on goes on from
its own checkpoint: after r rounds it has the bits of any run of r rounds.

A point that has spent what the best needed to the target cannot be better: it is stopped, and that loses nothing. What halving leaves
behind it leaves by its level at the same budget and by how fast that falls, which is a judgement; `exhaustive` does without.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from .grid import Point, Steps

LEAST = 1 / 64  # of a whole run: by less a point is not judged
REACHED, PAUSED, DIVERGED, EXHAUSTED, FAILED = "reached", "paused", "diverged", "exhausted", "failed"


@dataclass(frozen=True)
class Ask:
    """A point to be run until it has cost so much, or has run so many rounds; both infinite for to its end."""

    point: Point
    cost: float = math.inf
    rounds: float = math.inf


@dataclass(frozen=True)
class Outcome:
    """What became of a point, medians over its seeds (the upper one of two in the middle).

    Attributes
    ----------
    ended : REACHED, PAUSED, DIVERGED, EXHAUSTED (all rounds run) or FAILED.
    cost : to the target; infinite where it was not reached. level : the smallest ‖∇f‖² so far.
    rounds : run so far, of all seeds the most. per_round : what a round costs.
    low, high : the range of `cost` over the seeds. reason : of a failure or divergence.
    outlook : what the target would cost if ‖∇f‖² went on falling as in the second half of what was spent.
    """

    ended: str
    cost: float
    level: float
    rounds: int
    per_round: float
    seeds: int = 1
    low: float = math.inf
    high: float = math.inf
    reason: str = ""
    outlook: float = math.inf

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: first what it cost to the target, then how near it is."""
        return self.cost, self.level


@dataclass
class Verdict:
    """A point's end: the last outcome, the budget up to which it was run, and why it was not run on."""

    outcome: Outcome
    budget: float
    why: str


@dataclass
class Bracket:
    """The result of one contender: verdicts by point, the best of them, and the points that were added past the edge."""

    verdicts: dict[Point, Verdict] = field(default_factory=dict)
    best: Point | None = None
    added: list[Point] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        """Some point came to the target."""
        return self.best is not None and self.verdicts[self.best].outcome.ended == REACHED

    @property
    def cost(self) -> float:
        """Of the best; infinite before one has reached the target."""
        return self.verdicts[self.best].outcome.cost if self.best is not None else math.inf

    def edge(self) -> str:
        """ "largest" or "smallest" where the best step is that of all that were tried at its place on the axes; else empty."""
        if self.best is None:
            return ""
        tried = [p.value for p in self.verdicts if p.beside(self.best)]
        return "largest" if self.best.value == max(tried) else "smallest" if self.best.value == min(tried) else ""

    def note(self, point: Point, outcome: Outcome, budget: float, why: str) -> None:
        """Keep a point's outcome; the best is looked for anew."""
        self.verdicts[point] = Verdict(outcome, budget, why)
        alive = [p for p, v in self.verdicts.items() if math.isfinite(v.outcome.level) and v.outcome.ended != FAILED]
        self.best = min(alive, key=lambda p: (*self.verdicts[p].outcome.rank, p.place), default=None)


Asking = Generator[list[Ask], dict[Point, Outcome], Bracket]
Beyond = Callable[[Bracket], list[Point]]


def shares(points: int, factor: float, least: float = 0.0) -> list[float]:
    """The budgets of a bracket's rungs as shares of the whole: so many that one point is left for the last.

    >>> shares(11, 2.0), shares(1, 2.0)
    ([0.0625, 0.125, 0.25, 0.5, 1.0], [1.0])
    """
    rungs = 1 + math.ceil(math.log(points, factor) - 1e-9)
    return [share for k in range(rungs) if (share := factor ** -(rungs - 1 - k)) >= least]


def search(
    points: Sequence[Point],
    rounds: int,
    beyond: Beyond,
    factor: float = 2.0,
    exhaustive: bool = False,
    in_rounds: bool = True,
) -> Asking:
    """One contender's bracket, as a generator of what is to be run: each list of asks is answered by the points' outcomes.

    Parameters
    ----------
    rounds : of a whole run. beyond : more points, past the edge at which the best stands; none where there are enough.
    factor : of so many points one goes on, and budgets grow by as much. exhaustive : leave nothing behind that might still win.
    in_rounds : the objective counts rounds; else what a round costs is found by a short leg of all points first.
    """
    bracket, pool = Bracket(), list(points)
    per_round = 1.0
    while pool:
        levels = shares(len(pool), factor, LEAST)
        if not in_rounds and not bracket.added:
            first = yield [Ask(point, rounds=max(1.0, levels[0] * rounds / 2)) for point in pool]
            per_round = _middle([outcome.per_round for outcome in first.values() if outcome.per_round > 0])
        for share in levels:
            budget = math.inf if share == 1.0 else share * rounds * per_round
            limit = min(budget, bracket.cost)
            outcomes = yield [Ask(point, limit) for point in pool]
            for point, outcome in outcomes.items():
                bracket.note(point, outcome, limit, outcome.reason)
            pool = _going_on(bracket, outcomes, limit, factor, exhaustive or bool(bracket.added))
            if not pool:
                break
        pool = beyond(bracket)
        bracket.added += pool
    return bracket


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 1.0


def _going_on(
    bracket: Bracket, outcomes: dict[Point, Outcome], limit: float, factor: float, all_of_them: bool
) -> list[Point]:
    """The points that run on, in their order; why the others do not is noted."""
    paused = sorted((p for p in outcomes if outcomes[p].ended == PAUSED), key=lambda p: (*outcomes[p].rank, p.place))
    for point in paused:
        if limit >= bracket.cost:
            bracket.verdicts[point].why = "slower than the best"
    open_ = [p for p in paused if limit < bracket.cost]
    kept = open_ if all_of_them else _better(open_, outcomes, max(1, math.ceil(len(outcomes) / factor)))
    for point in open_:
        if point not in kept:
            bracket.verdicts[point].why = "left behind"
    return sorted(kept, key=lambda p: p.place)


def _better(by_level: list[Point], outcomes: dict[Point, Outcome], count: int) -> list[Point]:
    """So many points: in turn the next one by its level, and the next one by its outlook: what starts slowly may fall faster."""
    by_outlook = sorted(by_level, key=lambda p: (outcomes[p].outlook, by_level.index(p)))
    in_turn = dict.fromkeys(itertools.chain.from_iterable(zip(by_level, by_outlook, strict=True)))
    return list(in_turn)[:count]


def past_the_edge(bracket: Bracket, steps: Steps, most: int, at_once: int = 2) -> list[Point]:
    """What `search` takes as `beyond`: the next points past the edge at which the best stands, `most` in all.

    >>> past_the_edge(Bracket(), Steps.parse("theory"), 4)
    []
    """
    side, left, best = bracket.edge(), most - len(bracket.added), bracket.best
    if not side or left <= 0 or best is None:
        return []
    tried = [point.value for point in bracket.verdicts if point.beside(best)]
    place = 1 + max(point.place for point in bracket.verdicts)
    values = steps.beyond(tried, side == "largest", min(at_once, left))
    return [Point(best.contender, best.axes, steps.text(v), v, place + k) for k, v in enumerate(values)]
