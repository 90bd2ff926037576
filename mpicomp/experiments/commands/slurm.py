"""`mpicomp slurm`: from an allocation to results."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Option = typer.Option
slurm = typer.Typer(
    no_args_is_help=True, help="Batch scripts for SLURM, and their jobs: script, submit, status, collect."
)


class _WithSbatch(TyperCommand):
    """A command before whose `--` options of sbatch may stand beside its own; they become `DIRECTIVES`."""

    DIRECTIVES = "--directive"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from ..slurm.options import taken

        end = args.index("--") if "--" in args else len(args)
        own = {name: not getattr(param, "is_flag", False) for param in self.get_params(ctx) for name in param.opts}
        directives, rest = taken(args[:end], own)
        for directive in directives:
            name, _, value = directive.partition("=")
            same = _SAME.get(name, name)
            rest.append(f"{same}={value}" if same in own else f"{self.DIRECTIVES}={directive}")
        return super().parse_args(ctx, [*rest, *args[end:]])


class _Submitting(_WithSbatch):
    DIRECTIVES = "--option"


_SAME = {"--job-name": "--name"}  # ours of another name


@slurm.command("script", cls=_WithSbatch)
def slurm_script(
    ctx: typer.Context,
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
        list[str] | None,
        Option(
            help="Any other option of sbatch, as --directive=--exclusive; those that are known here need no --directive."
        ),
    ] = None,
    setup: Annotated[
        list[str] | None, Option(help='A shell line before the command, as --setup "module load openmpi".')
    ] = None,
    command: Annotated[str, Option(help="The mpicomp to run.  [this one]")] = "",
) -> None:
    """Write a batch script: signal before the limit, checkpoint, requeue, resume; exit code of the run."""
    from ..runtime import ConfigError
    from ..slurm.script import KINDS, Batch, write

    if output is not None and "%" in output.name:
        raise ConfigError(
            f"--output {output} is the file to write the script to; the job's output goes to --log {output}"
        )
    if kind in KINDS:
        _check_arguments(ctx, kind, list(args or ()))
    text = write(
        Batch(
            kind, tuple(args or ()), name, nodes, tasks, tasks_per_node, cpus_per_task, time, margin, partition, account,
            qos, constraint, mem, array, log, tuple(directive or ()), tuple(setup or ()), os.path.expanduser(command) or _this(),
        )
    )  # fmt: skip
    content = text.encode("utf-8", "surrogateescape")
    _check_shell(content)
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    print(f"{output} is written; `mpicomp slurm submit {output}` submits it", file=sys.stderr)


def _check_arguments(ctx: typer.Context, kind: str, args: list[str]) -> None:
    """Raises UserError for options that the script's command does not have or cannot use: the job would find out hours later.

    What the job's shell fills in, as $SLURM_JOB_ID, has no value yet: then only the names of the options are looked at. A file that is not
    here may be where the job will run: that is a line on stderr.
    """
    from ..runtime import ConfigError

    group: Any = ctx.find_root().command
    name = "run" if kind == "run" else "scale"
    command = group.get_command(ctx, name)
    if command is None:  # another program's application
        return
    try:
        command.make_parser(ctx).parse_args(args=list(args))
        if any("$" in arg for arg in args):
            return
        given = dict(command.make_context(name, list(args)).params)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise ConfigError(f"mpicomp {name}: {error.format_message()}") from None
    file: Path | None = given["config" if kind == "run" else "study"]
    if not _is_here(file):
        return
    from ..study.grid import Study, check_parts

    if kind == "run":
        from ..runtime import DATA_SETS, take_config

        config = take_config(given)
        check_parts(config)
        if config.data is not None and config.data not in DATA_SETS:
            _is_here(Path(config.data))
    elif file is not None:
        Study.load(file)


def _is_here(path: Path | None) -> bool:
    """The file is there, or none is named; else a line on stderr."""
    if path is None or path.exists():
        return True
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    print(f"mpicomp: there is no {path}{where}; the job will need it where it is submitted", file=sys.stderr)
    return False


def _check_shell(script: bytes) -> None:
    """Raises ConfigError where the shell cannot parse the script, which only lines of --setup can cause."""
    from ..runtime import ConfigError

    if shutil.which("bash") is None:
        return
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, timeout=60)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"the shell cannot parse the script; look at --setup, each of which is a whole line: {said}")


@slurm.command("submit", cls=_Submitting)
def slurm_submit(
    script: Annotated[Path, typer.Argument(help="A batch script, of `mpicomp slurm script` or in jobs/.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS...]", help="Of the script.")] = None,
    sbatch: Annotated[str, Option(help='Options of sbatch, as one text: "--nodes=2 --ntasks=9".')] = "",
    option: Annotated[
        list[str] | None,
        Option(help="An option of sbatch, as --option=--exclusive; those that are known here need no --option."),
    ] = None,
    wait: Annotated[bool, Option("--wait", help="Until the job is over; the exit code is then the job's.")] = False,
    poll: Annotated[float, Option(help="With --wait: seconds between two looks at the queue.")] = 5.0,
) -> None:
    """Submit a batch script; prints the job's number."""
    from ..slurm import queue

    number = queue.submit(script, args or (), [*_words(sbatch), *(option or ())])
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
            figures = [run.method, str(run.ranks), _figure(run.loss), *up_down,
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


def _figure(loss: float | str) -> str:
    return loss if isinstance(loss, str) else f"{loss:.9g}"


def _words(text: str) -> list[str]:
    from ..runtime import ConfigError

    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--sbatch {text!r}: {error}") from None


def _this() -> str:
    """The command of this Python, by its whole path, so that a job needs no PATH for it."""
    beside = Path(sys.executable).parent / "mpicomp"
    return str(beside) if beside.exists() else "mpicomp"
