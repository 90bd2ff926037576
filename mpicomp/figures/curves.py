"""Curves over seeds: the median of the runs of a bundle, and a band around it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..streams import csv_cell
from .axes import Axis
from .labels import Bundle
from .runs import Run

BANDS = ("minmax", "quartiles", "none")


@dataclass(frozen=True)
class Curve:
    """Points of a figure, float64, shape (points,) each.

    Attributes
    ----------
    rounds : at which the runs were evaluated. x, y : medians over the runs. low, high : the band, y where there is none.
    runs : how many. dense : a dense baseline.
    """

    label: str
    rounds: np.ndarray
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    dense: bool = False

    def where(self, kept: np.ndarray) -> Curve:
        """Some of its points."""
        names = ("rounds", "x", "y", "low", "high")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def curve(bundle: Bundle[Run], x: Axis, y: Axis, band: str = "minmax") -> Curve:
    """Median and band over the runs of a bundle, at each round at which all of them were evaluated.

    A run that stopped at its tolerance counts from then on with its last value, and one that diverged with infinity; the curve ends once
    half of the runs have stopped so, or the first one ends for another reason. x is the median of the runs that go on.

    Parameters
    ----------
    band : `minmax` of the runs, their `quartiles`, or `none`.
    """
    columns = [
        {int(t): (a, b) for t, a, b in zip((row["round"] for row in run.rows), x.values(run), y.values(run), strict=True)}
        for run in bundle.runs
    ]  # fmt: skip
    points = []
    for t in sorted(set().union(*columns)):
        going = [c[t] for c in columns if t in c]
        over = [(run, c) for run, c in zip(bundle.runs, columns, strict=True) if t > max(c)]
        stopped = [_after(run, c) for run, c in over]
        if len(going) + len(over) < len(columns):  # this round is not one of a run that goes on
            continue
        if None in stopped or 2 * len(over) > len(columns) or not going:
            break
        values = np.array([b for _, b in going] + [v for v in stopped if v is not None])
        points.append((t, float(np.median([a for a, _ in going])), *_spread(values, band)))
    rounds, xs, ys, low, high = np.array(points, np.float64).reshape(-1, 5).T
    made = Curve(bundle.label, rounds, xs, ys, low, high, len(bundle.runs), bundle.runs[0].dense)
    return made.where(np.isfinite(xs) & np.isfinite(ys))


def _after(run: Run, column: dict[int, tuple[float, float]]) -> float | None:
    """What counts for a run that is over; None where it says nothing about the rounds to come."""
    if run.summary.get("diverged"):
        return math.inf
    return column[max(column)][1] if run.summary.get("reached_tol") else None


def _spread(values: np.ndarray, band: str) -> tuple[float, float, float]:
    """Median, low and high; a value that is NaN makes them NaN."""
    if np.isnan(values).any():
        return math.nan, math.nan, math.nan
    ordered = np.sort(values)
    middle = float(np.median(ordered))
    if band == "none" or len(ordered) == 1:
        return middle, middle, middle
    if band == "minmax":
        return middle, float(ordered[0]), float(ordered[-1])
    with np.errstate(invalid="ignore"):  # between a number and infinity
        low, high = np.quantile(ordered, [0.25, 0.75])
    return middle, float(low), float(high)


def to_csv(panels: Sequence[tuple[Axis, Axis, Sequence[Curve]]], band: str) -> str:
    """The points of a figure, a line each: panel, curve, runs, round, x, and median, low and high of y."""
    names = {"minmax": ("minimum", "maximum"), "quartiles": ("lower_quartile", "upper_quartile"), "none": ()}[band]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["x_axis", "y_axis", "label", "runs", "round", "x", "median", *names])
    for x, y, curves in panels:
        for c in curves:
            for t, a, b, low, high in zip(c.rounds, c.x, c.y, c.low, c.high, strict=True):
                band_values = [low, high] if names else []
                cells = [x.name, y.name, csv_cell(c.label), c.runs, int(t), *(float(v) for v in (a, b, *band_values))]
                writer.writerow(cells)
    return file.getvalue()
