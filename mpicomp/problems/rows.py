"""Rows of data as the problems hold them: dealt to the clients, and those of a rank's block."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np

from ..data import SparseRows, partition_rows
from ..kernels.sparse import ClientRows

Rows = TypeVar("Rows", SparseRows, ClientRows)


def deal(table: SparseRows, partition: str, clients: int, seed: int) -> ClientRows:
    """All rows, client after client, as the partition deals them.

    Raises
    ------
    ConfigError : as `partition_rows`.
    """
    order, offsets = partition_rows(partition, table, clients, seed)
    rows = take(order, table)
    return ClientRows(rows.indptr, rows.indices, rows.values, rows.labels, offsets)


def hosted(rows: ClientRows, clients: np.ndarray, dtype: np.dtype) -> ClientRows:
    """The rows of some clients, one after the other, in the dtype of a run."""
    sizes = np.diff(rows.offsets)[clients]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    order = np.repeat(rows.offsets[clients] - offsets[:-1], sizes) + np.arange(offsets[-1])
    mine = take(order, rows)
    return mine._replace(values=mine.values.astype(dtype), labels=mine.labels.astype(dtype), offsets=offsets)


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
    lengths = np.diff(rows.indptr)[order]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(rows.indptr[order] - indptr[:-1], lengths) + np.arange(indptr[-1])
    return rows._replace(
        indptr=indptr, indices=rows.indices[entries], values=rows.values[entries], labels=rows.labels[order]
    )
