"""A small neural network: the classifier with which compressed training is compared."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from ..data import DATA_SETS, Data, Prepared, Source, SparseRows
from ..errors import ConfigError, unknown
from ..kernels import network
from ..kernels.network import RELU, TANH, Network
from ..kernels.random import Stream, derive, fill_normal
from ..kernels.sparse import ClientRows, squared_norms
from .base import LARGEST_NUMBER, Block, BlockProblem, Smoothness, problems
from .coding import many_classes
from .gram import Grams
from .linear_model import Test, test_source, with_bias
from .rows import DealtRows, deal, digests_of

ACTIVATIONS = {"tanh": TANH, "relu": RELU}
HELD_OUT = 0.2  # of the rows, for the test, where a set has no test part of its own
SOFTMAX = 0.5  # the largest eigenvalue of diag(p) − ppᵀ


@problems.register("mlp")
class MLP(BlockProblem):
    """f_i(x) = (1/N_i) Σ_r −log softmax(network(a_r; x))_{y_r} + (λ/2)‖x‖², x all weights and biases in one vector.

    The network maps a row's features through layers h ← σ(hW + b), the last one without σ, to a number for each class. The layers
    follow each other in x, each as W (a row for each of its inputs, one after the other), then b. No hidden layer at all is multinomial
    logistic regression; over words that occur or not, one hidden layer is the mean of learnt word vectors, classified.

    Parameters
    ----------
    data : as for `LinearModel`; the labels are the classes.
    clients, partition, seed, features, label, zero_based : as for `LinearModel`; the seed is also that of the test part and of
        `paper_start`.
    hidden : units of the hidden layers: 32, "64+32" for two, 0 for none.
    activation : σ, "relu" or "tanh".
    reg : λ.
    test : rows for `measure`: a name, a path, a pair (A, b), or a share. By default the set's own test part (DATA.t), or else 0.2 of the
        rows.
    scale : as for `LinearModel`; by default "largest".

    Attributes
    ----------
    test_rows : the test rows as those of one client.
    """

    summary = "small neural network, softmax cross-entropy; hidden=32 or 64+32, activation=relu|tanh"
    measures = ("accuracy", "test_loss")

    holds_all = True
    scaled: ClassVar[str] = "largest"  # unless `scale` says otherwise

    def __init__(
        self,
        data: Data = "digits",
        clients: int = 20,
        partition: str = "shuffled",
        hidden: int | str = 32,
        activation: str = "relu",
        reg: float = 0.0,
        test: Test = None,
        seed: int = 0,
        features: int | None = None,
        label: str | int | None = None,
        zero_based: bool | None = None,
        scale: str | None = None,
    ):
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        if not 0 <= reg <= LARGEST_NUMBER:
            raise ConfigError(f"problem {self.name!r} needs reg >= 0, up to {LARGEST_NUMBER:g}, got reg={reg}")
        self.hidden = _widths(hidden)
        self.convex = not self.hidden
        source = Source(data, features, label, bool(zero_based))
        name = source.name
        if test is None:
            test = f"{name}.t" if f"{name}.t" in DATA_SETS else HELD_OUT
        prepared = Prepared(source, scale or self.scaled, test_source(test, name, label, bool(zero_based)), seed)
        table = prepared.whole()
        code, classes = many_classes(table, name)

        def whole() -> SparseRows:
            rows = prepared.whole()
            return rows._replace(labels=code(rows.labels, name))

        labelled = table._replace(labels=code(table.labels, name))
        self._dealt = DealtRows(labelled, partition, clients, seed, whole)
        assert prepared.test_rows is not None  # there always is a test
        tested = prepared.test_rows
        tested = tested._replace(labels=code(tested.labels, test if isinstance(test, str) else name))
        self.test_rows = deal(tested, "contiguous", 1, seed)
        self.data, self.partition, self.activation, self.reg, self.seed = name, partition, activation, float(reg), seed
        widths = np.array([table.features, *self.hidden, classes], np.int64)
        sizes = (widths[:-1] + 1) * widths[1:]
        self.network = Network(widths, np.concatenate([[0], np.cumsum(sizes)[:-1]]), ACTIVATIONS[activation])
        self.n_clients, self.dim = clients, int(sizes.sum())
        self.shapes = {
            name: shape
            for number, (inputs, outputs) in enumerate(pairwise(widths.tolist()))
            for name, shape in ((f"W{number}", (inputs, outputs)), (f"b{number}", (outputs,)))
        }

    @property
    def rows(self) -> ClientRows:
        """All training rows, client after client."""
        return self._dealt.all()

    def keep_clients(self, clients: np.ndarray) -> None:
        assert self._squares >= 0.0  # asked for later, too
        self._dealt.keep(clients)

    def hosted_rows(self, clients: np.ndarray, dtype: np.dtype) -> ClientRows:
        """The rows of these clients, in the dtype of a run."""
        return self._dealt.hosted(clients, dtype, self.data)

    def n_samples(self, i: int) -> int:
        return int(self._dealt.offsets[i + 1] - self._dealt.offsets[i])

    def lower_bound(self) -> float | None:
        """0: neither the cross-entropy nor the regulariser is ever negative."""
        return 0.0

    def digests(self, clients: np.ndarray) -> list[str]:
        tested = digests_of(self.test_rows, np.arange(1))[0]
        return [f"{digest} {tested}" for digest in self._dealt.digests(clients)]

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> MLPBlock:
        return MLPBlock(self, clients, np.dtype(dtype))

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """The share of the test rows that are classified rightly, and their mean cross-entropy, without the regulariser."""
        rows, x = self.test_rows, x.astype(np.float64)
        units, loss = np.empty(int(self.network.widths[1:].sum())), np.empty(1)
        network.losses(rows, self.network, 0.0, x[None], units, loss)
        return network.right(rows, self.network, x, units) / len(rows.labels), float(loss[0])

    def smoothness(self) -> Smoothness:
        """Without hidden layers bounds, proved in docs/explanation/smoothness.md. Raises TheoryError where there are hidden layers."""
        return super().smoothness() if self.hidden else self._constants

    @cached_property
    def _constants(self) -> Smoothness:
        """Those of a linear model with the rows (a_r, 1) and c = ½, since diag(p) − ppᵀ ≼ ½I (Böhning 1992)."""
        widths = self.network.widths
        rows = with_bias(self.rows, int(widths[0]))
        return Grams(rows, int(widths[0]) + 1).smoothness(SOFTMAX, self.reg, self.reg or None)

    def sample_smoothness(self) -> np.ndarray:
        """𝓛_i² = mean over client i's rows of (½(‖a_r‖² + 1))²; the regulariser, which all samples share, cancels. Raises TheoryError where
        there are hidden layers."""
        if self.hidden:
            return super().sample_smoothness()
        rows = self.rows
        squares = (SOFTMAX * (squared_norms(rows.indptr, rows.values) + 1.0)) ** 2
        return np.sqrt(np.add.reduceat(squares, rows.offsets[:-1]) / np.diff(rows.offsets))

    def paper_start(self) -> np.ndarray:
        """Normal weights with which units have variance 1 (tanh) or E σ² = 1 (relu) at first; biases 0; keyed by the seed.

        He, Zhang, Ren and Sun 2015; what a unit of the first layer reads has the mean ‖a_r‖² of the training rows in place of a number
        of inputs.
        """
        x, widths, key = np.zeros(self.dim), self.network.widths, derive(self.seed, Stream.INIT)
        draws = np.empty(self.dim)
        fill_normal(key, draws)
        gain = 2.0 if self.network.activation == RELU else 1.0
        squares = self._squares
        for l, first in enumerate(self.network.starts):
            count = widths[l] * widths[l + 1]
            read = squares if l == 0 else float(widths[l])
            x[first : first + count] = draws[first : first + count] * np.sqrt(gain / read)
        return x

    @cached_property
    def _squares(self) -> float:
        """The mean ‖a_r‖² of the training rows."""
        rows = self.rows
        return max(float(np.square(rows.values).sum()) / len(rows.labels), np.finfo(float).tiny)

    def describe(self) -> dict[str, Any]:
        """Sizes: of the network, of the data, of the clients."""
        sizes = np.diff(self._dealt.offsets)
        return {
            **super().describe(),
            "data": self.data,
            "partition": self.partition,
            "widths": self.network.widths.tolist(),
            "activation": self.activation,
            "reg": self.reg,
            "rows": int(sizes.sum()),
            "test_rows": len(self.test_rows.labels),
            "rows_min": int(sizes.min()),
            "rows_max": int(sizes.max()),
        }


class MLPBlock(Block):
    """Some clients of an `MLP`: their rows only, in the dtype of the run."""

    def __init__(self, problem: MLP, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        self._terms = problem.hosted_rows(self.clients, dtype), problem.network, dtype.type(problem.reg)
        self._units, self._slopes = np.empty((2, int(problem.network.widths[1:].sum())), dtype)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        network.losses(*self._terms, W, self._units, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        network.gradients(*self._terms, W, self._units, self._slopes, out)

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        network.batch_gradients(*self._terms, W, samples, self._units, self._slopes, out)


def _widths(hidden: int | str) -> tuple[int, ...]:
    """Units of the hidden layers.

    >>> _widths("64+32"), _widths(0)
    ((64, 32), ())
    """
    try:
        widths = tuple(int(part) for part in str(hidden).split("+"))
    except ValueError:
        widths = (-1,)
    if widths == (0,):
        return ()
    if min(widths) < 1:
        raise ConfigError(f"problem 'mlp': hidden={hidden!r}; expected units by layer, for example 32, 64+32, or 0")
    return widths
