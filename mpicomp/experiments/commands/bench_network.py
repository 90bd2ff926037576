"""`mpicomp bench mpi`, `scaling-clients`, `breakeven`: what MPI gives, what clients cost, where compression pays."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..runtime import Import, launched_world
from .bench import Json, bench, print_json


def several(command: str) -> Any:
    """The communicator of this job.

    Raises
    ------
    ConfigError : fewer than two ranks.
    """
    from ..runtime import ConfigError

    comm = launched_world("auto")
    if comm is None or comm.Get_size() < 2:
        raise ConfigError(f"bench {command} needs at least 2 ranks: mpicomp launch -n 5 -- bench {command}")
    return comm


@bench.command("mpi")
def bench_mpi(
    size: Annotated[list[int] | None, typer.Option(help="Bytes of a message; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(help="How often each is timed; 0: 1000 of small ones, 20 of large ones.")] = 0,
    json: Json = False,
) -> None:
    """Latency, bandwidth, bcast, gather and allreduce by size, with mpi4py alone: the ceilings of every round (under mpirun)."""
    from ..bench.mpi import SIZES
    from ..bench.mpi import bench_mpi as measure
    from ..runtime import ConfigError, seconds, table

    comm = several("mpi")
    if min([*(size or ()), repeats + 1]) < 1:
        raise ConfigError("bench mpi: --size must be at least 1, --repeats at least 0")
    found = measure(comm, size or SIZES, repeats)
    if json and found:
        print_json(found)
        return
    rows = [
        [
            r["operation"],
            f"{r['size']:,}",
            seconds(r["seconds"][0]),
            f"{seconds(r['seconds'][1])} … {seconds(r['seconds'][2])}",
            seconds(r["p99"]),
            f"{r['rate'] / 1e6:,.0f}",
            f"{r['memcpy'] / r['seconds'][0]:.2f}",
        ]
        for r in sorted(found, key=lambda r: list(dict.fromkeys(f["operation"] for f in found)).index(r["operation"]))
    ]
    if rows:
        header = ["", "bytes", "median", "95 % interval", "p99", "MB/s", "× memcpy"]
        table(f"MPI on {comm.Get_size()} ranks, the slowest rank's times", header, rows)


@bench.command("scaling-clients")
def bench_scaling_clients(
    clients: Annotated[list[int] | None, typer.Option(help="n; may be repeated. Default: 10 to 10,000.")] = None,
    data: Annotated[str, typer.Option(help="Data set.")] = "a9a",
    compressor: Annotated[str, typer.Option(help="Of the uplink.")] = "natural",
    rounds: Annotated[int, typer.Option(help="Of each run.")] = 300,
    repeats: Annotated[int, typer.Option(help="Runs of each n.")] = 3,
    json: Json = False,
    import_: Import = None,
) -> None:
    """Rounds by number of clients, and what a client costs beyond its kernels (under mpirun)."""
    from ..bench.scaling import CLIENTS, scaling_clients
    from ..runtime import seconds, size, table

    comm = several("scaling-clients")
    found = scaling_clients(comm, clients or CLIENTS, data, compressor, rounds, repeats)
    if json and found:
        print_json(found)
        return
    rows = [
        [
            f"{r['clients']:,}",
            f"{r['rate']:,.0f}",
            seconds(r["round"][0]),
            seconds(r["kernels"]),
            f"{1e6 * r['beyond']:+.2f} µs",
            f"{1e6 * r['each']:+.2f} µs",
            size(r["bytes"]),
        ]
        for r in found
    ]
    if rows:
        header = [
            "clients",
            "rounds/s",
            "round",
            "kernels alone",
            "beyond, a client",
            "each further",
            "bytes up, a client",
        ]
        table(
            f"DCGD, {compressor}, {data} (d = {found[0]['dim']}), {comm.Get_size() - 1} workers on {found[0]['cores']} cores",
            header,
            rows,
        )


@bench.command("breakeven")
def bench_breakeven(
    dim: Annotated[int, typer.Option(help="d.")] = 1 << 18,
    workers: Annotated[int, typer.Option(help="n, one client on each.")] = 4,
    spec: Annotated[list[str] | None, typer.Option(help="Compressor; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(help="How often each message is timed.")] = 20,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Also run the slowest to pay in the network lab, at three speeds around its break-even."
        ),
    ] = False,
    json: Json = False,
    import_: Import = None,
) -> None:
    """The link speed below which each compressor pays, from its measured times and bytes. Not under mpirun."""
    from ..bench import breakeven as measure
    from ..runtime import ConfigError, rate, seconds, size, table

    if min(dim, workers, repeats) < 1:
        raise ConfigError("bench breakeven: --dim, --workers and --repeats must be at least 1")
    found = measure.breakeven(dim, workers, spec or measure.SPECS, repeats)
    pays = [r for r in found if r["speed"] not in (None, float("inf"))]
    if check and not pays:
        raise ConfigError("bench breakeven --check: none of these has a break-even speed; choose others by --spec")
    checked = measure.check(dim, workers, min(pays, key=lambda r: r["speed"])["spec"]) if check else None
    if json:
        print_json({"rates": found, "check": checked})
        return
    rows = [
        [
            r["spec"],
            seconds(r["encode"]),
            seconds(r["decode"]),
            size(r["nbytes"]),
            f"{r['times_fewer']:.3g}",
            ""
            if r is found[0]
            else "never"
            if r["speed"] is None
            else "at any speed"
            if r["speed"] == float("inf")
            else rate(r["speed"]),
        ]
        for r in found
    ]
    header = ["", "encode", "decode, add", "message", "times fewer bytes", "pays below"]
    table(f"DCGD against dense gradient descent, d = {dim:,}, {workers} workers, float32", header, rows)
    if checked:
        rows = [
            [
                rate(r["speed"]),
                seconds(r["dense"]),
                seconds(r["compressed"]),
                f"{r['measured']:.2f}",
                f"{r['predicted']:.2f}",
            ]
            for r in checked["rows"]
        ]
        header = ["link", "dense round", "compressed round", "gain, measured", "gain, predicted"]
        table(f"{checked['spec']} in the network lab, {workers + 1} nodes on this machine's cores", header, rows)
