"""What a tracker is: told of a run's options, of each evaluation, and of the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ..registry import Registry

trackers: Registry[Tracker] = Registry("tracker", "mpicomp.trackers")


class Tracker:
    """Base class. `mpicomp.run(..., progress=TRACKER)` calls it on rank 0 alone, so other ranks open no file and no connection.

    A tracker is for one run after the other: `begin` may be called again after `end`.
    """

    name: ClassVar[str] = "user"

    def begin(self, config: dict[str, Any]) -> None:
        """Before the first row. config : the options of the run with their defaults, JSON types; tables of options in dictionaries."""

    def __call__(self, row: dict[str, Any]) -> None:
        """An evaluation: its row of `rounds.csv`, numbers by column."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(row)")

    def end(self, summary: dict[str, Any] | None) -> None:
        """After the last row. summary : as in `summary.json`; None where the run failed, and then an exception is on its way."""


def flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested dictionaries with dotted names.

    >>> dict(flat({"rounds": 5, "method_options": {"p": 0.1}}))
    {'rounds': 5, 'method_options.p': 0.1}
    """
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row without the round, by column."""
    return {k: float(v) for k, v in row.items() if k != "round" and isinstance(v, int | float)}
