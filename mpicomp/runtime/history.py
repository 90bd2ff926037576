"""The history beside a checkpoint: one evaluation a line, in a file that is added to and never written anew.

Two files take turns, since two checkpoints are kept. A new checkpoint's file is a hard link to that of the checkpoint which will go, with
the lines added that this one lacks; what the older manifest vouches for, so many bytes with their sha256, is at its beginning as before.
So a damaged file costs one of the two checkpoints only, and each directory has all that it needs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import open_plain

HISTORY = "history.jsonl"
KEEP = 2  # checkpoints
Row = dict[str, Any]


@dataclass
class _Written:
    """The file of a checkpoint: so many rows, in so many bytes, with this digest."""

    path: Path
    rows: int
    nbytes: int
    sha256: Any


class HistoryFiles:
    """Writes the history of one run's checkpoints."""

    def __init__(self) -> None:
        self._written: list[_Written] = []

    def write(self, folder: Path, rows: list[Row]) -> dict[str, Any]:
        """Write the file of a checkpoint, flushed to the disk; returns what its manifest says of it.

        Raises
        ------
        OSError : it cannot be written.
        """
        path = folder / HISTORY
        path.unlink(missing_ok=True)
        file = self._taken_over(path) or _Written(path, 0, 0, hashlib.sha256())
        lines = "".join(json.dumps(row) + "\n" for row in rows[file.rows :]).encode()
        with open(path, "r+b" if file.rows else "xb") as stream:
            stream.truncate(file.nbytes)
            stream.seek(file.nbytes)
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        file.sha256.update(lines)
        file.rows, file.nbytes = len(rows), file.nbytes + len(lines)
        self._written = [*self._written[1 - KEEP :], file]
        return {"rows": file.rows, "bytes": file.nbytes, "sha256": file.sha256.hexdigest()}

    def _taken_over(self, path: Path) -> _Written | None:
        """The file of the checkpoint that will go, under the new name as well; None where there is none, or no hard link."""
        if len(self._written) < KEEP:
            return None
        old = self._written[0]
        try:
            os.link(old.path, path)
            if os.stat(path).st_size >= old.nbytes:
                return _Written(path, old.rows, old.nbytes, old.sha256.copy())
        except OSError:
            return None
        path.unlink()
        return None


def read_history(folder: Path, entry: Any) -> list[Row]:
    """The rows that a manifest vouches for; `entry` is what `HistoryFiles.write` returned.

    Raises
    ------
    CheckpointError : they are missing or altered; names the file.
    """
    path = folder / HISTORY
    if not isinstance(entry, dict) or not all(type(entry.get(key)) is int for key in ("rows", "bytes")):
        raise CheckpointError(f"{folder} has a manifest that says nothing of {HISTORY}")
    try:
        with open_plain(path) as file:
            data = file.read(min(max(entry["bytes"], 0), os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{path} is not what was written: its checksum differs")
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not a history: a line is no JSON") from None
    if len(rows) != entry["rows"] or not all(_sound(row) for row in rows):
        raise CheckpointError(f"{path} is not a history: it has {len(rows)} lines, not {entry['rows']} evaluations")
    if any(row.keys() != rows[0].keys() for row in rows) or any(
        a["round"] >= b["round"] for a, b in itertools.pairwise(rows)
    ):
        raise CheckpointError(f"{path} is not a history: its lines are not evaluations one after the other")
    return rows


def _sound(row: Any) -> bool:
    # null is what was not evaluated
    numbers = isinstance(row, dict) and all(type(value) in (int, float, type(None)) for value in row.values())
    return numbers and type(row.get("round")) is int and row["round"] >= 0 and {"loss", "grad_norm_sq"} <= row.keys()
