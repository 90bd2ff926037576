"""The report of any set of runs: figures, tables and one HTML page, as for a study, but without its grid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import Bundle, MissingExtra, bundles, import_matplotlib, plot, rate, seconds, size
from .breakeven import break_even_of, median_cost
from .cells import Interval
from .compare import Cost, common_target
from .html import document, facts, figure, table
from .page import Report
from .runs import StoredRun
from .style import inline
from .tables import Table, interval

AXES = {"convergence": ("rounds", "bits", "seconds"), "bytes": ("bytes", "value-bits")}


def write_runs_report(
    runs: Sequence[StoredRun], broken: Sequence[str], differing: Sequence[str], out: Path | None
) -> Report:
    """Write the report of some runs.

    Parameters
    ----------
    runs : that evaluated ‖∇f‖². broken : a line for each that is left out. differing : a line for each whose problem is another.
    out : where the report goes; `report` in the directory that all of them are in by default.

    Raises
    ------
    MissingExtra : matplotlib is not installed.
    """
    try:
        import_matplotlib()
    except ImportError:
        raise MissingExtra(
            "a report draws with matplotlib, which is not installed: pip install 'mpicomp[plot]'"
        ) from None
    columns = bundles(runs)
    where = (
        out
        if out is not None
        else Path(os.path.commonpath([Path(run.where).resolve().parent for run in runs])) / "report"
    )
    where.mkdir(parents=True, exist_ok=True)
    shown, tables = [], {"target": to_target(columns), "runs": each_run(columns)}
    for k, (name, axes) in enumerate(AXES.items()):
        made = plot(columns, [x for x in axes if _counted(x, runs)], width="page")
        made.save(where / f"{name}.png")
        svg, _ = made.save(where / f"{name}.svg")
        shown.append(figure(name, inline(svg.read_text("utf-8"), f"f{k}"), made.caption))
    for name, found in tables.items():
        found.write_csv(where / f"{name}.csv")
    warnings = [*(f"Of different problems: {line}." for line in differing), *(f"Left out: {line}." for line in broken)]
    title = f"{len(runs)} runs, {len(columns)} configurations"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(", ".join(bundle.label for bundle in columns))}. Seconds are the largest of any rank, bytes are what MPI '
        "was handed; runs that differ only in the seed are one row and one curve.</p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings),
        '<h2 id="figures">Figures</h2>',
        *shown,
        '<h2 id="tables">Tables</h2>',
        *(table(found) for found in tables.values()),
        '<h2 id="setup">What all of them share</h2>',
        facts(shared(runs)),
    ]
    page = where / "index.html"
    page.write_text(document(title, "\n".join(body)), encoding="utf-8")
    return Report(page, list(AXES), list(tables), [])


def _counted(x: str, runs: Sequence[StoredRun]) -> bool:
    """The runs' files have what this axis counts: results of earlier versions lack some columns."""
    return x != "value-bits" or all("uplink_values_only" in run.rows[0] for run in runs)


def to_target(columns: Sequence[Bundle[StoredRun]]) -> Table:
    """Rounds, seconds, bytes to the smallest ‖∇f‖² that all runs reached, and the link below which each pays against the first."""
    target = common_target([run.stored for bundle in columns for run in bundle.runs])
    rows = []
    for bundle in columns:
        costs = [Cost.of(row) for run in bundle.runs if (row := run.stored.first_at(target)) is not None]
        middle, took = median_cost(costs), Interval.of([c.total for c in costs])
        first = bundle is columns[0]
        found = (
            None
            if first
            else break_even_of([run.stored for run in bundle.runs], [run.stored for run in columns[0].runs], target)
        )
        rows.append(
            [
                bundle.label, f"{len(bundle.runs)}", f"{middle.rounds:,}", interval(took, seconds), size(middle.up), size(middle.down),
                size(middle.up + middle.down), "" if found is None else _link(found.speed),
                "" if found is None or not found.known else f"{_link(found.low)} to {_link(found.high)}",
            ]
        )  # fmt: skip
    return Table(
        f"To ‖∇f‖² ≤ {target:.3g}",
        "Medians over the runs of a row; of the seconds the range, or with six runs and more the 95 % interval. The break-even link is the "
        f"speed at the server below which a row takes less time than {columns[0].label}, with a 95 % interval by resampling its rounds and "
        "runs.",
        ["", "runs", "rounds", "seconds", "bytes up", "bytes down", "bytes total", "break-even link", "95 %"],
        rows,
    )


def _link(speed: float) -> str:
    return "no link" if speed == 0 else "any link" if np.isinf(speed) else rate(speed)


def each_run(columns: Sequence[Bundle[StoredRun]]) -> Table:
    """What became of every single run."""
    rows = []
    for bundle in columns:
        for run in bundle.runs:
            last, s = run.rows[-1], run.summary
            state = "diverged" if s["diverged"] else "reached tol" if s.get("reached_tol") else "all rounds"
            rows.append(
                [
                    run.where, bundle.label, f"{s.get('seed', '')}", f"{s.get('ranks', '')}", str(s["exchange"]),
                    f"{s.get('step', float('nan')):.4g}",
                    f"{last['round']:,.0f}", f"{last['loss']:.6g}", f"{last['grad_norm_sq']:.3g}", size(last["uplink_message"]),
                    size(last["downlink_message"]), seconds(last["seconds_total"]), state,
                ]
            )  # fmt: skip
    header = [
        "directory",
        "",
        "seed",
        "ranks",
        "exchange",
        "step γ",
        "rounds",
        "f",
        "‖∇f‖²",
        "bytes up",
        "bytes down",
        "seconds",
        "ended",
    ]
    return Table("Every run", "At its last evaluation.", header, rows, 2)


def shared(runs: Sequence[StoredRun]) -> list[tuple[str, str]]:
    """Every option that has one value in all runs."""
    found: list[dict[str, Any]] = [run.facts() for run in runs]
    same = [name for name in found[0] if all(f.get(name) == found[0][name] for f in found)]
    return [(name, str(found[0][name])) for name in sorted(same) if name != "out"]
