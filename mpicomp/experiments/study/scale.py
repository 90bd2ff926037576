"""Walks the cells of a study: starts each, keeps what is finished, records what failed, and says when it will be done."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..records import NUMBER, TEXT, fault, read_json
from ..runtime import Claim, Config, ConfigError, DataError, UserError, __version__, write_text
from .cell import Cell
from .grid import Study
from .runners import TIMED_OUT, Outcome, Runner, here, python_command

DONE, FAILED, RUNNING = "done", "failed", "running"
EXIT_DIVERGED = 3
_TAIL = 2000  # characters of a failed job's output that are kept in its record


@dataclass(frozen=True)
class Estimate:
    """Seconds that are left: the expected number, and an interval that holds them with about 95 %; NaN before anything is known."""

    seconds: float
    low: float
    high: float


def estimate(remaining: Sequence[str], finished: dict[str, list[float]]) -> Estimate:
    """Time for the remaining cells.

    A cell whose configuration has run takes the mean of its finished repetitions; another one the mean over the finished
    configurations, which the random order makes a fair sample of all. The interval adds up the variances of both.

    Parameters
    ----------
    remaining : the key of each cell that is still to run. finished : wall seconds of the finished repetitions by key.

    >>> estimate(["a", "b"], {"a": [10.0, 10.0], "c": [10.0]})
    Estimate(seconds=20.0, low=20.0, high=20.0)
    """
    if not finished:
        return Estimate(float("nan"), float("nan"), float("nan"))
    means = {key: float(np.mean(times)) for key, times in finished.items()}
    overall = float(np.mean(list(means.values())))
    between = float(np.var(list(means.values()), ddof=1)) if len(means) > 1 else overall**2
    deviations = [t - means[key] for key, times in finished.items() for t in times]
    freedom = len(deviations) - len(means)
    within = float(np.sum(np.square(deviations))) / freedom if freedom else 0.1 * overall**2
    unknown: dict[str, int] = {}
    expected = variance = 0.0
    for key in remaining:
        if key in means:
            expected += means[key]
            variance += within * (1 + 1 / len(finished[key]))
        else:
            expected += overall
            unknown[key] = unknown.get(key, 0) + 1
    # repetitions of one unknown configuration err together; so do all of them with the overall mean
    variance += between * (sum(k * k for k in unknown.values()) + sum(unknown.values()) ** 2 / len(means))
    half = 2 * float(np.sqrt(variance)) if len(deviations) > 1 or variance == 0 else float("nan")
    return Estimate(expected, max(expected - half, 0.0), expected + half)


class Walk:
    """One walk over cells of a study.

    Parameters
    ----------
    study : what to run. out : the study's directory. cells : this walk's share.
    say : where a line of progress goes.
    """

    def __init__(self, study: Study, out: Path, cells: Sequence[Cell], say: Callable[[str], None]):
        self.study, self.out, self.cells, self.say = study, out, list(cells), say
        self.failed: list[Cell] = []

    def run(self, runner: Runner, retry_failed: bool = False) -> None:
        """Run every cell that is not finished; a failed one only with `retry_failed`, an interrupted one from its beginning."""
        records = {cell.name: read_record(self.directory(cell)) for cell in self.cells}
        self._refuse_other_seeds(records)
        kept = (DONE,) if retry_failed else (DONE, FAILED)
        todo = [cell for cell in self.cells if records[cell.name].get("state") not in kept]
        self.failed = [c for c in self.cells if c not in todo and records[c.name]["state"] == FAILED]
        finished: dict[str, list[float]] = {}
        for cell in self.cells:
            if cell not in todo and "seconds" in records[cell.name]:
                finished.setdefault(cell.key, []).append(records[cell.name]["seconds"])
        if len(todo) < len(self.cells):
            self.say(f"{len(self.cells) - len(todo)} of {len(self.cells)} cells are finished and kept")
        for k, cell in enumerate(todo):
            record = self._run_cell(cell, runner, len(self.cells) - len(todo) + k)
            finished.setdefault(cell.key, []).append(record["seconds"])
            self._tell(cell, record, estimate([c.key for c in todo[k + 1 :]], finished), len(todo) - k - 1)

    def _refuse_other_seeds(self, records: dict[str, dict[str, Any]]) -> None:
        """Raises ConfigError where a finished cell had another seed than this study gives it: its repetitions would be of two kinds."""
        for cell in self.cells:
            record = records[cell.name]
            first = Config.load(None, cell.options).seed
            wanted = first + cell.repetition if self.study.vary_seed else first
            if record.get("state") == DONE and (found := record.get("seed", first)) != wanted:
                asked = "vary_seed = false" if self.study.vary_seed else "vary_seed = true"
                raise ConfigError(
                    f"{self.directory(cell)} was run with seed {found}, and this study gives it seed {wanted}: write {asked} into the "
                    "study to go on as it began, or choose another --out"
                )

    def directory(self, cell: Cell) -> Path:
        """Where the cell's files are."""
        return self.out / "cells" / cell.name

    def _run_cell(self, cell: Cell, runner: Runner, position: int) -> dict[str, Any]:
        """Run a cell, unless another walk has finished it meanwhile: shares of different numbers of tasks overlap."""
        where = self.directory(cell)
        with Claim(where.with_name(f".{where.name}.lock"), "another `mpicomp scale`") as claim:
            claim.take()
            record = read_record(where)
            return record if record.get("state") == DONE else self._run_anew(cell, runner, position)

    def _run_anew(self, cell: Cell, runner: Runner, position: int) -> dict[str, Any]:
        where = self.directory(cell)
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        seeded = self.study.seed_options(cell)
        config = Config.load(None, {**cell.options, **seeded, "out": str(where)})
        write_text(where / "config.toml", config.to_toml())
        record: dict[str, Any] = {
            "study": self.study.name, "state": RUNNING, "cell": cell.to_dict(), "key": cell.key, "label": cell.label, "position": position,
            "seed": seeded["seed"],
            "runner": runner.facts(), "machine": here(), "mpicomp": __version__, "started": _now(),
        }  # fmt: skip
        write_record(where, record)
        start = time.monotonic()
        try:
            command = python_command("run", "-q", "--no-table", str(where / "config.toml"))
            outcome = runner.run(cell, command, self.study.timeout)
        except UserError as error:
            outcome = Outcome(2, time.monotonic() - start, f"mpicomp: {error}", [])
        record |= _verdict(outcome, where, self.study.timeout)
        write_record(where, record)
        return record

    def _tell(self, cell: Cell, record: dict[str, Any], left: Estimate, cells: int) -> None:
        took = f"{record['seconds']:.1f} s"
        where = f"{cell.nodes}×{cell.per_node} ranks" if cell.nodes else f"{cell.workers} workers"
        link = f", {cell.link}" if cell.link else ""
        what = f"{cell.label}, {where}, {cell.options['exchange']}{link}, repetition {cell.repetition}, seed {record.get('seed', 0)}"
        if record["state"] == FAILED:
            self.failed.append(cell)
            self.say(f"FAILED after {took}: {what}: {record['reason']}")
        else:
            self.say(f"{took:>8}  {what}")
        if cells:
            self.say(f"          {cells} cells left, {describe(left)}")


def describe(left: Estimate) -> str:
    """The estimate in words.

    >>> describe(Estimate(90.0, 60.0, 120.0))
    'about 1.5 min (1.0 to 2.0 min)'
    """
    if np.isnan(left.seconds):
        return "time unknown"
    unit, factor = ("s", 1.0) if left.seconds < 60 else ("min", 60.0) if left.seconds < 7200 else ("h", 3600.0)
    text = f"about {left.seconds / factor:.1f} {unit}"
    if np.isnan(left.high):
        return f"{text}, a first guess"
    return f"{text} ({left.low / factor:.1f} to {left.high / factor:.1f} {unit})"


def _verdict(outcome: Outcome, where: Path, timeout: float) -> dict[str, Any]:
    """What the job's end says of the cell. A run that diverged is a result: its seconds and bytes are real."""
    write_text(where / "log.txt", outcome.output)
    verdict = {"finished": _now(), "seconds": outcome.seconds, "code": outcome.code, "command": outcome.command}
    if outcome.interfaces:
        verdict["interfaces"] = outcome.interfaces
    if outcome.code in (0, EXIT_DIVERGED) and (where / "summary.json").exists():
        return {**verdict, "state": DONE}
    tail = outcome.output.strip()[-_TAIL:]
    printed = tail.splitlines()
    lines = (
        [line for line in printed if line.startswith("mpicomp: ")]
        or [line for line in printed if "Error" in line]
        or printed[-1:]
    )
    reason = f"not over after {timeout:g} s" if outcome.code == TIMED_OUT else f"exit code {outcome.code}"
    if lines:
        reason += f": {lines[0].removeprefix('mpicomp: ')}"
    return {**verdict, "state": FAILED, "reason": reason, "output": tail}


# ---- files ----------------------------------------------------------------------------------------------------------
def read_record(where: Path) -> dict[str, Any]:
    """A cell's record; empty where there is none.

    Raises
    ------
    DataError : the file is not one.
    """
    try:
        record = read_json(where / "cell.json", {}, missing=True)
        if record and record.get("state") not in (DONE, FAILED, RUNNING):
            raise DataError(f"{where / 'cell.json'} is damaged: state is {record.get('state')!r}")
        more = {DONE: {"seconds": NUMBER}, FAILED: {"reason": TEXT}, RUNNING: {"started": TEXT}}
        if record and (wrong := fault(record, more[record["state"]])):
            raise DataError(f"{where / 'cell.json'} is damaged: {wrong}")
    except DataError as error:
        raise DataError(f"{error}; remove {where} to run it again") from None
    return record


def write_record(where: Path, record: dict[str, Any]) -> None:
    """Write cell.json, whole or not at all."""
    write_text(where / "cell.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def open_study(study: Study, text: str, out: Path) -> None:
    """Make the study's directory, or take up one that holds cells of the same study.

    Raises
    ------
    ConfigError : it cannot be written, or holds cells that are not in this study's grid.
    """
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        names = {cell.name for cell in study.cells()}
        strangers = sorted(p.parent.name for p in (out / "cells").glob("*/cell.json") if p.parent.name not in names)
        if strangers:
            raise ConfigError(
                f"{out} holds {len(strangers)} cells that are not in this study, such as {strangers[0]}; "
                "choose another --out, or remove those cells"
            )
        write_text(out / "study.toml", text, contended=True)
    except OSError as error:
        raise ConfigError(f"cannot write the study to {out}: {error.strerror}; choose another --out") from None


@contextlib.contextmanager
def alone(out: Path, task: int, tasks: int) -> Iterator[None]:
    """Hold the lock of a task's share.

    Raises
    ------
    ConfigError : another process works on the same share.
    """
    with Claim(out / f".lock-{task}-of-{tasks}", "another `mpicomp scale`") as claim:
        claim.take()
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
