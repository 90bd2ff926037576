"""Two questions to the runs over MPI of every study: are they those of one process, and is the winner in bits the winner in time?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..runtime import MpicompError
from ..study.compare import Stored, common_target
from .axes import at_target, message_bytes, rounds, seconds_at, seconds_taken
from .drawing import Line, convergence, shared_legend
from .evidence import Evidence, Row
from .reproduction import HOLDS, Claim, Verdict
from .runner import SAME_BITS, ExperimentRunner

SPEEDS = {"100 Mbit/s": 1e8, "10 Gbit/s": 1e10}
MEASURED = (
    "100mbit"  # the speed at which runs are measured, too; faster links than a machine's own cannot be emulated on it
)
TABLE = "seconds"
WINNER_IN_TIME = "winner-in-time"  # the name of the claim whose numbers are the machine's


def measure_seconds(
    runner: ExperimentRunner,
    runs: dict[str, str],
    paper_axis: Callable[[Stored], np.ndarray],
    target: float | None = None,
) -> None:
    """Make the table "seconds": what each method took to ‖∇f‖² ≤ target, in the paper's bits, real bytes and seconds.

    Seconds are those of the cost model and, where this machine can have a network lab, as measured at 100 Mbit/s.

    Parameters
    ----------
    runs : labels of runs over MPI, by the method's name. paper_axis : the bits that the paper counts, of a run.
    target : the smallest ‖∇f‖² that all reached, by default.
    """
    curves = {name: runner.evidence.curves[label] for name, label in runs.items()}
    reach = common_target(list(curves.values())) if target is None else target
    lab = runner.over_network(runs.values(), MEASURED)
    table: list[Row] = []
    for name, stored in curves.items():
        row: Row = {
            "method": name,
            "curve": runs[name],
            "ranks": stored.summary["ranks"],
            "target": reach,
            "rounds": at_target(stored, rounds, reach),
            "paper_bits": at_target(stored, paper_axis, reach),
            "message_bytes": at_target(stored, message_bytes, reach),
        }
        row |= {f"seconds {label}": at_target(stored, seconds_at(speed), reach) for label, speed in SPEEDS.items()}
        if lab:
            slow = runner.evidence.curves[f"{runs[name]} {MEASURED}"]
            row["seconds 100 Mbit/s, measured"] = at_target(slow, seconds_taken, reach)
        table.append(row)
    runner.table(TABLE, table)


def early_target(runs: list[Stored], length: int) -> float:
    """The smallest ‖∇f‖² that all runs reached within so many rounds: where those that are shown over MPI may end."""
    return max(min(row["grad_norm_sq"] for row in run.rows if row["round"] <= length) for run in runs)


def winner(rows: list[Row], column: str) -> str:
    """The method with the smallest entry of a column.

    Raises
    ------
    MpicompError : none has a finite one.
    """
    best = min(rows, key=lambda row: row[column])
    if best[column] == float("inf"):
        raise MpicompError(f"no method reached the target, so none wins in {column}")
    return str(best["method"])


def judge_seconds(evidence: Evidence) -> Verdict:
    """The winner in the paper's bits wins in real bytes and in seconds at each speed."""
    rows = evidence.tables[TABLE]
    few = winner(rows, "paper_bits")
    said, parts = [], []
    for column in ("message_bytes", *(name for name in rows[0] if name.startswith("seconds "))):
        first = winner(rows, column)
        took = evidence.value(TABLE, column, method=few) / evidence.value(TABLE, column, method=first)
        where = "all bytes" if column == "message_bytes" else column.removeprefix("seconds ")
        said.append(f"{where}: {first}" + ("" if first == few else f" ({few} takes {took:.2f}×)"))
        parts.append(first == few)
    return Verdict.of(parts, f"fewest bits as the paper counts: {few}; {'; '.join(said)}")


def judge_same_bits(evidence: Evidence) -> Verdict:
    """Each run that was made both ways ended at the same iterate."""
    rows = evidence.tables[SAME_BITS]
    ranks = ", ".join(str(n) for n in sorted({row["ranks"] for row in rows}))
    return Verdict.of(
        [row["same"] for row in rows], f"{sum(r['same'] for r in rows)} of {len(rows)} runs on {ranks} ranks"
    )


def seconds_claim() -> Claim:
    """The claim; without a known outcome, since seconds are the machine's."""
    text = "Not in the paper: the winner in its bits wins in all bytes, and in seconds at 100 Mbit/s and at 10 Gbit/s"
    return Claim(WINNER_IN_TIME, text, judge_seconds)


def same_bits_claim() -> Claim:
    """The claim that lets sweeps run in one process."""
    text = "The runs over MPI end at the iterate, to the bit, of the same runs in one process"
    return Claim("same-bits", text, judge_same_bits, {"small": HOLDS, "paper": HOLDS})


descent = partial(convergence, logarithmic=True)


def draw_honest(
    paper_axis: Callable[[Stored], np.ndarray],
    label: str,
    panel: Callable[..., None] = descent,
    colour: Callable[[int, str], int] = lambda i, method: i,
) -> Callable[[Evidence, Any], None]:
    """What draws the runs of the table in four panels: over the paper's axis, all bytes, seconds at both speeds.

    Parameters
    ----------
    paper_axis, label : what the paper counts. panel : draws the curves of one panel. colour : of the method in a row of the table.
    """

    def draw(evidence: Evidence, figure: Any) -> None:
        rows = evidence.tables[TABLE]
        lines = [Line(r["method"], evidence.curves[r["curve"]], colour(i, r["method"])) for i, r in enumerate(rows)]
        axes = {label: paper_axis, "bytes sent, both directions": message_bytes}
        axes |= {f"seconds at {speed}": seconds_at(rate) for speed, rate in SPEEDS.items()}
        for ax, (name, axis) in zip(figure.subplots(1, len(axes), sharey=True), axes.items(), strict=True):
            panel(ax, lines, axis, name)
            ax.label_outer()
        shared_legend(figure, figure.axes[0], columns=min(len(lines), 5))

    return draw
