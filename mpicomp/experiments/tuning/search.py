"""The search: brackets of all contenders side by side, whose asks are run as one wave of trials, and the medians of their seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high

from ..runtime import Config, UserError, choose_parts
from .grid import Contender, Point, Steps
from .halving import DIVERGED, EXHAUSTED, FAILED, PAUSED, REACHED, Ask, Bracket, Outcome, past_the_edge, search
from .pool import Leg, Pool
from .trials import Progress, Trial, progress


@dataclass
class Search:
    """What is searched for, and where.

    Parameters
    ----------
    target : ‖∇f‖². seeds : of each point, from the configuration's on; one where the first two give the same bits.
    factor, exhaustive : as in `halving.search`. extend : how many steps may be added past the edges, for each bracket.
    together : labels of contenders that share a bracket, of which one winner is wanted; each has a bracket of its own where this is empty.
    """

    contenders: Sequence[Contender]
    steps: Steps
    target: float
    out: Path
    pool: Pool
    say: Callable[[str], None]
    seeds: int = 1
    factor: float = 2.0
    exhaustive: bool = False
    extend: int = 6
    together: Sequence[Sequence[str]] = ()
    brackets: dict[str, Bracket] = field(default_factory=dict)
    same: dict[str, bool] = field(default_factory=dict)
    _refused: dict[Point, str] = field(default_factory=dict)
    _waves: int = 0

    def run(self) -> dict[str, Bracket]:
        """Search; the brackets by contender, or by the first one of those that share one.

        Raises
        ------
        UserError : no point of a contender can be run.
        """
        owners = {contender.label: contender for contender in self.contenders}
        running = {}
        for labels in self.together or [[label] for label in owners]:
            made: list[Point] = []
            for label in labels:
                points = owners[label].points(self.steps)
                self._check(owners[label], points, bool(self.together))
                made += [dataclasses.replace(point, place=len(made) + k) for k, point in enumerate(points)]
            rounds, in_rounds = owners[labels[0]].config.rounds, self.pool.objective == "rounds"
            running[labels[0]] = search(made, rounds, self._beyond(), self.factor, self.exhaustive, in_rounds)
        asked = {label: next(bracket) for label, bracket in running.items()}
        while asked:
            outcomes = self._wave(owners, asked)
            following = {}
            for label in asked:
                try:
                    following[label] = running[label].send(outcomes[label])
                except StopIteration as end:
                    self.brackets[label] = end.value
            asked = following
        return self.brackets

    def configured(self, point: Point) -> Config:
        """The run of a point."""
        owner = next(contender for contender in self.contenders if contender.label == point.contender)
        return owner.configured(point)

    def label(self, point: Point) -> str:
        """A point without its step in words: method and compressors as they are there, then the other axes."""
        try:
            shown = [Contender.of(self.configured(point)).label]
        except UserError:
            return ", ".join([point.contender, *(f"{key}={value}" for key, value in point.axes)])
        inside = ("compressor", "downlink_compressor", "method")
        return ", ".join(shown + [f"{key}={value}" for key, value in point.axes if key.partition(".")[0] not in inside])

    def directory(self, point: Point) -> Path:
        """Of a point's first trial."""
        return self._trials(point, 1)[0].directory

    def _check(self, contender: Contender, points: Sequence[Point], forgiving: bool) -> None:
        """Note points whose options go not together; raises the last one's UserError where all are such, unless others share a bracket."""
        refused: UserError | None = None
        for axes in contender.combinations():
            own = [point for point in points if point.axes == axes]
            try:
                for point in own[:1]:
                    choose_parts(contender.configured(point))
            except UserError as error:
                refused = error
                self._refused |= dict.fromkeys(own, str(error))
        if refused is not None and not forgiving and all(point in self._refused for point in points):
            raise refused

    def _beyond(self) -> Callable[[Bracket], list[Point]]:
        def beyond(bracket: Bracket) -> list[Point]:
            added = past_the_edge(bracket, self.steps, self.extend)
            if added and bracket.best is not None:
                more = ", ".join(point.step for point in added)
                best = f"{self.label(bracket.best)}: the best step, {bracket.best.step}"
                self.say(f"{best}, is the {bracket.edge()} of the grid; {more} are tried, too")
            return added

        return beyond

    # ---- waves ------------------------------------------------------------------------------------------------------
    def _wave(self, owners: dict[str, Contender], asked: dict[str, list[Ask]]) -> dict[str, dict[Point, Outcome]]:
        """Run what all brackets ask for, each point with as many seeds as it needs."""
        asks = [ask for own in asked.values() for ask in own if ask.point not in self._refused]
        unknown = self.seeds > 1 and any(label not in self.same for label in asked)
        if unknown:
            self._run([(ask, min(2, self._seeds_of(ask.point))) for ask in asks])
            for label in asked:
                self._find_whether_seeds_matter(label, [ask for ask in asks if ask.point.contender == label])
        self._run([(ask, self._seeds_of(ask.point)) for ask in asks])
        outcomes = {label: {ask.point: self._outcome(ask) for ask in own} for label, own in asked.items()}
        self._waves += 1
        found = [outcome for own in outcomes.values() for outcome in own.values()]
        counts = {
            ended: sum(outcome.ended == ended for outcome in found)
            for ended in (REACHED, PAUSED, DIVERGED, EXHAUSTED, FAILED)
        }
        words = ", ".join(f"{count} {_WORDS[ended]}" for ended, count in counts.items() if count)
        most = max((outcome.rounds for outcome in found), default=0)
        self.say(f"wave {self._waves}: {len(found)} points, up to {most:,} rounds: {words}")
        return outcomes

    def _seeds_of(self, point: Point) -> int:
        return 1 if self.same.get(point.contender) else self.seeds

    def _find_whether_seeds_matter(self, label: str, asks: Sequence[Ask]) -> None:
        """Two seeds gave the same values at all evaluations of all points: the method draws nothing. Seconds are drawn anew in any case."""
        if label in self.same or self.pool.objective == "seconds":
            self.same.setdefault(label, False)
            return
        pairs = [[self._progress(trial, ask) for trial in self._trials(ask.point, 2)] for ask in asks]
        usable = [(one, two) for one, two in pairs if one.ended != FAILED and one.rounds > 0]
        self.same[label] = bool(usable) and all(one.trace == two.trace for one, two in usable)
        if self.same[label]:
            self.say(f"{label}: two seeds give the same bits, so one is enough")

    def _run(self, asks: Sequence[tuple[Ask, int]]) -> None:
        legs = [
            Leg(trial, ask.cost, ask.rounds)
            for ask, seeds in asks
            for trial in self._trials(ask.point, seeds)
            if progress(trial, self.pool.objective, ask.cost, ask.rounds) is None
        ]
        if legs:
            self.pool.run(legs)

    def _trials(self, point: Point, seeds: int) -> list[Trial]:
        config = self.configured(point)
        return [Trial.of(point, config, config.seed + k, self.target, self.pool.ranks, self.out) for k in range(seeds)]

    def _progress(self, trial: Trial, ask: Ask) -> Progress:
        found = progress(trial, self.pool.objective, ask.cost, ask.rounds)
        if found is None:
            raise RuntimeError(f"{trial.directory} has not run as far as it was asked to")
        return found

    def _outcome(self, ask: Ask) -> Outcome:
        if ask.point in self._refused:
            return Outcome(FAILED, math.inf, math.inf, 0, 0.0, 0, reason=self._refused[ask.point])
        return summarise([self._progress(trial, ask) for trial in self._trials(ask.point, self._seeds_of(ask.point))])


_WORDS = {
    REACHED: "at the target",
    PAUSED: "under way",
    DIVERGED: "diverged",
    EXHAUSTED: "not there at their end",
    FAILED: "failed",
}


def summarise(found: Sequence[Progress]) -> Outcome:
    """The outcome of a point's seeds."""
    costs = [p.cost for p in found]
    cost, level = median_high(costs), median_high([p.level for p in found])
    endings = {p.ended for p in found}
    if FAILED in endings:
        ended, cost, level = FAILED, math.inf, math.inf
    elif math.isfinite(cost):
        ended = REACHED
    elif math.isinf(level):
        ended = DIVERGED
    else:
        ended = PAUSED if PAUSED in endings else EXHAUSTED
    reason = "" if ended in (REACHED, PAUSED) else next((p.reason for p in found if p.ended == ended), "")
    outlook = median_high([p.outlook for p in found])
    rounds, per_round = max(p.rounds for p in found), median_high([p.per_round for p in found])
    return Outcome(ended, cost, level, rounds, per_round, len(found), min(costs), max(costs), reason, outlook)
