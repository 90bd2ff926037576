"""A finished run, as far as labels and figures need it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Row = dict[str, float]
TABLES = ("method", "problem", "optimizer")  # a part's name, or a table with its name and options


@dataclass(frozen=True)
class Run:
    """What a run was asked for, what it ran on, and the rows of its rounds.csv.

    Attributes
    ----------
    options : as in config.toml. summary : as in summary.json. problem : what the manifest says of the problem.
    rows : a dict for each evaluation; NaN is what was not evaluated. where : its directory, empty where there is none.
    configuration : the same text for the repetitions of one configuration of a study; empty for a run of its own.
    """

    options: Mapping[str, Any]
    summary: Mapping[str, Any]
    problem: Mapping[str, Any]
    rows: list[Row]
    where: str = ""
    configuration: str = ""

    @property
    def parent(self) -> str:
        """The directory that its directory is in."""
        return str(PurePath(self.where).parent)

    @property
    def dense(self) -> bool:
        """Its messages are vectors as they are: a baseline."""
        return self.facts().get("method") == "gd"

    def facts(self) -> dict[str, str]:
        """Every option by its name (`step`, `method.p`), and what became of `auto`, as text; options that are not set are left out."""
        found: dict[str, str] = {}
        for key, value in self.options.items():
            if key in TABLES and isinstance(value, Mapping):
                found |= {key if k == "name" else f"{key}.{k}": text_of(v) for k, v in value.items() if v is not None}
            elif value is not None:
                found[key] = text_of(value)
        for key in ("method", "compressor", "problem", "exchange", "ranks", "seed", "clients"):
            if self.summary.get(key) is not None and (key not in found or key in ("compressor", "exchange")):
                found[key] = text_of(self.summary[key])
        return found


def text_of(value: object) -> str:
    """An option's value as the command line takes it; of an object of one's own, which the records hold as <module.Class ...>, the class.

    >>> text_of(0.1), text_of(True), text_of("<mine.parts.Half k=3>")
    ('0.1', 'true', 'Half k=3')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    text = str(value)
    if text.startswith("<") and text.endswith(">"):
        name, space, rest = text[1:-1].partition(" ")
        return name.rpartition(".")[2] + space + rest
    return text


def number_rows(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows with numbers only: NaN for None."""
    return [{key: math.nan if value is None else float(value) for key, value in row.items()} for row in rows]
