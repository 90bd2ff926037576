"""`mpicomp bench target`: time to a target on slow links."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runtime import Import
from .bench import Json, bench, print_json


@bench.command("target")
def bench_target(
    dim: Annotated[int, typer.Option(help="d, float32.")] = 1 << 20,
    nodes: Annotated[int, typer.Option("--nodes", "-N", help="Nodes of the lab, a rank on each.")] = 5,
    rate: Annotated[str, typer.Option(help="Of each node's link, in each direction.")] = "100mbit",
    delay: Annotated[float, typer.Option(help="Milliseconds, one way.")] = 0.0,
    target: Annotated[float, typer.Option(help="Part of the first ‖∇f‖² to come to.")] = 1e-3,
    step: Annotated[str, typer.Option(help="The step size of all.")] = "1.0",
    json: Json = False,
    import_: Import = None,
) -> None:
    """Compressed methods against dense gradient descent, dense Allreduce and bfloat16, in the network lab. Not under mpirun."""
    from ..bench.target import bench_target as measure
    from ..runtime import ConfigError, seconds, size, table

    if dim < 2 or nodes < 2 or not 0 < target < 1:
        raise ConfigError("bench target: --dim and --nodes must be at least 2, --target between 0 and 1")
    found = measure(dim, nodes, rate, delay, target, step)
    if json:
        print_json(found)
        return
    rows = [
        [
            r["name"],
            f"{r['rounds']}",
            seconds(r["seconds"]),
            seconds(r["round"]),
            size(r["bytes"]),
            size(r["path"]),
            f"{r['gain']:.2f}",
            f"{r['fewer']:.2f}",
            f"{r['shorter']:.2f}",
            f"{r['gain'] / r['shorter']:.2f}",
            f"{r['gain_allreduce']:.2f}",
        ]
        for r in found
    ]
    header = [
        "",
        "rounds",
        "seconds",
        "round",
        "bytes",
        "one after another",
        "gain",
        "fewer bytes",
        "shorter path",
        "gain / shorter",
        "gain over Allreduce",
    ]
    table(f"To ‖∇f‖² ≤ {target:g} ‖∇f(x⁰)‖², quadratic, d = {dim:,}, {nodes} nodes, {rate}", header, rows)
