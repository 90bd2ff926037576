"""How the labels of data become those that a problem takes: numbers, −1 and +1, or 0, 1, 2, ... for classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..data import Outline, SparseRows
from ..errors import DataError

SHOWN = 5  # classes in a message
Coding = Callable[[np.ndarray, str], np.ndarray]
"""The labels that a problem takes, from those of some rows; raises DataError, with the name of their source, where one is unknown."""


def numbers(train: SparseRows | Outline, model: str, source: str) -> Coding:
    """Labels stay as they are.

    Raises
    ------
    DataError : they are text.
    """
    if isinstance(train, SparseRows) and train.classes:
        raise DataError(
            f"{source}: problem {model!r} needs numbers as labels, these are text ({shown(train)}); classes are for logistic, "
            "smoothed_hinge, multinomial and mlp"
        )

    def code(labels: np.ndarray, source: str) -> np.ndarray:
        return labels

    return code


def two_classes(train: SparseRows | Outline, positive: float | str | None, model: str, source: str) -> Coding:
    """The lower of two labels becomes −1, the other one +1; or `positive` becomes +1 and all others −1.

    Raises
    ------
    DataError : there are not two labels, no row or every row is positive.
    """
    values = np.unique(train.labels)
    if positive is None:
        if len(values) != 2:
            remedy = (
                f"; one of them against the rest: «problem_options={{'positive': {example(train)}}}»"
                if len(values) > 2
                else ""
            )
            raise DataError(
                f"{source}: {model} needs two different labels, the file has {len(values)}: {shown(train)}{remedy}"
            )
        upper = values[1]
    else:
        upper = _code_of(train, positive, source)
        if len(values) < 2:
            raise DataError(f"{source}: {model} needs two different labels, all rows have {shown(train)}")

    def code(labels: np.ndarray, where: str) -> np.ndarray:
        foreign = np.setdiff1d(labels, values) if positive is None else values[:0]
        if len(foreign):
            raise DataError(
                f"{where}: the test rows have the label {foreign[0]:g}, which no training row of {source} has; these have {shown(train)}"
            )
        return np.where(labels == upper, 1.0, -1.0)

    return code


def many_classes(train: SparseRows | Outline, source: str) -> tuple[Coding, int]:
    """(labels become 0, 1, ... in increasing order, how many there are).

    Raises
    ------
    DataError : there are fewer than two.
    """
    values = np.unique(train.labels)
    if len(values) < 2:
        raise DataError(f"{source}: a classifier needs at least two classes, the rows have only {shown(train)}")

    def code(labels: np.ndarray, where: str) -> np.ndarray:
        foreign = np.setdiff1d(labels, values)
        if len(foreign):
            raise DataError(
                f"{where}: the test rows have the class {foreign[0]:g}, which no training row of {source} has; these have {shown(train)}"
            )
        return np.searchsorted(values, labels).astype(np.float64)

    return code, len(values)


def _code_of(train: SparseRows | Outline, positive: float | str, source: str) -> float:
    classes = train.classes if isinstance(train, SparseRows) else ()
    try:
        value = float(classes.index(str(positive))) if classes else float(positive)
    except ValueError:
        value = np.nan
    if not np.any(train.labels == value):
        raise DataError(f"{source}: no row has the label positive={positive!r}; there are {shown(train)}")
    return value


def shown(table: SparseRows | Outline) -> str:
    """The first labels, for a message."""
    values = np.unique(table.labels)
    classes = table.classes if isinstance(table, SparseRows) else ()
    names = [classes[int(value)] if classes else f"{value:g}" for value in values[:SHOWN]]
    return ", ".join(names) + (", ..." if len(values) > SHOWN else "")


def example(table: SparseRows | Outline) -> str:
    """The first label, as an option takes it."""
    value = np.unique(table.labels)[0]
    classes = table.classes if isinstance(table, SparseRows) else ()
    return repr(classes[int(value)]) if classes else f"{value:g}"
