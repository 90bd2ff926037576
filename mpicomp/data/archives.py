"""Arrays in files: NumPy's .npz and .npy, and HDF5."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, unknown
from ..extras import needed
from .tables import (
    LABEL_ARRAYS,
    SparseRows,
    coded,
    from_compressed,
    from_coordinates,
    from_dense,
    label_column,
    listed,
    numbers,
)

MATRICES = ("A", "X", "x", "data", "features", "images")
_SPARSE = ("data", "indices", "indptr", "shape")

Get = Callable[[str], np.ndarray]


def read_npz(path: Path, label: str | int | None = None) -> SparseRows:
    """Rows of an archive that `numpy.savez` or `scipy.sparse.save_npz` wrote, without SciPy.

    A dense matrix is called A, X, data or features; a sparse one is what `save_npz` writes. Labels are called b, y, label(s), target(s) or
    class, or as `label` says.

    Raises
    ------
    DataError : a damaged archive, pickled objects, no matrix or labels, or such that do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)

            def get(name: str) -> np.ndarray:
                return archive[name]

            if {"format", "shape"} <= set(names):
                return _sparse(get, names, _labels(get, names, label, str(path), len_of(get, names)), str(path))
            return _dense(get, names, label, str(path))
    except DataError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an archive of arrays: {error}") from None


def len_of(get: Get, names: list[str]) -> int:
    """The number of rows of a sparse matrix."""
    shape = np.atleast_1d(get("shape"))
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise DataError(f"shape is {shape.tolist()}, not two numbers")
    return int(shape[0])


def read_npy(path: Path, label: str | int | None = None) -> SparseRows:
    """Rows of a matrix that `numpy.save` wrote; one column, by its number, is the label.

    Raises
    ------
    DataError : no matrix of numbers, no such column, an entry that is not finite.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}") from None
    if array.ndim != 2:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; rows and columns are needed, one of them the label"
        )
    at = label_column([], array.shape[1], label, str(path))
    table = numbers(array, str(path))
    labels, _ = coded(table[:, at], f"column {at}", lambda r: f"{path}, row {r + 1}")
    return from_dense(
        np.delete(table, at, axis=1), labels, lambda r, c: f"{path}, row {r + 1}, column {c + (c >= at)} (from 0)"
    )


def read_hdf5(path: Path, label: str | int | None = None) -> SparseRows:
    """Rows of an HDF5 file: datasets at its top called as in `read_npz`, or a group with data, indices, indptr and shape.

    Raises
    ------
    DataError : as `read_npz`. EnvironmentMismatch : h5py is not installed.
    """
    h5py: Any = needed("h5py", f"{path} is HDF5, which takes the extra hdf5", "pip install 'mpicomp[hdf5]'")
    try:
        with h5py.File(path, "r") as file:
            datasets = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
            groups = [
                name for name, item in file.items() if isinstance(item, h5py.Group) and {*_SPARSE[:3]} <= set(item)
            ]

            def get(name: str) -> np.ndarray:
                return np.asarray(file[name][()])

            if len(groups) == 1:
                group = file[groups[0]]
                shape = np.asarray(group["shape"][()] if "shape" in group else group.attrs.get("shape", ()))
                arrays = {**{name: np.asarray(group[name][()]) for name in _SPARSE[:3]}, "shape": shape}
                own: Mapping[str, np.ndarray] = {**arrays, "format": np.array("csr")}
                names = [*own]
                labels = _labels(get, datasets, label, str(path), len_of(own.__getitem__, names))
                return _sparse(own.__getitem__, names, labels, str(path))
            return _dense(get, datasets, label, str(path))
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from None


def _dense(get: Get, names: list[str], label: str | int | None, source: str) -> SparseRows:
    arrays = [name for name in names if name in MATRICES] or [
        name for name in names if name not in LABEL_ARRAYS and name != label
    ]
    if len(arrays) != 1:
        raise DataError(
            f"{source}: which array is the matrix? It holds {listed(names)}; call it A or X, and the labels b or y, as in "
            "numpy.savez(FILE, A=A, b=b)"
        )
    name = arrays[0]
    A = get(name)
    if A.ndim != 2:
        raise DataError(f"{source}: {name} has shape {A.shape}; rows and columns are needed (reshape(len({name}), -1))")
    table = numbers(A, f"{source}: {name}")
    labels, classes = _labels(get, names, label, source, len(table))
    return from_dense(table, labels, lambda r, c: f"{source}: {name}[{r}, {c}]", classes)


def _sparse(get: Get, names: list[str], labelled: tuple[np.ndarray, tuple[str, ...]], source: str) -> SparseRows:
    """What `scipy.sparse.save_npz` writes: csr, csc or coo."""
    labels, classes = labelled
    kind, shape = get("format").item(), get("shape")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    features = int(shape[1])
    if kind not in ("csr", "csc", "coo"):
        raise DataError(f"{source} holds a sparse matrix of format {kind}; save A.tocsr()")
    needs = ("data", "row", "col") if kind == "coo" else _SPARSE
    absent = [name for name in needs if name not in names]
    if absent:
        raise DataError(f"{source}: the sparse matrix lacks {listed(absent)}")
    values = numbers(get("data"), f"{source}: data")
    if kind == "csr":
        rows = from_compressed(get("indptr"), get("indices"), values, labels, features, source)
    elif kind == "coo":
        rows = from_coordinates(get("row"), get("col"), values, labels, features, source)
    else:
        columns = np.repeat(np.arange(features), np.diff(get("indptr")))
        if len(columns) != len(values):
            raise DataError(f"{source}: indptr does not rise from 0 to the number of entries, {len(values)}")
        rows = from_coordinates(get("indices"), columns, values, labels, features, source)
    return rows._replace(classes=classes)


def _labels(
    get: Get, names: list[str], label: str | int | None, source: str, rows: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    found = [name for name in names if name.lower() in LABEL_ARRAYS] if label is None else [str(label)]
    if label is not None and str(label) not in names:
        raise DataError(f"{source}: {unknown('array', str(label), names)}")
    if len(found) != 1:
        what = "has no labels" if not found else f"has {listed(found)}: which are the labels?"
        raise DataError(
            f"{source} {what}; it holds {listed(names)}; name them by «problem_options={{'label': 'NAME'}}», or add them to a sparse "
            "matrix by numpy.savez(FILE, format='csr', data=A.data, indices=A.indices, indptr=A.indptr, shape=A.shape, b=b)"
        )
    array = get(found[0])
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.shape != (rows,):
        raise DataError(
            f"{source}: {found[0]} has shape {array.shape}; the matrix has {rows} rows, so a label for each, ({rows},)"
        )
    return coded(array, found[0], lambda r: f"{source}, row {r + 1}")
