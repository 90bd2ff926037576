"""Who follows a run while it goes on: functions that take a row, and trackers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from ..errors import ConfigError
from ..trackers.base import Tracker
from .config import Config
from .record import PAUSE, Progress
from .session import complete


class Followers:
    """All of them as one function of a row, and a context that ends with the run.

    Parameters
    ----------
    given : as `mpicomp.run` takes it. config : for trackers, which are told of it before the first row.

    Attributes
    ----------
    summary : of the run, once it is over.

    Raises
    ------
    ConfigError : one of them cannot be called.
    """

    def __init__(self, given: Progress | Iterable[Progress] | None, config: Config):
        several = isinstance(given, Iterable) and not callable(given)
        self.all: list[Progress] = list(given) if several else [] if given is None else [given]  # type: ignore[arg-type, list-item]
        for follower in self.all:
            if isinstance(follower, type) or not callable(follower):
                what = (
                    f"{follower.__name__} is a class; give an object" if isinstance(follower, type) else repr(follower)
                )
                raise ConfigError(f"progress: {what}; a function of a row, a tracker, or a list of them is needed")
        self._config: Config | None = config  # until trackers are told
        self._begun: list[Tracker] = []
        self.summary: dict[str, Any] = {}

    def __call__(self, row: dict[str, Any]) -> object:
        """Tell all; PAUSE where one of them answers with it."""
        if self._config is not None:
            options, self._config = dataclasses.asdict(complete(self._config)), None
            for follower in self.all:
                if isinstance(follower, Tracker):
                    follower.begin(options)
                    self._begun.append(follower)
        answers = [follower(row) for follower in self.all]
        return PAUSE if any(answer is PAUSE for answer in answers) else None

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The run is over. Nothing happens where no row has come, as on all ranks but one. All trackers end, also where one cannot."""
        with ExitStack() as stack:
            for tracker in reversed(self._begun):
                stack.callback(tracker.end, self.summary if error is None else None)
