"""Files that a run or a study left, read with the suspicion that they are damaged: what is wrong with one is a line, not a traceback."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runtime import PHASES, DataError, read_plain

Pattern = Any
NUMBER, COUNT, TEXT, FLAG, TEXT_OR_NONE, NUMBER_OR_NONE = (
    "a number",
    "a count",
    "a text",
    "true or false",
    "a text or null",
    "a number or null",
)
_KINDS: dict[str, tuple[type, ...]] = {
    NUMBER: (int, float),
    COUNT: (int,),
    TEXT: (str,),
    FLAG: (bool,),
    TEXT_OR_NONE: (str, type(None)),
    NUMBER_OR_NONE: (int, float, type(None)),
}
_LEVELS = {"message": COUNT, "frames": COUNT}
MEASURED = {
    "dim": COUNT,
    "clients": COUNT,
    "rounds": COUNT,
    "exchange": TEXT,
    "diverged": FLAG,
    "dtype": TEXT,
    "wire_dtype": TEXT,
    "iterate_sha256": TEXT,
    "bytes": {"uplink": _LEVELS, "downlink": _LEVELS},
}
"""What a summary has that the report of a study reads."""
COMPLETE = MEASURED | {
    **dict.fromkeys(("method", "compressor", "problem"), TEXT),
    "data": TEXT_OR_NONE,
    "ranks": COUNT,
    **dict.fromkeys(("loss", "grad_norm_sq"), NUMBER_OR_NONE),
    "step": NUMBER,
    "reached_tol": FLAG,
    "interrupted": FLAG,
    "measures": {"*": NUMBER_OR_NONE},
    "bytes": {way: _LEVELS | {"payload": COUNT} for way in ("uplink", "downlink")},
    "seconds": dict.fromkeys(
        (*PHASES, "total", "round_median", "round_median_low", "round_median_high", "setup", "warmup"), NUMBER
    ),
}
"""What every summary has that a run writes."""
MANIFEST = {
    **dict.fromkeys(("mpicomp", "python", "numpy", "numba", "platform"), TEXT),
    "git": TEXT_OR_NONE,
    "slurm": {"*": TEXT},
    "problem": {},
    "ranks": [{"host": TEXT, "clients": COUNT, "seconds": dict.fromkeys(PHASES, NUMBER)}],
}
CELL = {
    "key": TEXT,
    "seconds": NUMBER,
    "started": TEXT,
    "finished": TEXT,
    "runner": {"name": TEXT, "cores": COUNT, "shared": FLAG},
    "machine": {"host": TEXT, "processor": TEXT, "cpus": NUMBER_OR_NONE, "load": NUMBER_OR_NONE},
}
"""What the record of a finished cell has."""
_WAYS = ("uplink", "downlink")
COLUMNS = (
    "round", "loss", "grad_norm_sq", *(f"{way}_{what}" for way in _WAYS for what in ("payload", "message")),
    *(f"seconds_{phase}" for phase in PHASES), "seconds_total",
)  # fmt: skip
"""Of rounds.csv, that are read."""


def read_json(path: Path, pattern: Pattern, missing: bool = False) -> dict[str, Any]:
    """An object from a JSON file.

    Parameters
    ----------
    pattern : what it has to have, `fault`. missing : where there is no file, it is empty.

    Raises
    ------
    DataError : it cannot be read, or is something else; one line that names the file.
    """
    try:
        value = json.loads(read_plain(path, links=True))
    except FileNotFoundError:
        if missing:
            return {}
        raise DataError(f"{path} is not there") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged, it is no JSON: {error}") from None
    wrong = fault(value, pattern)
    if wrong:
        raise DataError(f"{path} is damaged: {wrong}")
    found: dict[str, Any] = value
    return found


def fault(value: Any, pattern: Pattern, name: str = "") -> str:
    """What is wrong with a value; empty where nothing is.

    Parameters
    ----------
    pattern : a kind such as NUMBER; a list with the pattern of its items, of which there is to be one at least; or an object's, where the
        key * stands for all keys. An object may have more.

    >>> fault({"bytes": {"up": "a"}}, {"bytes": {"up": NUMBER}})
    "bytes.up is 'a', not a number"
    """
    if isinstance(pattern, dict):
        if not isinstance(value, dict):
            return f"{name or 'it'} is {_short(value)}, not an object"
        wanted = dict.fromkeys(value, pattern["*"]) if "*" in pattern else pattern
        for key, inner in wanted.items():
            full = f"{name}.{key}" if name else str(key)
            if key not in value:
                return f"{full} is missing"
            if wrong := fault(value[key], inner, full):
                return wrong
        return ""
    if isinstance(pattern, list):
        if not isinstance(value, list) or not value:
            return f"{name} is {_short(value)}, not a list of something"
        return next((wrong for k, item in enumerate(value) if (wrong := fault(item, pattern[0], f"{name}[{k}]"))), "")
    right = isinstance(value, _KINDS[pattern]) and (pattern == FLAG or not isinstance(value, bool))
    if not right or (pattern == COUNT and value < 0):
        return f"{name} is {_short(value)}, not {pattern}"
    return ""


def read_rounds(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, float]]:
    """The rows of a rounds.csv, with numbers for text, NaN for an empty cell, which is what was not evaluated; at least one.

    Raises
    ------
    DataError : it cannot be read, or is something else; one line that names the file, and the line of it.
    """
    try:
        text = read_plain(path, links=True).decode()
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows: list[dict[str, float]] = []
        for line in reader:
            if len(line) != len(reader.fieldnames or ()) or None in line.values():
                raise ValueError(f"line {reader.line_num} has another number of cells than the first")
            rows.append({key: float(value or "nan") for key, value in line.items()})
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    lacking = [name for name in columns if name not in (reader.fieldnames or ())]
    if lacking or not rows:
        raise DataError(f"{path} is damaged: it has no {f'column {lacking[0]}' if lacking else 'rows'}")
    before = -1.0
    for row in rows:
        counts, now = [row[name] for name in columns if name not in ("loss", "grad_norm_sq")], row["round"]
        if not all(math.isfinite(value) and value >= 0 for value in counts):
            raise DataError(f"{path} is damaged: round {now:g} has counts or seconds that are none")
        if now <= before:
            raise DataError(f"{path} is damaged: round {now:g} comes after round {before:g}")
        before = now
    return rows


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
