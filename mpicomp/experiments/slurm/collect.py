"""What runs have left behind in their directories: results, or how far they came."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..records import COMPLETE, fault, read_json
from ..runtime import DataError, csv_cell

FINISHED, UNFINISHED, DAMAGED = "finished", "unfinished", "damaged"
_SAME = ("method", "compressor", "ranks", "rounds", "loss", "grad_norm_sq", "iterate_sha256")


@dataclass(frozen=True)
class Found:
    """A run's directory. Of one that is not finished, `rounds` are those of its last checkpoint and most fields are empty; so are those of
    what a run did not evaluate.

    up, down : bytes of messages in the rounds. seconds : in the rounds. why : what is wrong with one that is damaged.
    """

    directory: str
    state: str
    job: str = ""
    method: str = ""
    compressor: str = ""
    ranks: int | str = ""
    rounds: int | str = ""
    loss: float | str = ""
    grad_norm_sq: float | str = ""
    up: int | str = ""
    down: int | str = ""
    seconds: float | str = ""
    iterate_sha256: str = ""
    why: str = ""


def collect(roots: Sequence[Path]) -> list[Found]:
    """All runs in these directories and below them, by path; also those of which a file is damaged.

    Raises
    ------
    DataError : there are none.
    """
    found = [_read(directory) for root in roots for directory in sorted(_runs(root))]
    if not found:
        raise DataError(
            f"no run has left anything in {', '.join(map(str, roots))}; give the directories that `--out` named, or one above them"
        )
    return found


def to_csv(found: Sequence[Found], path: Path) -> None:
    """Write the runs as a table, one line each."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, fieldnames=[field.name for field in fields(Found)])
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in asdict(run).items()} for run in found)


def _runs(root: Path) -> Iterator[Path]:
    for folder, directories, files in os.walk(root):
        if "checkpoints" in directories or "summary.json" in (*directories, *files):
            yield Path(folder)


def _read(directory: Path) -> Found:
    whole = directory.glob("checkpoints/round-*/checkpoint.json")
    numbers = [path.parent.name.removeprefix("round-") for path in whole]
    last = max((int(text) for text in numbers if text.isascii() and text.isdigit()), default=0)
    try:
        summary = read_json(directory / "summary.json", {}, missing=True)
        job = read_json(directory / "manifest.json", {}, missing=True).get("slurm", {})
        job = job.get("SLURM_JOB_ID", "") if isinstance(job, dict) else ""
        if not summary or summary.get("interrupted") is True:
            return Found(str(directory), UNFINISHED, str(job), rounds=last)
        if wrong := fault(summary, COMPLETE):
            raise DataError(f"{directory / 'summary.json'} is damaged: {wrong}")
    except DataError as error:
        return Found(str(directory), DAMAGED, rounds=last, why=str(error))
    return Found(
        str(directory),
        "diverged" if summary["diverged"] else FINISHED,
        str(job),
        up=summary["bytes"]["uplink"]["message"],
        down=summary["bytes"]["downlink"]["message"],
        seconds=summary["seconds"]["total"],
        **{name: "" if summary[name] is None else summary[name] for name in _SAME},
    )
