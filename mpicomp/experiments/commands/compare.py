"""`mpicomp compare`: runs side by side, the first one being the yardstick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Option = typer.Option


def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS...",
            help="Directories of runs, or with runs in them, or of studies; the first is the yardstick, usually dense.",
        ),
    ],
    target: Annotated[
        float | None, Option(help="Compare at the first ‖∇f‖² ≤ this.  [the best that all reached]")
    ] = None,
    each_seed: Annotated[
        bool, Option("--each-seed", help="A column for each run, also where runs differ in the seed only.")
    ] = False,
    different_problems: Annotated[
        bool, Option("--different-problems", help="Compare runs of different problems, too.")
    ] = False,
) -> None:
    """Compare finished runs: bytes and seconds to the same ‖∇f‖², and the link speed below which compression pays. Runs that differ only in
    the seed share a column, with median and range. Exit code 1 where a run is damaged; the others are compared."""
    from ..runtime import UserError, bundles
    from ..study.compare import common_target
    from ..study.runs import load_runs, refuse_mixture

    runs, broken = load_runs(directories)
    for line in broken:
        print(f"mpicomp: left out: {line}", file=sys.stderr)
    if broken and broken[0].startswith(f"{directories[0]} "):
        print(f"mpicomp: the yardstick is now {runs[0].where}", file=sys.stderr)
    for line in refuse_mixture(runs, different_problems, "rounds and bytes to one ‖∇f‖²"):
        print(f"mpicomp: different problems: {line}", file=sys.stderr)
    stored = [run.stored for run in runs]
    if target is None:
        target = common_target(stored)
    for run in stored:
        if run.first_at(target) is None:
            raise UserError(
                f"{run.directory} never reached ‖∇f‖² ≤ {target:g}, its best is {run.best:g}; choose a larger --target"
            )
    show_comparison(bundles(runs, each_seed), target)
    if broken:
        raise typer.Exit(1)


def show_comparison(columns: Sequence[Any], target: float) -> None:
    """Print the two tables, the runs as a whole, and what it took them to reach the target; and the break-even links.

    Parameters
    ----------
    columns : bundles of runs, the yardstick first.
    """
    from ..runtime import run_rows, table

    names = [bundle.label for bundle in columns]
    whole = [dict(run_rows(_median_of([run.summary for run in bundle.runs]))) for bundle in columns]
    rows = [
        [name, *(found.get(name, "") for found in whole)] for name in dict.fromkeys(k for found in whole for k in found)
    ]
    if any(len(bundle.runs) > 1 for bundle in columns):
        rows.insert(0, ["runs, their medians below", *(_seeds(bundle) for bundle in columns)])
    table("Runs", ["", *names], rows)
    table(f"To reach ‖∇f‖² ≤ {target:.3g}", ["", *names], _to_target(columns, target))
    for bundle in columns[1:]:
        print(_verdict(columns[0], bundle, target))


def _to_target(columns: Sequence[Any], target: float) -> list[list[str]]:
    from ..runtime import seconds, size
    from ..study.breakeven import median_cost
    from ..study.cells import Interval
    from ..study.compare import Cost
    from ..study.tables import interval

    found = [[run.stored.first_at(target) for run in bundle.runs] for bundle in columns]
    costs = [[Cost.of(row) for row in rows] for rows in found]
    base = median_cost(costs[0])
    yardstick = f"  against {columns[0].label}"

    def line(name: str, of: Callable[[Cost], float], text: Callable[[float], str]) -> list[str]:
        cells = [Interval.of([of(c) for c in own]) for own in costs]
        return [name, *(text(c.median) if c.low == c.high else interval(c, text) for c in cells)]

    def against(of: Callable[[Cost], float]) -> list[str]:
        return [yardstick, *(_ratio(of(median_cost(own)), of(base)) for own in costs)]

    def both(c: Cost) -> float:
        return c.up + c.down

    values = [Interval.of([row["uplink_values_only"] for row in rows if "uplink_values_only" in row]) for rows in found]
    return [
        ["rounds", *(_span(Interval.of([c.rounds for c in own])) for own in costs)],
        line("bytes up", lambda c: c.up, size),
        against(lambda c: c.up),
        line("bytes down", lambda c: c.down, size),
        against(lambda c: c.down),
        line("bytes total", both, size),
        against(both),
        ["values up, as the papers count", *(size(v.median) if v.samples else "not counted" for v in values)],
        line("seconds here", lambda c: c.total, seconds),
        line("  of which work (not communication)", lambda c: c.work, seconds),
        line("seconds at 1 Gbit/s, latency apart", lambda c: c.seconds_at(1e9), seconds),
        line("seconds at 100 Mbit/s, latency apart", lambda c: c.seconds_at(1e8), seconds),
        line("seconds at 1 Mbit/s, latency apart", lambda c: c.seconds_at(1e6), seconds),
    ]


def _span(rounds: Any) -> str:
    """Median and interval of whole numbers."""
    if rounds.low == rounds.high:
        return f"{rounds.median:.0f}"
    return f"{rounds.median:.0f} [{rounds.low:.0f}, {rounds.high:.0f}]"


def _ratio(value: float, base: float) -> str:
    if value == base:
        return "same"
    if value < base:
        return f"{base / value:.2f}× less" if value else "nothing"
    return f"{value / base:.2f}× more" if base else "more than nothing"


def _verdict(yardstick: Any, bundle: Any, target: float) -> str:
    """Below which link speed the runs pay, with its interval."""
    from ..runtime import rate
    from ..study.breakeven import break_even_of

    found = break_even_of([run.stored for run in bundle.runs], [run.stored for run in yardstick.runs], target)
    name, base = bundle.label, yardstick.label

    def link(speed: float) -> str:
        return "no link" if speed == 0 else "any link" if speed == float("inf") else rate(speed)

    between = f" (95 %: {link(found.low)} to {link(found.high)})" if found.known and found.low < found.high else ""
    if found.speed == 0:
        return f"{name}: needs more bytes than {base} here, so no link is slow enough for it to pay{between}."
    if found.speed == float("inf"):
        return f"{name}: fewer bytes and no more work than {base}: it pays on any link{between}."
    return f"{name}: pays on links slower than {rate(found.speed)}{between} at the server; on faster ones {base} is quicker."


def _seeds(bundle: Any) -> str:
    seeds = sorted({run.summary.get("seed", 0) for run in bundle.runs})
    shown = ", ".join(map(str, seeds[:6])) + (", ..." if len(seeds) > 6 else "")
    return f"{len(bundle.runs)}, seed{'s' * (len(seeds) > 1)} {shown}"


def _median_of(values: Sequence[Any]) -> Any:
    """Of summaries: the median of each number, and of anything else the first."""
    from statistics import median

    first = values[0]
    if len(values) == 1 or not all(isinstance(v, type(first)) for v in values):
        return first
    if isinstance(first, dict):
        shared = [key for key in first if all(key in v for v in values)]
        return {key: _median_of([v[key] for v in values]) for key in shared}
    if isinstance(first, bool):
        return any(values)
    if isinstance(first, int | float):
        middle = median(values)
        return int(middle) if float(middle).is_integer() and isinstance(first, int) else middle
    if any(value != first for value in values):
        return "several" if isinstance(first, str) else first
    return first
