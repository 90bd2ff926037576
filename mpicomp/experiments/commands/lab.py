"""`mpicomp lab`: nodes and limited links on one Linux machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..lab import NetworkLab, Traffic

lab = typer.Typer(
    no_args_is_help=True,
    help="A network lab: several nodes with limited links on one Linux machine, for runs by node count and link speed.",
)

Nodes = Annotated[int, typer.Option("--nodes", "-N", help="Number of nodes.")]
Rate = Annotated[str, typer.Option(help="Of each node's link, in each direction: 100mbit, 1gbit, ...; none: no limit.")]
Delay = Annotated[float, typer.Option(help="Milliseconds, one way between two nodes.")]
Which = Annotated[int, typer.Option("--lab", help="Which lab, by `mpicomp lab status`.  [the one that is up]")]


@lab.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab_run(
    ctx: typer.Context,
    args: Annotated[
        list[str],
        typer.Argument(metavar="-- ARGS...", help="What each rank runs: run ..., doctor, or python train.py ..."),
    ],
    nodes: Nodes = 0,
    rate: Rate = "none",
    delay: Delay = 0.0,
    per_node: Annotated[int, typer.Option(help="Ranks on each node.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds, after which the run is ended.")] = 3600.0,
    which: Which = 0,
) -> None:
    """Run `mpicomp ARGS`, or any program, with ranks on all nodes: of a lab for this one run (--nodes), or of the one that is up.

    Prints what each node's interface moved; the exit code is the run's.
    """
    from ..lab import NetworkLab
    from ..runtime import ConfigError, resolve

    if nodes and which:
        raise ConfigError("both --nodes (a new lab) and --lab (one that is up) are given; give one of them")
    program = resolve(args, ctx.find_root().command.commands)  # type: ignore[attr-defined]
    command = program or [sys.executable, "-m", "mpicomp", *args]
    if nodes:
        with NetworkLab(nodes, _rate(rate), delay) as network:
            done = network.run(command, per_node, timeout, capture=False, program=program is not None)
    else:
        done = _find(which).run(command, per_node, timeout, capture=False, program=program is not None)
    sys.stderr.write(done.stderr)
    show(done.interfaces)
    raise typer.Exit(done.code)


@lab.command("up")
def lab_up(nodes: Nodes, rate: Rate = "none", delay: Delay = 0.0) -> None:
    """Put a lab up that stays until `mpicomp lab down`; prints its number."""
    from ..lab import NetworkLab

    print(NetworkLab(nodes, _rate(rate), delay, keep=True).spaces.keeper)


@lab.command("enter", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab_enter(
    node: Annotated[int, typer.Argument(help="From 1.")],
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND...]")] = None,
    which: Which = 0,
) -> None:
    """Run a command, or a shell, on a node of the lab that is up."""
    from ..runtime import ConfigError, become

    network = _find(which)
    if not 1 <= node <= network.nodes:
        raise ConfigError(f"there is no node {node}; this lab has 1 to {network.nodes}")
    argv = network.spaces.command(command or [os.environ.get("SHELL", "sh")], node=node)
    become(["/usr/bin/env", *argv], os.environ)


@lab.command("links")
def lab_links(
    rate: Annotated[str, typer.Option(help="100mbit, 1gbit, ..., or none.  [as it is]")] = "",
    delay: Annotated[float | None, typer.Option(help="Milliseconds, one way.  [as it is]")] = None,
    which: Which = 0,
) -> None:
    """Change the links of the lab that is up."""
    network = _find(which)
    if rate:
        network.set_rate(_rate(rate))
    if delay is not None:
        network.set_delay(delay)


@lab.command("slurm", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab_slurm(
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="[a shell]")] = None,
    nodes: Nodes = 4,
    cpus: Annotated[int, typer.Option(help="CPUs that SLURM gives out on each node.")] = 2,
    rate: Rate = "none",
    delay: Delay = 0.0,
) -> None:
    """Run a command, or a shell, where sbatch, srun and squeue have a SLURM of their own, on the nodes of a lab. Needs root."""
    import subprocess

    from ..lab.slurm import SlurmLab

    with SlurmLab(nodes, cpus, _rate(rate), delay) as scheduler:
        done = subprocess.run(scheduler.command(command or [os.environ.get("SHELL", "sh")]))
    raise typer.Exit(done.returncode)


@lab.command("status")
def lab_status() -> None:
    """List the labs of this machine that this user may enter."""
    from ..lab import NetworkLab
    from ..lab.namespaces import running
    from ..runtime import rate, seconds, table

    rows = []
    for spaces, owner in running():
        network = NetworkLab.attach(spaces)
        speed = rate(network.link.rate) if network.link.rate else "no limit"
        owner = "stays until `mpicomp lab down`" if owner == "kept" else f"ends with process {owner.partition('-')[2]}"
        rows.append([str(spaces.keeper), str(network.nodes), speed, seconds(network.link.delay), owner])
    table("Labs", ["lab", "nodes", "rate", "delay", ""], rows)


@lab.command("down")
def lab_down(which: Annotated[int, typer.Argument(help="A lab's number.  [all that are kept up]")] = 0) -> None:
    """End a lab, and everything that runs in it. Labs of a program, as of `lab run`, end with it by themselves."""
    from ..lab.namespaces import running
    from ..runtime import LabError

    labs = [spaces for spaces, owner in running() if spaces.keeper == which or (not which and owner == "kept")]
    if which and not labs:
        raise LabError(f"there is no lab {which}; `mpicomp lab status` lists them")
    for spaces in labs:
        spaces.close()
        print(f"lab {spaces.keeper} is down")


def show(interfaces: dict[str, Traffic]) -> None:
    """Print what each node's interface moved."""
    from ..runtime import size, table

    rows = [
        [node, f"{t.tx_bytes:,}", f"{t.rx_bytes:,}", f"{t.tx_packets:,}", f"{t.rx_packets:,}", size(t.tx_bytes)]
        for node, t in interfaces.items()
    ]
    table("Interfaces, during the run", ["", "bytes sent", "received", "packets sent", "received", "sent"], rows)


def _rate(text: str) -> str | None:
    return None if text == "none" else text


def _find(which: int) -> NetworkLab:
    """The lab of this number, or the only one that is kept up."""
    from ..lab import NetworkLab
    from ..lab.namespaces import running
    from ..runtime import LabError

    labs = [spaces for spaces, owner in running() if spaces.keeper == which or (not which and owner == "kept")]
    if not labs:
        raise LabError(
            f"there is no lab {which or 'up'}; `mpicomp lab up --nodes 5` makes one, `mpicomp lab status` lists them"
        )
    if len(labs) > 1:
        raise LabError(f"several labs are up: {', '.join(str(s.keeper) for s in labs)}; choose one by --lab")
    return NetworkLab.attach(labs[0])
