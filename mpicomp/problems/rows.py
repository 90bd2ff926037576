"""Rows of data as the problems hold them: dealt to the clients, and those of a rank's block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ..data import Outline, SparseRows, needs_entries, partition_rows
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


class DealtRows:
    """The rows of a data set as a partition deals them to the clients; of a rank that hosts some clients theirs alone, once it says so.

    Parameters
    ----------
    table : all rows, or their outline, where `keep` comes before anything else. partition, clients, seed : see `partition_rows`.
    whole : reads the table anew. some : reads rows of an outline. finish : what becomes of rows once they are dealt.

    Attributes
    ----------
    offsets : client i has the rows offsets[i] to offsets[i+1]; int64, shape (n + 1,).

    Raises
    ------
    ConfigError : as `partition_rows`.
    """

    def __init__(
        self,
        table: SparseRows | Outline,
        partition: str,
        clients: int,
        seed: int,
        whole: Callable[[], SparseRows],
        some: Callable[[Outline, np.ndarray], SparseRows] | None = None,
        finish: Callable[[ClientRows], ClientRows] = lambda rows: rows,
    ):
        self._how, self._whole, self._some, self._finish = (partition, clients, seed), whole, some, finish
        if isinstance(table, Outline) and needs_entries(partition):
            table = whole()
        self._rows: ClientRows | None = None
        self._kept = np.arange(0)
        if isinstance(table, Outline):
            self._outline = table
            bare = SparseRows(table.indptr, np.empty(0, np.int32), np.empty(0), table.labels, table.features)
            self._order, self.offsets = partition_rows(partition, bare, clients, seed)
        else:
            self._rows, self._kept = finish(deal(table, partition, clients, seed)), np.arange(clients)
            self.offsets = self._rows.offsets

    def all(self) -> ClientRows:
        """The rows of all clients, client after client; read anew, each time, where only some are kept.

        Raises
        ------
        DataError : the file has other rows than before.
        """
        rows = self._rows
        if rows is not None and len(self._kept) == len(self.offsets) - 1:
            return rows
        everything = self._finish(deal(self._whole(), *self._how))
        same = np.array_equal(everything.offsets, self.offsets)
        if rows is not None and same:
            same = digests_of(everything, self._kept) == digests_of(rows, np.arange(len(self._kept)))
        if not same:
            raise DataError("the data have changed since they were read; start again once nobody writes to them")
        return everything

    def keep(self, clients: np.ndarray) -> None:
        """Keep the rows of these clients only; int64."""
        if self._rows is not None and np.array_equal(clients, self._kept):
            return
        if self._rows is None and self._some is not None:
            offsets, order = _rows_of(self.offsets, clients)
            table = self._some(self._outline, self._order[order])
            self._rows = self._finish(ClientRows(table.indptr, table.indices, table.values, table.labels, offsets))
            del self._outline, self._order
        else:
            self._rows = some_clients(*self._of(clients))
        self._kept = np.array(clients, np.int64)

    def hosted(self, clients: np.ndarray, dtype: np.dtype, source: str) -> ClientRows:
        """See `hosted`."""
        return hosted(*self._of(clients), dtype, source)

    def digests(self, clients: np.ndarray) -> list[str]:
        """See `digests_of`."""
        return digests_of(*self._of(clients))

    def _of(self, clients: np.ndarray) -> tuple[ClientRows, np.ndarray]:
        """Rows, and where these clients are in them."""
        if self._rows is None or not np.isin(clients, self._kept).all():
            return self.all(), clients
        order = np.argsort(self._kept)
        return self._rows, order[np.searchsorted(self._kept, clients, sorter=order)]


def _rows_of(offsets: np.ndarray, clients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets of these clients' rows once they stand one after the other, which rows these are)."""
    sizes = np.diff(offsets)[clients]
    ours = np.concatenate([[0], np.cumsum(sizes)])
    return ours, np.repeat(offsets[clients] - ours[:-1], sizes) + np.arange(ours[-1])


def some_clients(rows: ClientRows, clients: np.ndarray) -> ClientRows:
    """The rows of some clients, one after the other; `rows` itself where these are all, in their order."""
    if np.array_equal(clients, np.arange(len(rows.offsets) - 1)):
        return rows
    offsets, order = _rows_of(rows.offsets, clients)
    return take(order, rows)._replace(offsets=offsets)


def seen_clients(rows: ClientRows, clients: np.ndarray) -> ClientRows:
    """As `some_clients`, but without a copy where the clients follow each other: parts of the arrays of `rows`, which stay as a whole."""
    if len(clients) == 0 or not np.array_equal(clients, np.arange(clients[0], clients[0] + len(clients))):
        return some_clients(rows, clients)
    offsets = rows.offsets[clients[0] : clients[-1] + 2]
    first, last = int(offsets[0]), int(offsets[-1])
    entries = slice(int(rows.indptr[first]), int(rows.indptr[last]))
    return ClientRows(
        rows.indptr[first : last + 1] - rows.indptr[first],
        rows.indices[entries],
        rows.values[entries],
        rows.labels[first:last],
        offsets - first,
    )


def hosted(rows: ClientRows, clients: np.ndarray, dtype: np.dtype, source: str) -> ClientRows:
    """The rows of some clients, one after the other, in the dtype of a run; the arrays of `rows`, or parts of them, where that
    needs no change.

    Raises
    ------
    DataError : a feature or label overflows in this dtype; names `source`.
    """
    mine = seen_clients(rows, clients)
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
