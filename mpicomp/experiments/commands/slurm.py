"""`mpicomp slurm`: from an allocation to results."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option
slurm = typer.Typer(
    no_args_is_help=True, help="Batch scripts for SLURM, and their jobs: script, submit, status, collect."
)
PASSED = {"allow_extra_args": True, "ignore_unknown_options": True}


@slurm.command("script", context_settings=PASSED)
def slurm_script(
    kind: Annotated[
        str, typer.Argument(help="run (one run), scale (a study in one job) or array (a study as a job array).")
    ],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGS...]", help="Of the command, as CONFIG.toml --out DIR.  [sbatch's]"),
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="File to write.  [stdout]")] = None,
    name: Annotated[str, Option(help="Of the job.")] = "mpicomp",
    nodes: Annotated[int, Option("--nodes", "-N", help="0: sbatch's own option or default, here and below.")] = 0,
    tasks: Annotated[int, Option("--ntasks", "-n", help="Ranks, the server included.")] = 0,
    tasks_per_node: Annotated[int, Option("--ntasks-per-node")] = 0,
    cpus_per_task: Annotated[int, Option("--cpus-per-task", "-c", help="Also the threads of each rank.")] = 0,
    time: Annotated[str, Option("--time", "-t", help="Limit, in SLURM's forms.")] = "01:00:00",
    margin: Annotated[int, Option(help="Seconds before the limit at which SLURM sends the signal to stop.")] = 180,
    partition: Annotated[str, Option("--partition", "-p")] = "",
    account: Annotated[str, Option("--account", "-A")] = "",
    qos: Annotated[str, Option("--qos", "-q")] = "",
    constraint: Annotated[str, Option("--constraint", "-C")] = "",
    mem: Annotated[str, Option(help="For each node.")] = "",
    array: Annotated[str, Option(help="For the kind array: 0-7%4 is 8 tasks, 4 at a time.")] = "",
    log: Annotated[str, Option(help="File of the output, in sbatch's pattern.")] = "",
    directive: Annotated[
        list[str] | None, Option(help="Any other option of sbatch, as --directive=--exclusive.")
    ] = None,
    setup: Annotated[
        list[str] | None, Option(help='A shell line before the command, as --setup "module load openmpi".')
    ] = None,
    command: Annotated[str, Option(help="The mpicomp to run.  [this one]")] = "",
) -> None:
    """Write a batch script: signal before the limit, checkpoint, requeue, resume; exit code of the run."""
    from ..slurm.script import Batch, write

    text = write(
        Batch(
            kind, tuple(args or ()), name, nodes, tasks, tasks_per_node, cpus_per_task, time, margin, partition, account,
            qos, constraint, mem, array, log, tuple(directive or ()), tuple(setup or ()), command or _this(),
        )
    )  # fmt: skip
    if output is None:
        print(text, end="")
        return
    output.write_text(text)
    print(f"{output} is written; `mpicomp slurm submit {output}` submits it", file=sys.stderr)


@slurm.command("submit", context_settings=PASSED)
def slurm_submit(
    script: Annotated[Path, typer.Argument(help="A batch script, of `mpicomp slurm script` or in jobs/.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS...]", help="Of the script.")] = None,
    sbatch: Annotated[str, Option(help='Options of sbatch, as one text: "--nodes=2 --ntasks=9".')] = "",
    wait: Annotated[bool, Option("--wait", help="Until the job is over; the exit code is then the job's.")] = False,
    poll: Annotated[float, Option(help="With --wait: seconds between two looks at the queue.")] = 5.0,
) -> None:
    """Submit a batch script; prints the job's number."""
    from ..slurm import queue

    number = queue.submit(script, args or (), shlex.split(sbatch))
    print(number, flush=True)
    if not wait:
        return
    ended = queue.wait(number, poll, lambda text: print(text, file=sys.stderr, flush=True))
    for job in ended:
        if log := queue.details(job.id).get("StdOut"):
            print(f"job {job.id} {job.state}, log in {log}", file=sys.stderr)
    raise typer.Exit(queue.exit_code(ended))


@slurm.command("status")
def slurm_status(numbers: Annotated[list[str] | None, typer.Argument(metavar="[JOB...]")] = None) -> None:
    """Show jobs: these, or all of this user's that the queue knows."""
    from ..runtime import table
    from ..slurm import queue

    rows = [
        [job.id, job.name, job.state, job.elapsed, job.limit, job.nodes, job.where] for job in queue.jobs(numbers or ())
    ]
    table("Jobs", ["job", "name", "state", "elapsed", "limit", "nodes", "where, or why not"], rows, text=True)


@slurm.command("collect")
def slurm_collect(
    directories: Annotated[list[Path], typer.Argument(help="Directories of runs (--out), or above them.")],
    to: Annotated[Path | None, Option("--csv", help="Also as a table, with all digits.")] = None,
) -> None:
    """Show what runs have left in their directories: results, or the last checkpoint's round. Exit code 1 where one is not finished, or
    damaged."""
    from ..runtime import seconds, size, table
    from ..slurm.collect import DAMAGED, UNFINISHED, collect, to_csv

    found = collect(directories)
    rows = []
    for run in found:
        figures = [""] * 7
        if run.iterate_sha256:
            up_down = [size(float(run.up)), size(float(run.down))]
            figures = [run.method, str(run.ranks), f"{run.loss:.9g}", *up_down,
                       seconds(float(run.seconds)), run.iterate_sha256[:8]]  # fmt: skip
        rows.append([run.directory, run.state, run.job, str(run.rounds), *figures])
    header = [
        "directory",
        "state",
        "job",
        "rounds",
        "method",
        "ranks",
        "loss",
        "up",
        "down",
        "in rounds",
        "iterate sha256",
    ]
    table("Runs", header, rows, text=True)
    for run in found:
        if run.why:
            print(f"mpicomp: {run.why}", file=sys.stderr)
    if to is not None:
        to_csv(found, to)
    raise typer.Exit(1 if any(run.state in (UNFINISHED, DAMAGED) for run in found) else 0)


def _this() -> str:
    """The command of this Python, by its whole path, so that a job needs no PATH for it."""
    beside = Path(sys.executable).parent / "mpicomp"
    return str(beside) if beside.exists() else "mpicomp"
