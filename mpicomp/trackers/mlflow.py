"""MLflow."""

from __future__ import annotations

import time
from typing import Any

from ..extras import needed
from .base import Tracker, flat, numbers, trackers

INSTALL = "pip install 'mpicomp[mlflow]'"
AT_ONCE = 100  # parameters that a server takes in one call
LONGEST = 250  # characters of a parameter that every server takes


@trackers.register("mlflow")
class MLflow(Tracker):
    """A run of MLflow: the options as parameters, each row as metrics by round, the numbers of the summary as last metrics.

    Parameters
    ----------
    experiment, run : their names; MLflow finds a name for a run without. uri : of the server or the store, such as "sqlite:///mlflow.db";
        None for what MLflow is configured with.

    Raises
    ------
    EnvironmentMismatch : the package mlflow is not installed.
    """

    def __init__(self, experiment: str = "mpicomp", run: str | None = None, uri: str | None = None):
        self.experiment, self.run, self.uri = experiment, run, uri
        self._tracking = needed("mlflow.tracking", "trackers.MLflow", INSTALL)
        self._entities = needed("mlflow.entities", "trackers.MLflow", INSTALL)

    def begin(self, config: dict[str, Any]) -> None:
        self._client = self._tracking.MlflowClient(tracking_uri=self.uri)
        known = self._client.get_experiment_by_name(self.experiment)
        number = known.experiment_id if known is not None else self._client.create_experiment(self.experiment)
        self._id = self._client.create_run(number, run_name=self.run).info.run_id
        self._round = 0
        options = [self._entities.Param(name, str(value)[:LONGEST]) for name, value in flat(config)]
        for first in range(0, len(options), AT_ONCE):
            self._client.log_batch(self._id, params=options[first : first + AT_ONCE])

    def __call__(self, row: dict[str, Any]) -> None:
        self._round = row["round"]
        self._log(numbers(row))

    def end(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            self._log({f"summary.{name}": value for name, value in numbers(dict(flat(summary))).items()})
        self._client.set_terminated(self._id, status="FINISHED" if summary is not None else "FAILED")

    def _log(self, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, self._round) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)
