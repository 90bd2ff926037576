"""Cells of a study with numbers of the test's choice, written as `mpicomp scale` leaves them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpicomp.cluster.clock import PHASES
from mpicomp.experiments.study.cell import Cell
from mpicomp.experiments.study.grid import Study
from mpicomp.experiments.study.scale import DONE, open_study, write_record

DIM = 1000


@dataclass
class Numbers:
    """What a cell is to have measured; `blocks` are seconds of each round, one block each."""

    blocks: list[float]
    norms: list[float]
    up: int = 0
    down: int = 0
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(rank 0, every worker), seconds a round."""
    diverged: bool = False
    version: str = "0.1.0"


def write_study(out: Path, text: str, numbers: Callable[[Cell], Numbers | None]) -> Study:
    """Write every cell for which there are numbers."""
    path = out.with_suffix(".toml")
    path.write_text(text)
    study = Study.load(path)
    open_study(study, text, out)
    for cell in study.cells():
        found = numbers(cell)
        if found is not None:
            write_cell(out / "cells" / cell.name, cell, found)
    return study


def write_cell(where: Path, cell: Cell, n: Numbers) -> None:
    """One finished cell."""
    where.mkdir(parents=True)
    rounds, total = len(n.blocks), 0.0
    rows = []
    for t in range(rounds + 1):
        total += n.blocks[t - 1] if t else 0.0
        rows.append(
            {
                "round": t, "loss": 1.0 / (t + 1), "grad_norm_sq": n.norms[t], "uplink_payload": n.up * t, "downlink_payload": n.down * t,
                "uplink_message": n.up * t, "downlink_message": n.down * t, **{f"seconds_{p}": 0.0 for p in PHASES}, "seconds_total": total,
            }
        )  # fmt: skip
    with open(where / "rounds.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    allreduce = cell.options["exchange"] == "allreduce"
    ranks = []
    for rank in range(cell.ranks):
        seconds = {p: rounds * n.phases.get(p, (0.0, 0.0))[min(rank, 1)] for p in PHASES}
        host = f"node{rank // cell.per_node + 1}" if cell.nodes else "here"
        handed = n.up * rounds // (cell.ranks if allreduce else cell.workers)
        ranks.append(
            {
                "host": host, "clients": 1 if rank or allreduce else 0, "seconds": seconds, "mpi": "MPI of the test",
                "mpi_calls": {"round Isend": [rounds, handed if rank or allreduce else n.down * rounds], "evaluation Bcast": [1, 99]},
            }
        )  # fmt: skip
    summary = {
        "dim": DIM, "clients": cell.options["clients"], "rounds": rounds, "exchange": cell.options["exchange"], "diverged": n.diverged,
        "dtype": "float64", "wire_dtype": "float64", "iterate_sha256": cell.key,
        "bytes": {way: _levels(cell, nbytes * rounds, rounds) for way, nbytes in (("uplink", n.up), ("downlink", n.down))},
    }  # fmt: skip
    manifest: dict[str, Any] = {
        "mpicomp": n.version, "git": None, "python": "3", "numpy": "2", "numba": "0", "platform": "test", "slurm": {}, "ranks": ranks,
        "problem": {"name": "quadratic"},
    }  # fmt: skip
    (where / "summary.json").write_text(json.dumps(summary))
    (where / "manifest.json").write_text(json.dumps(manifest))
    record = {
        "state": DONE, "cell": cell.to_dict(), "key": cell.key, "label": cell.label, "seconds": total,
        "started": "2026-01-01", "finished": "2026-01-02",
        "runner": {"name": "test", "cores": 64, "shared": False}, "machine": {"host": "here", "processor": "test", "cpus": 64, "load": 0.1},
    }  # fmt: skip
    write_record(where, record)


def _levels(cell: Cell, nbytes: int, rounds: int) -> dict[str, int]:
    """The server's node has per_node − 1 of the workers."""
    between = nbytes * (cell.ranks - cell.per_node) // cell.workers if cell.nodes else 0
    return {
        "message": nbytes, "frames": cell.workers * rounds, "shared_memory": 0, "intra_node": nbytes - between, "inter_node": between,
    }  # fmt: skip
