"""Runs in the place that advice is for: MPI jobs on this machine or allocation, or on the nodes of a network lab."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..lab import NetworkLab
from ..runtime import physical_cores
from ..tuning.pool import Pool, worker_command

SECONDS = 3600.0  # after which a job in the lab is ended


@dataclass
class LabPool(Pool):
    """Runs its legs one after the other in one MPI job on the nodes of a lab."""

    lab: NetworkLab | None = None
    per_node: int = 1

    def _work(self, job: Path, workers: int) -> list[int]:
        assert self.lab is not None
        done = self.lab.run(worker_command(job, 0), self.per_node, SECONDS, self._variables())
        (self.out / "worker-0.log").write_text(done.stdout + done.stderr, "utf-8")
        return [done.code]


@dataclass
class Spent:
    """Wall seconds by what they were spent on."""

    parts: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """Charge the time since the last lap."""
        now = time.monotonic()
        self.parts[name] = self.parts.get(name, 0.0) + now - self._start
        self._start = now

    @property
    def total(self) -> float:
        """Of all."""
        return sum(self.parts.values())


def sharing(ranks: int, alone: bool) -> float:
    """How many ranks share a core, where all run on this machine."""
    return max(1.0, ranks / physical_cores()) if alone else 1.0


def facts(pool: Any) -> str:
    """Where the pool's runs are made, in words."""
    if isinstance(pool, LabPool):
        return f"{pool.lab.nodes if pool.lab else 0} nodes of the network lab × {pool.per_node}"
    return f"{pool.ranks} ranks on this machine"
