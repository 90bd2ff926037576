"""What the figures of a report share: which groups stand in which panel, and axes, ticks and legends that can be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..runtime import rate, size
from .cells import Group, Results

MAX_PANELS = 6
Condition = tuple[Any, ...]


# ---- which groups ---------------------------------------------------------------------------------------------------
def axis_name(results: Results) -> str:
    """What the horizontal axis of a scaling figure counts."""
    if results.study.mode == "clients":
        return "clients n"
    return "nodes" if any(g.cell.nodes for g in results.groups) else "workers"


def place(results: Results, group: Group) -> int:
    """Where a group stands on that axis."""
    return group.clients if results.study.mode == "clients" else group.places


def several_places(results: Results) -> bool:
    """There is something to scale over."""
    return len({place(results, g) for g in results.groups}) > 1


def by_condition(results: Results) -> list[tuple[str, list[Group]]]:
    """A panel's title and groups for each condition; Allreduce stands in every panel of its d, link and ranks per node."""
    groups = results.groups
    ordinary = {g.condition for g in groups if g.exchange != "allreduce"} or {g.condition for g in groups}
    found = []
    for condition in sorted(ordinary, key=_order)[:MAX_PANELS]:
        here = [
            g
            for g in groups
            if g.condition == condition or (g.exchange == "allreduce" and _beside(g.condition, condition))
        ]
        found.append((condition_text(condition), here))
    return found


def first_condition(groups: Sequence[Group]) -> Condition:
    """Where a figure shows one condition only: the smallest d, the slowest link, p2p."""
    return min([g.condition for g in groups if g.exchange != "allreduce"] or [g.condition for g in groups], key=_order)


def at_one_condition(groups: Sequence[Group]) -> list[Group]:
    """The groups of the first condition, and Allreduce beside them."""
    condition = first_condition(groups)
    return [
        g for g in groups if g.condition == condition or (g.exchange == "allreduce" and _beside(g.condition, condition))
    ]


def largest(results: Results) -> list[Group]:
    """The groups of the largest placement and n, of one d, exchange (Allreduce beside it) and ranks per node, on every link."""
    dim, exchange, _, per_node = first_condition(results.groups)
    top = max((g.places, g.clients) for g in results.groups)
    groups = [g for g in results.groups if (g.places, g.clients, g.dim, g.cell.per_node) == (*top, dim, per_node)]
    return [g for g in groups if g.exchange in (exchange, "allreduce")]


def in_series(groups: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    """Each label with its groups by placement, baselines first."""

    def named(g: Group) -> tuple[bool, str]:
        return g.cell.baseline == "", g.label

    ordered = sorted(groups, key=lambda g: (*named(g), g.places, g.clients, g.link_rate))
    for (_, label), series in itertools.groupby(ordered, key=named):
        yield label, list(series)


def _beside(a: Condition, b: Condition) -> bool:
    return (a[0], *a[2:]) == (b[0], *b[2:])


def _order(condition: Condition) -> Condition:
    dim, exchange, link, per_node = condition
    return dim, link, exchange != "p2p", exchange, per_node


# ---- in words -------------------------------------------------------------------------------------------------------
def condition_text(condition: Condition) -> str:
    """d, exchange, link and ranks per node."""
    dim, exchange, link, per_node = condition
    parts = [
        f"d = {dim:,}",
        exchange,
        rate(link) if np.isfinite(link) else "",
        f"{per_node} per node" if per_node > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def where_text(groups: Sequence[Group]) -> str:
    """Placement and condition that the groups share."""
    g = groups[0]
    placed = (
        f"{g.cell.nodes} nodes with {g.cell.per_node} rank{'s' * (g.cell.per_node > 1)} each"
        if g.cell.nodes
        else f"{g.cell.workers} workers"
    )
    exchanges = sorted({x.exchange for x in groups} - {"allreduce"}) or ["allreduce"]
    links = {x.link_text for x in groups}
    link = f", links of {next(iter(links))}" if len(links) == 1 and links != {""} else ""
    return f"{placed}, n = {g.clients:,}, d = {g.dim:,}, {' and '.join(exchanges)}{link}"


# ---- axes -----------------------------------------------------------------------------------------------------------
def panels(plt: Any, count: int, height: float = 3.1) -> tuple[Any, list[Any]]:
    """A figure with so many panels, at most three side by side."""
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.3 * columns, 5.2), height * rows + 0.5), layout="constrained", squeeze=False
    )
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def legend_below(figure: Any, axes: Sequence[Any], columns: int = 3) -> None:
    """One legend below all panels, each entry once."""
    entries = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = min(columns, len(entries))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False)


def place_ticks(line: Any, values: Sequence[int]) -> None:
    """On a logarithmic axis, ticks where something was measured, without those that would touch their neighbours."""
    span = max(np.log(values[-1] / values[0]), 1e-9)
    kept = [values[0]]
    for value in values[1:]:
        if np.log(value / kept[-1]) > 0.08 * span:
            kept.append(value)
    line.set_ticks(kept, [f"{v:,}" for v in kept])
    line.set_ticks([], minor=True)


def log_ticks(line: Any, text: Callable[[float], str], values: Sequence[float]) -> None:
    """Ticks at 1, 2, 5 of each decade around the values, or at decades alone where there are many."""
    low, high = min(values) / 1.3, max(values) * 1.3
    steps = (1, 2, 5) if high / low < 200 else (1,)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
    line.set_ticks(ticks or [low, high], [text(t) for t in ticks or [low, high]])
    line.set_ticks([], minor=True)
    line.axes.set(
        **{f"{line.axis_name}lim": (min(low, *ticks) if ticks else low, max(high, *ticks) if ticks else high)}
    )


def byte_text(value: float, _: Any = None) -> str:
    """A tick's label."""
    return size(value)


def second_text(value: float, _: Any = None) -> str:
    """A tick's label: 100 s, not 100.00 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= 0.9999 * factor:
            return f"{value / factor:.3g} {unit}"
    return "0" if value == 0 else f"{value * 1e9:.3g} ns"
