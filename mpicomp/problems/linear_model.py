"""Generalised linear models over sparse rows: what logistic regression and least squares share."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from ..data import DataFile, Outline, SparseRows
from ..errors import ConfigError, DataError, unknown
from ..kernels import sparse
from ..kernels.sparse import NONCONVEX, RIDGE, ClientRows
from .base import LARGEST_NUMBER, Block, BlockProblem, FeatureCounts, Smoothness
from .rows import DealtRows, largest_magnitude
from .spectral import largest_eigenvalue

REGULARIZERS = {"nonconvex": NONCONVEX, "ridge": RIDGE, "none": RIDGE}


class LinearModel(BlockProblem):
    """f_i(x) = (1/N_i) Σ_r φ(a_rᵀx, y_r) + λ Σ_c ψ(x_c) over the rows of client i.

    A subclass says which link φ it has (`link`), and maps the labels of the file to its own (`labels`).

    Parameters
    ----------
    data : name of a data set, or path of a LIBSVM text file.
    clients : n.
    partition : `contiguous`, `shuffled`, `sorted`, `sorted:key=norm`, `dirichlet:0.1`.
    reg, regularizer : λ, and ψ: `nonconvex` x²/(1 + x²), `ridge` x²/2, `none` 0.
    seed : of the partition.
    features : number of columns, where it is not the largest index of the file.
    bias : append a column of ones.
    """

    link: ClassVar[int]
    holds_all = True

    def __init__(
        self,
        data: str,
        clients: int,
        partition: str,
        reg: float,
        regularizer: str,
        seed: int,
        features: int | None,
        bias: bool,
    ):
        if regularizer not in REGULARIZERS:
            raise unknown("regularizer", regularizer, REGULARIZERS)
        if not 0 <= reg <= LARGEST_NUMBER:
            raise ConfigError(f"problem {self.name!r} needs reg >= 0, up to {LARGEST_NUMBER:g}, got reg={reg}")
        file = DataFile(data, features)
        table = file.read()
        table = table._replace(labels=self.labels(table.labels, data))
        self.data, self.partition, self.regularizer = data, partition, regularizer
        self.n_clients, self.dim = clients, table.features + bool(bias)
        self.reg = 0.0 if regularizer == "none" else float(reg)
        self.penalty = REGULARIZERS[regularizer]
        self.convex = self.penalty == RIDGE  # as every link is
        self._largest = table.largest if isinstance(table, Outline) else largest_magnitude(table.values)
        self._n_rows = len(table.labels)
        self._check_size(0.5, "a gradient needs its square")

        def whole() -> SparseRows:
            rows = file.whole()
            return rows._replace(labels=self.labels(rows.labels, data))

        finish = partial(_with_bias, column=table.features) if bias else _as_it_is
        self._dealt = DealtRows(table, partition, clients, seed, whole, file.some, finish)

    @property
    def rows(self) -> ClientRows:
        """All rows, client after client."""
        return self._dealt.all()

    def keep_clients(self, clients: np.ndarray) -> None:
        self._dealt.keep(clients)

    def hosted_rows(self, clients: np.ndarray, dtype: np.dtype) -> ClientRows:
        """The rows of these clients, in the dtype of a run."""
        return self._dealt.hosted(clients, dtype, self.data)

    def labels(self, labels: np.ndarray, source: str) -> np.ndarray:
        """The labels that the link takes, from those of the file."""
        return labels

    def n_samples(self, i: int) -> int:
        return int(self._dealt.offsets[i + 1] - self._dealt.offsets[i])

    def digests(self, clients: np.ndarray) -> list[str]:
        return self._dealt.digests(clients)

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> LinearBlock:
        return LinearBlock(self, clients, np.dtype(dtype))

    def lower_bound(self) -> float | None:
        """0: neither the loss nor the regulariser is ever negative."""
        return 0.0

    def describe(self) -> dict[str, Any]:
        """Sizes, and how much the clients' rows and labels differ."""
        rows = self.rows
        sizes = np.diff(rows.offsets)
        label_means = np.add.reduceat(rows.labels, rows.offsets[:-1]) / sizes
        return {
            **super().describe(),
            "data": self.data,
            "partition": self.partition,
            "reg": self.reg,
            "regularizer": self.regularizer,
            "rows": len(rows.labels),
            "nonzeros": len(rows.values),
            "rows_min": int(sizes.min()),
            "rows_max": int(sizes.max()),
            "label_mean_min": float(label_means.min()),
            "label_mean_max": float(label_means.max()),
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
        """The constants, from the rows."""
        raise NotImplementedError

    def pooled_smoothness(self) -> float:
        """The smoothness constant of the mean over all rows, where published code takes it for L.

        It differs from L, that of the mean of the f_i, where the clients have different numbers of rows.
        """
        return (
            self.curvature * self.gram_eigenvalue(np.full(self.n_clients, 1.0 / len(self.rows.labels)))
            + self.penalty_smoothness
        )

    def sample_smoothness(self) -> np.ndarray:
        """𝓛_i² = mean over client i's rows of (φ″_max ‖a_r‖²)²; the regulariser, which all samples share, cancels."""
        squares = (self.curvature * sparse.squared_norms(self.rows.indptr, self.rows.values)) ** 2
        return np.sqrt(np.add.reduceat(squares, self.rows.offsets[:-1]) / np.diff(self.rows.offsets))

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

    # ---- eigenvalues of Gram matrices, from which the smoothness constants are made ---------------------------------
    @property
    def curvature(self) -> float:
        """The largest ∂²φ/∂z²."""
        return 0.25 if self.link == sparse.LOGISTIC else 2.0

    @property
    def penalty_smoothness(self) -> float:
        """The smoothness constant of λ Σ ψ(x_c): ψ″ ≤ 2 for x²/(1 + x²), 1 for x²/2."""
        return 2.0 * self.reg if self.penalty == NONCONVEX else self.reg

    @cached_property
    def client_eigenvalues(self) -> np.ndarray:
        """g_i = λ_max(G_i) with G_i = A_iᵀA_i / N_i, shape (n,)."""
        weights = 1.0 / np.diff(self.rows.offsets)
        return np.array([self.gram_eigenvalue(weights, i, i + 1) for i in range(self.n_clients)])

    def gram_eigenvalue(self, weights: np.ndarray, first: int = 0, last: int | None = None) -> float:
        """λ_max of Σ_i weights[i] A_iᵀA_i over the clients first ≤ i < last."""
        stop = self.n_clients if last is None else last
        return largest_eigenvalue(lambda v, out: sparse.gram_sum(self.rows, first, stop, weights, v, out), self.dim)

    def mean_weights(self) -> np.ndarray:
        """The weights with which Σ_i weights[i] A_iᵀA_i is Ḡ, the mean of the G_i."""
        return 1.0 / (self.n_clients * np.diff(self.rows.offsets))

    def gram_moments(self, shift: float = 0.0) -> tuple[float, float]:
        """λ_max^½ of the mean of (G_i + shift·I)², and of the variance, the mean of (G_i − Ḡ)²."""
        weights, mean, deviation, square = self.mean_weights(), *np.empty((3, self.dim))

        def variance(v: np.ndarray, out: np.ndarray) -> None:
            sparse.gram_sum(self.rows, 0, self.n_clients, weights, v, mean)
            sparse.gram_variance(self.rows, v, mean, deviation, out)

        def second_moment(v: np.ndarray, out: np.ndarray) -> None:
            variance(v, out)
            sparse.gram_sum(self.rows, 0, self.n_clients, weights, mean, square)
            out += square + 2.0 * shift * mean + shift**2 * v

        largest = largest_eigenvalue(second_moment, self.dim)
        floor = 1e-6 * largest
        return float(np.sqrt(largest)), float(np.sqrt(largest_eigenvalue(variance, self.dim, floor)))


def _as_it_is(rows: ClientRows) -> ClientRows:
    return rows


def _with_bias(rows: ClientRows, column: int) -> ClientRows:
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
        self._terms = mine, problem.link, problem.penalty, dtype.type(problem.reg)
        self._slopes, self._regularizer = np.empty(len(mine.labels), dtype), np.empty(problem.dim, dtype)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        sparse.losses(*self._terms, W, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        sparse.gradients(*self._terms, W, self._slopes, self._regularizer, out)

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        sparse.batch_gradients(*self._terms, W, samples, self._regularizer, out)
