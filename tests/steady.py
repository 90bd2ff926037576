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
RUNS, WARM_UP, ALLOWED = 2500, 0.2, 0.5  # bytes a round that memory may grow: half a megabyte in 10⁶ rounds


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
def steady(rounds: int) -> list[str]:
    """Run both jobs, print figures; returns what grew or was left."""
    from conftest import MpiHere, _mpi_of, processes
    from soaking import Job, segments

    mpi, faults = _mpi_of(sys.executable), []
    assert isinstance(mpi, MpiHere)
    for what, count in (("rounds", rounds), ("runs", RUNS)):
        job, start = Job(mpi, 3, [__file__, what, str(count)]), time.monotonic()
        samples: dict[int, list[tuple[float, int, int, int]]] = {}
        mapped: set[Path] = set()
        while job.process.poll() is None:
            for pid, line in processes(job.mark).items():
                if "steady.py" in line and "mpirun" not in line and (state := sample(pid)):
                    samples.setdefault(pid, []).append((time.monotonic() - start, *state))
                    mapped |= segments(pid)
            time.sleep(0.5)
        code, said = job.end(10.0)
        print(f"{count} {what} on 3 ranks in {time.monotonic() - start:.0f} s", flush=True)
        faults += [f"{what}: exit code {code}\n{said}"] if code else []
        faults += [f"{what}: {path} is left behind" for path in mapped if path.exists()]
        faults += counted_faults(what, said)
        for series in samples.values():
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
    faults = [] if len(lines) == 3 else [f"{what}: {len(lines)} of 3 ranks came to the end"]
    for line in lines:
        print(line, flush=True)
        counts = Counter(json.loads(line.removeprefix("COUNTS ")))
        if counts["requests"] != counts["waits"] or counts["communicators"] != counts["freed"]:
            faults.append(f"{what}: {line}")
    return faults


def growth(what: str, series: np.ndarray, count: int) -> list[str]:
    """The line through a rank's memory after the warm-up; files and threads at both ends."""
    late = series[series[:, 0] > WARM_UP * series[-1, 0]]
    if len(late) < 5:
        return [f"{what}: too short to be measured"]
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * series[-1, 0] / count
    # the last samples may be of a process that is ending
    files, threads = (int(late[:-2, k].max() - late[: len(late) // 4, k].max()) for k in (2, 3))
    print(
        f"  resident {late[0, 1] / 1e6:.1f} MB to {late[-3, 1] / 1e6:.1f} MB, {slope:+.3f} bytes for each of the {what}; "
        f"open files {files:+d}, threads {threads:+d}",
        flush=True,
    )
    allowed = ALLOWED * (1 if what == "rounds" else 1000)
    return [f"{what}: memory, files or threads grow"] if slope > allowed or files > 0 or threads > 0 else []


if __name__ == "__main__":
    on_rank(sys.argv[1], int(sys.argv[2]))
