"""`mpicomp doctor`: what this MPI job got, printed once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer


def doctor() -> None:
    """Show ranks, hosts, cores, libraries, caches and link speeds; alone, or under mpirun, srun or `mpicomp launch`.

    The exit code is 1 when the launcher started more processes than MPI sees.
    """
    from ..cluster.comm import world
    from ..cluster.doctor import doctor as examine
    from ..cluster.environment import declared_rank
    from ..cluster.launcher import loaded_mpi

    try:
        comm = world()
    except (ImportError, RuntimeError):
        loaded_mpi()  # raises with the remedy
        raise
    report = examine(comm)
    if comm.Get_rank() == 0 and not declared_rank():
        show(report)
    if report["mismatch"]:
        raise typer.Exit(1)


def show(report: Mapping[str, Any]) -> None:
    """Print what `cluster.doctor.doctor` found."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ..streams import rich_console

    console = rich_console(sys.stdout)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report).items():
        facts.add_row(name, Text(value))  # as it is: [mpi] is no markup
    console.print(facts)

    links = {link["rank"]: link for link in report["links"]}
    measured = [name for name in next(iter(links.values()), {}) if name != "rank"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    headings = ["rank", "host", "cores", *(name.replace("latency_us", "µs of 8 B") for name in measured)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "host" else "right")
    for rank, record in enumerate(report["ranks"]):
        numbers = [f"{links[rank][name]:,.1f}" if rank in links else "" for name in measured]
        table.add_row(str(rank), Text(record["host"]), Text(record["binding"]), *numbers)
    console.print(table)

    for note in report["notes"]:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    if report["mismatch"]:
        console.print(Text(f"PROBLEM: {report['mismatch']}", "bold red"), soft_wrap=True)


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    first = report["ranks"][0]
    declared = "nobody launched it" if report["declared"] is None else f"the launcher says {report['declared']}"
    threads = {" ".join(f"{name}={value}" for name, value in rank["threads"].items()) for rank in report["ranks"]}
    cache = ["warm" if first["cache_warm"] else "cold", "writable" if first["cache_writable"] else "not writable"]
    return {
        "ranks": f"{report['size']} ({declared})",
        "hosts": ", ".join(f"{host}: {count}" for host, count in report["hosts"].items()),
        "cores": f"{first['host_cores']} on {first['host']}",
        "threads": " | ".join(sorted(text or "not set" for text in threads)),
        **report["software"],
        "Numba cache": f"{first['cache']} ({', '.join(cache)})",
        **report["slurm"],
    }
