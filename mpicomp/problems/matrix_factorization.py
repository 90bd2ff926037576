"""Matrix factorisation: ratings of items by users, of which some are known."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import DTypeLike

from ..data import Data, Source, SparseRows, from_coordinates, held_out, partition_rows
from ..errors import ConfigError, DataError, unknown
from ..kernels import factors
from ..kernels.random import Stream, derive, fill_normal
from ..kernels.sparse import ClientRows
from .base import LARGEST_NUMBER, Block, BlockProblem, problems
from .rows import DealtRows

LAYOUTS = ("rows", "triples")
LARGEST_RANK = 10_000


class FactorizationOptions(TypedDict, total=False):
    """Options of `MatrixFactorization` on a matrix."""

    clients: int
    partition: str
    rank: int
    reg: float
    test: float | None
    seed: int


@problems.register("matrix_factorization")
class MatrixFactorization(BlockProblem):
    """f_i(U, V) = mean over the known entries of client i's rows of (u_rᵀv_c − a_rc)² + (λ/2)(‖U‖² + ‖V‖²), x = (U, V) row by row.

    U has a row for each row of the matrix (a user), in the order in which the partition deals them to the clients, V one for each column
    (an item). Stored entries are known, others are not. Nonconvex, quartic, so without smoothness constants: steps are numbers. x = 0 is
    stationary; a run begins at `paper_start()` unless it names another point.

    Parameters
    ----------
    data : as for `LinearModel`. clients : n. partition : of the rows; `sorted` and `dirichlet` look at their labels.
    rank : numbers in a row of U or V. reg : λ.
    layout : "rows", the data are the matrix; "triples", they are a table with two columns of whole numbers, user and item, and the rating
        as its label: rows are then the users, and columns the items, in increasing order of their numbers.
    test : share of the entries that is held out, drawn by the seed, for `measure`; none unless given.
    seed : of the partition, the test and the start. features, label, zero_based : as for `LinearModel`.

    References
    ----------
    Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems".
    """

    summary = "(1/|Ω_i|) Σ over known entries of (u_rᵀv_c − a_rc)² + (λ/2)(‖U‖² + ‖V‖²); layout=rows|triples"
    starts_itself = True
    holds_all = True

    def __init__(
        self,
        data: Data = "news4",
        clients: int = 20,
        partition: str = "contiguous",
        rank: int = 8,
        reg: float = 0.0,
        layout: str = "rows",
        test: float | None = None,
        seed: int = 0,
        features: int | None = None,
        label: str | int | None = None,
        zero_based: bool | None = None,
    ):
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
        if not 0 <= reg <= LARGEST_NUMBER or not 1 <= rank <= LARGEST_RANK:
            raise ConfigError(
                f"problem {self.name!r} needs reg >= 0 and rank from 1 to {LARGEST_RANK}, got reg={reg}, rank={rank}"
            )
        if test is not None and not 0 < test < 1:
            raise ConfigError(
                f"test={test:g}: a share of the entries to hold out is above 0 and below 1, for example 0.2"
            )
        source = Source(data, features, label, bool(zero_based))
        self.data, self.partition, self.rank, self.reg, self.seed = source.name, partition, rank, float(reg), seed

        def read() -> tuple[SparseRows, np.ndarray]:
            table = source.whole()
            return _without_test(
                _by_user(table, source.name) if layout == "triples" else table, test, seed, source.name
            )

        table, tested = read()
        self._dealt = DealtRows(table, partition, clients, seed, lambda: read()[0])
        self.n_clients, self.height, self.width = clients, len(table.labels), table.features
        self.dim = (self.height + self.width) * rank
        self.shapes = {"U": (self.height, rank), "V": (self.width, rank)}
        known = self._dealt.all()
        self._entries = np.diff(known.indptr[known.offsets])
        if not self._entries.all():
            i = int(np.argmin(self._entries))
            raise DataError(
                f"{self.data}: client {i} has no known entry; choose fewer clients, or partition 'shuffled'"
            )
        self._spread = float(np.sqrt(np.mean(np.square(table.values)) / rank)) ** 0.5
        self._test = tested
        if test is not None:
            places = np.empty(self.height, np.int64)
            places[partition_rows(partition, table, clients, seed).order] = np.arange(self.height)
            self._test = np.stack([places[tested[0].astype(np.int64)], tested[1], tested[2]])
            self.measures = ("test_loss",)  # type: ignore[misc]

    @property
    def rows(self) -> ClientRows:
        """All rows, client after client."""
        return self._dealt.all()

    def keep_clients(self, clients: np.ndarray) -> None:
        self._dealt.keep(clients)

    def n_samples(self, i: int) -> int:
        return int(self._entries[i])

    def digests(self, clients: np.ndarray) -> list[str]:
        return self._dealt.digests(clients)

    def lower_bound(self) -> float | None:
        """0."""
        return 0.0

    def paper_start(self) -> np.ndarray:
        """Normal entries, by the seed, with which (u_rᵀv_c)² is in the mean that of the known entries."""
        x = np.empty(self.dim)
        fill_normal(derive(self.seed, Stream.INIT), x)
        return x * self._spread

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """The mean squared error at the entries that are held out."""
        if not self.measures:
            return ()
        rows, columns, values = self._test
        U, V = np.split(x.astype(np.float64).reshape(-1, self.rank), [self.height])
        found = np.sum(U[rows.astype(np.int64)] * V[columns.astype(np.int64)], axis=1)
        return (float(np.mean((found - values) ** 2)),)

    def describe(self) -> dict[str, Any]:
        """Sizes: of the matrix, of the clients."""
        return {
            **super().describe(),
            "data": self.data,
            "partition": self.partition,
            "rank": self.rank,
            "reg": self.reg,
            "rows": self.height,
            "columns": self.width,
            "entries": int(self._entries.sum()),
            "entries_min": int(self._entries.min()),
            "entries_max": int(self._entries.max()),
        }

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> MatrixFactorizationBlock:
        return MatrixFactorizationBlock(self, clients, np.dtype(dtype))


class MatrixFactorizationBlock(Block):
    """Some clients of a `MatrixFactorization`: their rows only, in the dtype of the run."""

    def __init__(self, problem: MatrixFactorization, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        dealt = problem._dealt
        mine, firsts = dealt.hosted(self.clients, dtype, problem.data), dealt.offsets[self.clients]
        self._terms = mine, firsts, problem.height, problem.rank, dtype.type(problem.reg)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        factors.losses(*self._terms, W, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        factors.gradients(*self._terms, W, out)

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        factors.batch_gradients(*self._terms, W, samples, out)


def _by_user(table: SparseRows, source: str) -> SparseRows:
    """The matrix of a table with a row for each rating."""
    if table.features != 2 or table.classes:
        raise DataError(
            f"{source}: layout 'triples' takes two columns of numbers, user and item, and a number as label, the rating; it has "
            f"{table.features} columns beside the label"
        )
    pairs = np.zeros((len(table.labels), 2))
    pairs[np.repeat(np.arange(len(pairs)), np.diff(table.indptr)), table.indices] = table.values
    if (fractional := np.argwhere(pairs != np.rint(pairs))).size:
        r, c = fractional[0].tolist()
        raise DataError(f"{source}, rating {r + 1}: {('user', 'item')[c]} {pairs[r, c]:g} is not a whole number")
    (users, rows), (items, columns) = (np.unique(pairs[:, c], return_inverse=True) for c in range(2))
    if len(np.unique(rows * len(items) + columns)) < len(rows):
        order = np.lexsort((columns, rows))
        twice = order[np.flatnonzero(np.diff(rows[order] * len(items) + columns[order]) == 0)[0]]
        raise DataError(
            f"{source}: user {pairs[twice, 0]:g} rates item {pairs[twice, 1]:g} twice; keep one of the ratings"
        )
    return from_coordinates(rows, columns, table.labels, np.zeros(len(users)), len(items), source)


def _without_test(table: SparseRows, test: float | None, seed: int, source: str) -> tuple[SparseRows, np.ndarray]:
    """(the entries for training; row, column and value of those that are held out, shape (3, entries))."""
    rows = np.repeat(np.arange(len(table.labels)), np.diff(table.indptr))
    if test is None:
        return table, np.empty((3, 0))
    train, tested = held_out(len(rows), test, seed, source)
    held = np.stack([rows[tested], table.indices[tested], table.values[tested]])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[train], minlength=len(table.labels)))])
    return table._replace(indptr=indptr, indices=table.indices[train], values=table.values[train]), held
