"""`mpicomp launch`: start the command line on N ranks with the MPI that is here."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer


def launch(
    args: Annotated[
        list[str] | None, typer.Argument(metavar="-- ARGS...", help="What each rank runs: run ..., doctor, ...")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Number of ranks, one of them the server.  [in SLURM: its tasks]")
    ] = None,
    hosts: Annotated[str, typer.Option(help="Hosts, as a,b or a:4,b:4.")] = "",
    hostfile: Annotated[str, typer.Option(help="File of hosts, in the launcher's own format.")] = "",
    mpi_args: Annotated[str, typer.Option(help='More options for mpirun or srun, as one text: "--bind-to core".')] = "",
    restarts: Annotated[
        int, typer.Option(help="Start the job again after a failure, at most so often; give run --resume auto.")
    ] = 0,
    restart_75: Annotated[
        bool, typer.Option("--restart-75", help="With --restarts, also after exit code 75: time limit or signal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command on stdout, start nothing.")] = False,
) -> None:
    """Start `mpicomp ARGS` on N ranks: finds mpirun, or srun in a SLURM allocation, and the options it needs here."""
    from ..cluster.environment import declared_size
    from ..cluster.launcher import become, find_launcher
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

    launcher = find_launcher()
    command = launcher.command(
        ranks,
        [sys.executable, "-m", "mpicomp", *args],
        hosts=[host for host in hosts.split(",") if host],
        hostfile=hostfile,
        extra=shlex.split(mpi_args),
    )
    added = launcher.environment(root=os.geteuid() == 0)
    line = " ".join([*(f"{name}={value}" for name, value in added.items()), shlex.join(command)])
    print(line, file=sys.stdout if dry_run else sys.stderr)
    if not dry_run and restarts > 0:
        raise typer.Exit(supervise(command, {**os.environ, **added}, restarts, restart_75))
    if not dry_run:
        become(command, {**os.environ, **added})
