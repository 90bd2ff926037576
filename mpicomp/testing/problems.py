"""The conformance suite of problems, for anybody's problem."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..problems import Problem, problems
from .faults import fail, text_of
from .gradient import relative_error, some_clients
from .rounds import check_rounds
from .smoothness import check_sample_smoothness, check_smoothness

PRECISION = 1e-6  # relative, of gradients against finite differences
DIRECTIONS = 3
PARTS = 20  # the samples are dealt to so many batches


def check_problem(
    problem: Problem | str, *, points: int = 3, clients: Sequence[int] | None = None, seed: int = 0
) -> None:
    """Check that a problem keeps the contract: gradients against finite differences, constants against samples.

    Also: nothing is written but `out`, all of it; the same call gives the same bytes; blocks of clients give the bits of single clients, in
    float32 and float64; minibatches average to the gradient; measures are numbers; what evaluations ask for draws nothing at random, and
    states of clients go out and in.

    Parameters
    ----------
    problem : an object, or its text ("quadratic:dim=50").
    points : number of points x: zero, then normal ones.
    clients : the only ones that are asked for; the first, the middle and the last where None, and all of them for L, L₊ and L±.
    seed : of points and directions.

    Raises
    ------
    AssertionError : the first fault, with the input that shows it, and what to do.

    >>> from mpicomp.testing import check_problem
    >>> check_problem("quadratic:dim=20,clients=3,reg=0.1")
    """
    chosen: Problem = problems.create(problem) if isinstance(problem, str) else problem
    suite = _Suite(chosen, some_clients(chosen) if clients is None else [int(i) for i in clients], seed)
    suite.check_facts()
    chosen.begin_run()
    chosen.begin_evaluation({})
    rng = np.random.default_rng(seed)
    for number in range(points):
        x = rng.standard_normal(chosen.dim) if number else np.zeros(chosen.dim)
        name = "normal" if number else "zero"
        for i in suite.clients:
            suite.check_values(i, x, name)
            suite.check_differences(i, x, name, rng)
            suite.check_batches(i, x, name)
        for dtype in (np.float64, np.float32):
            suite.check_blocks(x.astype(dtype), np.dtype(dtype), name, rng)
        suite.check_measures(x)
    check_rounds(chosen, suite.clients, np.ones(chosen.dim), suite.fail)
    chosen.begin_evaluation({})
    everybody = clients is None
    check_smoothness(
        chosen, np.arange(chosen.n_clients) if everybody else np.array(suite.clients), everybody, points, seed
    )
    check_sample_smoothness(chosen, suite.clients, seed)


class _Suite:
    def __init__(self, problem: Problem, clients: list[int], seed: int):
        self.problem, self.clients, self.seed, self.name = problem, clients, seed, part_name(problem)

    def fail(self, fault: str, remedy: str = "", **case: Any) -> NoReturn:
        fail(self.name, {**case, "seed": self.seed}, fault, remedy)

    def check_facts(self) -> None:
        for name in ("n_clients", "dim"):
            value = getattr(self.problem, name, None)
            if not isinstance(value, int | np.integer) or value < 1:
                self.fail(f"{name} is {value!r}", f"Set {name}, an integer of at least 1, in the constructor")
        for i in self.clients:
            count = self.problem.n_samples(i)
            if not isinstance(count, int | np.integer) or count < 0:
                self.fail(
                    f"n_samples({i}) is {count!r}", "Return the number of f_i's terms, 0 where it is not a finite sum"
                )
        try:
            json.dumps(self.problem.describe())
        except TypeError as error:
            self.fail(
                f"describe() does not hold JSON types: {error}", "Convert arrays with tolist(), numbers with float()"
            )

    def gradient(self, i: int, x: np.ndarray, before: float, name: str) -> np.ndarray:
        """∇f_i(x) as `gradient` writes it into an array that held `before`, between guard entries."""
        given, out = x.copy(), np.full(len(x) + 16, 7.0, x.dtype)
        row = out[8:-8]
        row[:] = before
        case = {"client": i, "x": name, "dtype": x.dtype}
        gradient: Callable[[int, np.ndarray, np.ndarray], object] = (
            self.problem.gradient
        )  # a user's may return something
        try:
            returned = gradient(i, given, row)
        except Exception as error:
            self.fail(f"gradient raised {text_of(error)}", "It must take every vector x of shape (d,)", **case)
        if returned is not None and returned is not row:
            self.fail(
                "gradient returns its result", "Write it into out, as in out[:] = ...; or use FunctionProblem", **case
            )
        if given.tobytes() != x.tobytes():
            self.fail("gradient writes to x", "Work on a copy: x is the model", **case)
        if not (np.all(out[:8] == 7.0) and np.all(out[-8:] == 7.0)):
            self.fail("gradient writes outside of out", "Check the indices", **case)
        return row.copy()

    def check_values(self, i: int, x: np.ndarray, name: str) -> None:
        """The loss is a number, the gradient depends on x alone."""
        case = {"client": i, "x": name}
        given = x.copy()
        try:
            loss = self.problem.loss(i, given)
            number = float(loss)
        except Exception as error:
            self.fail(f"loss raised {text_of(error)}", "Return f_i(x) as a number", **case)
        if given.tobytes() != x.tobytes():
            self.fail("loss writes to x", "Work on a copy: x is the model", **case)
        if not np.isfinite(number):
            self.fail(f"the loss is {number}", "Mind overflow: write log(1 + exp(z)) as numpy.logaddexp(0, z)", **case)
        first = self.gradient(i, x, np.nan, name)
        if np.any(np.isnan(first)):
            bad = int(np.flatnonzero(np.isnan(first))[0])
            written = not np.isnan(self.gradient(i, x, 0.0, name)[bad])
            fault = (
                f"gradient leaves entry {bad} of out as it was, or adds to it"
                if written
                else f"entry {bad} of the gradient is NaN"
            )
            self.fail(fault, "Write all of out, whatever it held, as in out[:] = ..." if written else "", **case)
        if first.tobytes() != self.gradient(i, x, 7.0, name).tobytes():
            self.fail(
                "the gradient depends on what out held, or two calls give different bits",
                "Write all of out, and use no random numbers",
                **case,
            )
        self.gradient(self.clients[-1], x + 1.0, 0.0, "another")
        if (
            first.tobytes() != self.gradient(i, x, 0.0, name).tobytes()
            or float(self.problem.loss(i, x.copy())) != number
        ):
            self.fail(
                "the same call gives other bits after a call at another point", "Keep no state between calls", **case
            )
        single = self.gradient(i, x.astype(np.float32), 0.0, name)
        if not np.linalg.norm(single - first) <= 1e-2 * (np.linalg.norm(first) + 1e-3):
            self.fail("the gradient at a float32 x is another one", "Compute in x.dtype or in float64", **case)

    def check_differences(self, i: int, x: np.ndarray, name: str, rng: np.random.Generator) -> None:
        gradient = self.gradient(i, x, 0.0, name)
        basis = [np.eye(self.problem.dim)[rng.integers(self.problem.dim)] for _ in range(DIRECTIONS)]
        for number in range(DIRECTIONS):
            u = rng.standard_normal(self.problem.dim)
            for direction in (u / np.linalg.norm(u), basis[number]):
                error = relative_error(self.problem, i, x, gradient, direction)
                if not error <= PRECISION:
                    self.fail(
                        f"the gradient is not that of the loss: along a direction its product differs from finite differences by a "
                        f"relative {error:.2g}, up to {PRECISION:g} is expected{self._worst(i, x, gradient)}",
                        "Compare the formulas of loss and gradient: a factor, a sign, or a term that only one of them has",
                        client=i, x=name,
                    )  # fmt: skip

    def _worst(self, i: int, x: np.ndarray, gradient: np.ndarray) -> str:
        """Where the gradient is most wrong, for dimensions in which one can look."""
        if len(x) > 2000:
            return ""
        slopes = np.array([
            (self.problem.loss(i, x + 1e-5 * e) - self.problem.loss(i, x - 1e-5 * e)) / 2e-5 for e in np.eye(len(x))
        ])  # fmt: skip
        worst = int(np.argmax(np.abs(slopes - gradient)))
        wrong = int(np.sum(np.abs(slopes - gradient) > 1e-4 * np.max(np.abs(slopes))))
        return f" ({wrong} of {len(x)} entries are off, most of all entry {worst}: {gradient[worst]:.6g} for {slopes[worst]:.6g})"

    def check_batches(self, i: int, x: np.ndarray, name: str) -> None:
        """The mean over all samples is the gradient; so is the mean of the single ones."""
        count = self.problem.n_samples(i)
        if count == 0:
            return
        full, case = self.gradient(i, x, 0.0, name), {"client": i, "x": name}

        def batch(samples: np.ndarray) -> np.ndarray:
            out = np.full(self.problem.dim, np.nan)
            try:
                self.problem.batch_gradient(i, x.copy(), samples, out)
            except Exception as error:
                self.fail(
                    f"batch_gradient raised {text_of(error)}",
                    "It takes samples of shape (b,), 0 ≤ j < n_samples(i)",
                    **case,
                )
            return out

        size = max(1, -(-count // PARTS))
        parts = [np.arange(first, min(first + size, count)) for first in range(0, count, size)]
        mean = sum(len(part) / count * batch(part) for part in parts)
        tolerance = 1e-8 * np.max(np.abs(full)) + 1e-10
        for what, found in (
            ("batch_gradient over all samples", batch(np.arange(count))),
            ("the mean of batch_gradient over parts of them", mean),
        ):
            if not np.max(np.abs(found - full)) <= tolerance:
                self.fail(
                    f"{what} differs from the gradient by {np.max(np.abs(found - full)):.3g} in some entry",
                    "f_i = (1/N_i) Σ_j f_ij: write the mean over the samples, the regulariser included",
                    **case,
                )

    def check_blocks(self, x: np.ndarray, dtype: np.dtype, name: str, rng: np.random.Generator) -> None:
        """A block's results are those of its clients one by one, at a common point and at points of their own."""
        clients, problem = np.array(self.clients), self.problem
        own = np.stack([x, *(x + rng.standard_normal((len(clients) - 1, len(x))).astype(dtype))])
        block = problem.block(clients, dtype)
        for W in (own, own[:1]):
            losses, gradients = np.full(len(clients), np.nan), np.full((len(clients), problem.dim), 7.0, dtype)
            before = W.tobytes()
            block.losses(W, losses)
            block.gradients(W, gradients)
            if W.tobytes() != before:
                self.fail("a block writes to the points that it is given", "Work on a copy", x=name, dtype=dtype)
            for j, i in enumerate(self.clients):
                point = W[j if len(W) > 1 else 0]
                case = {"client": i, "x": name, "dtype": dtype, "points": len(W)}
                if gradients[j].tobytes() != self.gradient(i, point, 0.0, name).tobytes():
                    self.fail(
                        "block(...).gradients and gradient(i, x, out) give different bits",
                        "Let both use the same code, in the same order",
                        **case,
                    )
                if losses[j] != float(problem.loss(i, point.copy())):
                    self.fail(
                        "block(...).losses and loss(i, x) give different bits",
                        "Let both use the same code, in the same order",
                        **case,
                    )
            if all(problem.n_samples(i) for i in self.clients):
                samples = np.array([[0, problem.n_samples(i) - 1, problem.n_samples(i) // 2] for i in self.clients])
                block.batch_gradients(W, samples, gradients)
                for j, i in enumerate(self.clients):
                    alone = np.zeros(problem.dim, dtype)
                    problem.batch_gradient(i, W[j if len(W) > 1 else 0].copy(), samples[j], alone)
                    if alone.tobytes() != gradients[j].tobytes():
                        self.fail(
                            "block(...).batch_gradients and batch_gradient give different bits",
                            "Let both use the same code",
                            client=i,
                            dtype=dtype,
                        )

    def check_measures(self, x: np.ndarray) -> None:
        values = self.problem.measure(x.copy())
        names = self.problem.measures
        if len(values) != len(names) or not all(isinstance(value, float | int | np.number) for value in values):
            self.fail(f"measure(x) gives {values!r} for measures = {names!r}", "Return a number for each name")


def part_name(part: Any) -> str:
    """A problem or method in a message: its class, and the name that it is registered by."""
    registered = getattr(part, "name", "user")
    return type(part).__name__ if registered == "user" else f"{type(part).__name__} {registered!r}"
