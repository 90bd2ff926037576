"""What a curve is drawn against, and what of: columns of rounds.csv and what is computed from them, with a label that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, UserError, unknown
from .runs import Run

GAP = "loss-gap"
Optimum = Callable[[Run], tuple[float, float]]
"""f* of a run's problem, and how far off it may be."""


class Axis(NamedTuple):
    """The name of an axis, its label with the unit, whether it is logarithmic by itself, and a run's values, float64, one a row."""

    name: str
    label: str
    logarithmic: bool
    values: Callable[[Run], np.ndarray]


def column(run: Run, name: str) -> np.ndarray:
    """A column of rounds.csv, float64, shape (rows,).

    Raises
    ------
    ConfigError : it has none of this name.
    """
    if name not in run.rows[0]:
        raise unknown("measure", name, list(run.rows[0]), where=f" of {run.where or 'this run'}")
    return np.array([row[name] for row in run.rows], np.float64)


def senders(run: Run) -> int:
    """How many send in a round of the uplink: the clients, or with Allreduce, where a rank sends the sum of its clients', the ranks."""
    return int(run.summary["ranks" if run.summary.get("exchange") == "allreduce" else "clients"])


def _bits(name: str) -> Callable[[Run], np.ndarray]:
    return lambda run: 8.0 * column(run, name) / senders(run)


HORIZONTAL = {
    axis.name: axis
    for axis in (
        Axis("rounds", "communication rounds", False, lambda run: column(run, "round")),
        Axis("bits", "bits sent per client", False, _bits("uplink_payload")),
        Axis("value-bits", "bits of values sent per client", False, _bits("uplink_values_only")),
        Axis("bytes", "bytes, both directions", False, lambda run: column(run, "uplink_message") + column(run, "downlink_message")),
        Axis("seconds", "time in rounds, s", False, lambda run: column(run, "seconds_total")),
    )
}  # fmt: skip
"""`bits` are the payloads', indices included; `value-bits` leave indices out, as many papers do (docs/reference/bytes.md)."""

GRADIENT = Axis("grad", "‖∇f(x)‖²", True, lambda run: column(run, "grad_norm_sq"))
_VERTICAL = {axis.name: axis for axis in (GRADIENT, Axis("loss", "f(x)", False, lambda run: column(run, "loss")))}


def horizontal(name: str) -> Axis:
    """The horizontal axis of this name. Raises ConfigError where there is none."""
    if name not in HORIZONTAL:
        raise unknown("axis", name, list(HORIZONTAL), where=" for «x»")
    return HORIZONTAL[name]


def vertical(name: str, runs: list[Run], optimum: Optimum | None = None) -> Axis:
    """The vertical axis of this name: `grad`, `loss`, `loss-gap`, `accuracy`, or a column of rounds.csv.

    Parameters
    ----------
    runs : all that will be drawn; each must have it. optimum : f* of a run's problem, for `loss-gap`.

    Raises
    ------
    ConfigError : a run lacks it or did not evaluate it, or f* is not known.
    """
    if name == GAP:
        if optimum is None:
            raise ConfigError(
                "f − f* needs f*, and the smallest loss that a run saw is not it: give «f_star=VALUE», or «f_star='compute'» for a "
                "convex problem, or plot «y='grad'»"
            )
        axis = Axis(GAP, "f(x) − f*", True, _gap(optimum))
    elif name in _VERTICAL:
        axis = _VERTICAL[name]
    elif name == "accuracy":
        axis = Axis(name, "accuracy", False, lambda run: column(run, _accuracy(run)))
    else:
        axis = Axis(name, name.replace("_", " "), False, lambda run: column(run, name))
    for run in runs:
        if not np.isfinite(axis.values(run)).any():
            raise ConfigError(
                f"{run.where or 'a run'} has no finite {axis.label}; where it was not evaluated, run it with «evaluate='full'»"
            )
    return axis


def _accuracy(run: Run) -> str:
    """The column that is an accuracy."""
    names = [name for name in run.rows[0] if "accuracy" in name]
    if len(names) != 1:
        known = f"it has {', '.join(names)}: name one of them" if names else "the problem measures none"
        raise ConfigError(f"{run.where or 'this run'}: which column is the accuracy? {known}")
    return names[0]


def _gap(optimum: Optimum) -> Callable[[Run], np.ndarray]:
    """f − f*, NaN where it is rounding, or no larger than the error of f*.

    Raises
    ------
    UserError : f was below f*.
    """

    def values(run: Run) -> np.ndarray:
        loss, (best, error) = column(run, "loss"), optimum(run)
        rounding = 8 * float(np.finfo(str(run.summary.get("dtype", "float64"))).eps) * max(abs(best), 1e-300) + error
        lowest = float(np.nanmin(loss))
        if lowest < best - 1e3 * rounding:
            raise UserError(
                f"{run.where or 'a run'} saw f = {lowest:.12g}, which is below f* = {best:.12g}: that is not the minimum of its problem; "
                "give a smaller «f_star»"
            )
        return np.where(loss - best > rounding, loss - best, np.nan)

    return values
