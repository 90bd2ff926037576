"""A progress bar on the terminal."""

from __future__ import annotations

import sys
from typing import Any

from ..streams import rich_console
from .base import Tracker, trackers


@trackers.register("bar")
class Bar(Tracker):
    """A progress bar, which moves with each evaluation: rounds, f, ‖∇f‖², megabytes in both directions, time gone and left.

    Where the output is no terminal, its last state is printed once.
    """

    def begin(self, config: dict[str, Any]) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
            console=rich_console(sys.stdout),
        )  # fmt: skip
        self._task = self._bar.add_task(str(config["method"]), total=config["rounds"], text="")
        self._bar.start()

    def __call__(self, row: dict[str, Any]) -> None:
        sent = row.get("uplink_message", 0) + row.get("downlink_message", 0)
        shown = {"loss": "loss", "grad_norm_sq": "‖∇f‖²"}
        known = [f"{label} {row[key]:.4g}" for key, label in shown.items() if row.get(key) is not None]
        self._bar.update(self._task, completed=row["round"], text="  ".join([*known, f"{sent / 1e6:.3g} MB"]))

    def end(self, summary: dict[str, Any] | None) -> None:
        self._bar.stop()
