"""What a search leaves: a table of all points with why each of them lost, the same as CSV, and the best ones as runs."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ..runtime import Config, csv_cell, seconds, size, write_text
from .grid import Contender, Point
from .halving import FAILED, PAUSED, REACHED, Bracket, Verdict
from .search import Search

HEADER = ["contender", "step", "seeds", "to the target", "smallest ‖∇f‖²", "rounds", ""]
COLUMNS = (
    "contender",
    "step",
    "seeds",
    "cost",
    "cost_low",
    "cost_high",
    "level",
    "rounds",
    "ended",
    "why",
    "directory",
)
_TEXTS: dict[str, Callable[[float], str]] = {
    "rounds": lambda value: f"{value:,.0f} rounds",
    "bits": lambda value: f"{value:.4g} bits",
    "bytes": size,
    "seconds": seconds,
}
NAMES = {"rounds": "rounds", "bits": "bits up", "bytes": "bytes both ways", "seconds": "seconds"}


def cost_text(objective: str, value: float) -> str:
    """A cost with its unit; "" where there is none."""
    return _TEXTS[objective](value) if math.isfinite(value) else ""


def ordered(bracket: Bracket) -> list[tuple[Point, Verdict]]:
    """The best first, what failed last."""
    best = bracket.best
    return sorted(
        bracket.verdicts.items(),
        key=lambda item: (item[0] != best, item[1].outcome.ended == FAILED, *item[1].outcome.rank, item[0].place),
    )


def why(bracket: Bracket, point: Point, verdict: Verdict) -> str:
    """Why a point lost, in words; of the best, that it is the best."""
    outcome = verdict.outcome
    if point == bracket.best:
        edge = bracket.edge()
        missed = "" if outcome.ended == REACHED else "the nearest, but not at the target"
        return ", ".join(filter(None, [missed or "the best", f"the {edge} step tried" if edge else ""]))
    if outcome.ended == REACHED:
        if outcome.cost == bracket.cost:
            return "at the same cost as the best"
        return f"{outcome.cost / bracket.cost:.3g} times the best's cost"
    if outcome.ended == PAUSED:
        return f"{verdict.why} after {outcome.rounds:,} rounds"
    return outcome.reason or outcome.ended


def rows(search: Search, brackets: dict[str, Bracket]) -> list[list[str]]:
    """A row for each point."""
    shown = []
    for bracket in brackets.values():
        for point, verdict in ordered(bracket):
            outcome = verdict.outcome
            cost = cost_text(search.pool.objective, outcome.cost)
            if cost and outcome.seeds > 1:
                cost += f" [{cost_text(search.pool.objective, outcome.low)} … {cost_text(search.pool.objective, outcome.high) or '-'}]"
            shown.append(
                [
                    search.label(point), point.step, f"{outcome.seeds}", cost,
                    f"{outcome.level:.3g}" if math.isfinite(outcome.level) else "", f"{outcome.rounds:,}", why(bracket, point, verdict),
                ]
            )  # fmt: skip
    return shown


def write_csv(search: Search, brackets: dict[str, Bracket], path: Path) -> None:
    """All points with bare numbers, an axis in each column; an empty cell where there is none."""
    keys = list(dict.fromkeys(key for b in brackets.values() for p in b.verdicts for key, _ in p.axes))
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:2], *keys, *COLUMNS[2:]])
        for label, bracket in brackets.items():
            for point, verdict in ordered(bracket):
                o, axes = verdict.outcome, dict(point.axes)
                numbers = [f"{v!r}" if math.isfinite(v) else "" for v in (o.cost, o.low, o.high, o.level)]
                where = "" if o.seeds == 0 else search.directory(point).name
                cells = [
                    label,
                    point.step,
                    *(axes.get(key, "") for key in keys),
                    o.seeds,
                    *numbers,
                    o.rounds,
                    o.ended,
                    why(bracket, point, verdict),
                    where,
                ]
                writer.writerow([csv_cell(str(cell)) for cell in cells])


def best_run(search: Search, point: Point) -> Config:
    """The run of a point as a person would start it: to the target, without the search's own files."""
    config = search.configured(point)
    return dataclasses.replace(config, tol=search.target, out=None, resume=None)


def write_best(search: Search, bracket: Bracket, path: Path) -> None:
    """The best of a bracket as a TOML file for `mpicomp run`, with a line on what it is."""
    if bracket.best is None:
        return
    outcome = bracket.verdicts[bracket.best].outcome
    objective = search.pool.objective
    told = (
        f"{cost_text(objective, outcome.cost)} to ‖∇f‖² ≤ {search.target:g}"
        if outcome.ended == REACHED
        else f"not at ‖∇f‖² ≤ {search.target:g}, smallest {outcome.level:.3g}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path,
        f"# {search.label(bracket.best)}, step {bracket.best.step}: {told}\n"
        + best_run(search, bracket.best).to_toml(),
    )


def summary(search: Search, brackets: dict[str, Bracket]) -> list[str]:
    """The best of each contender in a line, the best of all first."""
    objective, lines = search.pool.objective, []
    for label, bracket in sorted(brackets.items(), key=lambda item: item[1].cost):
        if bracket.best is None:
            lines.append(f"{label}: nothing came to an end that counts")
            continue
        outcome, edge = bracket.verdicts[bracket.best].outcome, bracket.edge()
        line = f"{search.label(bracket.best)}, step {bracket.best.step}: "
        if outcome.ended == REACHED:
            line += f"{cost_text(objective, outcome.cost)} to ‖∇f‖² ≤ {search.target:g}"
        else:
            line += f"not at ‖∇f‖² ≤ {search.target:g}; smallest {outcome.level:.3g}"
        if edge:
            line += f"; it is the {edge} step that was tried: a better one may lie beyond"
        line += _axis_edges(bracket, search.contenders)
        lines.append(line)
    return lines


def _axis_edges(bracket: Bracket, contenders: Sequence[Contender]) -> str:
    """Where the best stands at the edge of an axis of numbers."""
    if bracket.best is None:
        return ""
    axes = next(c.axes for c in contenders if c.label == bracket.best.contender)
    told = ""
    for axis in axes:
        numbers = [v for v in axis.values if isinstance(v, int | float) and not isinstance(v, bool)]
        at = dict(bracket.best.axes)[axis.key]
        if len(numbers) == len(axis.values) > 1 and at in (min(numbers), max(numbers)):
            told += f"; {axis.key}={at} is the {'smallest' if at == min(numbers) else 'largest'} of its axis"
    return told
