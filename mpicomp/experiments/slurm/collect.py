"""What runs have left behind in their directories: results, or how far they came."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..runtime import DataError, csv_cell

FINISHED, UNFINISHED = "finished", "unfinished"
_SAME = ("method", "compressor", "ranks", "rounds", "loss", "grad_norm_sq", "iterate_sha256")


@dataclass(frozen=True)
class Found:
    """A run's directory. Of one that is not finished, `rounds` are those of its last checkpoint and most fields are empty.

    up, down : bytes of messages in the rounds. seconds : in the rounds.
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


def collect(roots: Sequence[Path]) -> list[Found]:
    """All runs in these directories and below them, by path.

    Raises
    ------
    DataError : there are none, or a file of one cannot be read.
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
    seen = {path.parent for path in root.rglob("summary.json")}
    yield from seen | {path.parent for path in root.rglob("checkpoints") if path.is_dir()}


def _read(directory: Path) -> Found:
    summary = _json(directory / "summary.json")
    checkpoints = [
        int(path.parent.name.rpartition("-")[2]) for path in directory.glob("checkpoints/round-*/checkpoint.json")
    ]
    job = _json(directory / "manifest.json").get("slurm", {}).get("SLURM_JOB_ID", "")
    if not summary or summary["interrupted"]:
        return Found(str(directory), UNFINISHED, job, rounds=max(checkpoints, default=0))
    return Found(
        str(directory),
        "diverged" if summary["diverged"] else FINISHED,
        job,
        up=summary["bytes"]["uplink"]["message"],
        down=summary["bytes"]["downlink"]["message"],
        seconds=summary["seconds"]["total"],
        **{name: summary[name] for name in _SAME},
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return content
