"""Faults of the soak that meet a job which is under way, and damage to what it leaves behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from soak_jobs import STALL_SECONDS, Case, Job, kill, wait_until


def kill_one(case: Case, job: Job) -> None:
    """SIGKILL of one rank at a random moment."""
    time.sleep(case.rng.expovariate(4.0))
    kill(case.rng.sample(job.pids(), 1) if job.pids() else [])


def kill_all(case: Case, job: Job) -> None:
    """SIGKILL of all ranks at a random moment."""
    time.sleep(case.rng.expovariate(4.0))
    kill(job.pids())


def kill_writing(case: Case, job: Job) -> None:
    """SIGKILL of one or all ranks while a file of a checkpoint is being written."""
    pids = job.pids()
    wait_until(job, lambda: case.writing())
    kill(case.rng.choice((pids[:1], pids[-1:], pids)))


def ask(case: Case, job: Job) -> None:
    """A signal that asks one rank for a checkpoint and an orderly end."""
    time.sleep(case.rng.expovariate(4.0))
    pids = job.pids()
    if pids:
        os.kill(case.rng.choice(pids), case.rng.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)))


def freeze(case: Case, job: Job) -> None:
    """SIGSTOP of one rank: the stall watch of the others has to end the job."""
    time.sleep(case.rng.expovariate(4.0))
    pids = job.pids()
    if pids:
        os.kill(case.rng.choice(pids), signal.SIGSTOP)


FAULTS: dict[str, tuple[Callable[[Case, Job], None], list[str]]] = {
    "SIGKILL of one rank": (kill_one, []),
    "SIGKILL of all ranks": (kill_all, []),
    "SIGKILL while a checkpoint is written": (kill_writing, []),
    "a signal to one rank": (ask, []),
    "SIGSTOP of one rank": (freeze, ["--stall-timeout", f"{STALL_SECONDS:g}", "--checkpoint-every", "60"]),
}


def damage(case: Case) -> str | None:
    """Truncate, alter or remove a file of the newest checkpoint, where there is an older one; says what was done."""
    whole = case.manifests()
    if len(whole) < 2:
        return None
    file = case.rng.choice(sorted(whole[-1].parent.iterdir()))
    what = case.rng.choice(("truncated", "altered", "removed"))
    data = bytearray(file.read_bytes())
    if what == "removed":
        file.unlink()
    elif what == "truncated":
        file.write_bytes(data[: case.rng.randrange(len(data))])
    else:
        data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
        file.write_bytes(data)
    return f"file of the newest checkpoint {what}"
