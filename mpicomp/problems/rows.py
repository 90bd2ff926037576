"""Rows of data as the problems hold them: dealt to the clients, and those of a rank's block."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np

from ..data import SparseRows, partition_rows
from ..errors import DataError
from ..kernels.sparse import ClientRows, take_rows

Rows = TypeVar("Rows", SparseRows, ClientRows)


def deal(table: SparseRows, partition: str, clients: int, seed: int) -> ClientRows:
    """All rows, client after client, as the partition deals them; the table's own arrays where that is their order already.

    Raises
    ------
    ConfigError : as `partition_rows`.
    """
    order, offsets = partition_rows(partition, table, clients, seed)
    rows = table if np.array_equal(order, np.arange(len(order))) else take(order, table)
    return ClientRows(rows.indptr, rows.indices, rows.values, rows.labels, offsets)


def hosted(rows: ClientRows, clients: np.ndarray, dtype: np.dtype, source: str) -> ClientRows:
    """The rows of some clients, one after the other, in the dtype of a run; the arrays of `rows` where they need no change.

    Raises
    ------
    DataError : a feature or label overflows in this dtype; names `source`.
    """
    mine = rows
    if not np.array_equal(clients, np.arange(len(rows.offsets) - 1)):
        sizes = np.diff(rows.offsets)[clients]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        order = np.repeat(rows.offsets[clients] - offsets[:-1], sizes) + np.arange(offsets[-1])
        mine = take(order, rows)._replace(offsets=offsets)
    values, labels = (_converted(array, dtype, source) for array in (mine.values, mine.labels))
    return mine._replace(values=values, labels=labels)


def largest_magnitude(numbers: np.ndarray) -> float:
    """The largest absolute value, 0 of none; without an array of its own."""
    return float(max(numbers.max(initial=0.0), -numbers.min(initial=0.0)))


def _converted(numbers: np.ndarray, dtype: np.dtype, source: str) -> np.ndarray:
    if (largest := largest_magnitude(numbers)) > float(np.finfo(dtype).max):
        raise DataError(
            f"{source}: the features overflow: {largest:g} is above what {dtype} holds, {np.finfo(dtype).max:.2g}; scale them, or use "
            "«dtype='float64'»"
        )
    return numbers.astype(dtype, copy=False)


def digests_of(rows: ClientRows, clients: np.ndarray) -> list[str]:
    """A digest of each client's rows: labels, columns and values, in their order."""
    found = []
    for i in clients:
        first, last = int(rows.offsets[i]), int(rows.offsets[i + 1])
        entries = slice(int(rows.indptr[first]), int(rows.indptr[last]))
        digest = hashlib.blake2b(digest_size=8)
        for array in (
            np.diff(rows.indptr[first : last + 1]),
            rows.indices[entries],
            rows.values[entries],
            rows.labels[first:last],
        ):
            digest.update(np.ascontiguousarray(array).data)
        found.append(digest.hexdigest())
    return found


def take(order: np.ndarray, rows: Rows) -> Rows:
    """The rows `order` (int64) of a table; a client's offsets stay as they are."""
    indptr = np.concatenate([[0], np.cumsum(np.diff(rows.indptr)[order])])
    indices, values = np.empty(indptr[-1], rows.indices.dtype), np.empty(indptr[-1], rows.values.dtype)
    take_rows(order, rows.indptr, rows.indices, rows.values, indptr, indices, values)
    return rows._replace(indptr=indptr, indices=indices, values=values, labels=rows.labels[order])
