"""What an MPI job got: hosts, cores, libraries, caches, and the speed of its links. The command line prints it."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EnvironmentMismatch
from .comm import Comm
from .environment import check_world, declared_size
from .launcher import find_launcher

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

THREADS = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
LATENCY_BYTES = 8
BANDWIDTH_BYTES = (2**20, 2**24)
MANY_RANKS = 9
"""With more ranks than this only the links of rank 0 to the first and the last one are measured."""


def doctor(comm: MPIComm) -> dict[str, Any]:
    """Examine the job of a communicator.

    Parameters
    ----------
    comm : an mpi4py communicator; all its ranks call this.

    Returns
    -------
    On every rank `mismatch`, the text about a launcher that started more processes than MPI sees, or None. On rank 0
    also `size`, `declared` (processes in the launcher's words, or None), `hosts` (ranks on each), `software`, `slurm`,
    `ranks` (a record of each rank), `links` (of rank 0 to others: latency in µs, bandwidth in MB/s) and `notes`.
    """
    mismatch = _mismatch(comm.Get_size())
    ranks = comm.gather(examine_rank(), root=0)
    links = measure_links(comm)
    if ranks is None:
        return {"mismatch": mismatch}
    hosts = Counter(record["host"] for record in ranks)
    report = {
        "mismatch": mismatch,
        "size": comm.Get_size(),
        "declared": declared_size(),
        "hosts": dict(hosts),
        "software": software(),
        "slurm": {name: value for name, value in sorted(os.environ.items()) if name in _SLURM},
        "ranks": ranks,
        "links": links,
    }
    return {**report, "notes": notes(report)}


_SLURM = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")


def _mismatch(size: int) -> str | None:
    try:
        check_world(size)
    except EnvironmentMismatch as error:
        return str(error)
    return None


def examine_rank() -> dict[str, Any]:
    """This process: its host, the cores it may use, its settings of threads and its Numba cache."""
    from ..kernels.cache import usable_directory

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cache, reason = usable_directory()
    return {
        "host": platform.node(),
        "binding": ranges(cores),
        "cores": len(cores),
        "host_cores": os.cpu_count(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "cache": str(cache or reason),
        "cache_writable": cache is not None and os.access(cache, os.W_OK),
        "cache_warm": cache is not None and any(cache.glob("*.nbc")),
    }


def software() -> dict[str, str]:
    """Versions of everything a run depends on, and the launcher that `mpicomp launch` would use."""
    from mpi4py import MPI

    try:
        launcher = find_launcher()
        found = f"{launcher.program} ({launcher.mpi})"
    except EnvironmentMismatch as error:
        found = f"none: {error}"
    return {
        "MPI library": " ".join(
            MPI.Get_library_version().strip("\0\n ").splitlines()[0].partition(", package")[0].split()
        ),
        "MPI standard": ".".join(map(str, MPI.Get_version())),
        "launcher": found,
        "Python": platform.python_version(),
        **{name: version(name) for name in ("mpicomp", "mpi4py", "numpy", "numba")},
    }


def measure_links(comm: MPIComm) -> list[dict[str, float]]:
    """Ping-pong between rank 0 and the others, one after another; the numbers are rank 0's, others get no list."""
    counted = Comm(comm)
    others = range(1, counted.size)
    peers = others if counted.size <= MANY_RANKS else (others[0], others[-1])
    links = []
    for peer in peers:
        counted.barrier()
        if counted.rank in (0, peer):
            latency = _half_round_trip(counted, peer, LATENCY_BYTES, repeats=100)
            times = {nbytes: _half_round_trip(counted, peer, nbytes, repeats=5) for nbytes in BANDWIDTH_BYTES}
            rates = {f"MB/s of {nbytes >> 20} MiB": nbytes / seconds / 1e6 for nbytes, seconds in times.items()}
            links.append({"rank": peer, "latency_us": latency * 1e6, **rates})
    counted.barrier()
    counted.free()
    return links if counted.rank == 0 else []


def _half_round_trip(comm: Comm, peer: int, nbytes: int, repeats: int) -> float:
    """Median seconds of one way between rank 0 and `peer`; the first two round trips warm up."""
    buf, times = np.ones(nbytes, np.uint8), []
    for _ in range(repeats + 2):
        start = comm.now()
        if comm.rank == 0:
            comm.send(buf, peer)
            comm.recv(buf, peer)
        else:
            comm.recv(buf, 0)
            comm.send(buf, 0)
        times.append((comm.now() - start) / 2)
    return statistics.median(times[2:])


def notes(report: Mapping[str, Any]) -> list[str]:
    """What is worth knowing before a run, in sentences."""
    found = []
    if report["size"] == 1 and not report["mismatch"]:
        found.append("one process: a run would be in-process. Start more ranks with `mpicomp launch -n 5 -- doctor`")
    cores = {record["host"]: record["host_cores"] for record in report["ranks"]}
    for host, count in report["hosts"].items():
        if count > cores[host]:
            found.append(f"{host}: {count} ranks share {cores[host]} cores, so seconds include waiting for a core")
    bindings = Counter((r["host"], r["binding"]) for r in report["ranks"] if r["cores"] == 1)
    shared = [f"{host} core {core}" for (host, core), count in bindings.items() if count > 1]
    if shared:
        found.append(f"several ranks are bound to one and the same core: {', '.join(shared)}")
    if not all(record["cache_writable"] for record in report["ranks"]):
        found.append(
            "the kernel cache cannot be written or is not this user's alone, so every run compiles anew: set NUMBA_CACHE_DIR"
        )
    elif not all(record["cache_warm"] for record in report["ranks"]):
        found.append("Numba's cache is cold: the first run compiles for some seconds, which is counted as warm-up")
    return found


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers, runs of neighbours shortened.

    >>> ranges({0, 1, 2, 3, 8})
    '0-3,8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
