"""`mpicomp launch`: start the command line, or any program, on N ranks with the MPI that is here."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer


def launch(
    ctx: typer.Context,
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- ARGS...", help="What each rank runs: run ..., doctor, or python train.py ..."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Number of ranks, one of them the server.  [in SLURM: its tasks]")
    ] = None,
    hosts: Annotated[str, typer.Option(help="Hosts, as a,b or a:4,b:4.")] = "",
    hostfile: Annotated[str, typer.Option(help="File of hosts, in the launcher's own format.")] = "",
    mpi_args: Annotated[str, typer.Option(help='More options for mpirun or srun, as one text: "--bind-to core".')] = "",
    restarts: Annotated[
        int | None,
        typer.Option(help="Start the job again after a failure, at most so often.  [run's --on-failure restart:N]"),
    ] = None,
    restart_75: Annotated[
        bool, typer.Option("--restart-75", help="With --restarts, also after exit code 75: time limit or signal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command on stdout, start nothing.")] = False,
) -> None:
    """Start `mpicomp ARGS`, or any program, on N ranks: finds mpirun, or srun in a SLURM allocation, and the options it needs here."""
    from ..cluster.environment import declared_size
    from ..cluster.launcher import find_launcher
    from ..cluster.program import launcher_for, master, rank_command, resolve
    from ..cluster.recovery import LAUNCHER_OPTIONS, OnFailure, check
    from ..cluster.restart import supervise
    from ..errors import ConfigError

    if not args:
        raise ConfigError("nothing to launch; for example: mpicomp launch -n 5 -- run --method marina")
    if (declared_size() or 1) > 1:
        raise ConfigError(
            f"this is already one of {declared_size()} processes of a job; start `mpicomp launch` outside of it"
        )
    ranks = n if n is not None else int(os.environ.get("SLURM_NTASKS", 0))
    if not ranks and n is None:
        raise ConfigError("how many ranks? For example -n 5: one server and four workers")

    program = resolve(args, ctx.find_root().command.commands)  # type: ignore[attr-defined]
    plan = OnFailure.of(args) if program is None else OnFailure()
    launcher = find_launcher() if program is None else launcher_for(program)
    if plan.goes_on:
        check(launcher.mpi)
        if launcher.is_srun:
            raise ConfigError(
                "--on-failure continue: srun ends a job of which a rank dies; use --on-failure restart, or Open MPI's mpirun"
            )
    named, more = [host for host in hosts.split(",") if host], shlex.split(mpi_args)
    options, interfaces = launcher.loopback(named, hostfile, more)
    each = [sys.executable, "-m", "mpicomp", *args]
    if program is not None:
        each = rank_command(program, *master(named, hostfile, more))
    command = launcher.command(
        ranks,
        each,
        hosts=named,
        hostfile=hostfile,
        extra=[*(LAUNCHER_OPTIONS if plan.goes_on else ()), *options, *more],
    )
    added = {**launcher.environment(root=os.geteuid() == 0), **interfaces}
    line = " ".join([*(f"{name}={value}" for name, value in added.items()), shlex.join(command)])
    print(line, file=sys.stdout if dry_run else sys.stderr)
    times = plan.restarts if restarts is None else restarts
    if not dry_run:
        raise typer.Exit(supervise(command, {**os.environ, **added}, max(times, 0), restart_75))
