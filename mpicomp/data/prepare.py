"""What is done to rows before a problem has them: a part is held out for the test, and values are scaled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ConfigError, DataError, unknown
from ..kernels.random import Stream, derive, permutation
from ..kernels.sparse import squared_norms
from .shares import Outline
from .sources import Source
from .tables import SparseRows, listed

Scale = Callable[[SparseRows], SparseRows]
SCALES = ("none", "maxabs", "unit", "largest")


class Prepared:
    """The rows of a source for training, and for the test where there is one.

    Parameters
    ----------
    source : the rows. scale : "none"; "maxabs", each column divided by its largest magnitude; "unit", each row by its Euclidean norm;
        "largest", all values by the largest magnitude. What is largest is so among the rows for training.
    test : rows for the test: a source, or the share of the source's own that is held out, drawn by the seed; None for none.
    seed : of the draw.

    Attributes
    ----------
    test_rows : the rows for the test, scaled alike, once `read` has been called; None where there are none.

    Raises
    ------
    ConfigError : an unknown scale, a share that is not above 0 and below 1.
    """

    def __init__(self, source: Source, scale: str | None = None, test: float | Source | None = None, seed: int = 0):
        self._source, self._scale, self._test, self._seed = source, scale or "none", test, seed
        if self._scale not in SCALES:
            raise unknown("scale", self._scale, SCALES)
        if isinstance(test, float) and not 0 < test < 1:
            raise ConfigError(f"test={test:g}: a share of the rows to hold out is above 0 and below 1, for example 0.2")
        self.test_rows: SparseRows | None = None

    @property
    def shares(self) -> bool:
        """Parts of it can be read by themselves: nothing is held out, and no scale depends on all rows."""
        return not isinstance(self._test, float) and self._scale in ("none", "unit")

    def read(self) -> SparseRows | Outline:
        """The rows for training, or their outline (`Source.read`).

        Raises
        ------
        DataError : as `Source.read`; too few rows to hold some out; rows for the test that do not fit.
        """
        table = self._source.read() if self.shares else self._source.whole()
        if isinstance(table, Outline):
            if isinstance(self._test, Source):
                self.test_rows = self._scaled_test(table, _unit if self._scale == "unit" else _as_it_is)
            return table._replace(largest=min(table.largest, 1.0)) if self._scale == "unit" else table
        return self._train(table)

    def whole(self) -> SparseRows:
        """The rows for training."""
        return self._train(self._source.whole())

    def some(self, outline: Outline, order: np.ndarray) -> SparseRows:
        """See `read_some`."""
        rows = self._source.some(outline, order)
        return _unit(rows) if self._scale == "unit" else rows

    def _train(self, table: SparseRows) -> SparseRows:
        held = None
        if isinstance(self._test, float):
            train, tested = held_out(len(table.labels), self._test, self._seed, self._source.name)
            table, held = pick(table, train), pick(table, tested)
        scale = scaling(self._scale, table)
        if isinstance(self._test, Source):
            self.test_rows = self._scaled_test(table, scale)
        elif held is not None:
            self.test_rows = scale(held)
        return scale(table)

    def _scaled_test(self, table: SparseRows | Outline, scale: Scale) -> SparseRows:
        assert isinstance(self._test, Source)
        return scale(aligned(self._test.whole(), table, self._test.name, self._source.name))


def held_out(rows: int, share: float, seed: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows for training, rows for the test), each in the order of the file; the test has ⌊share · rows⌋.

    Raises
    ------
    DataError : that is none.
    """
    order = np.empty(rows, np.int64)
    permutation(derive(seed, Stream.PARTITION, 0, 1), order)
    count = int(rows * share * (1 + 1e-12))
    if not 0 < count < rows:
        raise DataError(
            f"{source}: {rows} rows are too few to hold {share:g} of them out; name rows for the test (problem.test)"
        )
    return np.sort(order[count:]), np.sort(order[:count])


def pick(table: SparseRows, order: np.ndarray) -> SparseRows:
    """The rows `order` of a table."""
    sizes = np.diff(table.indptr)[order]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    places = np.repeat(table.indptr[order] - indptr[:-1], sizes) + np.arange(indptr[-1])
    return table._replace(
        indptr=indptr, indices=table.indices[places], values=table.values[places], labels=table.labels[order]
    )


def scaling(name: str, train: SparseRows) -> Scale:
    """What "maxabs", "unit", "largest" or "none" does to rows, by what is largest among those for training."""
    if name == "none":
        return _as_it_is
    if name == "unit":
        return _unit
    if name == "largest":
        factor = 1.0 / max(float(np.max(np.abs(train.values), initial=0.0)), np.finfo(float).tiny)
        return lambda rows: rows._replace(values=rows.values * factor)
    largest = np.zeros(train.features)
    np.maximum.at(largest, train.indices, np.abs(train.values))
    largest[largest == 0] = 1.0  # columns without entries in training stay as they are
    return lambda rows: rows._replace(values=rows.values / largest[rows.indices])


def _as_it_is(rows: SparseRows) -> SparseRows:
    return rows


def _unit(rows: SparseRows) -> SparseRows:
    """Each row divided by its norm; rows of zeros stay. By its largest magnitude first, whose square cannot overflow then."""
    sizes = np.diff(rows.indptr)
    largest = np.zeros(len(sizes))
    np.maximum.at(largest, np.repeat(np.arange(len(sizes)), sizes), np.abs(rows.values))
    largest[largest == 0] = 1.0
    values = rows.values / np.repeat(largest, sizes)
    norms = np.sqrt(squared_norms(rows.indptr, values))
    norms[norms == 0] = 1.0
    return rows._replace(values=values / np.repeat(norms, sizes))


def aligned(tested: SparseRows, train: SparseRows | Outline, source: str, of: str) -> SparseRows:
    """Rows for the test with the columns and the classes of those for training.

    Raises
    ------
    DataError : they have other columns, or a class that training lacks; names `source` and, of training, `of`.
    """
    columns, classes = (train.columns, train.classes) if isinstance(train, SparseRows) else ((), ())
    if tested.columns and columns and tested.columns != columns:
        other = next((a for a, b in zip(tested.columns, columns, strict=False) if a != b), "")
        raise DataError(
            f"{source} has other columns than {of} (first {other!r}); {of} has {listed(columns)}, in this order"
        )
    if tested.features > train.features:
        raise DataError(f"{source} has {tested.features} columns of features, {of} has {train.features}")
    if bool(tested.classes) != bool(classes):
        raise DataError(
            f"the labels of {source} and of {of} are not of one kind: those of one are text, of the other numbers"
        )
    foreign = set(tested.classes) - set(classes)
    if foreign:
        raise DataError(
            f"{source}: the test rows have the class {min(foreign)!r}, which no training row of {of} has; these have {listed(classes)}"
        )
    labels = tested.labels
    if classes:
        labels = np.array([classes.index(name) for name in tested.classes], float)[labels.astype(np.int64)]
    return tested._replace(labels=labels, features=train.features, classes=classes, columns=columns)
