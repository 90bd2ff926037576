"""Jobs in SLURM's queue: put there, watched, and what became of them, by its own commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime import SlurmError

# squeue's letters, in the order of Job's fields
_QUEUE = "%i|%j|%T|%M|%l|%D|%R"
_ACCOUNTS = "JobID,JobName,State,Elapsed,Timelimit,NNodes,NodeList"
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job, or a task of a job array (id 12_3): state in SLURM's words, elapsed time and limit in its form, nodes, and where it runs or
    why it does not."""

    id: str
    name: str
    state: str
    elapsed: str
    limit: str
    nodes: str
    where: str

    @property
    def over(self) -> bool:
        """It will not run any more."""
        return self.state in OVER


def submit(script: Path, args: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Put a script into the queue; returns the job's number.

    Parameters
    ----------
    args : of the script. options : of sbatch; they win over the script's own.

    Raises
    ------
    SlurmError : there is no SLURM here, or it refuses; in its own words.
    """
    if not script.is_file():
        raise SlurmError(f"there is no script {script}; `mpicomp slurm script run` writes one")
    return _ask("sbatch", "--parsable", *options, str(script), *args).strip().partition(";")[0]


def jobs(numbers: Sequence[str] = ()) -> list[Job]:
    """The jobs of these numbers, or all of this user's that the queue knows; a job array gives a job for each of its tasks.

    The queue forgets jobs some minutes after their end; then the accounts are asked, where there are any.

    Raises
    ------
    SlurmError : there is no SLURM here, or nobody knows a job.
    """
    queued = _queue("--me" if not numbers else f"--jobs={','.join(numbers)}")
    known = {job.id.partition("_")[0] for job in queued} | {job.id for job in queued}
    for number in numbers:
        if number not in known:
            queued += _accounted(number)
    return queued


def wait(number: str, poll: float = 5.0, say: Callable[[str], None] = lambda text: None) -> list[Job]:
    """Wait until a job, or all tasks of an array, are over; `say` hears each change of state.

    Parameters
    ----------
    poll : seconds between two looks. A job that is put back into the queue is not over.
    """
    before: dict[str, str] = {}
    while True:
        now = jobs([number])
        for job in now:
            if before.get(job.id) != job.state:
                say(f"job {job.id} {job.state}, {job.elapsed} of {job.limit}, {job.where or 'no node'}")
        before = {job.id: job.state for job in now}
        if all(job.over for job in now):
            return now
        time.sleep(poll)


def details(number: str) -> dict[str, str]:
    """What `scontrol show job` says of one job; empty where the queue has forgotten it."""
    try:
        return parse_details(_ask("scontrol", "show", "job", "-o", number))
    except SlurmError:
        return {}


def exit_code(ended: Sequence[Job]) -> int:
    """0 where all jobs are completed, else the first other job's code, or 1 where SLURM ended it."""
    for job in ended:
        if job.state != "COMPLETED":
            return int(details(job.id).get("ExitCode", "").partition(":")[0] or 0) or 1
    return 0


def parse_jobs(text: str) -> list[Job]:
    """Lines of fields between bars.

    >>> parse_jobs("12_3|mpicomp|CANCELLED by 0|0:12|1:00:00|4|node[1-4]")[0].state
    'CANCELLED'
    """
    found = []
    for line in text.splitlines():
        number, name, state, *rest = line.split("|", 6)
        found.append(Job(number, name, state.split()[0], *rest))
    return found


def parse_details(text: str) -> dict[str, str]:
    """NAME=VALUE of a line, where values may hold blanks.

    >>> parse_details("JobId=7 Command=/a b.sh x=1 ExitCode=75:0")["Command"]
    '/a b.sh x=1'
    """
    return dict(re.findall(r"([A-Z][\w:/]*)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)", text))


def _queue(which: str) -> list[Job]:
    try:
        return parse_jobs(_ask("squeue", "--noheader", "--array", "--states=all", f"--format={_QUEUE}", which))
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return []
        raise


def _accounted(number: str) -> list[Job]:
    try:
        found = parse_jobs(
            _ask("sacct", "-X", "--noheader", "--parsable2", f"--format={_ACCOUNTS}", f"--jobs={number}")
        )
    except SlurmError:  # no accounts are kept
        found = []
    if not found:
        raise SlurmError(
            f"neither SLURM's queue nor its accounts know a job {number}; the queue forgets jobs some minutes after their end. "
            "`mpicomp slurm collect DIR` shows what runs have left"
        )
    return found


def _ask(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        raise SlurmError(
            f"{program} is not on PATH; run this where the cluster's SLURM is (a login node). "
            "`mpicomp lab slurm` starts a SLURM on this machine, to try things"
        )
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, errors="replace", timeout=120, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise SlurmError(f"{program}: {done.stderr.strip() or done.stdout.strip() or f'exit code {done.returncode}'}")
    return done.stdout
