"""The figures of a report: each a function of the results that returns a figure and its caption, or None where it would show nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..runtime import GRADIENT, HORIZONTAL, PHASES, Bundle, Run, curve, rate
from .cells import Group, Interval, Results, phases_of
from .compare import Cost
from .panels import (
    MAX_PANELS,
    at_one_condition,
    axis_name,
    by_condition,
    byte_text,
    condition_text,
    first_condition,
    in_series,
    largest,
    legend_below,
    log_ticks,
    panels,
    place,
    place_ticks,
    second_text,
    several_places,
    where_text,
)
from .style import COLOURS, GREY, Look

Drawn = tuple[Any, str]
PHASE_COLOURS = dict(zip(PHASES, (COLOURS[2], COLOURS[4], COLOURS[5], "#c8c8c8", COLOURS[0], COLOURS[3]), strict=True))
_KINDS = {"strong": "Strong scaling", "weak": "Weak scaling", "clients": "Growing number of clients"}


def all_figures(results: Results, plt: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, figure, caption) of every figure that the results can fill."""
    look = Look({g.label: g.cell.baseline for g in results.groups})
    makers: dict[str, Callable[[Results, Any, Look], Drawn | None]] = {
        "scaling": scaling,
        "efficiency": efficiency,
        "link": time_against_link,
        "convergence": convergence,
        "phases": phase_stack,
        "pareto": pareto,
    }
    for name, maker in makers.items():
        drawn = maker(results, plt, look)
        if drawn is not None:
            yield name, *drawn


def scaling(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Seconds a round against the number of nodes, with the ideal line."""
    if not several_places(results):
        return None
    conditions = by_condition(results)
    figure, axes = panels(plt, len(conditions))
    for axis, (title, groups) in zip(axes, conditions, strict=True):
        for label, series in in_series(groups):
            x, y = [place(results, g) for g in series], [g.seconds.median for g in series]
            axis.errorbar(
                x, y, _bars([g.seconds for g in series]), capsize=2.5, elinewidth=0.9, label=label, **look(label)
            )
        _ideal(results, axis, groups)
        axis.set(xscale="log", yscale="log", title=title, xlabel=axis_name(results), ylabel="time a round")
        place_ticks(axis.xaxis, sorted({place(results, g) for g in groups}))
        log_ticks(axis.yaxis, second_text, [v for g in groups for v in (g.seconds.low, g.seconds.high)])
    legend_below(figure, axes)
    return figure, (
        f"{_KINDS[results.study.mode]}: time a round, the largest of any rank; median over timed blocks of rounds, bars its 95 % interval. "
        "The grey line is ideal, from the smallest placement of the dense baseline (of the first method, where there is none). "
        "Lines join the placements of one method to show a trend; nothing was measured between the markers."
    )


def _bars(intervals: Sequence[Interval]) -> np.ndarray:
    return np.array([[i.median - i.low, i.high - i.median] for i in intervals]).T


def _ideal(results: Results, axis: Any, groups: Sequence[Group]) -> None:
    candidates = [g for g in groups if g.cell.baseline == "dense"] or list(groups)
    first = min(candidates, key=lambda g: (place(results, g), g.label))
    same = {g.places: g.processors for g in groups if g.exchange == first.exchange and g.places >= first.places}
    x = np.array(sorted(same), float)
    factor = np.array([first.processors / same[int(p)] for p in x])
    if results.study.mode == "weak":
        factor = np.ones_like(x)
    if results.study.mode == "clients":
        x = np.array(sorted({g.clients for g in groups}), float)
        factor = x / first.clients
    axis.plot(x, first.seconds.median * factor, color=GREY, linestyle=":", linewidth=1.2, label="ideal")


def efficiency(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Parallel efficiency against the number of nodes."""
    if results.study.mode == "clients" or not several_places(results):
        return None
    conditions = by_condition(results)
    figure, axes = panels(plt, len(conditions))
    for axis, (title, groups) in zip(axes, conditions, strict=True):
        for label, series in in_series(groups):
            percent = [100 * results.efficiency(g) for g in series]
            axis.plot([g.places for g in series], percent, label=label, **look(label))
        axis.axhline(100, color=GREY, linestyle=":", linewidth=1.2, label="ideal")
        axis.set(xscale="log", title=title, xlabel=axis_name(results), ylabel="parallel efficiency, %")
        place_ticks(axis.xaxis, sorted({g.places for g in groups}))
        axis.set_ylim(bottom=0)
    legend_below(figure, axes)
    weak = results.study.mode == "weak"
    formula = "T₁/T: the work of a worker is the same everywhere" if weak else "T₁p₁/(T p) with p ranks that compute"
    return figure, f"Parallel efficiency of each method against its own smallest placement ({formula})."


def time_against_link(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Time to the target against link speed: measured where links were set, and computed from measured work and bytes."""
    groups, target = [g for g in largest(results) if g.exchange != "allreduce"], results.target
    shown = []
    for label, series in in_series(groups):
        rows = [run.stored.first_at(target) for g in series for run in g.runs]
        reached = [row for row in rows if row is not None and row["round"] > 0]
        if reached and len(reached) == len(rows):
            shown.append((label, series, Cost.of(min(reached, key=lambda row: row["seconds_total"]))))
    if not shown:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
    set_rates = [g.link_rate for g in groups if g.cell.link]
    speeds = np.logspace(np.log10(min([1e6, *set_rates])), np.log10(max([1e11, *set_rates])), 60)
    for label, series, cost in shown:
        style = look(label)
        curve = [cost.seconds_at(r) for r in speeds]
        axis.plot(speeds, curve, color=style["color"], linestyle=style["linestyle"], linewidth=1.1, label=label)
        for g in series:
            took = g.to_target(target, "seconds_total")
            if g.cell.link and took is not None:
                axis.errorbar([g.link_rate], [took.median], _bars([took]), capsize=2.5, **look(label))
    axis.set(xscale="log", yscale="log", xlabel="link speed at the server", ylabel=f"time to ‖∇f‖² ≤ {target:.2g}")
    axis.xaxis.set_major_formatter(lambda value, _: rate(value))
    axis.yaxis.set_major_formatter(second_text)
    legend_below(figure, [axis])
    measured = (
        "Markers were measured over links of that speed." if set_rates else "No link speed was set in this study."
    )
    return figure, (
        f"Time to the target against the speed of the server's link, {where_text(groups)}. {measured} "
        "Lines are computed: measured work, plus 8·bytes/r with the bytes of both directions one after the other, latency apart; "
        "where lines cross is the break-even link."
    )


def convergence(results: Results, plt: Any, look: Look) -> Drawn | None:
    """‖∇f‖² against bytes and against seconds, the median over the repetitions with their range."""
    groups = [
        g
        for g in at_one_condition(largest(results))
        if all(run.stored.evaluated and not run.diverged for run in g.runs)
    ]
    if not groups:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.8, 3.7), layout="constrained", sharey=True)
    seeds = {run.stored.summary.get("seed", 0) for g in groups for run in g.runs}
    for label, series in in_series(groups):
        for g in series:
            bundle = Bundle(
                label, [Run({}, m.stored.summary, {}, m.stored.rows, configuration=g.cell.key) for m in g.runs]
            )
            for axis, name in zip(axes, ("bytes", "seconds"), strict=True):
                c = curve(bundle, HORIZONTAL[name], GRADIENT)
                c = c.where(c.y > 0)
                style = look(label)
                axis.plot(c.x, c.y, markevery=max(len(c.x) // 6, 1), label=label, **style)
                if np.any(c.high > c.low):
                    axis.fill_between(c.x, c.low, c.high, color=style["color"], alpha=0.18, linewidth=0)
    axes[0].set(yscale="log", xlabel="bytes handed to MPI, both directions", ylabel="‖∇f(x)‖²")
    axes[1].set(xlabel="time in rounds")
    for axis, text in zip(axes, (byte_text, second_text), strict=True):
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.xaxis.set_major_formatter(text)
    legend_below(figure, axes)
    over = f"the repetitions, which differ in the seed ({len(seeds)} of them)" if len(seeds) > 1 else "the repetitions"
    return figure, (
        f"‖∇f‖² against bytes and against seconds, {where_text(groups)}; medians over {over}, with bands from the smallest to the largest."
    )


def phase_stack(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Where a round's time goes, by placement: a bar for the server and one for the workers' mean."""
    methods = list(in_series(at_one_condition(results.groups)))[:MAX_PANELS]
    figure, axes = panels(plt, len(methods), height=2.7)
    for axis, (label, series) in zip(axes, methods, strict=True):
        for k, g in enumerate(series):
            for offset, ranks in ((-0.2, "server"), (0.2, "workers")):
                _stack(axis, k + offset, phases_of(g, ranks), ranks[0].upper())
        axis.set_xticks(range(len(series)), [f"{place(results, g):,}" for g in series])
        axis.grid(axis="x", visible=False)
        axis.margins(y=0.12)
        axis.yaxis.set_major_formatter(second_text)
        axis.set(title=label, xlabel=axis_name(results), ylabel="time a round")
    legend_below(figure, axes, columns=len(PHASES))
    return figure, (
        f"Phases of a round, mean over all rounds of a run, {condition_text(first_condition(results.groups))}: S rank 0 (the server; with "
        "Allreduce just a rank), W the mean of the ranks that host clients. Waiting is for others' work as well as for bytes under way."
    )


def _stack(axis: Any, x: float, taken: dict[str, float], name: str) -> None:
    bottom = 0.0
    for phase, value in taken.items():
        colour = PHASE_COLOURS[phase]
        axis.bar(x, value, 0.36, bottom=bottom, color=colour, label=phase, edgecolor="white", linewidth=0.3)
        bottom += value
    axis.annotate(name, (x, bottom), (0, 2), textcoords="offset points", ha="center", fontsize=7.5, color="#444444")


def pareto(results: Results, plt: Any, look: Look) -> Drawn | None:
    """Seconds and bytes to the target; the front joins those that nothing beats in both."""
    target = results.target
    by_link: dict[float, list[tuple[float, float, Group]]] = {}
    for g in largest(results):
        took, up, down = (g.to_target(target, c) for c in ("seconds_total", "uplink_message", "downlink_message"))
        if took and up and down and took.median > 0:
            by_link.setdefault(g.link_rate, []).append((up.median + down.median, took.median, g))
    links = sorted((link for link, points in by_link.items() if len(points) > 1))[:MAX_PANELS]
    if not links:
        return None
    figure, axes = panels(plt, len(links))
    for axis, link in zip(axes, links, strict=True):
        points = sorted(by_link[link], key=lambda p: p[:2])
        front = [p for k, p in enumerate(points) if all(p[1] < q[1] for q in points[:k])]
        x, y = [p[0] for p in front], [p[1] for p in front]
        axis.step(x, y, where="post", color=GREY, linewidth=1, linestyle=":", label="Pareto front")
        for nbytes, seconds, g in points:
            axis.plot([nbytes], [seconds], label=g.label, **{**look(g.label), "linestyle": "none"})
        axis.set(xscale="log", yscale="log", xlabel="bytes to the target", ylabel="time to the target")
        axis.set_title(points[0][2].link_text)
        log_ticks(axis.xaxis, byte_text, [p[0] for p in points])
        log_ticks(axis.yaxis, second_text, [p[1] for p in points])
    legend_below(figure, axes)
    return figure, (
        f"Bytes (both directions) and time to ‖∇f‖² ≤ {target:.2g}, {where_text([p[2] for link in links for p in by_link[link]])}. "
        "The dotted steps join the runs that no other beats in both."
    )
