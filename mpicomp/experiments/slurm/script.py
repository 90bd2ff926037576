"""Batch scripts, as a pure function of their options. `jobs/*.sbatch` are what it writes for the defaults.

The batch shell hears of the time limit ahead of it (`--signal=B:USR1`) and passes it on: to the ranks of a run by SIGUSR1, upon which they
write a checkpoint and exit with code 75; to a walk over a study's cells by SIGTERM, upon which it ends the running cell. The job then puts
itself back into the queue. It exits with its command's code: else SLURM would call any job completed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import NamedTuple

from ..runtime import ConfigError, unknown
from .options import one_line, quoted

EARLY = 60  # seconds by which SLURM may send the signal before its time
MARGIN = 120  # the least seconds between signal and limit: so early it may be late, and a checkpoint takes time


class Kind(NamedTuple):
    """What a script does: title, usage, explanation, command, the signal that stops it and the exit code after it."""

    title: str
    usage: str
    about: tuple[str, ...]
    command: str
    signal: str
    code: int


_SHARE = '--task $((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN)) --tasks "$SLURM_ARRAY_TASK_COUNT"'
KINDS = {
    "run": Kind(
        "One run of mpicomp as a batch job that survives its own time limit.",
        "sbatch --nodes=2 --ntasks=9 jobs/run.sbatch CONFIG.toml --out runs/a [any option of `mpicomp run`]",
        (
            "Ahead of the limit the ranks write a checkpoint and the job puts itself back into the queue, to go on where it was.",
            "One rank is the server, the others are workers.",
        ),
        'launch -- run {args} --checkpoint-seconds "${{CHECKPOINT_SECONDS:-600}}" --resume auto',
        "USR1",
        75,
    ),
    "scale": Kind(
        "A scaling study: one job that walks over the cells of its grid.",
        "sbatch --nodes=16 --ntasks-per-node=4 jobs/scaling.sbatch study.toml --out studies/a",
        (
            "Ask for the nodes of the largest cell. Finished cells are kept: at the time limit the job goes back into the queue and",
            "begins the cell anew that was running. When all are finished: mpicomp report studies/a",
        ),
        "scale {args}",
        "TERM",
        143,
    ),
    "array": Kind(
        "A scaling study as a job array: each task walks over its share of the cells.",
        "sbatch --nodes=16 --ntasks-per-node=4 --array=0-7%4 jobs/array.sbatch study.toml --out studies/a",
        (
            "Every task asks for the nodes of the largest cell. `mpicomp scale study.toml --count` says how many cells there are; more",
            "tasks than cells are of no use. When all tasks are finished: mpicomp report studies/a",
        ),
        f"scale {{args}} {_SHARE}",
        "TERM",
        143,
    ),
}


_DIRECTIVE = re.compile(r"--?[A-Za-z][\w-]*(=.*)?", re.ASCII)


@dataclass(frozen=True)
class Batch:
    """The options of a script; what is empty or 0 is left to sbatch's own options and defaults.

    kind : run, scale or array. args : of the command; empty means those behind the script's name in sbatch's line.
    nodes, tasks, tasks_per_node, cpus_per_task : as sbatch has them; a run's tasks are its ranks, the server included.
    time : the limit, in SLURM's forms. margin : seconds between signal and limit.
    array : as 0-7%4. directives : more of them, as "--exclusive" or "--comment=two words".
    setup : shell lines before the command, as "module load openmpi". mpicomp : the command, one word that no shell expands.
    """

    kind: str = "run"
    args: tuple[str, ...] = ()
    name: str = "mpicomp"
    nodes: int = 0
    tasks: int = 0
    tasks_per_node: int = 0
    cpus_per_task: int = 0
    time: str = "01:00:00"
    margin: int = 180
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    mem: str = ""
    array: str = ""
    log: str = ""
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    mpicomp: str = "mpicomp"


def write(batch: Batch) -> str:
    """The text of a batch script. Everything but `setup` is quoted for the place in which it stands.

    Raises
    ------
    ConfigError : an option that cannot work, or a control character in one.
    """
    if batch.kind not in KINDS:
        raise unknown("kind of script", batch.kind, KINDS)
    _check(batch)
    kind = KINDS[batch.kind]
    args = shlex.join(batch.args) if batch.args else '"$@"'
    usage = "sbatch THIS_FILE" if batch.args else kind.usage
    parts = [
        "#!/bin/bash",
        f"# {kind.title}",
        f"#\n#   {usage}\n#",
        *(f"# {line}" for line in kind.about),
        f"# MPICOMP names the command where it is not {batch.mpicomp}, for example MPICOMP=/home/me/mpicomp/.venv/bin/mpicomp.\n",
        *(f"#SBATCH {directive}" for directive in _directives(batch)),
        _BEGIN.format(command=shlex.quote(batch.mpicomp), signal=kind.signal),
        *(["\n".join(batch.setup) + "\n"] if batch.setup else []),
        f'"$mpicomp" {kind.command.format(args=args)} &',
        _END.format(code=kind.code),
    ]
    return "\n".join(parts)


_BEGIN = """
set -u
mpicomp={command}
mpicomp=${{MPICOMP:-$mpicomp}}
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
export SLURM_CPU_BIND=${{SLURM_CPU_BIND:-cores}} # read by srun, which `mpicomp launch` starts with the PMI that the MPI library speaks

# SLURM signals this shell ahead of the limit. A program that is just starting would be ended by it, so it is passed on once that had
# ${{MPICOMP_SETTLE:-30}} seconds.
step='' told='' heard=''
pass_on() {{
    told=yes heard=yes
    [ "$step" ] || return
    while [ $SECONDS -lt "${{MPICOMP_SETTLE:-30}}" ]; do sleep 1; done
    kill -{signal} "$step"
}}
trap pass_on USR1
"""

_END = """\
step=$!
[ -z "$told" ] || pass_on

# `wait` ends when the signal comes, so wait again
until
    heard=''
    wait "$step"
    code=$?
    [ -z "$heard" ]
do :; done
if [ "$told" ] && [ $code = {code} ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


def seconds(time: str) -> int:
    """The seconds of a time limit in one of SLURM's forms.

    >>> seconds("90"), seconds("1:30"), seconds("02:00:00"), seconds("1-12"), seconds("1-00:30:00")
    (5400, 90, 7200, 129600, 88200)

    Raises
    ------
    ConfigError : it is in none of them.
    """
    days, dash, rest = time.rpartition("-")
    fields = rest.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise ConfigError(
            f"time limit {time!r} is none; allowed: minutes, minutes:seconds, hours:minutes:seconds, days-hours:minutes"
        )
    numbers = [int(field) for field in fields]
    first = 24 * 3600 * int(days or 0)
    if dash or len(numbers) == 3:
        hours, minutes, rest_seconds = [*numbers, 0, 0][:3]
    else:
        hours, minutes, rest_seconds = [0, *numbers, 0][:3]
    return first + 3600 * hours + 60 * minutes + rest_seconds


def _check(batch: Batch) -> None:
    for name in ("nodes", "tasks", "tasks_per_node", "cpus_per_task"):
        if (value := getattr(batch, name)) < 0:
            raise ConfigError(f"{name} = {value} is not possible; allowed: 1 or more, or 0 to leave it to sbatch")
    if batch.margin < MARGIN:
        raise ConfigError(
            f"a margin of {batch.margin} s is too short; allowed: {MARGIN} or more, since SLURM may send the signal {EARLY} s "
            "early or late and a checkpoint takes time"
        )
    if seconds(batch.time) < batch.margin + EARLY:
        raise ConfigError(
            f"time limit {batch.time} is shorter than the margin of {batch.margin} s before it and {EARLY} s to start in; ask for more"
        )
    if batch.array and batch.kind != "array":
        raise ConfigError(f"array {batch.array!r} is for scripts of the kind array, this is {batch.kind}")
    if batch.array and not re.fullmatch(r"\d+-\d+(%\d+)?", batch.array):
        raise ConfigError(f"array {batch.array!r} is not possible; allowed: FIRST-LAST or FIRST-LAST%AT_ONCE, as 0-7%4")
    for name in ("name", "time", "partition", "account", "qos", "constraint", "mem", "log", "mpicomp"):
        one_line(name, getattr(batch, name))
    for name in ("args", "directives", "setup"):
        for text in getattr(batch, name):
            one_line(name, text.replace("\t", " ") if name == "setup" else text)
    if not batch.mpicomp:
        raise ConfigError("the command is empty; give the path of mpicomp, or leave it out")
    for directive in batch.directives:
        if not _DIRECTIVE.fullmatch(directive):
            raise ConfigError(
                f"directive {directive!r} is none; allowed: an option of sbatch, as --exclusive or --comment=TEXT"
            )
        if directive.partition("=")[0] == "--signal":
            raise ConfigError(
                f"directive {directive!r}: the script needs the signal for itself; give the margin before the limit"
            )


def _directives(batch: Batch) -> list[str]:
    array = batch.kind == "array"
    options = {
        "job-name": batch.name,
        "nodes": batch.nodes,
        "ntasks": batch.tasks,
        "ntasks-per-node": batch.tasks_per_node,
        "cpus-per-task": batch.cpus_per_task,
        "partition": batch.partition,
        "account": batch.account,
        "qos": batch.qos,
        "constraint": batch.constraint,
        "mem": batch.mem,
        "time": batch.time,
        "array": batch.array or ("0-7" if array else ""),
        "signal": f"B:USR1@{batch.margin}",
    }
    log = batch.log or ("%x-%A_%a.log" if array else "%x-%j.log")
    given = [f"--{name}={quoted(str(value))}" for name, value in options.items() if value]
    more = [
        f"{name}={quoted(value)}" if equals else name
        for name, equals, value in (directive.partition("=") for directive in batch.directives)
    ]
    return [*given, "--requeue", "--open-mode=append", f"--output={quoted(log)}", *more]
