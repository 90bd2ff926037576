"""The figures of a report: each a function of the results that returns a figure and its caption, or None where it would show nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..cluster.clock import PHASES
from ..lab.links import Link
from .cells import Group, Results, phases_of
from .compare import Cost
from .style import COLOURS, GREY, Look
from .units import rate, seconds

Drawn = tuple[Any, str]
PHASE_COLOURS = dict(zip(PHASES, (COLOURS[2], COLOURS[4], COLOURS[5], "#bdbdbd", COLOURS[0], COLOURS[3]), strict=True))
MAX_PANELS = 6
_LINKS = np.logspace(6, 11, 60)  # bit/s, 1 Mbit/s to 100 Gbit/s


def all_figures(results: Results, plt: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, figure, caption) of every figure that the results can fill."""
    look = Look(list(dict.fromkeys(g.label for g in results.groups)))
    makers: dict[str, Callable[[Results, Any, Look], Drawn | None]] = {
        "scaling": scaling,
        "efficiency": efficiency,
        "link": time_against_link,
        "loss": loss_curves,
        "phases": phase_stack,
        "pareto": pareto,
    }
    for name, maker in makers.items():
        drawn = maker(results, plt, look)
        if drawn is not None:
            yield name, *drawn


def places_name(results: Results) -> str:
    """What the horizontal axis of scaling counts."""
    if results.study.mode == "clients":
        return "clients n"
    return "nodes" if any(g.cell.nodes for g in results.groups) else "workers"


def place(results: Results, group: Group) -> int:
    """Where a group stands on that axis."""
    return group.clients if results.study.mode == "clients" else group.places


def scaling(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Seconds a round against the number of nodes, with the ideal line."""
    panels = _panels(results)
    if _placements(results) < 2:
        return None
    figure, axes = _grid(plt, len(panels))
    for axis, (title, groups) in zip(axes, panels, strict=True):
        for label, series in _series(groups):
            x = [place(results, g) for g in series]
            y = np.array([g.seconds.median for g in series])
            spread = np.array([[g.seconds.median - g.seconds.low, g.seconds.high - g.seconds.median] for g in series]).T
            axis.errorbar(x, y, spread, capsize=2.5, elinewidth=0.9, label=label, **look(label))
        _ideal(results, axis, groups)
        _log_axes(axis, sorted({place(results, g) for g in groups}))
        axis.set(title=title, xlabel=places_name(results), ylabel="seconds a round")
    _legend(figure, axes)
    kind = {"strong": "Strong scaling", "weak": "Weak scaling", "clients": "Growing number of clients"}[
        results.study.mode
    ]
    return figure, (
        f"{kind}: seconds a round, the largest of any rank; median over timed blocks of rounds, bars its 95 % interval. "
        "The grey line is ideal, from the dense baseline's smallest placement (or the first method's, where there is none). "
        "Lines join the placements of one method to show a trend; nothing was measured between the markers."
    )


def _ideal(results: Results, axis: Any, groups: Sequence[Group]) -> None:
    dense = [g for g in groups if g.cell.baseline == "dense"] or list(groups)
    first = min(dense, key=lambda g: (place(results, g), g.label))
    x = np.array(sorted({place(results, g) for g in groups if place(results, g) >= place(results, first)}), float)
    work = {"strong": x[0] / x, "weak": np.ones_like(x), "clients": x / x[0]}[results.study.mode]
    if results.study.mode == "strong" and first.cell.nodes:  # rank 0 is no worker
        ranks = x * max(first.cell.per_node, 1) - 1
        work = ranks[0] / ranks
    axis.plot(x, first.seconds.median * work, color=GREY, linestyle=":", linewidth=1.2, label="ideal")


def efficiency(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Parallel efficiency against the number of nodes."""
    if results.study.mode == "clients" or _placements(results) < 2:
        return None
    panels = _panels(results)
    figure, axes = _grid(plt, len(panels))
    for axis, (title, groups) in zip(axes, panels, strict=True):
        for label, series in _series(groups):
            axis.plot(
                [g.places for g in series], [100 * results.efficiency(g) for g in series], label=label, **look(label)
            )
        axis.axhline(100, color=GREY, linestyle=":", linewidth=1.2, label="ideal")
        axis.set_xscale("log")
        _ticks(axis.xaxis, sorted({g.places for g in groups}))
        axis.set_ylim(bottom=0)
        axis.set(title=title, xlabel=places_name(results), ylabel="parallel efficiency, %")
    _legend(figure, axes)
    return figure, (
        "Parallel efficiency of each method against its own smallest placement "
        + (
            "(T₁/T: the work of a worker is the same everywhere)."
            if results.study.mode == "weak"
            else "(T₁p₁/(T p) with p ranks that compute)."
        )
    )


def time_against_link(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Time to the target against link speed: measured where links were set, and computed from measured work and bytes."""
    groups = _largest(results)
    target = results.target
    figure, axis = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
    shown = False
    for label, series in _series(groups):
        rows = [(g, run.stored.first_at(target)) for g in series for run in g.runs]
        reached = [(g, row) for g, row in rows if row is not None and row["round"] > 0]
        if len(reached) < len(rows) or not reached or series[0].exchange == "allreduce":
            continue
        cost = Cost.of(min((row for _, row in reached), key=lambda row: row["seconds_total"]))
        style = look(label)
        axis.plot(
            _LINKS,
            [cost.seconds_at(r) for r in _LINKS],
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.1,
            label=label,
        )
        for g in series:
            if g.cell.link and (took := g.to_target(target, "seconds_total")) is not None:
                at = Link.of(g.cell.link, 0).rate
                axis.errorbar(
                    [at],
                    [took.median],
                    [[took.median - took.low], [took.high - took.median]],
                    capsize=2.5,
                    **look(label),
                )
        shown = True
    if not shown:
        plt.close(figure)
        return None
    axis.set(
        xscale="log", yscale="log", xlabel="link speed at the server, bit/s", ylabel=f"seconds to ‖∇f‖² ≤ {target:.2g}"
    )
    axis.xaxis.set_major_formatter(lambda value, _: rate(value))
    axis.yaxis.set_major_formatter(lambda value, _: seconds(value))
    _legend(figure, [axis])
    measured = (
        "Markers were measured over links of that speed. "
        if any(g.cell.link for g in groups)
        else "No link speed was set in this study. "
    )
    return figure, (
        f"Time to the target against the speed of the server's link, {_where(results, groups)}. {measured}"
        "Lines are computed: measured work, plus 8·bytes/r with the bytes of both directions one after the other, latency apart; "
        "where lines cross is the break-even link."
    )


def loss_curves(results: Results, plt: Any, look: Look) -> Drawn | None:
    """f − best f seen against bytes and against seconds."""
    groups = [g for g in _largest(results, one_condition=True) if not any(run.diverged for run in g.runs)]
    if not groups:
        return None
    best = min(row["loss"] for g in groups for run in g.runs for row in run.stored.rows)
    figure, axes = plt.subplots(1, 2, figsize=(8.8, 3.7), layout="constrained", sharey=True)
    for g in groups:
        run = sorted(g.runs, key=lambda r: r.stored.rows[-1]["seconds_total"])[len(g.runs) // 2]
        rows = [row for row in run.stored.rows if row["loss"] > best]
        if len(rows) < 2:
            continue
        gap = [row["loss"] - best for row in rows]
        bytes_ = [row["uplink_message"] + row["downlink_message"] for row in rows]
        for axis, x in zip(axes, (bytes_, [row["seconds_total"] for row in rows]), strict=True):
            axis.plot(x, gap, markevery=max(len(rows) // 6, 1), label=g.label, **look(g.label))
    axes[0].set(yscale="log", xlabel="bytes handed to MPI, both directions", ylabel="f − smallest f of all")
    axes[1].set(xlabel="seconds in rounds")
    axes[0].xaxis.set_major_formatter(_byte_label)
    for axis in axes:
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
    _legend(figure, axes)
    return figure, (
        f"Loss against bytes and against seconds, {_where(results, groups)}; of each method the repetition with the median time. "
        f"Zero is the smallest loss that any of these runs saw, f = {best:.6g}."
    )


def phase_stack(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Where a round's time goes, by placement: a bar for the server and one for the workers' mean."""
    condition = _one_condition(results.groups)
    series = [
        (label, s)
        for label, s in _series([g for g in results.groups if g.condition == condition or g.exchange == "allreduce"])
    ]
    series = [(label, [g for g in s if g.cell.link == condition[2]]) for label, s in series][:MAX_PANELS]
    series = [(label, s) for label, s in series if s]
    if not series:
        return None
    figure, axes = _grid(plt, len(series), height=2.7)
    for axis, (label, groups) in zip(axes, series, strict=True):
        for k, g in enumerate(groups):
            for offset, ranks in ((-0.2, "server"), (0.2, "workers")):
                bottom = 0.0
                for phase, value in phases_of(g, ranks).items():
                    axis.bar(
                        k + offset,
                        value,
                        0.36,
                        bottom=bottom,
                        color=PHASE_COLOURS[phase],
                        label=phase,
                        edgecolor="white",
                        linewidth=0.3,
                    )
                    bottom += value
                axis.annotate(
                    ranks[0].upper(),
                    (k + offset, bottom),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                    color="#444444",
                )
        axis.set_xticks(range(len(groups)), [str(place(results, g)) for g in groups])
        axis.grid(axis="x", visible=False)
        axis.margins(y=0.12)
        axis.yaxis.set_major_formatter(lambda value, _: seconds(value) if value else "0")
        axis.set(title=label, xlabel=places_name(results), ylabel="time a round")
    _legend(figure, axes, columns=6)
    return figure, (
        f"Phases of a round, mean over all rounds of a run, {_condition_text(condition)}: S rank 0 (the server; with Allreduce just a rank), "
        "W the mean of the ranks that host clients. Waiting is for others' work as well as for bytes under way."
    )


def pareto(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Seconds and bytes to the target; the front joins those that nothing beats in both."""
    target = results.target
    by_link: dict[str, list[tuple[float, float, str, Group]]] = {}
    for g in _largest(results):
        took = g.to_target(target, "seconds_total")
        up, down = (g.to_target(target, f"{way}_message") for way in ("uplink", "downlink"))
        if took is not None and up is not None and down is not None and took.median > 0:
            by_link.setdefault(g.cell.link, []).append((up.median + down.median, took.median, g.label, g))
    by_link = {link: points for link, points in by_link.items() if len(points) > 1}
    if not by_link:
        return None
    links = sorted(by_link, key=lambda link: Link.of(link or None, 0).rate)[:MAX_PANELS]
    figure, axes = _grid(plt, len(links))
    for axis, link in zip(axes, links, strict=True):
        points = sorted(by_link[link], key=lambda p: p[:2])
        lowest = np.minimum.accumulate([p[1] for p in points])
        front = [
            p
            for p, best, before in zip(points, lowest, [np.inf, *lowest], strict=False)
            if p[1] == best and best < before
        ]
        axis.step(
            [p[0] for p in front],
            [p[1] for p in front],
            where="post",
            color=GREY,
            linewidth=1,
            linestyle=":",
            label="Pareto front",
        )
        for nbytes, took, label, g in points:
            filled = {} if g.exchange != "collective" else {"markerfacecolor": "white"}
            axis.plot([nbytes], [took], label=label, **{**look(label), "linestyle": "none"}, **filled)
        axis.set(
            xscale="log", yscale="log", xlabel="bytes to the target", ylabel="seconds to the target", title=link or ""
        )
        for line, text in ((axis.xaxis, _byte_label), (axis.yaxis, lambda value, _: seconds(value))):
            _few_log_ticks(line, text, [p[0 if line is axis.xaxis else 1] for p in points])
    _legend(figure, axes)
    return figure, (
        f"Bytes (both directions) and seconds to ‖∇f‖² ≤ {target:.2g}, {_where(results, [p[3] for ps in by_link.values() for p in ps])}. "
        "Hollow markers: exchange collective. The dotted steps join the runs that no other beats in both."
    )


# ---- choosing and arranging -----------------------------------------------------------------------------------------
def _placements(results: Results) -> int:
    return len({place(results, g) for g in results.groups})


def _panels(results: Results) -> list[tuple[str, list[Group]]]:
    """One panel for each condition that differs; Allreduce stands in all panels of its link, d and ranks per node."""
    groups = results.groups
    conditions = sorted(
        {g.condition for g in groups if g.exchange != "allreduce"} or {g.condition for g in groups},
        key=_condition_order,
    )
    panels = []
    for condition in conditions[:MAX_PANELS]:
        here = [g for g in groups if g.condition == condition]
        here += [g for g in groups if g.exchange == "allreduce" != condition[1] and _beside(g.condition, condition)]
        panels.append((_condition_text(condition), here))
    return panels


def _beside(a: tuple, b: tuple) -> bool:
    return (a[0], *a[2:]) == (b[0], *b[2:])


def _condition_order(condition: tuple) -> tuple:
    dim, exchange, link, per_node = condition
    return (dim, Link.of(link or None, 0).rate or float("inf"), exchange != "p2p", exchange, per_node)


def _condition_text(condition: tuple) -> str:
    dim, exchange, link, per_node = condition
    return ", ".join(
        [
            f"d = {dim:,}",
            exchange,
            *([link.replace("bit", "bit/s")] if link else []),
            *([f"{per_node} per node"] if per_node > 1 else []),
        ]
    )


def _one_condition(groups: Sequence[Group]) -> tuple:
    ordinary = [g.condition for g in groups if g.exchange != "allreduce"] or [g.condition for g in groups]
    return min(ordinary, key=_condition_order)


def _largest(results: Results, one_condition: bool = False) -> list[Group]:
    """The groups of the largest placement, of one d, exchange and ranks per node (Allreduce too); of one link with `one_condition`."""
    if not results.groups:
        return []
    dim, exchange, link, per_node = _one_condition(results.groups)
    top = max((g.places, g.clients) for g in results.groups)
    groups = [g for g in results.groups if (g.places, g.clients) == top and (g.dim, g.cell.per_node) == (dim, per_node)]
    groups = [g for g in groups if g.exchange in (exchange, "allreduce")]
    return [g for g in groups if not one_condition or g.cell.link == link]


def _where(results: Results, groups: Sequence[Group]) -> str:
    g = groups[0]
    place_ = f"{g.cell.nodes} nodes with {g.cell.per_node} ranks each" if g.cell.nodes else f"{g.cell.workers} workers"
    links = {x.cell.link for x in groups}
    exchanges = sorted({x.exchange for x in groups} - {"allreduce"})
    return f"{place_}, n = {g.clients}, d = {g.dim:,}, {' and '.join(exchanges)}" + (
        f", {links.pop()} links" if len(links) == 1 and links != {""} else ""
    )


def _series(groups: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    ordered = sorted(groups, key=lambda g: (g.cell.baseline == "", g.label, g.places, g.clients, g.cell.link))
    for label, series in itertools.groupby(ordered, key=lambda g: (g.cell.baseline == "", g.label)):
        yield label[1], list(series)


def _grid(plt: Any, panels: int, height: float = 3.1) -> tuple[Any, list[Any]]:
    columns = min(panels, 3) if panels != 4 else 2
    rows = -(-panels // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.3 * columns, 5.2), height * rows + 0.5), layout="constrained", squeeze=False
    )
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, list(axes.flat[:panels])


def _legend(figure: Any, axes: Sequence[Any], columns: int = 3) -> None:
    """One legend below all panels, each entry once."""
    entries = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(columns, len(entries)), frameon=False
    )


def _ticks(line: Any, values: Sequence[int]) -> None:
    """Ticks where something was measured, thinned where they would touch."""
    kept = [v for k, v in enumerate(values) if k == 0 or v / values[0] >= 1.25**k or k == len(values) - 1]
    line.set_ticks(kept, [f"{v:,}" for v in kept])
    line.set_ticks([], minor=True)


def _log_axes(axis: Any, places: Sequence[int]) -> None:
    axis.set(xscale="log", yscale="log")
    _ticks(axis.xaxis, places)
    low, high = axis.get_ylim()
    _few_log_ticks(axis.yaxis, lambda value, _: seconds(value), [low, high])


def _few_log_ticks(line: Any, text: Callable[[float, Any], str], values: Sequence[float]) -> None:
    """Labels at 1, 2, 5 of each decade, or at decades alone where the axis spans many."""
    low, high = min(values) / 1.15, max(values) * 1.15
    steps = (1, 2, 5) if high / low < 100 else (1,)
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps if low <= m * 10.0**e <= high]
    if len(ticks) < 2:
        ticks = [low * 1.15, high / 1.15]
    line.set_ticks(ticks, [text(t, None) for t in ticks])
    line.set_ticks([], minor=True)


def _byte_label(value: float, _: Any) -> str:
    from .units import size

    return size(value)
