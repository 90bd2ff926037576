"""Where the rows of a problem come from: a set known by name, a file of any format that is read, or arrays of a Python program.

LIBSVM files on ranks that host some of the clients are read in two passes (`mpicomp.data.shares`), everything else as a whole.
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from .archives import read_hdf5, read_npy, read_npz
from .arrow import read_arrow
from .delimited import read_delimited
from .formats import ARROW, HDF5, LIBSVM, NPY, NPZ, PARQUET, binary_format, text_format
from .libsvm import Reader
from .sets import DATA_SETS, located
from .shares import Outline, outline_or_rows, read_some, sharing
from .tables import SparseRows, check_features, check_names, coded, from_compressed, from_dense, numbers


class Arrays:
    """A matrix and its labels as data of a problem.

    Parameters
    ----------
    A : features, shape (N, d): an array, a sparse matrix of SciPy, or what `numpy.asarray` takes (a data frame of numbers, whose columns'
        names are kept). b : labels, shape (N,): numbers, or text that names classes.

    Raises
    ------
    DataError : other shapes, no real numbers, an entry that is not finite; names the entry.
    """

    def __init__(self, A: Any, b: Any):
        self.rows = _rows_of_arrays(A, b)
        self.name = f"arrays of shape ({len(self.rows.labels)}, {self.rows.features})"

    def __repr__(self) -> str:
        return f"<{self.name}>"


Data = str | PathLike[str] | Arrays | tuple[Any, Any]


class Source:
    """The data of a problem, which may be read several times.

    Parameters
    ----------
    data : name of a set, path of a file, `Arrays`, or a pair of a matrix and labels.
    features : number of columns; by default that of the named set, or what the data have.
    label : of a table, the column of the labels (`label_column`); of an archive, the array.
    zero_based : the indices of LIBSVM text count from 0.

    Attributes
    ----------
    name : for messages and result files.

    Raises
    ------
    DataError : there is no such set and no such file; of arrays what `Arrays` raises.
    """

    def __init__(
        self,
        data: Data,
        features: int | None = None,
        label: str | int | None = None,
        zero_based: bool = False,
    ):
        self._features, self._label, self._zero_based = features, label, zero_based
        self._arrays: SparseRows | None = None
        self._path = Path()
        if isinstance(data, tuple) and len(data) == 2:
            data = Arrays(*data)
        if isinstance(data, Arrays):
            if label is not None or zero_based:
                raise ConfigError(
                    "label and zero_based are for files; arrays come with their labels, and columns count from 0"
                )
            self._arrays, self.name = check_features(data.rows, features, data.name), data.name
        elif isinstance(data, str | PathLike):
            self.name = fspath(data)
            if self.name in DATA_SETS and (label is not None or zero_based):
                raise ConfigError(f"label and zero_based are for files of your own; {self.name} is a set known by name")
            self._path, self._features = located(self.name, features)
        else:
            raise ConfigError(
                f"data={str(data)[:80]!r} is {type(data).__name__}: expected the name of a set, a path, or a pair (A, b) of a matrix and "
                "labels"
            )

    def read(self) -> SparseRows | Outline:
        """All rows; within `shared_reading` of a large LIBSVM file an outline.

        Raises
        ------
        DataError : wrong data; the message names file, and line, row or column.
        EnvironmentMismatch : a library that this format takes is not installed.
        """
        return self._read(sharing())

    def whole(self) -> SparseRows:
        """All rows; errors as `read`."""
        rows = self._read(False)
        assert isinstance(rows, SparseRows)
        return rows

    def some(self, outline: Outline, order: np.ndarray) -> SparseRows:
        """See `read_some`."""
        return read_some(self._path, outline, order, self._zero_based)

    def _read(self, shared: bool) -> SparseRows | Outline:
        if self._arrays is not None:
            return self._arrays
        path, label = self._path, self._label
        kind = binary_format(path)
        if kind is None:
            kind, blocks = text_format(path)
            if kind == LIBSVM:
                if label is not None:
                    raise ConfigError(
                        f"label={label!r} is for tables; {self.name} is LIBSVM text, where the label stands first"
                    )
                reader = Reader(blocks, str(path), self._features, self._zero_based)
                return outline_or_rows(reader) if shared else reader.rows()
        self._refuse_zero_based(kind)
        if kind == NPZ:
            rows = read_npz(path, label)
        elif kind == NPY:
            rows = read_npy(path, label)
        elif kind == HDF5:
            rows = read_hdf5(path, label)
        elif kind in (PARQUET, ARROW):
            rows = read_arrow(path, kind == PARQUET, label)
        else:
            rows = read_delimited(blocks, str(path), kind, label, path)
        return check_features(rows, self._features, str(path))

    def _refuse_zero_based(self, kind: str) -> None:
        if self._zero_based:
            raise ConfigError(
                f"zero_based is for LIBSVM text; {self.name} is a table or an archive ({kind.strip() or 'TSV'})"
            )


def _rows_of_arrays(A: Any, b: Any) -> SparseRows:
    array = np.asarray(b.to_numpy() if hasattr(b, "to_numpy") else b)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise DataError(f"b has shape {array.shape}; a label for each row is needed, shape (N,)")
    labels, classes = coded(array, "b", lambda r: f"b[{r}]")
    if hasattr(A, "tocsr"):
        A = A.tocsr()
        if A.shape[0] != len(labels):
            raise DataError(f"A has {A.shape[0]} rows and b has {len(labels)} labels; they must be as many")
        values = numbers(np.asarray(A.data), "A")
        found = from_compressed(np.asarray(A.indptr), np.asarray(A.indices), values, labels, A.shape[1], "A")
        return check_features(found._replace(classes=classes), None, "A")
    names = tuple(map(str, A.columns)) if hasattr(A, "columns") else ()
    check_names(names, "A")
    matrix = np.asarray(A.to_numpy() if hasattr(A, "to_numpy") else A)
    if matrix.ndim != 2:
        raise DataError(f"A has shape {matrix.shape}; rows and columns are needed, shape (N, d)")
    if len(matrix) != len(labels):
        raise DataError(f"A has {len(matrix)} rows and b has {len(labels)} labels; they must be as many")
    if matrix.dtype.kind == "O":
        try:
            matrix = matrix.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"A holds objects that are not numbers: {error}") from None
    rows = from_dense(numbers(matrix, "A"), labels, lambda r, c: f"A[{r}, {c}]", classes, names)
    return check_features(rows, None, "A")


def load(
    data: Data, features: int | None = None, label: str | int | None = None, zero_based: bool = False
) -> SparseRows:
    """All rows of a set known by name, of a file, or of arrays; parameters and errors as for `Source`."""
    return Source(data, features, label, zero_based).whole()
