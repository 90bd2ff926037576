"""Rows of features as the library holds them, and how tables of numbers from elsewhere become such rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, unknown

EXACT = 2**53  # up to which float64 holds every whole number
MOST_COLUMNS = 2**31 - 1
MISSING = frozenset(("", "na", "nan", "n/a", "<na>", "null", "none", "?", "-", "."))
LABELS = ("label", "labels", "target", "targets", "class", "y")  # of a table's column
LABEL_ARRAYS = (*LABELS, "b")  # of an array of an archive, beside A
SHOWN = 8  # names in a message


class SparseRows(NamedTuple):
    """Rows of features in compressed sparse row form, and their labels.

    Row r has `values[indptr[r]:indptr[r+1]]` (float64) in the columns `indices[...]` (int32, from 0); `indptr` is
    int64, shape (N + 1,), `labels` float64, shape (N,), and `features` is d. Where the labels were text, label k stands for
    `classes[k]`; where the columns have names, `columns` are these.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    features: int
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


Cell = Callable[[int, int], str]  # names a cell by row and column, both from 0, in a message


def from_dense(
    A: np.ndarray,
    labels: np.ndarray,
    cell: Cell,
    classes: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
) -> SparseRows:
    """The entries of a dense matrix that are not zero.

    Parameters
    ----------
    A : float64, shape (N, d). labels : float64, shape (N,).

    Raises
    ------
    DataError : an entry is NaN or infinite; `cell` names it.
    """
    if not np.isfinite(A).all():
        r, c = np.argwhere(~np.isfinite(A))[0].tolist()
        raise DataError(
            f"{cell(r, c)} is {A[r, c]:g}, not a finite number; fill missing values in, or leave their rows out"
        )
    present = A != 0
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(present, axis=1))])
    indices = np.nonzero(present)[1].astype(np.int32)
    return SparseRows(indptr, indices, A[present], labels, A.shape[1], classes, columns)


def from_compressed(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, labels: np.ndarray, features: int, source: str
) -> SparseRows:
    """Rows that are compressed already; entries of one place are added up, and columns put in order, where that is needed.

    Raises
    ------
    DataError : arrays that do not fit each other, a column outside of the matrix, an entry that is not finite; names `source`.
    """
    if not (
        indptr.ndim == indices.ndim == values.ndim == 1
        and len(indptr) == len(labels) + 1
        and len(indices) == len(values)
    ):
        raise DataError(
            f"{source}: indptr, indices and data of lengths {len(indptr)}, {len(indices)} and {len(values)} do not fit {len(labels)} rows"
        )
    if len(indptr) and (indptr[0] != 0 or indptr[-1] != len(values) or np.any(np.diff(indptr) < 0)):
        raise DataError(f"{source}: indptr does not rise from 0 to the number of entries, {len(values)}")
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < features):
        raise DataError(f"{source}: a column is outside of 0 to {features - 1}")
    rows = np.repeat(np.arange(len(labels)), np.diff(indptr))
    if not np.isfinite(values).all():
        k = int(np.argmin(np.isfinite(values)))
        raise DataError(f"{source}, row {rows[k]}, column {indices[k]} (from 0) is {values[k]:g}, not a finite number")
    places = rows * features + indices
    if np.any(np.diff(places) <= 0):
        order = np.argsort(places, kind="stable")
        first = np.concatenate([[True], np.diff(places[order]) > 0])
        values = np.add.reduceat(values[order], np.flatnonzero(first))
        rows, indices = rows[order][first], indices[order][first]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(labels)))])
    return SparseRows(
        indptr.astype(np.int64), indices.astype(np.int32), values.astype(np.float64, copy=False), labels, features
    )


def from_coordinates(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, labels: np.ndarray, features: int, source: str
) -> SparseRows:
    """Rows from entries in any order; errors as `from_compressed`."""
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(labels)):
        raise DataError(f"{source}: an entry is in a row outside of 0 to {len(labels) - 1}")
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(labels)))])
    return from_compressed(indptr, columns[order], values[order], labels, features, source)


def numbers(array: np.ndarray, what: str) -> np.ndarray:
    """The array in float64.

    Raises
    ------
    DataError : it does not hold real numbers, or whole numbers that float64 does not hold; `what` begins the message.
    """
    if array.dtype.kind not in "biuf":
        kinds = {"U": "text", "S": "text", "O": "objects", "c": "complex numbers", "M": "times", "m": "times"}
        raise DataError(f"{what} holds {kinds.get(array.dtype.kind, str(array.dtype))}, not real numbers")
    found = array.astype(np.float64, copy=False)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size:
        largest = max(int(array.max()), -int(array.min()))
        if largest > EXACT:
            raise DataError(
                f"{what} holds the whole number {largest}: float64 has all of them up to 2^53 only; is it an identifier? Leave it out"
            )
    return found


def coded(
    values: Sequence[Any] | np.ndarray, what: str, row: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels, classes): numbers as they are and no classes; text by its place in alphabetical order.

    Text that is a number everywhere is taken for numbers.

    Parameters
    ----------
    what : the column, for messages. row : names a row, counted from 0.

    Raises
    ------
    DataError : a label is missing, or not finite.
    """
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        found = numbers(array, what)
        if not np.isfinite(found).all():
            r = int(np.argmin(np.isfinite(found)))
            raise DataError(f"{row(r)}: the label in {what} is {found[r]:g}, not a finite number")
        return found, ()
    if array.dtype.kind not in "USO":
        return numbers(array, what), ()
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in array.tolist()]
    for r, text in enumerate(texts):
        if text is None or (isinstance(text, str) and text.strip().lower() in MISSING) or text != text:
            raise DataError(f"{row(r)}: the label in {what} is missing ({text!r}); fill it in, or leave the row out")
        if not isinstance(text, str | int | float):
            raise DataError(f"{row(r)}: the label in {what} is {text!r}, neither a number nor text")
    try:
        return coded(np.array([float(text) for text in texts]), what, row)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
    classes, codes = np.unique(np.array([str(text).strip() for text in texts]), return_inverse=True)
    return codes.astype(np.float64).reshape(-1), tuple(classes.tolist())


def label_column(names: Sequence[str], count: int, label: str | int | None, source: str) -> int:
    """Which of `count` columns is the label: by its name, or by its number from 0 (−1 is the last); without either the one that is
    called label, target, class or y.

    Raises
    ------
    DataError : there is no such column, or none is named and none of these names stands there once.
    """
    if count < 2:
        raise DataError(f"{source} has one column; a label and at least one feature are needed")
    if label is None:
        found = [c for c, name in enumerate(names) if name.strip().lower() in LABELS]
        if len(found) == 1:
            return found[0]
        which = f"its columns are {listed(names)}" if names else f"it has {count} columns without names"
        example = names[-1] if names else -1
        raise DataError(
            f"{source}: which column is the label? {which}; give «problem_options={{'label': {example!r}}}»: a name, or a number from 0 "
            "(-1 is the last)"
        )
    if isinstance(label, int) and -count <= label < count:
        return label % count
    if str(label) in names:
        return list(names).index(str(label))
    if isinstance(label, int):
        raise DataError(
            f"{source}: there is no column {label}; it has {count} columns, 0 to {count - 1}, and -1 is the last"
        )
    if not names:
        raise DataError(f"{source} has no column {label!r}, its columns have no names; give a number from 0")
    raise DataError(f"{source}: {unknown('column', label, names)}")


def check_names(names: Sequence[str], source: str) -> None:
    """Raises DataError where two columns have one name."""
    seen: dict[str, int] = {}
    for c, name in enumerate(names):
        if name in seen:
            raise DataError(
                f"{source}: the columns {seen[name]} and {c} (from 0) have the same name, {name!r}; rename one"
            )
        seen[name] = c


def listed(names: Sequence[str]) -> str:
    """Some names for a message.

    >>> listed(["a", "b"])
    "'a', 'b'"
    """
    return ", ".join(map(repr, names[:SHOWN])) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


def check_features(rows: SparseRows, features: int | None, source: str) -> SparseRows:
    """The rows, with as many columns as are asked for.

    Raises
    ------
    DataError : no rows, more columns than that or, of columns with names, fewer; columns that int32 cannot number.
    """
    if len(rows.labels) == 0:
        raise DataError(f"{source} is empty: it has no row of data")
    if not 1 <= rows.features <= MOST_COLUMNS:
        raise DataError(f"{source} has {rows.features} columns of features; 1 to {MOST_COLUMNS} are possible")
    if features is None or features == rows.features:
        return rows
    if features < rows.features or rows.columns:
        raise DataError(
            f"{source} has {rows.features} columns of features, not {features}; drop «problem_options={{'features': {features}}}»"
        )
    return rows._replace(features=features)
