"""From a problem and a place to advice: calibrate the exchanges, tune by predicted seconds in one process, try the few best there."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runtime import Config, DataError
from ..study.compare import Stored
from ..tuning.grid import Contender, Point, Steps
from ..tuning.halving import REACHED, Bracket
from ..tuning.place import Place
from ..tuning.pool import Leg, Pool
from ..tuning.search import Search
from ..tuning.trials import FAULT, PREDICTED, Row, Trial
from .there import Spent

CALIBRATION_ROUNDS = 20
TRY_SECONDS = 2.0  # of rounds, for each of the few that are tried
NEAR = 1.5  # what is predicted to take longer than the best by more is not tried
SHORT: dict[str, Any] = {
    "method": "ef21",
    "method_options": {},
    "compressor": "topk:fraction=0.01",
    "downlink_compressor": None,
}


@dataclass
class Choice:
    """A point with an exchange: what is predicted of it, and what was measured.

    Attributes
    ----------
    rounds, nbytes : to the target, both ways, over all links. predicted : seconds to the target. measured : the same from rounds that were
    run there; NaN where none were. tried : how many.
    """

    point: Point
    exchange: str
    rounds: int
    nbytes: float
    predicted: float
    measured: float = math.nan
    tried: int = 0

    @property
    def seconds(self) -> float:
        """The better founded of the two."""
        return self.predicted if math.isnan(self.measured) else self.measured


@dataclass
class Advice:
    """All that was tried, the soonest first, the dense ones among them; `dense` the best of these. Empty where nothing came so far."""

    choices: list[Choice]
    dense: Choice | None
    place: Place
    spent: Spent

    @property
    def best(self) -> Choice | None:
        """What to run."""
        return self.choices[0] if self.choices else None

    @property
    def pays(self) -> bool:
        """Compression is the faster way."""
        return self.best is not None and self.best is not self.dense


@dataclass
class Adviser:
    """Gives advice.

    Parameters
    ----------
    base : the run without method, step and exchange. dense, others : contenders. listed : exchanges for all of them.
    here : runs pilots, each in one process. there : runs in the place, or None where that cannot be had. tries : how many are tried there.
    """

    base: Config
    dense: Contender
    others: Sequence[Contender]
    steps: Steps
    target: float
    place: Place
    carries: dict[str, list[str]]
    out: Path
    here: Pool
    there: Pool | None
    say: Callable[[str], None]
    tries: int = 4
    spent: Spent = field(default_factory=Spent)

    def advise(self) -> Advice:
        """Calibrate, tune, try."""
        self._calibrate()
        self.spent.lap("calibration")
        path = self.out / "place.json"
        self.place = dataclasses.replace(self.place, carries=self.carries)
        self.place.save(path)
        self.here.objective = f"{PREDICTED}{path.resolve()}"
        labels = [contender.label for contender in self.others]
        groups = [[self.dense.label], labels] if labels else [[self.dense.label]]
        every = [self.dense, *self.others]
        search = Search(every, self.steps, self.target, self.out, self.here, self.say, extend=2, together=groups)
        brackets = search.run()
        self.spent.lap("pilots")
        plain = self._few(search, brackets[self.dense.label], 2)
        few = [*plain, *(self._few(search, brackets[labels[0]], self.tries) if labels else [])]
        if self.there is not None and few:
            self._try(search, few)
            self.spent.lap("trials in place")
        order = sorted(few, key=lambda choice: choice.seconds)
        return Advice(order, min(plain, key=lambda choice: choice.seconds, default=None), self.place, self.spent)

    def configured(self, choice: Choice) -> Config:
        """The run of a choice: to the target, with its exchange."""
        return self._config(choice.point, choice.exchange, self.target)

    def whole(self, point: Point, exchange: str) -> Trial:
        """A run of a point with an exchange in the place, apart from the short ones that advice is made from."""
        trial = self._trial(point, self._config(point, exchange), self.place.ranks)
        directory = trial.directory.with_name(f"whole-{trial.directory.name}")
        return dataclasses.replace(
            trial,
            directory=directory,
            config=dataclasses.replace(trial.config, out=str(directory), checkpoint_seconds=0.0),
        )

    def _config(self, point: Point, exchange: str, tol: float = 0.0) -> Config:
        owner = next(c for c in [self.dense, *self.others] if c.label == point.contender)
        config = owner.configured(point)
        return dataclasses.replace(config, exchange=exchange, tol=tol)

    # ---- calibration ------------------------------------------------------------------------------------------------
    def _calibrate(self) -> None:
        """c and β of each exchange: a dense and a short message, in one process and in the place, for the same rounds."""
        if self.there is None:
            self.place = dataclasses.replace(self.place, constants=dict.fromkeys(self.carries[self.dense.label], 0.0))
            return
        step = min(self.steps.values)
        short = Contender.of(dataclasses.replace(copy.deepcopy(self.base), **SHORT))
        wanted = []
        for contender in (self.dense, short):
            point = Point(contender.label, (), self.steps.text(step), step, 0)
            config = contender.configured(point)
            alone = self._trial(point, dataclasses.replace(config, exchange="local"), 1)
            for exchange in self.carries[self.dense.label]:
                wanted.append(
                    (
                        exchange,
                        alone,
                        self._trial(point, dataclasses.replace(config, exchange=exchange), self.place.ranks),
                    )
                )
        self.here.objective = self.there.objective = "rounds"
        self.here.run(self._missing({alone.directory: alone for _, alone, _ in wanted}.values(), CALIBRATION_ROUNDS))
        self.there.run(self._missing((trial for _, _, trial in wanted), CALIBRATION_ROUNDS))
        measured: dict[str, list[tuple[Row, float]]] = {}
        for exchange, alone, trial in wanted:
            pair = _common(alone.directory, trial.directory)
            if pair is not None:
                measured.setdefault(exchange, []).append((pair[0], pair[1]["seconds_total"]))
        for exchange, runs in measured.items():
            self.place = self.place.calibrated(exchange, runs)

    def _trial(self, point: Point, config: Config, ranks: int) -> Trial:
        return Trial.of(point, config, config.seed, self.target, ranks, self.out)

    @staticmethod
    def _missing(trials: Iterable[Trial], rounds: float) -> list[Leg]:
        """Legs for those that have not run so far."""
        return [
            Leg(trial, math.inf, rounds)
            for trial in trials
            if not (trial.directory / "summary.json").exists() and not (trial.directory / FAULT).exists()
        ]

    # ---- the few best -----------------------------------------------------------------------------------------------
    def _few(self, search: Search, bracket: Bracket, count: int) -> list[Choice]:
        """Points at the target with each exchange, the soonest by prediction."""
        found = []
        for point, verdict in bracket.verdicts.items():
            if verdict.outcome.ended != REACHED:
                continue
            row = Stored.load(search.directory(point)).first_at(self.target)
            if row is None:
                continue
            workers = self.place.ranks - 1
            for exchange in self.carries[point.contender]:
                if exchange in self.place.constants:
                    nbytes = row["uplink_message"] + workers * row["downlink_message"]
                    found.append(Choice(point, exchange, int(row["round"]), nbytes, self.place.seconds(row, exchange)))
        found.sort(key=lambda choice: choice.predicted)
        return [choice for choice in found if choice.predicted <= NEAR * found[0].predicted][:count]

    def _try(self, search: Search, few: list[Choice]) -> None:
        """Rounds in the place: predictions are multiplied by what they took over what was predicted for them. What cannot run goes."""
        assert self.there is not None
        self.there.objective = "rounds"
        trials = {}
        legs = []
        for k, choice in enumerate(few):
            each = choice.predicted / max(choice.rounds, 1)
            rounds = min(choice.rounds, max(CALIBRATION_ROUNDS, math.ceil(TRY_SECONDS / max(each, 1e-9))))
            trials[k] = self._trial(choice.point, self._config(choice.point, choice.exchange), self.place.ranks)
            legs += [Leg(leg.trial, math.inf, rounds) for leg in self._missing([trials[k]], rounds)]
        self.there.run(legs)
        for k, choice in enumerate(list(few)):
            pair = _common(search.directory(choice.point), trials[k].directory)
            if pair is None:
                few.remove(choice)
                continue
            alone, there = pair
            choice.tried = int(there["round"])
            choice.measured = choice.predicted * there["seconds_total"] / self.place.seconds(alone, choice.exchange)


def _common(alone: Path, there: Path) -> tuple[Row, Row] | None:
    """The rows of two runs after the same, largest number of rounds; None where one of them could not be run."""
    try:
        one, other = Stored.load(alone), Stored.load(there)
    except DataError:
        return None
    by_round = {row["round"]: row for row in one.rows if row["round"] > 0}
    last = next((row for row in reversed(other.rows) if row["round"] in by_round), None)
    return None if last is None else (by_round[last["round"]], last)
