"""One long job and one of thousands of runs: memory, open files, threads, requests, communicators and shared memory must not grow.

mpirun -n 3 python tests/steady.py rounds T     each rank prints what it has started and finished, the driver (`steady`) watches
mpirun -n 3 python tests/steady.py runs N       N runs in one job: MPICH has room for 2048 communicators
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")
RANKS, STEP = 3, 132 * 1024  # malloc takes memory in steps of M_TOP_PAD and a page
ALLOWED = {
    "rounds": 0.5,
    "runs": 500.0,
}  # bytes for each; the least that a round could lose is a block of malloc's, 32 bytes


# ---- on the ranks -------------------------------------------------------------------------------------------------------
def on_rank(what: str, count: int) -> None:
    """The job: requests and communicators are counted where `Comm` starts and ends them."""
    from mpi4py import MPI

    import mpicomp as mc
    from mpicomp.cluster.comm import Comm

    counts: Counter = Counter()

    def counted(owner: type, name: str, key: str) -> None:
        original = getattr(owner, name)

        def call(*args, **how):
            counts[key] += 1
            return original(*args, **how)

        setattr(owner, name, call)

    for owner, name, key in (
        (Comm, "isend", "requests"), (Comm, "irecv", "requests"), (Comm, "wait", "waits"), (Comm, "__init__", "communicators"),
        (Comm, "free", "freed"),
    ):  # fmt: skip
        counted(owner, name, key)
    problem = mc.FunctionProblem(
        lambda i, x: 0.5 * float(x @ x), lambda i, x: x - i, 20, 4, mc.Smoothness.bounds(np.ones(4))
    )
    for _ in range(1 if what == "rounds" else count):
        rounds = count if what == "rounds" else 2
        mc.run(
            comm=MPI.COMM_WORLD,
            problem=problem,
            method="ef21",
            compressor="topk:k=2",
            rounds=rounds,
            eval_every=max(1, rounds // 50),
        )
    sys.stdout.write(f"COUNTS {json.dumps(counts)}\n")  # at once: the lines of the ranks must not mix
    sys.stdout.flush()


# ---- the driver ---------------------------------------------------------------------------------------------------------
def steady(rounds: int, runs: int) -> list[str]:
    """Run both jobs, print figures; returns what grew or was left."""
    from conftest import MpiHere, _mpi_of, processes
    from soak_jobs import Job, segments

    mpi, faults = _mpi_of(sys.executable), []
    assert isinstance(mpi, MpiHere)
    for what, count in (("rounds", rounds), ("runs", runs)):
        if not count:
            continue
        job, start = Job(mpi, RANKS, [__file__, what, str(count)]), time.monotonic()
        samples: dict[int, list[tuple[float, int, int, int]]] = {}
        mapped: set[Path] = set()
        while job.process.poll() is None:
            for pid, line in processes(job.mark).items():
                if line.startswith(f"{mpi.python} {__file__}") and (state := sample(pid)):
                    samples.setdefault(pid, []).append((time.monotonic() - start, *state))
                    mapped |= segments(pid)
            time.sleep(0.5)
        code, said = job.end(10.0)
        print(f"{count} {what} on {RANKS} ranks in {time.monotonic() - start:.0f} s", flush=True)
        faults += [f"{what}: exit code {code}\n{said}"] if code else []
        faults += [f"{what}: {path} is left behind" for path in mapped if path.exists()]
        faults += counted_faults(what, said)
        # a rank's child looks like the rank for the moment between its fork and its exec
        for series in sorted(samples.values(), key=len)[-RANKS:]:
            faults += growth(what, np.array(series), count)
    return faults


def sample(pid: int) -> tuple[int, int, int] | None:
    """(resident bytes, open files, threads) of a process."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        return resident, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None


def counted_faults(what: str, said: str) -> list[str]:
    """Requests that were started and not waited for, communicators that were not given back."""
    lines = [line for line in said.splitlines() if line.startswith("COUNTS")]
    faults = [] if len(lines) == RANKS else [f"{what}: {len(lines)} of {RANKS} ranks came to the end"]
    for line in lines:
        print(line, flush=True)
        counts = Counter(json.loads(line.removeprefix("COUNTS ")))
        if counts["requests"] != counts["waits"] or counts["communicators"] != counts["freed"]:
            faults.append(f"{what}: {line}")
    return faults


def growth(what: str, series: np.ndarray, count: int) -> list[str]:
    """What a rank's memory, files and threads gained over the second half of the job.

    Memory: the median of the slopes between all pairs of samples (Theil 1950, Sen 1968), which a single step does not move. malloc asks the
    system for STEP bytes at a time, so that much over the rounds looked at cannot be told from nothing. Files and threads: medians of
    the second and the fourth quarter, since some are open for a moment only.
    """
    late, ends = series[series[:, 0] > series[-1, 0] / 2], series[-1, 0]
    if len(late) < 8:
        return [f"{what}: {len(series)} samples in {ends:.1f} s are too few; more of the {what} are needed"]
    quarters = [series[(series[:, 0] > ends * a) & (series[:, 0] <= ends * (a + 0.25))] for a in (0.25, 0.75)]
    slope, resolution = theil_sen(late[:, 0], late[:, 1]) * ends / count, 2 * STEP / count
    files, threads = (int(np.median(quarters[1][:, k]) - np.median(quarters[0][:, k])) for k in (2, 3))
    print(
        f"  resident {late[0, 1] / 1e6:.1f} MB at half time, {late[-1, 1] / 1e6:.1f} MB at the end: {slope:+.3f} bytes for each of the "
        f"{what} (allowed {ALLOWED[what]:g} + {resolution:.3f}, a step of malloc's); open files {files:+d}, threads {threads:+d}",
        flush=True,
    )
    faults = [f"memory by {slope:.2f} bytes for each"] if slope > ALLOWED[what] + resolution else []
    faults += [f"{name} by {more}" for name, more in (("open files", files), ("threads", threads)) if more > 0]
    return [f"{what}: {fault} more" for fault in faults]


def theil_sen(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between all pairs of points."""
    x, y = x[:: len(x) // 1000 + 1], y[:: len(y) // 1000 + 1]
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


if __name__ == "__main__":
    on_rank(sys.argv[1], int(sys.argv[2]))
