"""Faults of the soak that come from what is around a job: its streams, its directory of results, its data, the kernel cache."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from conftest import MpiHere
from soak_faults import FAULTS, freeze, kill_all
from soak_jobs import END_SECONDS, FILES_SECONDS, JOB_SECONDS, STALL_SECONDS, Case, Job, Loss, kill, rows, wait_until

from mpicomp.kernels.cache import cache_directory, digest
from mpicomp.runtime.claim import LOCK

SINKS = {
    "full": ">/dev/full 2>/dev/full", "stderr full": "2>/dev/full", "stdout closed": ">&-", "all closed": "<&- >&- 2>&-",
    "stderr that nobody reads": "2>{pipe}",
}  # fmt: skip
TAKEN, OTHER_DATA, OTHER_ROWS = "is in use by another run", "was written with other data", "sees other rows of client"
PAGE, ROOM = 4096, 1 << 20  # of a file system in memory; and what it has beside the kernels, before it is filled
KERNELS_LEFT_OUT = 20  # of those in the cache
FULL_CACHE = """
set -e
mount -t tmpfs -o size={nbytes},mode=0700 soak "$1"
mkdir -m 0700 "$2"
cp -p {kernels} "$2"
dd if=/dev/zero of="$1/filler" bs=1M 2>/dev/null || true
shift 2
exec "$@"
"""

Ends = list[tuple[int, bool]]  # for each job that a fault met: its exit code, and whether it was over before


# ---- streams ----------------------------------------------------------------------------------------------------------------
def deaf(case: Case, mpi: MpiHere) -> Ends:
    """Ranks, or a launcher, whose output cannot be written: the job goes on to its end, or another fault ends it as ever."""
    sink = case.rng.choice(list(SINKS))
    launched = "{pipe}" not in SINKS[sink] and case.rng.random() < 0.3
    fault, more = case.rng.choice([(None, []), *FAULTS.values()])
    with unread(case.folder.parent / "pipe") as pipe:
        job = Job(mpi, case.ranks(), case.argv(*more), launched, SINKS[sink].format(pipe=shlex.quote(str(pipe))))
        begun, late = begin(case, job), True
        if begun and fault is not None:
            fault(case, job)
            late = job.process.poll() is not None
        after = END_SECONDS + (STALL_SECONDS + FILES_SECONDS if fault is freeze else 0)
        code, said = job.end(JOB_SECONDS if fault is None else after)
    if "Traceback" in said and fault is not freeze:
        raise Loss(f"streams: {sink}; exit code {code}:\n{said}")
    if fault is None and code:
        raise Loss(f"streams: {sink}; exit code {code} without another fault\n{said}")
    return [(code, late and fault is not None)]


@contextmanager
def unread(path: Path) -> Iterator[Path]:
    """A pipe that is full, and has a reader that does not read."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            os.write(end, bytes(4096))
    except BlockingIOError:
        yield path
    finally:
        os.close(end)
        path.unlink()


# ---- the directory of results -------------------------------------------------------------------------------------------------
def crowd(case: Case, mpi: MpiHere) -> Ends:
    """Two jobs in one directory, at once or one after the other: one has it, the other is refused and disturbs nothing."""
    first = Job(mpi, case.ranks(), case.argv())
    if case.rng.random() < 0.5:
        begin(case, first)
    second = Job(mpi, case.ranks(), case.argv())
    codes = {}
    for job in (second, first) if case.rng.random() < 0.5 else (first, second):
        codes[job.mark], said = job.end(JOB_SECONDS)
        if codes[job.mark] not in (0, 2) or "Traceback" in said:
            raise Loss(f"exit code {codes[job.mark]} of one of two jobs in a directory\n{said}")
        if codes[job.mark] == 2 and TAKEN not in said:
            raise Loss(f"one of two jobs in a directory was refused for something else\n{said}")
    if [*codes.values()] == [2, 2]:
        raise Loss("each of two jobs in a directory was refused")
    return [(code, 2 not in codes.values()) for code in codes.values()]


def stopped(case: Case, mpi: MpiHere) -> Ends:
    """The holder of the lock is stopped: another job is refused. Then the holder is killed, or goes on."""
    first = Job(mpi, case.ranks(), case.argv())
    begin(case, first)
    time.sleep(case.rng.expovariate(4.0))
    pids = first.pids()
    tell(pids, signal.SIGSTOP)
    held = bool(pids) and (case.folder / LOCK).exists()
    second = Job(mpi, case.ranks(), case.argv())
    code, said = second.end(JOB_SECONDS)
    if held and (code != 2 or TAKEN not in said):
        raise Loss(f"exit code {code} beside a holder of the lock that is stopped\n{said}")
    killed = held and case.rng.random() < 0.5
    tell(pids, signal.SIGKILL if killed else signal.SIGCONT)
    over, said = first.end(END_SECONDS if killed else JOB_SECONDS)
    if over and not killed:
        raise Loss(f"exit code {over} of a job that was stopped and went on\n{said}")
    return [(code, not held), (over, not held)]


def tell(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that are there."""
    if number == signal.SIGKILL:
        kill(pids)
        return
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


# ---- data -------------------------------------------------------------------------------------------------------------------
def replaced(case: Case, mpi: MpiHere) -> Ends:
    """The data file is replaced while a job goes on, which does not notice. The next one refuses to go on with other data."""
    job = Job(mpi, case.ranks(), case.argv())
    begun = begin(case, job)
    replace(case.data, other_rows(case))
    try:
        killed = begun and case.rng.random() < 0.7
        if killed:
            kill_all(case, job)
        late = job.process.poll() is not None
        code, said = job.end(END_SECONDS if killed else JOB_SECONDS)
        if (code and not killed) or "Traceback" in said:
            raise Loss(f"exit code {code} of a job whose data file was replaced\n{said}")
        refused, said = Job(mpi, case.ranks(), case.argv()).end(JOB_SECONDS)
        if case.manifests() and (refused != 2 or OTHER_DATA not in said):
            raise Loss(f"exit code {refused} with other data than those of the checkpoint\n{said}")
    finally:
        replace(case.data, rows())
    return [(code, killed and late), (refused, False)]


def swapped(case: Case, mpi: MpiHere) -> Ends:
    """The data file is replaced, or written anew piece by piece, while the ranks of a job read it: the job goes on with the old data, or is
    refused."""
    if not case.manifests():  # nobody could tell which data the job is to have
        return replaced(case, mpi)
    job, other = Job(mpi, case.ranks(), case.argv()), other_rows(case)
    time.sleep(case.rng.uniform(0.2, 3.0))
    try:
        if case.rng.random() < 0.5:
            replace(case.data, other)
        else:
            with open(case.data, "wb", buffering=0) as file:
                for start in range(0, len(other), 1 << 18):
                    file.write(other[start : start + (1 << 18)])
                    time.sleep(0.1)
        code, said = job.end(JOB_SECONDS)
    finally:
        replace(case.data, rows())
    if "Traceback" in said or (code and "mpicomp: " not in said):
        raise Loss(f"exit code {code} of a job whose data file was replaced at its start\n{said}")
    return [(code, code == 0)]


def other_rows(case: Case) -> bytes:
    """The data with another label, value or column in one row, or without its last one."""
    lines = rows().splitlines(keepends=True)
    at, how = case.rng.randrange(len(lines)), case.rng.choice(("label", "value", "column", "row"))
    label, *entries = lines[at].split()
    if how == "row":
        return b"".join(lines[:-1])
    if how == "label":
        label = min({line.split(None, 1)[0] for line in lines} - {label})
    elif how == "value":
        k = case.rng.randrange(len(entries))
        entries[k] = entries[k].partition(b":")[0] + b":0.5"
    else:
        del entries[case.rng.randrange(len(entries) - 1)]
    lines[at] = b" ".join([label, *entries]) + b"\n"
    return b"".join(lines)


def replace(path: Path, text: bytes) -> None:
    """Put another file in its place, as a whole."""
    part = path.with_suffix(".part")
    part.write_bytes(text)
    os.replace(part, path)


# ---- the kernel cache -----------------------------------------------------------------------------------------------------------
@cache
def mounts() -> str:
    """Why this user cannot mount a file system for a job alone; empty where he can."""
    try:
        done = subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "soak", "/mnt"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def full(case: Case, mpi: MpiHere) -> Ends:
    """The kernel cache is on a file system that is full, and lacks some kernels: the job compiles them for itself and says so once."""
    place = case.folder.parent / "caches"
    place.mkdir(exist_ok=True)
    kernels = sorted(cache_directory().glob("*.nbc"))
    left_out = case.rng.sample(kernels, min(KERNELS_LEFT_OUT, len(kernels)))
    kept = [path for path in kernels if path not in left_out]
    script = case.folder.parent / "full.sh"
    nbytes = ROOM + sum(path.stat().st_size + PAGE for path in kept)
    script.write_text(FULL_CACHE.format(nbytes=nbytes, kernels=" ".join(shlex.quote(str(path)) for path in kept)))
    folder = place / f"mpicomp-{os.geteuid()}-{digest()}"
    before = ["unshare", "-m", "bash", str(script), str(place), str(folder)]
    job = Job(mpi, case.ranks(), case.argv(), before=before, more={"NUMBA_CACHE_DIR": str(place)})
    killed = begin(case, job) and case.rng.random() < 0.5
    if killed:
        kill_all(case, job)
    late = job.process.poll() is not None
    code, said = job.end(END_SECONDS if killed else JOB_SECONDS)
    if (code and not killed) or "Traceback" in said or said.count("cannot be kept") > 1:
        raise Loss(f"exit code {code} with a full kernel cache\n{said}")
    return [(code, killed and late)]


# ---- all ------------------------------------------------------------------------------------------------------------------------
def begin(case: Case, job: Job) -> bool:
    """Wait for a checkpoint of this job; False where it is over first."""
    seen = case.written()
    return wait_until(job, lambda: case.written() != seen)


SURROUNDINGS: dict[str, Callable[[Case, MpiHere], Ends]] = {
    "output that cannot be written": deaf,
    "two jobs in one directory": crowd,
    "a holder of the lock that is stopped": stopped,
    "data replaced while a job goes on, and before the next": replaced,
    "data replaced while ranks read it": swapped,
    "a kernel cache that is full": full,
}


def possible() -> dict[str, Callable[[Case, MpiHere], Ends]]:
    """Those that can be made here."""
    return {name: fault for name, fault in SURROUNDINGS.items() if fault is not full or not mounts()}
