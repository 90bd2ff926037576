"""The tables of a report, as rows of text; the first column names, the others hold figures with units."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from ..runtime import LEVELS, PHASES, csv_cell, seconds, size
from .cells import Group, Interval, Results, phases_of


@dataclass(frozen=True)
class Table:
    """Title, one sentence on how to read it, header and rows; `text_columns` columns of text come first."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1

    def write_csv(self, path: Path) -> None:
        """The same table as a file."""
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([csv_cell(cell) for cell in row] for row in [self.header, *self.rows])


def all_tables(results: Results) -> dict[str, Table]:
    """Every table that the results can fill, by name."""
    tables = {
        "rounds": rounds(results),
        "target": to_target(results),
        "bytes": traffic(results),
        "phases": phases(results),
    }
    return {name: table for name, table in tables.items() if table.rows}


def place_text(group: Group) -> str:
    """Nodes and ranks, or workers."""
    return f"{group.cell.nodes} × {group.cell.per_node}" if group.cell.nodes else f"{group.cell.workers}"


def _place_header(results: Results) -> str:
    return "nodes × ranks" if any(g.cell.nodes for g in results.groups) else "workers"


def ordered(results: Results) -> list[Group]:
    """By condition and placement, baselines first."""
    return sorted(
        results.groups,
        key=lambda g: (g.dim, g.link_rate, g.places, g.clients, g.cell.baseline == "", g.label, g.exchange),
    )


def _keys(results: Results) -> tuple[list[str], list[list[str]]]:
    """The columns that name a configuration, without those that are the same everywhere."""
    exchanges = {g.exchange for g in results.groups if g.cell.baseline != "allreduce"}  # Allreduce's label says it
    columns = {
        "method": [g.label for g in ordered(results)],
        "exchange": [g.exchange for g in ordered(results)] if len(exchanges) > 1 else [],
        _place_header(results): [place_text(g) for g in ordered(results)],
        "n": [f"{g.clients:,}" for g in ordered(results)],
        "d": [f"{g.dim:,}" for g in ordered(results)],
        "link": [g.link_text or "as is" for g in ordered(results)],
    }
    kept = {name: values for name, values in columns.items() if name == "method" or len(set(values)) > 1}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def rounds(results: Results) -> Table:
    """Seconds of a round."""
    header, keys = _keys(results)
    rows = []
    for key, g in zip(keys, ordered(results), strict=True):
        spread = (
            f"{seconds(min(g.repetition_medians))} … {seconds(max(g.repetition_medians))}"
            if len(g.runs) > 1
            else "one run"
        )
        rows.append(
            [
                *key,
                interval(g.seconds, seconds),
                seconds(g.p95),
                spread,
                against_dense(results, g),
                f"{100 * results.efficiency(g):.0f} %",
            ]
        )
    return Table(
        "Seconds a round",
        "Largest of any rank; median over timed blocks of rounds of all repetitions, with its 95 % interval by order statistics, and the "
        "medians of the single repetitions. A method is called faster or slower than dense only where neither the intervals nor the "
        "repetitions' medians overlap.",
        [*header, "median [95 %]", "95th percentile", "repetitions' medians", "against dense", "efficiency"],
        rows,
        len(header),
    )


def against_dense(results: Results, group: Group) -> str:
    """Faster, slower, or not to be told apart."""
    dense = results.dense_beside(group)
    if dense is None or dense is group:
        return ""
    ratio = group.seconds.median / dense.seconds.median
    if not group.distinguishable(dense):
        return "not distinguishable"
    return f"{1 / ratio:.2f}× faster" if ratio < 1 else f"{ratio:.2f}× slower"


def to_target(results: Results) -> Table:
    """Rounds, seconds and bytes to the target."""
    header, keys = _keys(results)
    rows = []
    for key, g in zip(keys, ordered(results), strict=True):
        found = {
            column: g.to_target(results.target, column)
            for column in ("round", "seconds_total", "uplink_message", "downlink_message")
        }
        if any(run.diverged for run in g.runs):
            rows.append([*key, "diverged", *[""] * 4])
        elif not all(run.stored.evaluated for run in g.runs):
            rows.append([*key, "not evaluated", *[""] * 4])
        elif found["round"] is None or found["seconds_total"] is None:
            rows.append([*key, f"not in {g.runs[0].rounds:,}", *[""] * 4])
        else:
            up, down = (found[f"{way}_message"].median for way in ("uplink", "downlink"))  # type: ignore[union-attr]
            rows.append(
                [
                    *key,
                    f"{found['round'].median:,.0f}",
                    interval(found["seconds_total"], seconds),
                    size(up),
                    size(down),
                    size(up + down),
                ]
            )
    return Table(
        "To a target" if isnan(results.target) else f"To ‖∇f‖² ≤ {results.target:.3g}",
        "Until the first evaluation that is at or below the target; medians over the repetitions, with their range "
        "where there are fewer than "
        "six. Bytes are what MPI was handed, headers and indices included.",
        [*header, "rounds", "seconds [range]", "bytes up", "bytes down", "bytes"],
        rows,
        len(header),
    )


def traffic(results: Results) -> Table:
    """Bytes of a round by direction and level."""
    header, keys = _keys(results)
    rows = []
    for key, g in zip(keys, ordered(results), strict=True):
        up, down = g.bytes("uplink"), g.bytes("downlink")
        payload = g.per_round("uplink_payload") + g.per_round("downlink_payload")
        shares = [g.runs[0].level(level) for level in LEVELS]
        levels = ["not counted" if isnan(share) else size((up + down) * share) for share in shares]
        dense = results.dense_beside(g)
        saved = (
            ""
            if dense is None or dense is g
            else f"{(up + down) / (dense.bytes('uplink') + dense.bytes('downlink')):.3g}×"
        )
        rows.append([*key, size(up), size(down), size(up + down - payload), *levels, saved])
    return Table(
        "Bytes a round",
        "After the warm-up; a broadcast counts once for each receiver. What stays in shared memory is not handed to MPI; how a library's "
        "collective routes the rest on is its own. With Allreduce `up` is what the ranks contribute.",
        [*header, "up", "down", "of which headers", "shared memory", "within nodes", "between nodes", "of dense"],
        rows,
        len(header),
    )


def phases(results: Results) -> Table:
    """Shares of a round's phases."""
    header, keys = _keys(results)
    names = [f"{who} {name}" for who in "SW" for name in PHASES]
    shares = []
    for g in ordered(results):
        taken = [phases_of(g, ranks) for ranks in ("server", "workers")]
        shares.append([100 * t[name] / (sum(t.values()) or 1.0) for t in taken for name in PHASES])
    shown = [k for k in range(len(names)) if any(row[k] >= 0.05 for row in shares)]
    rows = [[*key, *(f"{row[k]:.1f}" for k in shown)] for key, row in zip(keys, shares, strict=True)]
    return Table(
        "Shares of a round, %",
        "Of rank 0 (S) and of the mean rank that hosts clients (W), all rounds of a run; phases below 0.05 % everywhere are left out.",
        [*header, *(names[k] for k in shown)],
        rows,
        len(header),
    )


def interval(value: Interval, text: Callable[[float], str]) -> str:
    """`median [low, high] unit`, in the unit of the median."""
    shown = [text(v) for v in (value.median, value.low, value.high)]
    if len({s.split()[1] for s in shown}) > 1:
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"
    median, low, high = (s.split()[0] for s in shown)
    return f"{median} [{low}, {high}] {shown[0].split()[1]}"


def setup_rows(results: Results) -> list[tuple[str, str]]:
    """What was used: machines, libraries, versions; several values where cells differ."""

    def of(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(v for v in values if v)) or "unknown"

    runs, study = results.runs, results.study
    first = [run.manifest for run in runs]
    hosts = sorted({rank["host"] for run in runs for rank in run.ranks})
    shown = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    return [
        ("mode, runner", f"{study.mode} scaling, {of([run.record['runner']['name'] for run in runs])}"),
        ("hosts", f"{len(hosts)}: {shown}"),
        ("processor", of([f"{r.record['machine']['processor']}, {r.record['machine']['cpus']} hardware threads" for r in runs])),
        ("cores of the starting host", of([str(run.record["runner"]["cores"]) for run in runs])),
        ("system", of([m["platform"] for m in first])),
        ("MPI", of([m["ranks"][0].get("mpi", "") for m in first])),
        ("mpicomp", of([f"{m['mpicomp']}{' · ' + m['git'][:12] if m['git'] else ''}" for m in first])),
        ("Python, NumPy, Numba", of([f"{m['python']}, {m['numpy']}, {m['numba']}" for m in first])),
        ("problem", of([_facts(m["problem"]) for m in first])),
        ("precision", of([f"{r.stored.summary['dtype']}, {r.stored.summary['wire_dtype']} on the wire" for r in runs])),
        ("SLURM jobs", of([m["slurm"].get("SLURM_JOB_ID", "") for m in first]).replace("unknown", "none")),
        ("load when cells started", _loads(results)),
        ("measured", f"{min(r.record['started'] for r in runs)} to {max(r.record['finished'] for r in runs)} (UTC)"),
        ("repetitions, order", f"{study.repetitions}, random order by key, seed {study.seed}"),
        ("warm-up left out", f"compiling and a warm-up, off the clock; then the first {100 * study.warmup:.0f} % of the rounds"),
    ]  # fmt: skip


def _facts(problem: dict) -> str:
    kept = ("name", "data", "samples", "noise", "reg", "sigma")
    return ", ".join(f"{k} {problem[k]}" if k != "name" else str(problem[k]) for k in kept if k in problem)


def _loads(results: Results) -> str:
    loads = sorted(
        run.record["machine"]["load"] for run in results.runs if run.record["machine"].get("load") is not None
    )
    return f"{loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}" if loads else "unknown"
