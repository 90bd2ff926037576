"""A PyTorch network and the clients' data sets as a problem: `mpicomp.run(problem=TorchProblem(...))`."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.random import mtrand

from ..errors import ConfigError, ProblemError
from ..problems import Problem
from .datasets import Collate, Samples, converted
from .library import torch
from .module import FlatModule, digest, trainable

Loss = Callable[[Any, Any], torch.Tensor]
Metric = Callable[[Any, Any], "torch.Tensor | float"]
Forward = Callable[[torch.nn.Module, Any], tuple[Any, Any]]
State = dict[str, np.ndarray]


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The share of a batch whose largest output, along dimension 1, is that of the target's class."""
    return (output.argmax(dim=1) == target).double().mean()


class TorchProblem(Problem):
    """f_i(x) is the mean loss of a network on client i's data; x is the vector of all parameters that require gradients.

    The gradients of a round are taken in train mode, losses, ‖∇f‖² and metrics of an evaluation in eval mode. Each client has buffers of
    its own (the running statistics of BatchNorm), which change once in a round, or in a local step; an evaluation has the mean of all
    clients' buffers. Everything random (dropout, augmentation by PyTorch's, NumPy's or Python's generator) is drawn from the round's key,
    so it is the same for any placement of clients on ranks, at both points of a difference, and in a run that resumes. The generators
    themselves are left as they were.

    Parameters
    ----------
    model : an `nn.Module`, which stays as it is; `trained` gives the one that a run has trained. Or a function that makes one, which is
        called under `torch.manual_seed(seed)`, so that all ranks start alike.
    loss_fn : (output, target) -> the mean loss of a batch, a tensor of one number, such as `nn.CrossEntropyLoss()`.
    datasets : one for each client: a `Dataset` with `__len__` and `__getitem__`, a list of samples, or tensors (inputs, targets). A
        sequence of one's own is asked only for the clients that a rank hosts.
    metrics : names ("accuracy", "loss") or functions (output, target) -> the mean of a batch, by the name of their column in `rounds.csv`;
        evaluated on `test`. By default the loss.
    test : a data set, of the same kinds.
    forward : (model, batch) -> (output, target), for samples that are not (inputs..., target).
    collate : makes a batch of a list of samples, in place of PyTorch's `default_collate`.
    chunk : samples of one pass forward, where all of a data set is evaluated.
    seed : of a model that a function makes.
    threads : of PyTorch, while it computes for this problem. Sums depend on their number, so it is one, whatever the machine has.
    device : where the network is, as PyTorch names it.
    random_gradients : False promises that nothing is random in train mode; then MARINA's differences of exact gradients take one evaluation
        in place of two.

    Attributes
    ----------
    shapes : of the parameters in x, by name and in their order.

    Raises
    ------
    ConfigError : a model without trainable parameters, data without a length, a metric without test data.

    >>> import mpicomp as mc, torch
    >>> from mpicomp.torch import TorchProblem
    >>> X, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
    >>> data = [(X[i::4], y[i::4]) for i in range(4)]
    >>> problem = TorchProblem(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), data, metrics=["accuracy"], test=(X, y))
    >>> result = mc.run(problem=problem, method="ef21", compressor="topk:k=2", step=0.5, rounds=20, batch=5)
    >>> 0 <= result.history[-1]["accuracy"] <= 1
    True
    """

    name = "torch"
    starts_itself = True

    def __init__(
        self,
        model: torch.nn.Module | Callable[[], torch.nn.Module],
        loss_fn: Loss,
        datasets: Sequence[Any],
        *,
        metrics: Mapping[str, Metric | str] | Sequence[str] = (),
        test: Any = None,
        forward: Forward | None = None,
        collate: Collate | None = None,
        chunk: int = 256,
        seed: int = 0,
        threads: int = 1,
        device: str = "cpu",
        random_gradients: bool = True,
    ):
        for name, value in (("chunk", chunk), ("threads", threads)):
            if not value >= 1:
                raise ConfigError(f"TorchProblem: {name}={value} must be at least 1")
        if not hasattr(datasets, "__len__") or not hasattr(datasets, "__getitem__") or len(datasets) == 0:
            raise ConfigError(
                f"TorchProblem: datasets={type(datasets).__name__} must be a sequence with a data set for each client"
            )
        if isinstance(datasets, torch.utils.data.Dataset):
            raise ConfigError(
                "TorchProblem: datasets is one data set, and a sequence with one for each client is needed; "
                "torch.utils.data.random_split makes it"
            )
        if isinstance(loss_fn, torch.nn.Module) and any(p.requires_grad for p in loss_fn.parameters()):
            raise ConfigError("TorchProblem: loss_fn has trainable parameters; make them a part of the model")
        self.n_clients, self.seed, self.chunk, self.threads, self.device = len(datasets), seed, chunk, threads, device
        self.random_gradients = random_gradients
        self.holds_all = isinstance(datasets, list | tuple)  # type: ignore[misc]
        self._model = _built(model, seed)
        self._loss_fn, self._forward = loss_fn, forward or _inputs_and_target
        self.shapes = {name: tuple(parameter.shape) for name, parameter in trainable(self._model).items()}
        self.dim = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self._datasets, self._collate = datasets, collate
        self._samples: dict[int, Samples] = {}
        self._test = None if test is None else Samples(test, "the test", collate)
        self._metrics = _metrics(metrics, test is not None)
        self.measures = tuple(self._metrics)  # type: ignore[misc]
        self._numbers = np.random.MT19937(0)  # takes the place of NumPy's own while this problem computes
        self._modules: dict[np.dtype, tuple[FlatModule, Loss]] = {}
        self._first = FlatModule(self._model, np.dtype(np.float64)).buffers()
        self.begin_run()

    # ---- what it knows without evaluating ---------------------------------------------------------------------------
    def n_samples(self, i: int) -> int:
        return len(self._data(i))

    def paper_start(self) -> np.ndarray:
        """The parameters of the model as it was given: x⁰ of a run that says nothing else."""
        return FlatModule(self._model, np.dtype(np.float64)).vector()

    def digests(self, clients: np.ndarray) -> list[str]:
        with self._computing(0, 0):
            model = digest(self._model.state_dict().items())
            return [f"{model} {self._data(int(i)).digest()}" for i in clients]

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "model": type(self._model).__name__,
            "parameters": {name: list(shape) for name, shape in self.shapes.items()},
            "buffers": {name: list(array.shape) for name, array in self._first.items()},
            "torch": torch.__version__,
        }

    def trained(self, x: np.ndarray) -> torch.nn.Module:
        """A copy of the model with the parameters x, shape (d,), and the buffers of the last evaluation, in eval mode.

        Raises
        ------
        ConfigError : x has another shape, or the model has buffers and the run made no evaluation.
        """
        if np.shape(x) != (self.dim,):
            raise ConfigError(f"x has shape {np.shape(x)}; the model has {self.dim} parameters")
        if self._means is None and self._first:
            raise ConfigError(
                "the model has buffers and there was no evaluation, so their mean is not known; use «evaluate='measures'»"
            )
        flat = FlatModule(self._model, np.dtype(np.float64))
        flat.set_vector(x)
        flat.set_buffers(self._means or {})
        model = copy.deepcopy(self._model)
        model.load_state_dict(flat.module.state_dict())
        return model.eval()

    # ---- rounds, evaluations and states -----------------------------------------------------------------------------
    def begin_run(self) -> None:
        self._states: dict[int, State] = {}
        self._before: dict[int, State] = {}
        self._means: State | None = None
        self._round_key: int | None = None

    def begin_round(self, round: int, key: int) -> None:
        self._round_key = key
        self._before.clear()

    def begin_evaluation(self, mean: dict[str, np.ndarray]) -> None:
        self._round_key = None
        self._means = mean

    def state(self, i: int) -> State:
        return self._states.get(i, self._first)

    def load_state(self, i: int, state: State) -> None:
        self._states[i] = state

    # ---- evaluating -------------------------------------------------------------------------------------------------
    def loss(self, i: int, x: np.ndarray) -> float:
        with self._computing(self._round_key or 0, i), torch.no_grad():
            flat, loss_fn = self._at(i, x)
            samples, total = self._data(i), 0.0
            for count, batch in samples.batches(self.chunk):
                total += float(self._batch_loss(flat, loss_fn, batch)) * count
            return total / len(samples)

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        samples = self._data(i)
        self._write_gradient(i, x, samples.batches(self.chunk), len(samples), out)

    def batch_gradient(self, i: int, x: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        indices = samples.tolist()
        # a generator: the batch is drawn from the key, when it is asked for
        parts = ((len(indices), self._data(i).batch(indices)) for _ in range(1))
        self._write_gradient(i, x, parts, len(indices), out)

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """The metrics on the test data, in eval mode."""
        if self._test is None:
            return ()
        with self._computing(0, 0), torch.no_grad():
            flat, loss_fn = self._at(0, x)
            totals = np.zeros(len(self._metrics))
            for count, batch in self._test.batches(self.chunk):
                output, target = self._forward(flat.module, self._placed(flat, batch))
                for j, metric in enumerate(self._metrics.values()):
                    totals[j] += float((metric or loss_fn)(output, target)) * count
            return tuple(float(total) for total in totals / len(self._test))

    def _write_gradient(
        self, i: int, x: np.ndarray, batches: Iterator[tuple[int, Any]], total: int, out: np.ndarray
    ) -> None:
        with self._computing(self._round_key or 0, i), torch.enable_grad():
            flat, loss_fn = self._at(i, x)
            flat.forget_gradients()
            for count, batch in batches:
                loss = self._batch_loss(flat, loss_fn, batch)
                (loss if count == total else loss * (count / total)).backward()
            flat.write_gradients(out)
            if self._first and self._round_key is not None:
                self._states[i] = flat.buffers()

    def _batch_loss(self, flat: FlatModule, loss_fn: Loss, batch: Any) -> torch.Tensor:
        loss = loss_fn(*self._forward(flat.module, self._placed(flat, batch)))
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ProblemError(f"loss_fn returned {what}; the mean loss of the batch is needed, a tensor of one number")
        return loss

    def _placed(self, flat: FlatModule, batch: Any) -> Any:
        return converted(batch, flat.dtype, self.device)

    def _at(self, i: int, x: np.ndarray) -> tuple[FlatModule, Loss]:
        """The network at x in the dtype of x: in a round in train mode with client i's buffers, else in eval mode with the means."""
        if x.dtype not in self._modules:
            flat, loss_fn = FlatModule(self._model, x.dtype, self.device), self._loss_fn
            if isinstance(loss_fn, torch.nn.Module):
                loss_fn = copy.deepcopy(loss_fn).to(device=self.device, dtype=flat.dtype)
            self._modules[x.dtype] = flat, loss_fn
        flat, loss_fn = self._modules[x.dtype]
        flat.set_vector(x)
        flat.module.train(self._round_key is not None)
        if self._first:
            if self._round_key is None:
                flat.set_buffers({**self._first, **(self._means or {})})
            else:  # of all evaluations in a round the last one counts: a difference takes two
                flat.set_buffers(self._before.setdefault(i, self.state(i)))
        return flat, loss_fn

    def _data(self, i: int) -> Samples:
        if i not in self._samples:
            self._samples[i] = Samples(self._datasets[i], f"client {i}", self._collate)
        return self._samples[i]

    @contextmanager
    def _computing(self, key: int, i: int) -> Iterator[None]:
        """Within it the generators give what the key says for client i, and PyTorch has the problem's number of threads."""
        seed = int(np.random.SeedSequence([key, i]).generate_state(1, np.uint64)[0])
        threads, numbers, python = torch.get_num_threads(), mtrand.get_bit_generator(), random.getstate()
        # torch.manual_seed would seed those of all devices, and take a millisecond
        generators = [torch.default_generator]
        if self.device.startswith("cuda"):
            generators.append(torch.cuda.default_generators[torch.device(self.device).index or 0])
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            mtrand.set_bit_generator(self._numbers)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - users' data sets draw from it
            random.seed(seed)
            torch.set_num_threads(self.threads)
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python)
            mtrand.set_bit_generator(numbers)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _built(model: Any, seed: int) -> torch.nn.Module:
    """The model; made, where it is a function, with this seed."""
    built = model
    if not isinstance(model, torch.nn.Module):
        if not callable(model):
            raise ConfigError(f"TorchProblem: model={model!r} is neither an nn.Module nor a function that makes one")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            built = model()
        if not isinstance(built, torch.nn.Module):
            raise ConfigError(
                f"TorchProblem: the function model returned {type(built).__name__}; an nn.Module is needed"
            )
    trainable(built)
    try:
        return copy.deepcopy(built)
    except Exception as error:
        raise ConfigError(
            f"TorchProblem: the model cannot be copied: {error}; give a function that makes it"
        ) from error


def _metrics(given: Mapping[str, Metric | str] | Sequence[str], tested: bool) -> dict[str, Metric | None]:
    """Metrics by name; None for the loss."""
    if isinstance(given, str):
        given = [given]
    named = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
    if named and not tested:
        raise ConfigError(f"TorchProblem: metrics {', '.join(map(repr, named))} need test data; give test=DATASET")
    if tested and not named:
        named = {"test_loss": "loss"}
    known: dict[str, Metric | None] = {"accuracy": accuracy, "loss": None}
    found: dict[str, Metric | None] = {}
    for name, metric in named.items():
        if isinstance(metric, str) and metric not in known:
            raise ConfigError(
                f"TorchProblem: unknown metric {metric!r}; known: accuracy, loss, or a function (output, target) -> number"
            )
        column = "test_loss" if name == "loss" else name  # `loss` is f in rounds.csv
        found[column] = known[metric] if isinstance(metric, str) else metric
    return found


def _inputs_and_target(model: torch.nn.Module, batch: Any) -> tuple[Any, Any]:
    """Of samples (inputs..., target)."""
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise ProblemError(
            f"a batch is a {type(batch).__name__}; samples (input, target) are needed, or TorchProblem(..., forward=...), which takes "
            "(model, batch) and returns (output, target)"
        )
    return model(*batch[:-1]), batch[-1]
