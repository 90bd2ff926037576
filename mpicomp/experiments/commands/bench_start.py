"""`mpicomp bench start`: where the time of a start goes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..runtime import with_run_options
from .bench import Json, bench, print_json


@bench.command("start")
@with_run_options
def bench_start(
    config: Any,
    ranks: Annotated[int, typer.Option("-n", "--ranks", help="Ranks of the jobs that are started.")] = 5,
    repeats: Annotated[int, typer.Option(help="Starts that are counted.")] = 5,
    json: Json = False,
) -> None:
    """Start a run (its options) several times, and show what passes until its first round is over. Not under mpirun."""
    from ..bench.start import bench_start as measure
    from ..runtime import seconds, table

    found = measure(config, ranks, repeats)
    if json:
        print_json(found)
        return
    median, low, high = found["total"]
    processor = found["processor"][0]
    rows = [
        *([name, seconds(took)] for name, took in found["phases"].items()),
        ["to the end of the first round", f"{seconds(median)}"],
        ["  95 % interval of the median", f"{seconds(low)} … {seconds(high)}"],
        ["processor time, all ranks", seconds(processor)],
        [f"  by {found['cores']} cores", seconds(processor / found["cores"])],
        ["kernels loaded, compiled, all ranks", f"{found['loaded']}, {found['compiled']}"],
        ["import mpicomp, alone", seconds(found["import_package"][0])],
    ]
    table(f"A start on {ranks} ranks, warm cache, medians of {repeats}", ["phase, slowest rank", ""], rows)
