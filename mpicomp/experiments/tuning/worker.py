"""Trials one after the other in one process, or in one MPI job, so that starting processes is paid once.

usage: python -m mpicomp.experiments.tuning.worker JOB SLOT

The job is a JSON file: the trials' directories with the cost and rounds at which each is to pause, the objective, and a directory in
which a trial is claimed by whoever runs it, since several workers share one list; the claim holds the worker's number, SLOT. Started on
all ranks of a job; rank 0 chooses and decides.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime import EXIT_RESUME, PAUSE, Config, Result, UserError, declared_size, run, world
from .trials import WANTED, Row, fail, measure_of


class Budget:
    """Follows a run, and pauses it at the first evaluation at which it has cost so much or run so many rounds."""

    def __init__(self, measure: Callable[[Row], float], cost: float, rounds: float):
        self._measure, self._cost, self._rounds = measure, cost, rounds
        self.spent = False

    def __call__(self, row: Row) -> object:
        self.spent = self._measure(row) >= self._cost or row["round"] >= self._rounds
        return PAUSE if self.spent else None


def main(path: str, slot: str) -> None:
    """Run the job's trials, on every rank; one that a signal stops ends the worker with exit code 75."""
    job = json.loads(Path(path).read_text("utf-8"))
    comm = world() if declared_size() is not None else None
    leads = comm is None or comm.Get_rank() == 0
    for number, ask in enumerate(job["trials"]):
        mine = leads and _claim(Path(job["claims"]) / f"{number}", slot)
        begun = Path(ask["directory"], "checkpoints").exists()
        if comm is not None:
            mine, begun = comm.bcast((mine, begun))
        if mine and _run(ask, begun, job["objective"], comm, leads):
            sys.exit(EXIT_RESUME)
        if mine and leads:
            Path(job["claims"], f"{number}.done").touch()


def _run(ask: dict[str, Any], begun: bool, objective: str, comm: Any, leads: bool) -> bool:
    """Run a trial, or run it on where it has begun, as far as it is asked for; True where a signal has stopped it."""
    directory = Path(ask["directory"])
    stopped = False
    try:
        config = Config.load(directory / WANTED, {"resume": "auto" if begun else None})
        limits = [math.inf if ask[name] is None else ask[name] for name in ("cost", "rounds")]
        budget = Budget(measure_of(objective, config), *limits)
        result: Result = run(config, comm=comm, progress=budget)
        stopped = leads and result.interrupted and not budget.spent
    except UserError as error:  # all ranks have it
        if leads:
            fail(directory, str(error))
    if leads:
        print(f"{directory.name}{' is stopped' if stopped else ''}", flush=True)
    return bool(stopped if comm is None else comm.bcast(stopped))


def _claim(path: Path, slot: str) -> bool:
    """Make a file that is not there yet; False where it is."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(slot)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
