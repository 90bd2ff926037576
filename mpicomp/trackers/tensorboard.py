"""TensorBoard, without TensorFlow and without PyTorch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..extras import needed
from .base import Tracker, numbers, trackers

INSTALL = "pip install 'mpicomp[tensorboard]'"


@trackers.register("tensorboard")
class TensorBoard(Tracker):
    """Event files for `tensorboard --logdir DIR`: a curve for each column of `rounds.csv`, and options and summary as text.

    Parameters
    ----------
    directory : where they are written; one for each run.

    Raises
    ------
    EnvironmentMismatch : the package tensorboard is not installed.
    """

    def __init__(self, directory: str | Path = "runs"):
        self.directory = str(directory)
        self._writers = needed("tensorboard.summary.writer.event_file_writer", "trackers.TensorBoard", INSTALL)
        self._events = needed("tensorboard.compat.proto.event_pb2", "trackers.TensorBoard", INSTALL)
        self._summaries = needed("tensorboard.compat.proto.summary_pb2", "trackers.TensorBoard", INSTALL)
        self._tensors = needed("tensorboard.compat.proto.tensor_pb2", "trackers.TensorBoard", INSTALL)

    def begin(self, config: dict[str, Any]) -> None:
        self._writer = self._writers.EventFileWriter(self.directory)
        self._round = 0
        self._text("config", config)

    def __call__(self, row: dict[str, Any]) -> None:
        self._round = row["round"]
        self._add([self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in numbers(row).items()])

    def end(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            self._text("summary", summary)
        self._writer.close()

    def _text(self, tag: str, table: dict[str, Any]) -> None:
        kind = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        )
        lines = "\n".join(
            f"    {line}" for line in json.dumps(table, indent=2, default=str).splitlines()
        )  # code, in Markdown
        content = self._tensors.TensorProto(dtype="DT_STRING", string_val=[lines.encode()])
        self._add([self._summaries.Summary.Value(tag=tag, metadata=kind, tensor=content)])

    def _add(self, values: list[Any]) -> None:
        summary = self._summaries.Summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=self._round, summary=summary))
