"""A session: one run's parts on one rank, composed from the configuration, and one round of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..arrays import ours, read_only
from ..cluster.clock import COMPUTE, STEP, Clock
from ..compressors import Compressor, compressors
from ..errors import ConfigError, TheoryError
from ..exchanges.base import Exchange
from ..kernels import njit
from ..mechanisms.base import Link
from ..methods import Method, Parts, Setting, methods
from ..optimizers import Optimizer, optimizers
from ..oracles import Full, Minibatch, NoClients, Oracle, RandomFull, StandIn, Weighted
from ..oracles.base import begin_round
from ..problems import Problem, problems
from ..problems.base import has_random_gradients, hosted_block
from ..registry import default_options, option_names
from ..wire import FLAG_DIVERGED, FLAG_STOP, framed_zeros
from .client_states import ClientStates
from .config import FULL, MEASURES, Config, initial_point, parse_step


def build_problem(config: Config) -> Problem:
    """The configured problem; `data`, `partition`, `clients` and `seed` go to it where it takes them."""
    cls = problems[config.problem]
    shared: dict[str, Any] = {
        name: getattr(config, name) for name in ("data", "partition", "clients", "seed") if name in option_names(cls)
    }
    return problems.build(config.problem, {**shared, **config.problem_options})


def complete(config: Config) -> Config:
    """The configuration with every default written out, so that a result can be made again by a later version."""
    full = dataclasses.replace(config)
    for table, registry in (("method", methods), ("problem", problems), ("optimizer", optimizers)):
        name = getattr(config, table)
        if name is None or name not in registry:
            continue
        given = getattr(config, f"{table}_options")
        shared = vars(config) if table == "problem" else {}
        defaults = {k: v for k, v in default_options(registry[name]).items() if v is not None and k not in shared}
        setattr(full, f"{table}_options", {**defaults, **given})
    if config.method in methods:
        full.compressor = config.compressor or methods[config.method].default_compressor
    full.wire_dtype = config.wire_dtype or config.dtype
    return full


def init_of(config: Config, problem: Problem) -> str:
    """The configured x⁰ by name; the problem's own, or zero, where none is configured."""
    return config.init or ("paper" if problem.starts_itself else "zero")


def start_of(config: Config, problem: Problem) -> np.ndarray:
    """x⁰, shape (d,)."""
    init = init_of(config, problem)
    return problem.paper_start() if init == "paper" else initial_point(init, problem.dim, config.seed)


def choose_parts(
    config: Config,
    method: Method | None = None,
    compressor: Compressor | None = None,
    optimizer: Optimizer | None = None,
) -> tuple[Method, Compressor, Compressor]:
    """The method and the compressors of uplink and downlink, checked against each other; needs no data.

    Raises
    ------
    ConfigError : unknown names or options, or a compressor that the method's theory does not cover (unless allow_unsafe).
    """
    method = method or methods.build(config.method, config.method_options)
    compressor = compressor or compressors.create(config.compressor or method.default_compressor)
    if config.downlink_compressor and not method.takes_downlink_compressor:
        raise ConfigError(
            f"method {method.name!r} has one compressor, chosen by «compressor»; drop «downlink_compressor»"
        )
    if (config.optimizer or optimizer or config.optimizer_options) and method.own_optimizer:
        raise ConfigError(f"method {method.name!r} brings its own optimizer; drop «optimizer»")
    named = config.downlink_compressor or method.default_downlink_compressor
    downlink = compressors.create(named) if named else compressor
    if not config.allow_unsafe:
        method.check(compressor)
        if method.takes_downlink_compressor:
            method.check_downlink(downlink)
    return method, compressor, downlink


class Composition:
    """Method and compressor of a run, and the setting they meet in.

    Parameters
    ----------
    method, compressor, optimizer : in place of the configured ones.
    samples : mean of the clients' numbers of samples; None to ask the problem, for all clients.

    Raises
    ------
    ConfigError : unknown names or options, or a compressor that the method's theory does not cover (unless allow_unsafe).
    """

    def __init__(
        self,
        config: Config,
        problem: Problem,
        method: Method | None = None,
        compressor: Compressor | None = None,
        optimizer: Optimizer | None = None,
        samples: float | None = None,
    ):
        chosen = choose_parts(config, method, compressor, optimizer)
        self.method, self.compressor, self.downlink_compressor = chosen
        self._optimizer, self._named_optimizer = optimizer, (config.optimizer, config.optimizer_options)
        if samples is None:
            samples = total_samples(config, problem, range(problem.n_clients)) / problem.n_clients
        self.setting = Setting(
            problem.dim, problem.n_clients, config.rounds, self.compressor, self.downlink_compressor, config.seed,
            problem.smoothness, config.batch, samples, problem, config.wire_dtype or config.dtype,
            config.allow_unsafe,
        )  # fmt: skip

    @property
    def heading(self) -> str:
        """The method, and what its messages are made of."""
        return f"{self.method.name} · {self.method.heading(self.compressor, self.downlink_compressor)}"

    def step_size(self, text: str) -> float:
        """γ: a theorem's times a factor, or a number."""
        whose, value = parse_step(text)
        if not whose:
            return value
        try:
            with np.errstate(all="ignore"):
                step = float(value * (self._pl_step() if whose == "pl" else self.method.step_size(self.setting)))
        except (ZeroDivisionError, OverflowError):  # constants that are 0, or far too large
            step = 0.0
        if not 0 < step < np.inf:
            s = self.setting.smoothness
            raise TheoryError(
                f"the constants of the problem (L = {s.L:.6g}, L_i from {np.min(s.L_i):.6g} to {s.L_max:.6g}) give method "
                f"{self.method.name!r} no step size; give it as a number, for example «step=0.05»"
            )
        return step

    def _pl_step(self) -> float:
        from ..methods.pl import pl_step  # which few runs want

        return pl_step(self.method, self.setting)

    def parts(self, step_size: float) -> Parts:
        """Fresh parts."""
        parts = self.method.compose(self.setting, step_size)
        name, options = self._named_optimizer
        if self._optimizer is not None:
            parts.optimizer = copy.copy(self._optimizer)
        elif name is not None:
            parts.optimizer = optimizers.build(name, options)
        elif options:
            parts.optimizer = _with_options(parts.optimizer, options)
        return parts


def _with_options(optimizer: Optimizer, options: dict[str, Any]) -> Optimizer:
    """The method's optimizer with some options in place of its own.

    Raises
    ------
    ConfigError : unknown options, or an optimizer without a name.
    """
    if optimizer.name not in optimizers or optimizers[optimizer.name] is not type(optimizer):
        raise ConfigError(
            f"optimizer options {', '.join(options)} are given, and no optimizer; that of the method, {type(optimizer).__name__}, has no "
            "name by which it could be made anew: name one, for example «optimizer='sgd'»"
        )
    kept = {name: getattr(optimizer, name) for name in option_names(type(optimizer)) if hasattr(optimizer, name)}
    return optimizers.build(optimizer.name, {**kept, **options})


def total_samples(config: Config, problem: Problem, clients: Iterable[int]) -> float:
    """Number of samples of these clients, where the configuration has minibatches; 0 elsewhere."""
    return float(sum(problem.n_samples(int(i)) for i in clients)) if config.batch else 0.0


class Timed(Oracle):
    """An oracle whose evaluations are charged to the phase `compute`.

    Parameters
    ----------
    copies : what it gives is the caller's to write to: for an uplink that is not mpicomp's own.
    """

    oracle: Oracle

    def __init__(self, oracle: Oracle, clock: Clock, copies: bool = False):
        self.oracle, self._clock, self._copies = oracle, clock, copies
        self.latest: np.ndarray | None = None  # what the last evaluation returned

    def move(self, points: np.ndarray, round: int) -> None:
        self.oracle.move(points, round)

    def value(self) -> np.ndarray:
        return self._given(self.oracle.value())

    def full(self) -> np.ndarray:
        return self._given(self.oracle.full())

    def difference(self) -> np.ndarray:
        return self._given(self.oracle.difference())

    def _given(self, result: np.ndarray) -> np.ndarray:
        self.latest = result
        self._clock.lap(COMPUTE)
        return result.copy() if self._copies else result


class Session:
    """The state of a run on one rank.

    Parameters
    ----------
    start : x⁰, shape (d,), in place of the configured one.
    link : the class of the mechanisms' links.
    stand_in : for the warm-up of a rank that hosts no clients in the run: fixed numbers in place of gradients.

    Attributes
    ----------
    x : the model, shape (1, served_dim), on the server; with a replicated optimizer shape (1, d), on every rank.
    points : where this rank's clients are, shape (1, d) or (m, d).
    evaluated : the model of the last evaluation, shape (1, d), on the rank that leads.
    states : those that the problem has of the hosted clients.
    data_digest : of all clients' data, on rank 0; empty where a client's is not known.
    """

    data_digest: str = ""

    def __init__(
        self,
        config: Config,
        problem: Problem,
        parts: Parts,
        exchange: Exchange,
        step_size: float,
        start: np.ndarray | None = None,
        link: type[Link] = Link,
        stand_in: bool = False,
    ):
        self.problem, self.exchange, self.clock = problem, exchange, exchange.clock
        self.states, self._seed = ClientStates(problem, exchange), config.seed
        problem.begin_run()
        dtype, wire = np.dtype(config.dtype), config.wire_dtype or config.dtype
        self.uplink, self.downlink, self.optimizer = parts.uplink, parts.downlink, parts.optimizer
        self.replicated = self.downlink.mirrored = parts.replicated
        if parts.weights is not None:
            exchange.weights = _checked_weights(parts.weights, problem.n_clients)
        if start is None:
            start = start_of(config, problem)
        whole = framed_zeros((1, problem.dim), dtype)
        whole[0] = start
        start = None  # a large vector, in float64
        self.x = whole
        if not (exchange.is_server or self.replicated):
            self.x = framed_zeros((1, problem.dim), dtype)  # never written to, so it takes no memory
        elif exchange.served_dim < problem.dim and not self.replicated:
            self.x = framed_zeros((1, exchange.served_dim), dtype)
            self.x[:] = whole[:, exchange.served]
        self._estimate = (
            1,
            problem.dim if self.downlink.silent else exchange.served_dim,
        )  # shape of what uplinks return
        self.optimizer.rounds_of_run = config.rounds
        self.optimizer.start(self.x, step_size)
        self.uplink.start(link(exchange, config.seed, wire, True, parts.participation))
        self.downlink.start(link(exchange, config.seed, wire, False, parts.participation))
        oracle: Oracle = NoClients()
        self._asks = exchange.is_worker and not stand_in  # the problem, for gradients
        if stand_in:
            oracle = StandIn(len(exchange.clients), problem.dim, dtype)
        elif exchange.is_worker:
            self.block = hosted_block(problem, exchange.clients, dtype)
            oracle = (RandomFull if has_random_gradients(problem) else Full)(self.block, problem.dim, config.seed)
            if config.batch:
                oracle = Minibatch(self.block, problem.dim, config.batch, config.seed)
            if parts.weights is not None:
                oracle = Weighted(oracle, 1.0 / (problem.n_clients * parts.weights[exchange.clients]))
            if parts.oracle is not None:
                oracle = parts.oracle(oracle)
        self.oracle = Timed(oracle, self.clock, copies=not ours(self.uplink))
        tracked = np.zeros_like(whole) if self.replicated else whole
        self.points: np.ndarray = self.downlink.begin(tracked)
        if self.replicated:
            self.points = self.x

    def round(self, t: int) -> None:
        """Round t: gradients at x^t, uplink, step to x^{t+1}, downlink (the downlink first where every rank steps by itself)."""
        try:
            self.advance(t)
        except BaseException as error:
            self.note(error, f"in round {t + 1}")
            raise

    def note(self, error: BaseException, where: str) -> None:
        """Add to an exception where it comes from, and from which rank."""
        error.add_note(f"{where}{self._hosted()}")

    def _hosted(self) -> str:
        clients = self.exchange.clients
        return f", on the rank of clients {clients[0]} to {clients[-1]}" if len(clients) else ""

    def advance(self, t: int) -> None:
        """Round t, without a note in what it raises."""
        if self._asks:
            begin_round(self.problem, self._seed, t)
        if self.exchange.is_worker:
            self.oracle.move(self.points, t)
        g = self.uplink.transmit(self.oracle, t)
        if self.exchange.is_server and getattr(g, "shape", None) != self._estimate:
            what = f"an array of shape {g.shape}" if isinstance(g, np.ndarray) else repr(g)
            raise ConfigError(
                f"{type(self.uplink).__name__}.transmit returned {what}; expected an array of shape {self._estimate}"
            )
        if self.exchange.is_server and self.exchange.flags_seen & FLAG_DIVERGED:
            self.order_stop()
        if self.replicated:
            # with a silent downlink no frame could carry the server's order: every rank looks for itself, at the same numbers
            if (self.exchange.is_server or self.downlink.silent) and not finite(g, self.x):
                self.order_stop()
            g = self.downlink.transmit(g if ours(self.downlink) or g is None else g.copy(), t)
            self.optimizer.step(self.x, g if ours(self.optimizer) else read_only(g))
            self.clock.lap(STEP)
            return
        if self.exchange.is_server:
            sound = self.optimizer.step(self.x, g if ours(self.optimizer) else read_only(g))
            if not (finite(g, self.x) if sound is None else sound):
                self.order_stop()
            self.clock.lap(STEP)
        x: Any = None
        if self.exchange.is_server:
            x = self.x if ours(self.downlink) else self.x.copy()
        self.points = self.downlink.transmit(x, t)

    def order_stop(self) -> None:
        """Server, before the downlink of a round in which g or x is not finite: its frames order all ranks to stop."""
        self.exchange.flags_sent |= FLAG_STOP | FLAG_DIVERGED

    def suspect(self) -> int:
        """The first client of this rank whose last gradient has a NaN or Inf; -1 where there is none."""
        if not self.exchange.is_worker or self.oracle.latest is None:
            return -1
        rows = np.flatnonzero(~np.isfinite(self.oracle.latest).all(axis=1))
        return int(self.exchange.clients[rows[0]]) if len(rows) else -1

    # ---- evaluation, off the clock ------------------------------------------------------------------------------
    def assembled(self) -> np.ndarray:
        """The model, shape (1, d), on the rank that leads."""
        return self.exchange.assemble(self.x[:, self.exchange.served] if self.replicated else self.x)

    def observe(self, what: str) -> tuple[float | None, float | None, dict[str, float | None]]:
        """f(x), ‖∇f(x)‖² and the problem's measures; None for what is not asked for. Meaningful on the rank that leads.

        Without the first two no vector of d numbers travels, but for a model in slices, which the problem is to measure whole.

        Parameters
        ----------
        what : as `Config.evaluate`.
        """
        names = self.problem.measures
        if what == FULL:
            return *self.evaluate(), {**self.measure()}
        if what != MEASURES or not names:
            return None, None, dict.fromkeys(names)
        self.problem.begin_evaluation(self.states.mean())
        x = self.assembled()
        if self.exchange.is_root:
            self.evaluated = np.array(x)
        return None, None, {**self.measure()}

    def evaluate(self) -> tuple[float, float]:
        """f(x) and ‖∇f(x)‖² at the server's model, the same bits for any placement; meaningful on the rank that leads."""
        self.problem.begin_evaluation(self.states.mean())
        x = np.array(self.assembled())
        self.exchange.broadcast_model(x)
        if self.exchange.is_root:
            self.evaluated = x
        vector = np.zeros(1 + x.shape[1])
        self.exchange.chain(vector, lambda v: self._add_evaluation(x, v))
        vector /= self.exchange.n_clients
        with np.errstate(over="ignore", invalid="ignore"):  # the loop says that a run diverges, in its own words
            return float(vector[0]), float(np.dot(vector[1:], vector[1:]))

    def end_rounds(self) -> None:
        """Give back what rounds need and evaluations do not."""
        del self.uplink, self.downlink, self.optimizer, self.oracle, self.points
        self.exchange.drop_buffers()

    def measure(self) -> dict[str, float]:
        """What the problem has to tell of the model just evaluated beside these two, by name; empty on ranks that do not lead."""
        if not self.exchange.is_root:
            return {}
        x = self.evaluated[0] if ours(self.problem) else read_only(self.evaluated[0])
        return dict(zip(self.problem.measures, map(float, self.problem.measure(x)), strict=True))

    def _add_evaluation(self, x: np.ndarray, vector: np.ndarray) -> None:
        m = len(self.exchange.clients)
        losses, gradients = np.zeros(m), np.empty((m, x.shape[1]), x.dtype)
        self.block.losses(x, losses)
        self.block.gradients(x, gradients)
        add_rows(losses, gradients, vector)


def _checked_weights(weights: np.ndarray, n: int) -> np.ndarray:
    if weights.shape != (n,) or not np.all(weights > 0) or abs(weights.sum() - 1) > 1e-9:
        raise ConfigError(f"weights must be {n} positive numbers that sum to one; they sum to {weights.sum():.12g}")
    return weights


@njit
def finite(g: np.ndarray, x: np.ndarray) -> bool:
    """No entry of g or x, both of shape (1, d), is NaN or Inf."""
    bad = 0
    for array in (g, x):
        row = array[0]
        for c in range(row.shape[0]):
            bad |= not abs(row[c]) < np.inf
    return bad == 0


@njit
def add_rows(losses: np.ndarray, gradients: np.ndarray, vector: np.ndarray) -> None:
    """vector[0] += Σ losses, vector[1:] += Σ gradients, one client after the other."""
    for j in range(losses.shape[0]):
        vector[0] += losses[j]
        row = gradients[j]
        for c in range(row.shape[0]):
            vector[1 + c] += row[c]
