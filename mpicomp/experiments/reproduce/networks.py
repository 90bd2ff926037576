"""What the studies that train networks share: accuracy as the goal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..study.compare import Stored
from .axes import column, rounds
from .drawing import Line, series

LAST = 4  # evaluations that the accuracy at the end is the mean of


def finite(value: float) -> float:
    """The value, or infinity for NaN."""
    return value if value == value else float("inf")


def final(stored: Stored, name: str) -> float:
    """Mean of a column over the last evaluations; NaN where the run diverged."""
    if stored.summary.get("diverged"):
        return float("nan")
    return float(np.mean(column(stored, name)[-LAST:]))


def inaccuracy(stored: Stored) -> float:
    """1 − accuracy at the end, as a cost."""
    return finite(1.0 - final(stored, "accuracy"))


def at_accuracy(stored: Stored, axis: Callable[[Stored], np.ndarray], goal: float) -> float:
    """The axis' value at the first evaluation with at least this accuracy, infinite where there is none."""
    there = np.flatnonzero(column(stored, "accuracy") >= goal)
    return float(axis(stored)[there[0]]) if len(there) else float("inf")


def accuracy(ax: Any, lines: Iterable[Line], axis: Callable[[Stored], np.ndarray], label: str) -> None:
    """Accuracy on the test rows over `axis`, on a logarithmic scale but for rounds; `label` names the unit."""
    for line in lines:
        x, y = axis(line.stored), 100.0 * column(line.stored, "accuracy")
        shown = (x > 0) & np.isfinite(y)
        series(ax, x[shown], y[shown], line.name, line.colour)
    if axis is not rounds:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter("")  # they overlap
    ax.set_xlabel(label)
    ax.set_ylabel("test accuracy in %")
