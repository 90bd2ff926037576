"""Parquet and Arrow files, by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..extras import needed
from .tables import SparseRows, check_names, coded, from_dense, label_column, numbers


def read_arrow(path: Path, parquet: bool, label: str | int | None = None) -> SparseRows:
    """The rows of a table with columns of numbers; a column of labels may be text.

    Parameters
    ----------
    parquet : a Parquet file; else one of Arrow's (Feather). label : see `label_column`.

    Raises
    ------
    DataError : a damaged file, a missing value, a column that does not hold numbers; names row and column.
    EnvironmentMismatch : pyarrow is not installed.
    """
    purpose = f"{path} is {'Parquet' if parquet else 'Arrow'}, which takes the extra arrow"
    pa: Any = needed("pyarrow", purpose, "pip install 'mpicomp[arrow]'")
    reader: Any = needed("pyarrow.parquet" if parquet else "pyarrow.feather", purpose, "pip install 'mpicomp[arrow]'")
    try:
        table = reader.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    names = table.column_names
    check_names(names, str(path))
    if table.num_rows == 0:
        raise DataError(f"{path} is empty: it has no row of data")
    at = label_column(names, len(names), label, str(path))
    features = np.empty((table.num_rows, len(names) - 1))
    for c, name in enumerate(names[:at] + names[at + 1 :]):
        features[:, c] = _column(pa, table.column(name), f"{path}, column {name!r}")
    what = f"column {names[at]!r}"
    labels, classes = coded(_labels(pa, table.column(at), f"{path}, {what}"), what, lambda r: f"{path}, row {r + 1}")
    columns = tuple(names[:at] + names[at + 1 :])
    return from_dense(features, labels, lambda r, c: f"{path}, row {r + 1}, column {columns[c]!r}", classes, columns)


def _complete(column: Any, what: str) -> None:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{what}, row {row + 1}: the value is missing; fill it in, or leave the row out")


def _column(pa: Any, column: Any, what: str) -> np.ndarray:
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"{what} holds {kind}, not numbers; code text as numbers, for example one column for each value, or leave the column out"
        )
    _complete(column, what)
    return numbers(column.to_numpy(), what)


def _labels(pa: Any, column: Any, what: str) -> np.ndarray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _column(pa, column.cast(kind), what)
    _complete(column, what)
    return np.array(column.cast(kind).to_pylist())
