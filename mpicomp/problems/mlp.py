"""A small neural network: the classifier with which compressed training is compared."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..data import DATA_SETS, SparseRows, load
from ..errors import ConfigError, DataError, unknown
from ..kernels import network
from ..kernels.network import RELU, TANH, Network
from ..kernels.random import Stream, derive, fill_normal, permutation
from ..kernels.sparse import ClientRows
from .base import Block, BlockProblem, problems
from .rows import DealtRows, deal, digests_of, take

ACTIVATIONS = {"tanh": TANH, "relu": RELU}
SHOWN = 5  # classes in a message
HELD_OUT = 5  # of so many rows one is for the test, where a set has no test part of its own


@problems.register("mlp")
class MLP(BlockProblem):
    """f_i(x) = (1/N_i) Σ_r −log softmax(network(a_r; x))_{y_r} + (λ/2)‖x‖², x all weights and biases in one vector.

    The network maps a row's features through layers h ← σ(hW + b), the last one without σ, to a number for each class. The layers
    follow each other in x, each as W (a row for each of its inputs, one after the other), then b. No hidden layer at all is multinomial
    logistic regression; over words that occur or not, one hidden layer is the mean of learnt word vectors, classified.

    Parameters
    ----------
    data : name of a set, or path of a LIBSVM text file; the labels are the classes. All values are divided by the largest magnitude.
    clients, partition, seed, features : as for `LinearModel`; the seed is also that of the test part and of `paper_start`.
    hidden : units of the hidden layers: 32, "64+32" for two, 0 for none.
    activation : σ, "relu" or "tanh".
    reg : λ.
    test : rows for `measure`: a name or path. By default the set's own test part (DATA.t), or else every fifth row, at random.

    Attributes
    ----------
    test_rows : the test rows as those of one client.
    """

    summary = "small neural network, softmax cross-entropy; hidden=32 or 64+32, activation=relu|tanh"
    measures = ("accuracy",)

    holds_all = True

    def __init__(
        self,
        data: str = "digits",
        clients: int = 20,
        partition: str = "shuffled",
        hidden: int | str = 32,
        activation: str = "relu",
        reg: float = 0.0,
        test: str | None = None,
        seed: int = 0,
        features: int | None = None,
    ):
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        if not reg >= 0:
            raise ConfigError(f"problem {self.name!r} needs reg >= 0, got reg={reg}")
        self.hidden = _widths(hidden)
        table, tested = _split(data, test, features, seed)
        classes = np.unique(table.labels)
        if len(classes) < 2:
            raise DataError(f"{data}: a classifier needs at least two classes, the rows have only {classes[0]:g}")
        foreign = np.setdiff1d(tested.labels, classes)
        if len(foreign):
            known = ", ".join(f"{label:g}" for label in classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
            raise DataError(
                f"{test or data}: the test rows have the class {foreign[0]:g}, which no training row of {data} has; these have {known}"
            )
        scale = 1.0 / max(float(np.max(np.abs(table.values), initial=0.0)), np.finfo(float).tiny)
        train = _scaled(table, classes, scale)
        self._dealt = DealtRows(
            train, partition, clients, seed, lambda: _scaled(_split(data, test, features, seed)[0], classes, scale)
        )
        self.test_rows = deal(_scaled(tested, classes, scale), "contiguous", 1, seed)
        self.data, self.partition, self.activation, self.reg, self.seed = data, partition, activation, float(reg), seed
        widths = np.array([table.features, *self.hidden, len(classes)], np.int64)
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
        """The share of the test rows that are classified rightly."""
        rows = self.test_rows
        units = np.empty(int(self.network.widths[1:].sum()))
        return (network.right(rows, self.network, x.astype(np.float64), units) / len(rows.labels),)

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


def _split(data: str, test: str | None, features: int | None, seed: int) -> tuple[SparseRows, SparseRows]:
    """The rows for training, and those for the test."""
    table = load(data, features)
    if test is None and f"{data}.t" in DATA_SETS:
        test = f"{data}.t"
    if test is not None:
        return table, load(test, table.features)
    order = np.empty(len(table.labels), np.int64)
    permutation(derive(seed, Stream.PARTITION, 0, 1), order)
    held_out = len(order) // HELD_OUT
    if held_out == 0:
        raise DataError(
            f"{data}: {len(order)} rows are too few to hold a fifth of them out; name test rows (problem.test)"
        )
    return take(np.sort(order[held_out:]), table), take(np.sort(order[:held_out]), table)


def _scaled(table: SparseRows, classes: np.ndarray, scale: float) -> SparseRows:
    """Labels 0, 1, ... for the classes, values times `scale`."""
    labels = np.searchsorted(classes, table.labels).astype(np.float64)
    return table._replace(labels=labels, values=table.values * scale)
