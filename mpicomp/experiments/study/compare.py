"""Two runs side by side, and the link speed below which the one with fewer bytes is the faster one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import MEASURED, Pattern, read_json, read_rounds
from ..runtime import DataError

LOCAL_PHASES = ("compute", "encode", "decode", "step")


@dataclass(frozen=True)
class Stored:
    """A run read back from its directory: summary, and the rows of rounds.csv with numbers for text."""

    directory: Path
    summary: dict[str, Any]
    rows: list[dict[str, float]]

    @classmethod
    def load(cls, directory: str | Path, pattern: Pattern = MEASURED) -> Stored:
        """Read a run directory.

        Parameters
        ----------
        pattern : what the summary has to have, `records.fault`.

        Raises
        ------
        DataError : a file is missing or is not what a run writes.
        """
        where = Path(directory)
        try:
            summary = read_json(where / "summary.json", pattern)
            rows = read_rounds(where / "rounds.csv")
            for name in ("loss", "grad_norm_sq"):
                last, told = rows[-1][name], summary.get(name, rows[-1][name])
                told = math.nan if told is None else told
                if last != told and not (math.isnan(last) and math.isnan(told)):
                    raise DataError(f"{where / 'rounds.csv'} ends at {name}={last:g}, summary.json at {told:g}")
        except DataError as error:
            raise DataError(f"{where} does not hold a finished run: {error}") from None
        return cls(where, summary, rows)

    @property
    def evaluated(self) -> bool:
        """It evaluated f and ‖∇f‖² (`evaluate="full"`)."""
        return self.summary.get("grad_norm_sq", math.inf) is not None

    @property
    def best(self) -> float:
        """The smallest ‖∇f‖² of its evaluations; infinite where none is finite."""
        return min((row["grad_norm_sq"] for row in self.rows if math.isfinite(row["grad_norm_sq"])), default=math.inf)

    def first_at(self, target: float) -> dict[str, float] | None:
        """The first row with ‖∇f‖² at most `target`, None where the run did not get there."""
        return next((row for row in self.rows if row["grad_norm_sq"] <= target), None)


@dataclass(frozen=True)
class Cost:
    """What it took to get somewhere: rounds, bytes through the server's link in each direction, seconds of work apart from sending."""

    rounds: int
    up: float
    down: float
    work: float
    total: float

    @classmethod
    def of(cls, row: dict[str, float]) -> Cost:
        """From a row of rounds.csv."""
        work = sum(row[f"seconds_{phase}"] for phase in LOCAL_PHASES)
        return cls(int(row["round"]), row["uplink_message"], row["downlink_message"], work, row["seconds_total"])

    def seconds_at(self, bits_per_second: float) -> float:
        """Seconds over a link of this speed at the server: the work, then all bytes one direction after the other (as in a round)."""
        return self.work + 8 * (self.up + self.down) / bits_per_second


def common_target(runs: list[Stored]) -> float:
    """The smallest ‖∇f‖² that all of the runs reached."""
    return max(run.best for run in runs)


def break_even(few: Cost, many: Cost) -> float | None:
    """Link speed (bit/s) below which `few`, the run with fewer bytes, takes less time than `many`; None where it never does.

    T(r) = work + 8 · bytes / r, equal at r* = 8 (bytes_many − bytes_few)/(work_few − work_many); infinite where `few` also works less.
    """
    saved, extra = (many.up + many.down) - (few.up + few.down), few.work - many.work
    if saved <= 0:
        return float("inf") if extra < 0 and saved == 0 else None
    return 8 * saved / extra if extra > 0 else float("inf")
