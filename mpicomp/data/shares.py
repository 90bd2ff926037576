"""Large files on ranks that host some of the clients: an outline of all rows first, then the rows of these clients in a second pass.

So such a rank never has all entries in memory, which are twelve bytes each. A file of few entries is read once, as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..kernels import njit
from .libsvm import Reader
from .tables import SparseRows
from .text import blocks_of

MOST_ENTRIES = 1 << 20  # of a file that is read as a whole: 12 MB
_shared: ContextVar[bool] = ContextVar("shared", default=False)


class Outline(NamedTuple):
    """What is known of all rows of a file without their entries.

    Attributes
    ----------
    indptr, labels, features : as in `SparseRows`. largest : the largest absolute value of an entry.
    """

    indptr: np.ndarray
    labels: np.ndarray
    features: int
    largest: float


@contextmanager
def shared_reading() -> Iterator[None]:
    """Problems that are made here will be told which clients they host (`Problem.keep_clients`), before they are asked for anything of
    clients."""
    token = _shared.set(True)
    try:
        yield
    finally:
        _shared.reset(token)


def sharing() -> bool:
    """Within `shared_reading`."""
    return _shared.get()


def outline_or_rows(reader: Reader) -> SparseRows | Outline:
    """All rows of a text with at most MOST_ENTRIES entries, else an outline.

    Raises
    ------
    DataError : as `read_libsvm`.
    """
    sizes, labels, largest = [], [], 0.0
    for piece in reader.pieces(MOST_ENTRIES):
        sizes.append(np.diff(piece.indptr))
        labels.append(piece.labels.copy())
        largest = max(largest, float(piece.values.max(initial=0.0)), -float(piece.values.min(initial=0.0)))
    if not sizes:
        return reader.rows()  # it has read them
    indptr = np.concatenate([[0], *sizes]).cumsum()
    return Outline(indptr, np.concatenate(labels), reader.width(), largest)


def read_some(path: Path, outline: Outline, order: np.ndarray, zero_based: bool = False) -> SparseRows:
    """Some rows of a LIBSVM file, in this order.

    Parameters
    ----------
    order : numbers of rows, int64, each at most once. zero_based : as for `read_libsvm`.

    Raises
    ------
    DataError : the file is not the one of the outline any more.
    """
    sizes = np.diff(outline.indptr)
    indptr = np.concatenate([[0], np.cumsum(sizes[order])])
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1])
    places = np.full(len(sizes), -1)
    places[order] = np.arange(len(order))
    first = 0 if len(order) else len(sizes)
    again = Reader(blocks_of(path), str(path), outline.features, zero_based)
    for piece in again.pieces(-1) if len(order) else ():
        last = first + len(piece.labels)
        if not np.array_equal(np.diff(piece.indptr), sizes[first:last]):
            break
        _place(piece.indptr, piece.indices, piece.values, places[first:last], indptr, indices, values)
        first = last
    if first != len(sizes):
        raise DataError(f"{path} has changed while it was read; start again once nobody writes to it")
    return SparseRows(indptr, indices, values, outline.labels[order], outline.features)


@njit
def _place(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    places: np.ndarray,
    new_indptr: np.ndarray,
    new_indices: np.ndarray,
    new_values: np.ndarray,
) -> None:
    """Copy row r, where places[r] is not negative, to where new_indptr has room for it."""
    for r in range(places.shape[0]):
        if places[r] >= 0:
            to = new_indptr[places[r]]
            for k in range(indptr[r], indptr[r + 1]):
                new_indices[to + k - indptr[r]] = indices[k]
                new_values[to + k - indptr[r]] = values[k]
