"""Weights & Biases, offline unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..extras import needed
from .base import Tracker, flat, numbers, trackers

INSTALL = "pip install 'mpicomp[wandb]'"


@trackers.register("wandb")
class WandB(Tracker):
    """A run of Weights & Biases under `DIRECTORY/wandb`: rows by round, options, summary. `wandb sync` uploads it.

    Parameters
    ----------
    project, run : their names; None for the library's choice. directory : where it is written.
    mode : "offline" sends nothing anywhere; "online" needs an account.

    Raises
    ------
    EnvironmentMismatch : the package wandb is not installed.
    """

    def __init__(
        self, project: str | None = None, run: str | None = None, directory: str | Path = ".", mode: str = "offline"
    ):
        self.project, self.run, self.directory, self.mode = project, run, str(directory), mode
        self._wandb = needed("wandb", "trackers.WandB", INSTALL)

    def begin(self, config: dict[str, Any]) -> None:
        self._run = self._wandb.init(
            project=self.project, name=self.run, dir=self.directory, mode=self.mode, config=config
        )

    def __call__(self, row: dict[str, Any]) -> None:
        self._run.log(numbers(row), step=row["round"])

    def end(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            self._run.summary.update(dict(flat(summary)))
        self._run.finish(exit_code=0 if summary is not None else 1)
