"""The cells of a study read back: what each finished one measured, grouped by configuration, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..lab.links import Link
from ..records import CELL, MANIFEST, fault, read_json
from ..runtime import PHASES, DataError, median_interval, rate
from .cell import Cell
from .compare import Stored
from .grid import Study
from .scale import DONE, RUNNING, read_record

NOT_STARTED, DAMAGED = "not started", "damaged"
DIRECTIONS = ("uplink", "downlink")
ENOUGH = 6  # with fewer samples the range does not hold the median with 95 %


@dataclass(frozen=True)
class Interval:
    """Median and its 95 % interval by order statistics; with fewer than six samples their range, which holds it more rarely."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Interval:
        """From samples; NaN where there are none."""
        return cls(*median_interval(np.asarray(values, np.float64)), samples=len(values))

    @property
    def enough(self) -> bool:
        """It is an interval of 95 %, and not just a range."""
        return self.samples >= ENOUGH

    def apart(self, other: Interval) -> bool:
        """The two do not overlap."""
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class Measured:
    """A finished cell.

    Attributes
    ----------
    record : its cell.json. stored, manifest : what its run wrote. warmup : leading share of the rounds that is left out.
    """

    cell: Cell
    record: dict[str, Any]
    stored: Stored
    manifest: dict[str, Any]
    warmup: float

    @classmethod
    def load(cls, where: Path, cell: Cell, record: dict[str, Any], warmup: float) -> Measured:
        """Read a cell's directory.

        Raises
        ------
        DataError : a file is missing or damaged.
        """
        try:
            wrong = fault(record, CELL)
            if not wrong and record["key"] != cell.key:
                wrong = "it is the record of another cell"
            if wrong:
                raise DataError(f"{where / 'cell.json'} is damaged: {wrong}")
            manifest = read_json(where / "manifest.json", MANIFEST)
            return cls(cell, record, Stored.load(where), manifest, warmup)
        except DataError as error:
            raise DataError(f"{error}; remove {where}, and `mpicomp scale` runs the cell again") from None

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """Host, clients, seconds by phase and MPI calls of each rank."""
        return self.manifest["ranks"]

    @property
    def dim(self) -> int:
        """d."""
        return self.stored.summary["dim"]

    @property
    def clients(self) -> int:
        """n."""
        return self.stored.summary["clients"]

    @property
    def rounds(self) -> int:
        """Rounds that were run."""
        return self.stored.summary["rounds"]

    @property
    def diverged(self) -> bool:
        """It met a NaN or Inf."""
        return self.stored.summary["diverged"]

    @cached_property
    def steady(self) -> list[dict[str, float]]:
        """The evaluations after the warm-up: the first of them ends it, the others are the ends of timed blocks of rounds."""
        rows = self.stored.rows
        start = max((k for k, row in enumerate(rows) if row["round"] <= self.warmup * self.rounds), default=0)
        return rows[min(start, max(len(rows) - 2, 0)) :]

    @cached_property
    def block_seconds(self) -> np.ndarray:
        """Seconds a round, the mean of each block of rounds between two evaluations; float64."""
        t, s = (np.array([row[name] for row in self.steady]) for name in ("round", "seconds_total"))
        return np.diff(s) / np.diff(t)

    def per_round(self, column: str) -> float:
        """A cumulative column of rounds.csv, for each round after the warm-up."""
        first, last = self.steady[0], self.steady[-1]
        return (last[column] - first[column]) / max(last["round"] - first["round"], 1.0)

    def phase(self, name: str, ranks: str = "server") -> float:
        """Seconds of a phase in a round, warm-up included: of rank 0, or the mean or largest of the ranks that host clients."""
        seconds = [rank["seconds"][name] / max(self.rounds, 1) for rank in self.ranks]
        if ranks == "server":
            return seconds[0]
        workers = [s for s, rank in zip(seconds, self.ranks, strict=True) if rank["clients"]]
        return float(np.mean(workers) if ranks == "workers" else np.max(workers))

    def level(self, name: str) -> float:
        """Share of all bytes of the rounds at a level of `cluster.ledger.LEVELS`: shared memory, within a node, between nodes; NaN in
        results of versions that did not count by level."""
        counts = self.stored.summary["bytes"].values()
        if any(name not in c for c in counts):
            return float("nan")
        return sum(c[name] for c in counts) / max(sum(c["message"] for c in counts), 1)


@dataclass
class Group:
    """The finished repetitions of one configuration."""

    runs: list[Measured] = field(default_factory=list)

    @property
    def cell(self) -> Cell:
        """The configuration; its repetition means nothing."""
        return self.runs[0].cell

    @property
    def label(self) -> str:
        """Method and compressor."""
        return self.cell.label

    @property
    def exchange(self) -> str:
        """How the bytes travelled."""
        return self.runs[0].stored.summary["exchange"]

    @property
    def dim(self) -> int:
        """d."""
        return self.runs[0].dim

    @property
    def clients(self) -> int:
        """n."""
        return self.runs[0].clients

    @property
    def places(self) -> int:
        """The horizontal axis of a scaling plot: nodes, or workers where there are no nodes."""
        return self.cell.nodes or self.cell.workers

    @property
    def link_rate(self) -> float:
        """bit/s of each node's link; infinite where no rate was set."""
        return Link.of(self.cell.link or None, 0).rate or float("inf")

    @property
    def link_text(self) -> str:
        """The same in words, "" where none was set."""
        return rate(self.link_rate) if self.cell.link else ""

    @property
    def processors(self) -> int:
        """Ranks that compute gradients: the workers, with Allreduce all ranks."""
        return sum(1 for rank in self.runs[0].ranks if rank["clients"])

    @property
    def condition(self) -> tuple[Any, ...]:
        """What else than placement and n sets it apart from the group's other conditions: d, exchange, link, ranks per node."""
        return (self.dim, self.exchange, self.link_rate, self.cell.per_node)

    @cached_property
    def seconds(self) -> Interval:
        """Seconds a round, largest of any rank: over the timed blocks of all repetitions."""
        return Interval.of(np.concatenate([run.block_seconds for run in self.runs]))

    @cached_property
    def p95(self) -> float:
        """The 95th percentile of the same samples, seconds."""
        return float(np.percentile(np.concatenate([run.block_seconds for run in self.runs]), 95))

    @cached_property
    def repetition_medians(self) -> list[float]:
        """The median of each repetition, seconds a round."""
        return [float(np.median(run.block_seconds)) for run in self.runs]

    def per_round(self, column: str) -> float:
        """Median over the repetitions."""
        return float(np.median([run.per_round(column) for run in self.runs]))

    def bytes(self, direction: str) -> float:
        """Bytes a round handed to MPI; a broadcast counts once for each receiver."""
        return self.per_round(f"{direction}_message")

    def phase(self, name: str, ranks: str = "server") -> float:
        """As `Measured.phase`, median over the repetitions."""
        return float(np.median([run.phase(name, ranks) for run in self.runs]))

    def to_target(self, target: float, column: str) -> Interval | None:
        """A cumulative column when ‖∇f‖² first is at most `target`; None where some repetition never got there."""
        rows = [run.stored.first_at(target) for run in self.runs]
        return (
            None if any(row is None for row in rows) else Interval.of([row[column] for row in rows if row is not None])
        )

    def distinguishable(self, other: Group) -> bool:
        """Their intervals do not overlap, and neither do the medians of their repetitions: rounds of one run are no independent sample."""
        a, b = self.repetition_medians, other.repetition_medians
        return self.seconds.apart(other.seconds) and (max(a) < min(b) or max(b) < min(a))


@dataclass
class Results:
    """A study's directory.

    Attributes
    ----------
    groups : configurations with a finished repetition. unfinished : (name, state, reason) of all other cells.
    """

    directory: Path
    study: Study
    groups: list[Group]
    unfinished: list[tuple[str, str, str]]

    @classmethod
    def load(cls, directory: str | Path) -> Results:
        """Read a study's directory; cells that are running, failed or damaged are listed, not hidden.

        Raises
        ------
        DataError : it is not a study's directory.
        """
        where = Path(directory)
        if not (where / "study.toml").is_file():
            raise DataError(
                f"{where} is not the directory of a study: no study.toml in it; `mpicomp scale study.toml --out {where}` makes one"
            )
        study = Study.load(where / "study.toml", parts=False)
        groups: dict[str, Group] = {}
        unfinished = []
        for cell in sorted(
            study.cells(), key=lambda c: (c.baseline, c.label, c.nodes, c.workers, c.link, c.key, c.repetition)
        ):
            path = where / "cells" / cell.name
            try:
                record = read_record(path)
                if record.get("state") == DONE:
                    groups.setdefault(cell.key, Group()).runs.append(Measured.load(path, cell, record, study.warmup))
                    continue
                state = record.get("state", NOT_STARTED)
                reason = record.get("reason") or (f"since {record['started']}" if state == RUNNING else "")
            except DataError as error:
                state, reason = DAMAGED, str(error)
            unfinished.append((cell.name, state, reason))
        return cls(where, study, list(groups.values()), unfinished)

    @property
    def runs(self) -> list[Measured]:
        """All finished cells."""
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def target(self) -> float:
        """‖∇f‖² that time and bytes are taken to: the study's, or the smallest that all which evaluate it reached; NaN where none did."""
        if self.study.target > 0:
            return self.study.target
        reached = [run.stored.best for run in self.runs if run.stored.evaluated and not run.diverged]
        return max(reached, default=float("nan"))

    def dense_beside(self, group: Group) -> Group | None:
        """The dense baseline in the same place and condition."""
        same = [
            g
            for g in self.groups
            if g.cell.baseline == "dense" and (g.places, g.clients) == (group.places, group.clients)
        ]
        return next((g for g in same if g.condition == group.condition), None)

    def base_of(self, group: Group) -> Group:
        """The group's own series at its smallest placement: what scaling is measured against."""
        series = [g for g in self.groups if (g.label, g.condition) == (group.label, group.condition)]
        if self.study.mode != "weak":
            series = [g for g in series if g.clients == group.clients]
        return min(series, key=lambda g: (g.processors, g.clients))

    def efficiency(self, group: Group) -> float:
        """Parallel efficiency: T₁p₁/(T p) at fixed n, T₁/T where n grows with the workers."""
        base = self.base_of(group)
        ratio = base.seconds.median / group.seconds.median
        return ratio if self.study.mode == "weak" else ratio * base.processors / group.processors


def phases_of(group: Group, ranks: str) -> dict[str, float]:
    """Seconds a round by phase."""
    return {name: group.phase(name, ranks) for name in PHASES}
