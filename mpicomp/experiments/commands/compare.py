"""`mpicomp compare`: runs side by side, the first one being the yardstick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare(
    directories: Annotated[
        list[Path], typer.Argument(help="Run directories; the first is the yardstick, usually a dense run.")
    ],
    target: Annotated[
        float | None, typer.Option(help="Compare at the first ‖∇f‖² ≤ this.  [the best that all reached]")
    ] = None,
) -> None:
    """Compare finished runs: bytes and seconds to the same ‖∇f‖², and the link speed below which compression pays. Exit code 1 where a
    run is damaged; the others are compared."""
    from ..runtime import UserError
    from ..study.compare import common_target, load_all

    runs, broken = load_all(directories)
    for line in broken:
        print(f"mpicomp: left out: {line}", file=sys.stderr)
    if broken and broken[0].startswith(f"{directories[0]} "):
        print(f"mpicomp: the yardstick is now {runs[0].directory}", file=sys.stderr)
    if target is None:
        target = common_target(runs)
    for run in runs:
        if run.first_at(target) is None:
            raise UserError(
                f"{run.directory} never reached ‖∇f‖² ≤ {target:g}, its best is {run.best:g}; choose a larger --target"
            )
    show_comparison(runs, target)
    if broken:
        raise typer.Exit(1)


def show_comparison(runs: list, target: float) -> None:
    """Print the two tables: the runs as a whole, and what it took each of them to reach the target."""
    from ..runtime import rate, run_rows, seconds, size, table
    from ..study.compare import Cost, break_even

    columns = [run_rows(run.summary) for run in runs]
    names = [run.summary["method"] for run in runs]
    table("Runs", ["", *names], [[rows[0][0], *(row[1] for row in rows)] for rows in zip(*columns, strict=True)])
    rows = [run.first_at(target) for run in runs]
    costs = [Cost.of(row) for row in rows]
    dense = costs[0]

    def against(value: float, base: float) -> str:
        if value == base:
            return "same"
        if value < base:
            return f"{base / value:.2f}× less" if value else "nothing"
        return f"{value / base:.2f}× more" if base else "more than nothing"

    lines = [
        ["rounds", *(str(c.rounds) for c in costs)],
        ["bytes up", *(size(c.up) for c in costs)],
        [f"  against {names[0]}", *(against(c.up, dense.up) for c in costs)],
        ["bytes down", *(size(c.down) for c in costs)],
        [f"  against {names[0]}", *(against(c.down, dense.down) for c in costs)],
        ["bytes total", *(size(c.up + c.down) for c in costs)],
        [f"  against {names[0]}", *(against(c.up + c.down, dense.up + dense.down) for c in costs)],
        ["values up, as the papers count", *(size(row["uplink_values_only"]) for row in rows)],
        ["seconds here", *(seconds(c.total) for c in costs)],
        ["  of which work (not communication)", *(seconds(c.work) for c in costs)],
        ["seconds at 1 Gbit/s, latency apart", *(seconds(c.seconds_at(1e9)) for c in costs)],
        ["seconds at 100 Mbit/s, latency apart", *(seconds(c.seconds_at(1e8)) for c in costs)],
        ["seconds at 1 Mbit/s, latency apart", *(seconds(c.seconds_at(1e6)) for c in costs)],
    ]
    table(f"To reach ‖∇f‖² ≤ {target:.3g}", ["", *names], lines)
    for name, cost in zip(names[1:], costs[1:], strict=True):
        speed = break_even(cost, dense)
        if speed is None:
            print(f"{name}: needs more bytes than {names[0]} here, so no link is slow enough for it to pay.")
        elif speed == float("inf"):
            print(f"{name}: fewer bytes and no more work than {names[0]}: it pays on any link.")
        else:
            print(
                f"{name}: pays on links slower than {rate(speed)} at the server; on faster ones {names[0]} is quicker."
            )
