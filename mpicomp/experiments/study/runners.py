"""Where the cells of a study run: on this machine or in an allocation through the MPI launcher, or in the network lab."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..runtime import ConfigError, find_launcher, physical_cores
from .cell import Cell
from .grid import Study

TIMED_OUT = 124
_GRACE = 10.0  # seconds between asking a job to end and killing it


@dataclass(frozen=True)
class Outcome:
    """How a cell's job ended: exit code, wall seconds from start to end, what it printed, and in the lab what each node's interface moved,
    start-up and evaluations included."""

    code: int
    seconds: float
    output: str
    command: list[str]
    interfaces: dict[str, dict[str, int]] = field(default_factory=dict)


class Runner(Protocol):
    """Runs a cell's command on its ranks."""

    def facts(self) -> dict[str, Any]:
        """What the report must know of the place: name, cores, whether all nodes share them."""

    def run(self, cell: Cell, argv: Sequence[str], timeout: float) -> Outcome:
        """Start `argv` on the cell's ranks and wait; after `timeout` seconds it is ended."""

    def close(self) -> None:
        """Give back what was set up."""


class LaunchRunner:
    """mpirun, or srun inside an allocation, whichever belongs to the MPI that is loaded.

    Parameters
    ----------
    hosts : hosts to spread nodes over; where empty, nodes are those of the SLURM allocation.
    """

    def __init__(self, hosts: Sequence[str] = ()):
        self.hosts, self.launcher = list(hosts), find_launcher()

    def facts(self) -> dict[str, Any]:
        name = "slurm" if self.launcher.is_srun else "local"
        return {"name": name, "launcher": Path(self.launcher.program).name, "cores": physical_cores(), "shared": False}

    def run(self, cell: Cell, argv: Sequence[str], timeout: float) -> Outcome:
        command = self.launcher.command(cell.ranks, argv, **self._placement(cell))
        added = self.launcher.environment(root=os.geteuid() == 0)
        return run_job(command, {**os.environ, **added}, timeout)

    def _placement(self, cell: Cell) -> dict[str, Any]:
        if not cell.nodes:
            return {}
        if self.hosts:
            if cell.nodes > len(self.hosts):
                raise ConfigError(f"a cell needs {cell.nodes} nodes, --hosts names {len(self.hosts)}")
            return {"hosts": [f"{host}:{cell.per_node}" for host in self.hosts[: cell.nodes]]}
        if self.launcher.is_srun:
            granted = int(os.environ.get("SLURM_NNODES", cell.nodes))
            if cell.nodes > granted:
                raise ConfigError(f"a cell needs {cell.nodes} nodes, this allocation has {granted}; ask for more (-N)")
            return {"extra": ["-N", str(cell.nodes), f"--ntasks-per-node={cell.per_node}"]}
        if cell.nodes == 1:
            return {}
        raise ConfigError(
            f"a cell needs {cell.nodes} nodes: start the study in a SLURM allocation, or name them with --hosts a,b,c; "
            'on one machine use [grid] workers, or runner = "lab"'
        )

    def close(self) -> None:
        return None


class LabRunner:
    """The project's network lab: every node a network namespace of this machine, joined by links of a set rate.

    A lab is kept as long as the next cell has as many nodes; only the rate is changed.
    """

    def __init__(self, delay_ms: float = 0.0):
        from ..lab import NetworkLab

        self._kind, self._delay = NetworkLab, delay_ms
        self._lab: Any = None
        self._nodes = 0

    def facts(self) -> dict[str, Any]:
        return {"name": "lab", "launcher": "mpiexec", "cores": physical_cores(), "shared": True}

    def run(self, cell: Cell, argv: Sequence[str], timeout: float) -> Outcome:
        rate = cell.link or None
        if self._lab is None or self._nodes != cell.nodes:
            self.close()
            self._lab = self._kind(nodes=cell.nodes, rate=rate, delay_ms=self._delay)
            self._lab.__enter__()
            self._nodes = cell.nodes
        else:
            self._lab.set_rate(rate)
        done = self._lab.run(list(argv), per_node=cell.per_node, timeout=timeout)
        moved = {node: traffic._asdict() for node, traffic in done.interfaces.items()}
        return Outcome(done.code, done.seconds, done.stdout + done.stderr, list(argv), moved)

    def close(self) -> None:
        if self._lab is not None:
            self._lab.__exit__(None, None, None)
            self._lab = None


def make_runner(study: Study, hosts: Sequence[str] = ()) -> Runner:
    """The runner that the study's file names."""
    if study.runner == "lab":
        return LabRunner(study.delay_ms)
    return LaunchRunner(hosts)


def run_job(command: Sequence[str], env: dict[str, str], timeout: float) -> Outcome:
    """Run a launcher in a process group of its own; nothing of it is left at the end, also when this process is interrupted."""
    start = time.monotonic()
    process = subprocess.Popen(
        list(command), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout or None)
        code = process.returncode
    except subprocess.TimeoutExpired:
        output, code = _end(process), TIMED_OUT
    except BaseException:
        _end(process)
        raise
    return Outcome(code, time.monotonic() - start, output, list(command))


def _end(process: subprocess.Popen[str]) -> str:
    """End the job: the launcher takes its ranks along on SIGTERM; SIGKILL for what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            return process.communicate(timeout=_GRACE)[0]
        except subprocess.TimeoutExpired:
            continue
    return process.communicate()[0]


def python_command(*args: str) -> list[str]:
    """`mpicomp ARGS` with this Python."""
    return [sys.executable, "-m", "mpicomp", *args]


def here() -> dict[str, Any]:
    """Machine and load at this moment, for a cell's record."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"host": platform.node(), "load": load, "cpus": os.cpu_count(), "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
