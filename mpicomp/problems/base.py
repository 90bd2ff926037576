"""What a problem is: n client functions f_i on R^d, their gradients, and what is known of their smoothness.

The objective is f(x) = (1/n) Σ f_i(x). A user's own problem needs `n_clients`, `dim`, `loss(i, x)` and `gradient(i, x,
out)`, or just two functions (`FunctionProblem`). Everything else has a default that loops; the built-in problems
override `block` to evaluate all clients of a rank in one jitted call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..arrays import ours, read_only
from ..errors import ConfigError, ProblemError, TheoryError
from ..registry import Registry

UNWRITTEN = -1.2345678e30  # stands in a gradient before the first call, to see that it is overwritten

LARGEST_NUMBER = 1e100  # of a problem's options: its square is still a number
SEED_BITS = 2**63 - 1  # of a seed; NumPy takes no negative one

problems: Registry[Problem] = Registry("problem", "mpicomp.problems")


@dataclass(frozen=True)
class Smoothness:
    """Smoothness constants of f = (1/n) Σ f_i; the definition holds with each number, which is exact or an upper bound.

    Attributes
    ----------
    L : ‖∇f(x) − ∇f(y)‖ ≤ L‖x − y‖ (L₋ in the MARINA papers).
    L_i : of each client, float64, shape (n,).
    L_plus : (1/n) Σ‖∇f_i(x) − ∇f_i(y)‖² ≤ L₊²‖x − y‖².
    L_pm : the same sum minus ‖∇f(x) − ∇f(y)‖² ≤ L±²‖x − y‖² (L±² is the Hessian variance).
    L_A, L_B : ‖(1/n) Σ [∇f_i(x+u_i) − ∇f_i(x)]‖² ≤ L_A² (1/n) Σ‖u_i‖² + L_B² ‖(1/n) Σ u_i‖².
    mu : strong convexity (or PL) constant, None where unknown or zero.
    exact : the constants are the smallest possible ones, not bounds.
    """

    L: float
    L_i: np.ndarray
    L_plus: float
    L_pm: float
    L_A: float
    L_B: float
    mu: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for a constant that is negative or not finite, or L_i that are not one number for each client."""
        each = np.asarray(self.L_i)
        if each.ndim != 1 or each.size == 0 or each.dtype.kind not in "fiu":
            raise ConfigError(
                f"L_i has shape {each.shape} and dtype {each.dtype}; one number for each client is needed"
            )
        if np.any(bad := ~((each >= 0) & np.isfinite(each))):
            i = int(np.argmax(bad))
            raise ConfigError(f"L_i[{i}] = {each[i]}: a smoothness constant is a finite number that is not negative")
        for name in ("L", "L_plus", "L_pm", "L_A", "L_B"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(
                    f"{name} = {getattr(self, name)}: a smoothness constant is a finite number that is not negative"
                )

    @property
    def L_max(self) -> float:
        """max L_i."""
        return float(np.max(self.L_i))

    @property
    def L_AM(self) -> float:
        """Arithmetic mean of the L_i."""
        return float(np.mean(self.L_i))

    @property
    def L_QM(self) -> float:
        """Quadratic mean of the L_i."""
        return float(np.sqrt(np.mean(np.square(self.L_i))))

    @property
    def L_var(self) -> float:
        """L_QM² − L_AM²."""
        return self.L_QM**2 - self.L_AM**2

    @classmethod
    def bounds(cls, L_i: ArrayLike, L: float | None = None, mu: float | None = None) -> Smoothness:
        """What follows from the L_i alone: L ≤ L_AM, L± ≤ L₊ ≤ L_QM, L_A ≤ L_QM, L_B = 0 (Jensen, Cauchy–Schwarz)."""
        each = np.asarray(L_i, dtype=np.float64)
        if each.ndim != 1 or each.size == 0:
            raise ConfigError(f"L_i has shape {each.shape}; one number for each client is needed")
        quadratic_mean = float(np.sqrt(np.mean(each**2)))
        return cls(
            float(np.mean(each)) if L is None else float(L),
            each,
            quadratic_mean,
            quadratic_mean,
            quadratic_mean,
            0.0,
            mu,
        )

    @classmethod
    def quadratic(cls, L: float, L_i: np.ndarray, L_plus: float, L_pm: float, mu: float | None = None) -> Smoothness:
        """Of quadratics, exact: L_A² = 2 L±², L_B² = 2 L² (Young), or L_A = 0, L_B = L where all clients are equal."""
        root = np.sqrt(2.0) if L_pm > 0 else 1.0
        return cls(L, L_i, L_plus, L_pm, float(root * L_pm), float(root * L), mu, exact=True)

    def heterogeneity(self) -> dict[str, float]:
        """How much the clients differ, for the result files."""
        return {
            "L": self.L,
            "L_min": float(np.min(self.L_i)),
            "L_max": self.L_max,
            "L_AM": self.L_AM,
            "L_QM": self.L_QM,
            "L_var": self.L_var,
            "L_plus": self.L_plus,
            "L_pm": self.L_pm,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "L_i": self.L_i.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Smoothness:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "L_i": np.asarray(fields["L_i"], dtype=np.float64)})


class FeatureCounts(NamedTuple):
    """How rare features are (Richtárik, Gasanov and Burlachenko 2023).

    Attributes
    ----------
    clients : for each coordinate, of how many f_i the gradient's entry is not always zero; int64, shape (d,).
    coordinates : for each client, how many such entries ∇f_i has; int64, shape (n,).
    """

    clients: np.ndarray
    coordinates: np.ndarray

    @property
    def c(self) -> int:
        """The most clients that a coordinate has."""
        return int(self.clients.max())

    @property
    def r(self) -> int:
        """The most coordinates that a client has."""
        return int(self.coordinates.max())


class Problem:
    """Base class of all problems.

    Attributes
    ----------
    n_clients, dim : n and d.
    measures : what `measure` tells beside f and ‖∇f‖² at each evaluation, for instance accuracy on test data.
    copies_points : `loss`, `gradient` and `batch_gradient` get a copy of x, for libraries that take no read-only arrays. Otherwise x is
        read-only, since all clients of a rank may share it: writing to it raises an error.
    shapes : of the tensors that x is made of, by name and in their order, row by row; empty where it is one vector.
    holds_all : a rank can be asked for the data of all clients, not only of those that it hosts; `exchange="auto"` may then let rank 0
        host some.
    starts_itself : a run that names no x⁰ begins at `paper_start()` in place of zero.
    random_gradients : the gradients depend on the key that `begin_round` tells (dropout masks, augmentation); None: they do where the
        problem defines `begin_round`. Then a difference of exact gradients is evaluated at both points with the same key.
    convex : f is known to be convex, so its minimum can be computed (`mpicomp plot --f-star compute`); a μ of `smoothness` says so, too.
    """

    name: ClassVar[str] = "user"
    summary: ClassVar[str] = ""
    measures: ClassVar[tuple[str, ...]] = ()
    copies_points: bool = False
    holds_all: ClassVar[bool] = False
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    starts_itself: ClassVar[bool] = False
    random_gradients: bool | None = None
    convex: bool = False
    n_clients: int
    dim: int

    # ---- the simple contract ------------------------------------------------------------------------------------
    def loss(self, i: int, x: np.ndarray) -> float:
        """f_i(x); x has shape (d,) and is read-only."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(i, x)")

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        """Write ∇f_i(x) into `out`, shape (d,); x has the same shape and is read-only."""
        raise NotImplementedError(f"{type(self).__name__} must define gradient(i, x, out)")

    def n_samples(self, i: int) -> int:
        """How many terms f_i = (1/N_i) Σ_j f_ij has; 0 where f_i is not a finite sum (no minibatch form)."""
        return 0

    def batch_gradient(self, i: int, x: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        """Write the mean of ∇f_ij(x) over j in `samples` (int64, shape (b,)) into `out`."""
        raise ConfigError(f"problem {self.name!r} has no minibatch form; use the full gradient")

    def smoothness(self) -> Smoothness:
        """The smoothness constants. Raises TheoryError where they are unknown."""
        raise TheoryError(
            f"the smoothness constants of problem {self.name!r} are unknown, so there is no theoretical step size: "
            "give a number («step=0.05»), or define smoothness() (Smoothness.bounds(L_i) needs only the L_i)"
        )

    def sample_smoothness(self) -> np.ndarray:
        """𝓛_i of each client, float64, shape (n,): E_j‖[∇f_ij(x) − ∇f_ij(y)] − [∇f_i(x) − ∇f_i(y)]‖² ≤ 𝓛_i²‖x − y‖², j uniform.

        The largest smoothness constant among client i's samples will do. Raises TheoryError where it is unknown.
        """
        raise TheoryError(
            f"the smoothness of the single samples of problem {self.name!r} is unknown, so there is no theoretical step size for "
            "this method: give a number («step=0.05»), or define sample_smoothness()"
        )

    def weighted_smoothness(self, weights: np.ndarray) -> tuple[float, float]:
        """(L₊,w, L±,w): (1/n) Σ‖∇f_i(x) − ∇f_i(y)‖²/(n w_i) ≤ L₊,w²‖x − y‖²; the same sum minus ‖∇f(x) − ∇f(y)‖² ≤ L±,w²‖x − y‖².

        Here what follows from the L_i, L±,w² ≤ L₊,w² ≤ (1/n) Σ L_i²/(n w_i); both are L₊, L± for w_i = 1/n, where those are known better.

        Parameters
        ----------
        weights : w_i > 0 with Σ w_i = 1, shape (n,).
        """
        constants, w = self.smoothness(), self.n_clients * np.asarray(weights)
        bound = float(np.sqrt(np.mean(constants.L_i**2 / w)))
        if np.ptp(w) <= 1e-12:
            return min(bound, constants.L_plus), min(bound, constants.L_pm)
        return bound, bound

    def feature_counts(self) -> FeatureCounts:
        """Who depends on what; here: every f_i on every coordinate."""
        return FeatureCounts(np.full(self.dim, self.n_clients), np.full(self.n_clients, self.dim))

    def feature_weights(self, weights: np.ndarray) -> np.ndarray:
        """Σ w_i over the clients whose f_i depends on a coordinate, for each of these; here: over all.

        Parameters
        ----------
        weights : shape (n,).

        Returns
        -------
        float64, shape (d,).
        """
        return np.full(self.dim, float(np.sum(weights)))

    def lower_bound(self) -> float | None:
        """A number that f never falls below, the closer to inf f the better; None where none is known."""
        return None

    def paper_start(self) -> np.ndarray:
        """x⁰ of the paper's experiments (`--init paper`), shape (d,). Raises ConfigError where there is none."""
        raise ConfigError(
            f"problem {self.name!r} has no starting point of its own; use «init='zero'», «init='ones'» or «init='normal:SEED'»"
        )

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        """A number for each of `measures` at x, shape (d,); asked on the server only, off the clock."""
        return ()

    def digests(self, clients: np.ndarray) -> list[str]:
        """A digest of each client's data, text of any length; empty where there is none. Ranks that see different data, and a run that goes
        on with other data than its checkpoint, are found by it.

        Parameters
        ----------
        clients : int64, clients that this rank hosts; of a problem with `holds_all` any.
        """
        return [""] * len(clients)

    def keep_clients(self, clients: np.ndarray) -> None:
        """From now on this rank computes for these clients only, int64: what is held for others may go. Called where the run has made the
        problem itself, before the rounds; here it does nothing."""
        return

    def describe(self) -> dict[str, Any]:
        """Facts for the result files, JSON types: sizes and options, nothing that takes long; asked on rank 0, before the first round."""
        return {"name": self.name, "dim": self.dim, "clients": self.n_clients}

    # ---- what changes from round to round: random gradients, and a state of each client ---------------------------
    def begin_run(self) -> None:
        """A run begins, or its warm-up: the states of all clients are to be those of the start. Called on every rank, before anything is
        evaluated; a problem that has a `state` defines it, so that a second run gives what the first one gave."""

    def begin_round(self, round: int, key: int) -> None:
        """The gradients that are asked for from now on are those of this round, and what is random in them is drawn from this key.

        Called on ranks that host clients, before the first gradient of a round. All gradients until the next call have the same draw,
        also where a method asks for them at two points to take the difference (the previous point first). Local steps after a round's
        first are told another key each, with the same round.

        Parameters
        ----------
        round : counts from 0. key : in [0, 2⁶³), a function of the run's seed, the round and the local step, the same on all ranks;
            `numpy.random.default_rng([key, i])` draws for client i, whichever rank hosts it.
        """

    def begin_evaluation(self, mean: dict[str, np.ndarray]) -> None:
        """What is asked for from now on is an evaluation, off the clock: `loss`, `gradient` and `measure` draw nothing at random and leave
        the states as they are, or results would depend on how often a run evaluates.

        Called on every rank, also on a server that hosts no clients, before each evaluation and, with empty `mean`, before the warm-up's.
        With `evaluate="none"` it is not called.

        Parameters
        ----------
        mean : the mean over all n clients of the arrays of floating point in their states, by name, in float64; the same bits on all
            ranks and for any placement. Empty where there are none. With it f, ‖∇f‖² and the measures are those of one model: x and these.
        """

    def state(self, i: int) -> dict[str, np.ndarray]:
        """What client i's gradients change and the next ones depend on (BatchNorm's buffers, a generator): arrays of real numbers, by name.

        Names, shapes and dtypes are the same for all clients and throughout a run. Called on the rank that hosts client i, for
        checkpoints and for the mean of an evaluation; the arrays are not written to, and copied at once. Empty where there is no state.
        """
        return {}

    def load_state(self, i: int, state: dict[str, np.ndarray]) -> None:
        """Put client i's state back to what `state(i)` gave, bit for bit; called on the rank that hosts client i, when a run resumes.
        The arrays are the problem's to keep."""
        raise ConfigError(
            f"problem {self.name!r} has a state and no load_state(i, state), so no run could go on from a checkpoint; define it"
        )

    # ---- the block contract -------------------------------------------------------------------------------------
    def block(self, clients: np.ndarray, dtype: DTypeLike) -> Block:
        """The part of the problem that one rank hosts: `clients` is an int64 array of client indices."""
        return Block(self, clients, np.dtype(dtype))


def has_random_gradients(problem: Problem) -> bool:
    """The problem's gradients depend on the key of the round."""
    if problem.random_gradients is None:
        return type(problem).begin_round is not Problem.begin_round
    return problem.random_gradients


class _client:
    """Adds to an exception of the user's functions whose client it was, and what to do where it wrote to x; as a context it costs nothing
    for each client."""

    client = -1

    def __enter__(self) -> _client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.client >= 0:
            if isinstance(error, ValueError) and "read-only" in str(error):
                error.add_note(
                    "x is not yours to write to: work on a copy, x.copy(), or set copies_points on the problem"
                )
            error.add_note(f"client {self.client}")


def _nothing_else(returned: object, out: np.ndarray) -> None:
    if returned is not None and returned is not out:
        raise ProblemError(
            f"a gradient is to be written into out, but {type(returned).__name__} was returned; "
            "use out[:] = ..., or FunctionProblem for functions that return it"
        )


def _checked(returned: ArrayLike, dim: int) -> np.ndarray:
    """What a user's gradient function returned, if it is d real numbers."""
    array = np.asarray(returned)
    if array.shape != (dim,) or array.dtype.kind not in "fiu":
        raise ProblemError(
            f"the gradient function returned {array.dtype} of shape {array.shape}; expected real numbers of shape ({dim},)"
        )
    return array


class Block:
    """The clients of one rank, evaluated together. This default loops over the simple contract.

    In every method W holds the point(s): shape (1, d) when all clients of the block are at the same point, (m, d) when
    each is at its own.
    """

    def __init__(self, problem: Problem, clients: np.ndarray, dtype: np.dtype):
        self.problem, self.clients, self.dtype = problem, np.asarray(clients, np.int64), dtype
        self._writes = False  # its gradients have been seen to fill `out`

    def _points(self, W: np.ndarray) -> Callable[[int], np.ndarray]:
        """j ↦ the point of client clients[j], as the problem's functions may have it."""
        if self.problem.copies_points:
            return lambda j: W[j if len(W) > 1 else 0].copy()
        seen = read_only(W)
        return lambda j: seen[j if len(seen) > 1 else 0]

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        """out[j] = f_{clients[j]}(W[j]); out is float64, shape (m,)."""
        point = self._points(W)
        with _client() as at:
            for j, at.client in enumerate(self.clients):
                out[j] = self.problem.loss(int(at.client), point(j))

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        """out[j] = ∇f_{clients[j]}(W[j]); out has the block's dtype, shape (m, d)."""
        gradient: Callable[[int, np.ndarray, np.ndarray], object] = (
            self.problem.gradient
        )  # a user's may return something
        point = self._points(W)
        if not self._writes:
            out[:] = UNWRITTEN
        with _client() as at:
            for j, at.client in enumerate(self.clients):
                row = out[j]
                _nothing_else(gradient(int(at.client), point(j), row), row)
                if not self._writes and np.any(row == np.asarray(UNWRITTEN, row.dtype)):
                    raise ProblemError(
                        "gradient(i, x, out) left entries of out as they were; write all of them, as in out[:] = ..."
                    )
        self._writes = True

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        """out[j] = mean of ∇f_{i,s}(W[j]) over s in samples[j], i = clients[j]; samples is int64, shape (m, b)."""
        batch_gradient: Callable[[int, np.ndarray, np.ndarray, np.ndarray], object] = self.problem.batch_gradient
        point = self._points(W)
        with _client() as at:
            for j, at.client in enumerate(self.clients):
                row = out[j]
                _nothing_else(batch_gradient(int(at.client), point(j), samples[j], row), row)


class ReadOnlyBlock(Block):
    """Somebody's block, whose methods get read-only points, or copies where its problem asks for them."""

    def __init__(self, block: Block, problem: Problem, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        self._block = block
        self._shown: Callable[[np.ndarray], np.ndarray] = np.copy if problem.copies_points else read_only

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        self._block.losses(self._shown(W), out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        self._block.gradients(self._shown(W), out)

    def batch_gradients(self, W: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        self._block.batch_gradients(self._shown(W), samples, out)


def hosted_block(problem: Problem, clients: np.ndarray, dtype: Any) -> Block:
    """The problem's block of these clients; one that is not mpicomp's own is shown points that it cannot write to."""
    block = problem.block(clients, dtype)
    return block if ours(block) or type(block) is Block else ReadOnlyBlock(block, problem, clients, np.dtype(dtype))


class BlockProblem(Problem):
    """A problem that is written as a block; its simple contract asks a block of one client."""

    def _alone(self, i: int, dtype: DTypeLike) -> Block:
        return self.block(np.array([i]), dtype)

    def loss(self, i: int, x: np.ndarray) -> float:
        out = np.empty(1)
        self._alone(i, x.dtype).losses(x[None], out)
        return float(out[0])

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        self._alone(i, x.dtype).gradients(x[None], out[None])

    def batch_gradient(self, i: int, x: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        if self.n_samples(i) == 0:
            super().batch_gradient(i, x, samples, out)
        self._alone(i, x.dtype).batch_gradients(x[None], samples[None], out[None])


@dataclass
class FunctionProblem(Problem):
    """A problem from two functions.

    Parameters
    ----------
    loss_function : (i, x) -> float. gradient_function : (i, x) -> array of shape (d,).
    dim, n_clients : d and n.
    constants : smoothness constants, where known (needed for `step="theory"`).
    copies_points : the functions get a copy of x, in place of a read-only view.

    >>> import numpy as np, mpicomp as mc
    >>> p = mc.FunctionProblem(lambda i, x: 0.5 * x @ x, lambda i, x: x, dim=3, n_clients=2)
    >>> p.loss(0, np.ones(3))
    1.5
    """

    loss_function: Callable[[int, np.ndarray], float]
    gradient_function: Callable[[int, np.ndarray], np.ndarray]
    dim: int
    n_clients: int
    constants: Smoothness | None = field(default=None)
    copies_points: bool = False

    def loss(self, i: int, x: np.ndarray) -> float:
        return float(self.loss_function(i, x))

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        out[:] = _checked(self.gradient_function(i, x), self.dim)

    def smoothness(self) -> Smoothness:
        return self.constants if self.constants is not None else super().smoothness()
