"""Generalised linear models over sparse rows: what logistic regression, least squares and their relatives share."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, ClassVar, TypedDict, Unpack

import numpy as np
from numpy.typing import DTypeLike

from ..data import DATA_SETS, Data, Outline, Prepared, Source, SparseRows
from ..errors import ConfigError, DataError, unknown
from ..kernels import sparse
from ..kernels.sparse import NONCONVEX, RIDGE, ClientRows
from .base import LARGEST_NUMBER, Block, BlockProblem, FeatureCounts, Smoothness
from .coding import Coding, numbers, two_classes
from .gram import Grams
from .rows import DealtRows, deal, digests_of, largest_magnitude

REGULARIZERS = {"nonconvex": NONCONVEX, "ridge": RIDGE, "none": RIDGE}
Test = float | str | tuple[Any, Any] | None


class Reading(TypedDict, total=False):
    """Options of all linear models beside those of their constructors' first lines; see `LinearModel`."""

    label: str | int | None
    zero_based: bool | None
    scale: str | None
    test: float | str | tuple[Any, Any] | None


class Classifying(Reading, total=False):
    """Those of classifiers; see `Classifier`."""

    positive: float | str | None


class LinearOptions(Reading, total=False):
    """All options of a linear model but the data."""

    clients: int
    partition: str
    reg: float
    regularizer: str
    seed: int
    features: int | None
    bias: bool


class ClassifierOptions(LinearOptions, Classifying, total=False):
    """All options of a linear classifier but the data."""


class LinearModel(BlockProblem):
    """f_i(x) = (1/N_i) Σ_r φ(a_rᵀx, y_r) + λ Σ_c ψ(x_c) over the rows of client i.

    A subclass says which link φ it has (`link`, `curvature`), and maps the labels of the data to its own (`coding`).

    Parameters
    ----------
    data : name of a data set, path of a file (LIBSVM, CSV, .npz, Parquet, HDF5, ...), or a pair (A, b) of a matrix and labels.
    clients : n.
    partition : `contiguous`, `shuffled`, `sorted`, `sorted:key=norm`, `dirichlet:0.1`.
    reg, regularizer : λ, and ψ: `nonconvex` x²/(1 + x²), `ridge` x²/2, `none` 0.
    seed : of the partition, and of the rows that are held out.
    features : number of columns, where it is not the largest index of the file.
    bias : append a column of ones.
    label : of a table the column of the labels, by name or by number from 0; of an archive the array.
    zero_based : the indices of LIBSVM text count from 0.
    scale : "maxabs" divides each column by its largest magnitude, "unit" each row by its Euclidean norm, "largest" all values by the
        largest magnitude; the column of ones stays.
    test : rows for `measure`: a name, a path, a pair (A, b), or the share of the rows that is held out, 0.2. By default there are none.

    Attributes
    ----------
    test_rows : the rows for the test as those of one client; None where there are none.

    Raises
    ------
    ConfigError : an option that is not allowed. DataError : wrong data; names file, and line, row or column.
    """

    link: ClassVar[int]
    knee: float = 1.0  # where the link bends, for those that do
    holds_all = True
    tells: ClassVar[tuple[str, ...]] = ("test_loss",)  # `measures` where there is a test

    def __init__(
        self,
        data: Data,
        clients: int,
        partition: str,
        reg: float,
        regularizer: str,
        seed: int,
        features: int | None,
        bias: bool,
        label: str | int | None = None,
        zero_based: bool | None = None,
        scale: str | None = None,
        test: Test = None,
    ):
        if regularizer not in REGULARIZERS:
            raise unknown("regularizer", regularizer, REGULARIZERS)
        if not 0 <= reg <= LARGEST_NUMBER:
            raise ConfigError(f"problem {self.name!r} needs reg >= 0, up to {LARGEST_NUMBER:g}, got reg={reg}")
        source = Source(data, features, label, bool(zero_based))
        prepared = Prepared(source, scale, test_source(test, source.name, label, bool(zero_based)), seed)
        table = prepared.read()
        self.data, self.partition, self.regularizer, self.scale = source.name, partition, regularizer, scale
        code = self.coding(table)
        table = table._replace(labels=code(table.labels, self.data))
        self.n_clients, self.dim = clients, table.features + bool(bias)
        self.reg = 0.0 if regularizer == "none" else float(reg)
        self.penalty = REGULARIZERS[regularizer]
        self.convex = self.penalty == RIDGE  # as every link is
        self._largest = table.largest if isinstance(table, Outline) else largest_magnitude(table.values)
        self._n_rows = len(table.labels)
        self._check_size(0.5, "a gradient needs its square")

        def whole() -> SparseRows:
            rows = prepared.whole()
            return rows._replace(labels=code(rows.labels, self.data))

        finish = partial(with_bias, column=table.features) if bias else _as_it_is
        self._dealt = DealtRows(table, partition, clients, seed, whole, prepared.some, finish)
        self.test_rows: ClientRows | None = None
        if prepared.test_rows is not None:
            tested, where = prepared.test_rows, test if isinstance(test, str) else f"the test part of {self.data}"
            tested = tested._replace(labels=code(tested.labels, where))
            self.test_rows = finish(deal(tested, "contiguous", 1, seed))
            self.measures = self.tells  # type: ignore[misc]

    def coding(self, train: SparseRows | Outline) -> Coding:
        """How the labels of the data become those that the link takes; here they are numbers, and stay as they are."""
        return numbers(train, self.name, self.data)

    @property
    def rows(self) -> ClientRows:
        """All rows, client after client."""
        return self._dealt.all()

    def keep_clients(self, clients: np.ndarray) -> None:
        self._dealt.keep(clients)

    def hosted_rows(self, clients: np.ndarray, dtype: np.dtype) -> ClientRows:
        """The rows of these clients, in the dtype of a run."""
        return self._dealt.hosted(clients, dtype, self.data)

    def n_samples(self, i: int) -> int:
        return int(self._dealt.offsets[i + 1] - self._dealt.offsets[i])

    def digests(self, clients: np.ndarray) -> list[str]:
        found = self._dealt.digests(clients)
        if self.test_rows is None:
            return found
        tested = digests_of(self.test_rows, np.arange(1))[0]
        return [f"{digest} {tested}" for digest in found]

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> LinearBlock:
        return LinearBlock(self, clients, np.dtype(dtype))

    def lower_bound(self) -> float | None:
        """0: neither the loss nor the regulariser is ever negative."""
        return 0.0

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """The mean of φ over the rows for the test, without the regulariser."""
        if self.test_rows is None:
            return ()
        out = np.empty(1)
        sparse.losses(self.test_rows, self.link, self.knee, RIDGE, 0.0, x.astype(np.float64)[None], out)
        return (float(out[0]),)

    def describe(self) -> dict[str, Any]:
        """Sizes, and how much the clients' rows and labels differ."""
        rows = self.rows
        sizes = np.diff(rows.offsets)
        label_means = np.add.reduceat(rows.labels, rows.offsets[:-1]) / sizes
        more = {} if self.test_rows is None else {"test_rows": len(self.test_rows.labels)}
        return {
            **super().describe(),
            "data": self.data,
            "partition": self.partition,
            "reg": self.reg,
            "regularizer": self.regularizer,
            **({} if self.scale is None else {"scale": self.scale}),
            "rows": len(rows.labels),
            "nonzeros": len(rows.values),
            "rows_min": int(sizes.min()),
            "rows_max": int(sizes.max()),
            "label_mean_min": float(label_means.min()),
            "label_mean_max": float(label_means.max()),
            **more,
        }

    def smoothness(self) -> Smoothness:
        """Computed when it is first asked for.

        Raises
        ------
        DataError : the features are so large that their squares, or the squares of these, overflow.
        """
        return self.constants

    @cached_property
    def constants(self) -> Smoothness:
        """What `smoothness` returns."""
        self._check_size(0.25, "the smoothness constants need its fourth power")
        return self.compute_constants()

    def _check_size(self, power: float, reason: str) -> None:
        """Raises DataError where the largest feature is not far below this power of the largest float64."""
        if self._largest > (np.finfo(np.float64).max / (self.dim * self._n_rows)) ** power:
            raise DataError(
                f"{self.data}: the features overflow: the largest is {self._largest:g}, and {reason}; scale them, for example to at most 1"
            )

    def compute_constants(self) -> Smoothness:
        """The constants, from the rows (`Grams.smoothness`)."""
        strong = self.reg if self.penalty == RIDGE and self.reg > 0 else None
        return Grams(self.rows, self.dim).smoothness(self.curvature, self.penalty_smoothness, strong)

    def pooled_smoothness(self) -> float:
        """The smoothness constant of the mean over all rows, where published code takes it for L.

        It differs from L, that of the mean of the f_i, where the clients have different numbers of rows.
        """
        grams = Grams(self.rows, self.dim)
        pooled = grams.eigenvalue(np.full(self.n_clients, 1.0 / len(grams.rows.labels)))
        return self.curvature * pooled + self.penalty_smoothness

    def sample_smoothness(self) -> np.ndarray:
        """𝓛_i² = mean over client i's rows of (φ″_max ‖a_r‖²)²; the regulariser, which all samples share, cancels."""
        rows = self.rows
        squares = (self.curvature * sparse.squared_norms(rows.indptr, rows.values)) ** 2
        return np.sqrt(np.add.reduceat(squares, rows.offsets[:-1]) / np.diff(rows.offsets))

    def feature_counts(self) -> FeatureCounts:
        """From the columns that are nonzero in a client's rows; with a regulariser every f_i depends on every coordinate."""
        return super().feature_counts() if self.reg > 0 else self._features_present

    def feature_weights(self, weights: np.ndarray) -> np.ndarray:
        if self.reg > 0:
            return super().feature_weights(weights)
        return np.asarray(np.asarray(weights, np.float64) @ self._present())

    @cached_property
    def _features_present(self) -> FeatureCounts:
        present = self._present()
        return FeatureCounts(present.sum(axis=0), present.sum(axis=1))

    def _present(self) -> np.ndarray:
        """bool, shape (n, d): client i has a row whose entry j is not zero."""
        rows, present = self.rows, np.zeros((self.n_clients, self.dim), bool)
        rows_of = np.repeat(np.arange(self.n_clients), np.diff(rows.indptr[rows.offsets]))
        nonzero = rows.values != 0
        present[rows_of[nonzero], rows.indices[nonzero]] = True
        return present

    @property
    def curvature(self) -> float:
        """The largest ∂²φ/∂z²."""
        raise NotImplementedError

    @property
    def penalty_smoothness(self) -> float:
        """The smoothness constant of λ Σ ψ(x_c): ψ″ ≤ 2 for x²/(1 + x²), 1 for x²/2."""
        return 2.0 * self.reg if self.penalty == NONCONVEX else self.reg


class Classifier(LinearModel):
    """A linear model for labels −1 and +1, whose prediction is the sign of aᵀx.

    Parameters
    ----------
    positive : the label that becomes +1, all others become −1: one class against the rest. By default there are two labels, and the lower
        (of text the first by the alphabet) becomes −1. For the others see `LinearModel`.
    """

    tells = ("test_loss", "accuracy")

    def __init__(
        self,
        data: Data,
        clients: int,
        partition: str,
        reg: float,
        regularizer: str,
        seed: int,
        features: int | None,
        bias: bool,
        positive: float | str | None = None,
        **options: Unpack[Reading],
    ):
        self.positive = positive
        super().__init__(data, clients, partition, reg, regularizer, seed, features, bias, **options)

    def coding(self, train: SparseRows | Outline) -> Coding:
        return two_classes(train, self.positive, self.summary_name, self.data)

    @property
    def summary_name(self) -> str:
        """Of the model, for messages."""
        return self.name.replace("_", " ") + (" regression" if self.name == "logistic" else "")

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """The mean of φ over the rows for the test, and the share of them that is classified rightly; aᵀx = 0 means −1."""
        rows = self.test_rows
        if rows is None:
            return ()
        products = rows.values * x.astype(np.float64)[rows.indices]
        row_of = np.repeat(np.arange(len(rows.labels)), np.diff(rows.indptr))
        predicted = np.where(np.bincount(row_of, products, len(rows.labels)) > 0, 1.0, -1.0)
        return (*super().measure(x), float(np.mean(predicted == rows.labels)))


def test_source(test: Test, of: str, label: str | int | None, zero_based: bool) -> float | Source | None:
    """What `Prepared` takes for the option `test` of a problem with data `of`.

    Raises
    ------
    ConfigError : neither a share nor rows. DataError : as `Source`.
    """
    if test is None:
        return None
    if isinstance(test, int | float):
        return float(test)
    named = isinstance(test, str) and test in DATA_SETS
    return Source(test, None, None if named or isinstance(test, tuple) else label, zero_based and not named)


def _as_it_is(rows: ClientRows) -> ClientRows:
    return rows


def with_bias(rows: ClientRows, column: int) -> ClientRows:
    """A column of ones, the last."""
    return rows._replace(
        values=np.insert(rows.values, rows.indptr[1:], 1.0),
        indices=np.insert(rows.indices, rows.indptr[1:], np.int32(column)),
        indptr=rows.indptr + np.arange(len(rows.indptr)),
    )


class LinearBlock(Block):
    """Some clients of a `LinearModel`: their rows only, in the dtype of the run."""

    def __init__(self, problem: LinearModel, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        mine = problem.hosted_rows(self.clients, dtype)
        self._terms = mine, problem.link, problem.knee, problem.penalty, dtype.type(problem.reg)
        self._slopes, self._regularizer = np.empty(len(mine.labels), dtype), np.empty(problem.dim, dtype)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        sparse.losses(*self._terms, W, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        sparse.gradients(*self._terms, W, self._slopes, self._regularizer, out)

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        sparse.batch_gradients(*self._terms, W, samples, self._regularizer, out)
