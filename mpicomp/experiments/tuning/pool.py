"""Workers at once: so many as the cores hold, each a process or an MPI job; nothing of them is left when this process ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import EXIT_RESUME, OPEN_MPI, MpicompError, ended_with_parent, find_launcher
from .trials import Trial, fail

_GRACE = 20.0  # seconds in which a worker may write its checkpoint
_TAIL = 2000  # characters of a dead worker's log that are kept


@dataclass(frozen=True)
class Leg:
    """A trial to be run until it has cost so much or run so many rounds."""

    trial: Trial
    cost: float
    rounds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, in which there is no infinity."""
        limits = {"cost": self.cost, "rounds": self.rounds}
        return {
            "directory": str(self.trial.directory),
            **{k: v if math.isfinite(v) else None for k, v in limits.items()},
        }


def slots(wanted: int, ranks: int, threads: int, cores: int) -> tuple[int, str]:
    """How many jobs of so many ranks and threads run at once, and a line where that are fewer than wanted.

    Parameters
    ----------
    wanted : 0 for as many as the cores hold. ranks, threads : of a job, and of each of its ranks.

    >>> slots(0, 1, 1, 8)[0], slots(0, 3, 2, 8)[0], slots(4, 2, 1, 4)
    (8, 1, (2, '--processes 4: 4 cores hold 2 jobs of 2 ranks × 1 thread; 2 run at once'))
    """
    hold = max(1, cores // (ranks * threads))
    if not wanted or wanted <= hold:
        return wanted or hold, ""
    job = f"jobs of {ranks} rank{'s' * (ranks > 1)} × {threads} thread{'s' * (threads > 1)}"
    return hold, f"--processes {wanted}: {cores} cores hold {hold} {job}; {hold} run at once"


def worker_command(job: Path, slot: int) -> list[str]:
    """The command of a worker, or of each of its ranks."""
    return [sys.executable, "-m", "mpicomp.experiments.tuning.worker", str(job), str(slot)]


@dataclass
class Pool:
    """Runs legs of trials.

    Parameters
    ----------
    out : the search's directory. ranks : of each trial; 1 for a process without MPI. threads : of each rank. at_once : workers.
    """

    out: Path
    objective: str
    ranks: int = 1
    threads: int = 1
    at_once: int = 1

    def run(self, legs: Sequence[Leg]) -> None:
        """Run them all; a trial during which its worker dies is noted as failed.

        Raises
        ------
        MpicompError : workers end without having begun anything.
        """
        for leg in legs:
            leg.trial.prepare(self.threads)
        left = list(legs)
        while left:
            claims = self._fresh_claims()
            job = self.out / "job.json"
            asked = {"objective": self.objective, "claims": str(claims), "trials": [leg.to_dict() for leg in left]}
            job.write_text(json.dumps(asked), "utf-8")
            codes = self._work(job, min(self.at_once, len(left)))
            begun = {int(path.name): int(path.read_text("utf-8")) for path in claims.iterdir() if path.name.isdigit()}
            ended = {int(path.stem) for path in claims.glob("*.done")}
            if EXIT_RESUME in codes:
                raise MpicompError("a signal has stopped a worker; the same command goes on from here")
            if any(codes) and not begun:
                slot = next(slot for slot, code in enumerate(codes) if code)
                raise MpicompError(
                    f"a worker ended with exit code {codes[slot]} before it began: {self._last_words(slot)}"
                )
            for number in begun.keys() - ended:
                slot = begun[number]
                fail(
                    left[number].trial.directory,
                    f"its process ended with exit code {codes[slot]}: {self._last_words(slot)}",
                )
            left = [leg for number, leg in enumerate(left) if number not in begun]

    def _fresh_claims(self) -> Path:
        claims = self.out / "claims"
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()
        return claims

    def _work(self, job: Path, workers: int) -> list[int]:
        """Start workers, wait for them, and return their exit codes; all are ended where this is interrupted."""
        environment = {**os.environ, **self._variables()}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for slot in range(workers):
                with open(self.out / f"worker-{slot}.log", "wb") as log:
                    process = subprocess.Popen(
                        self._command(job, slot), env=environment, stdin=subprocess.DEVNULL, stdout=log,
                        stderr=subprocess.STDOUT, process_group=0, preexec_fn=ended_with_parent(),
                    )  # fmt: skip
                processes.append(process)
            return [process.wait() for process in processes]
        finally:
            _end(processes)

    def _command(self, job: Path, slot: int) -> list[str]:
        argv = worker_command(job, slot)
        if self.ranks == 1:
            return argv
        launcher = find_launcher()
        extra: list[str] = []
        if launcher.is_srun:
            extra = ["--exact"]  # of several steps at once each takes its own cores
        elif launcher.mpi.flavour == OPEN_MPI:
            extra = ["--bind-to", "none"]  # else every job is bound to the same cores
        return launcher.command(self.ranks, argv, extra=extra)

    def _variables(self) -> dict[str, str]:
        added = {
            name: str(self.threads)
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            if name not in os.environ
        }
        if self.ranks > 1:
            added |= find_launcher().environment(root=os.geteuid() == 0)
        return added

    def _last_words(self, slot: int) -> str:
        lines = (self.out / f"worker-{slot}.log").read_text("utf-8", "replace").strip().splitlines()
        told = (
            [line for line in lines if line.startswith("mpicomp: ") or "Error" in line] or lines[-1:] or ["no output"]
        )
        return told[-1][-_TAIL:]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: asked first, so that checkpoints are written."""
    running = [process for process in processes if process.poll() is None]
    for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 5.0)):
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        running = [process for process in running if process.poll() is None]
