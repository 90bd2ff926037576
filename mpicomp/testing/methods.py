"""The conformance suite of methods, for anybody's method and its mechanisms, oracles and optimizer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..compressors import Compressor, compressors
from ..errors import ConfigError, UserError
from ..exchanges.base import Exchange
from ..exchanges.local import LocalExchange
from ..exchanges.sharded import LocalShardedExchange
from ..exchanges.slicing import alignment_of
from ..mechanisms.base import Link
from ..methods import Method, methods
from ..problems import Problem, problems
from ..runtime.checkpoint import FOLDER, Checkpoint, Saver
from ..runtime.config import Config
from ..runtime.exchanges import exchange_setting
from ..runtime.session import Composition, Session
from .faults import fail, text_of
from .problems import part_name
from .small import SmallLeastSquares
from .states import undeclared_differences, wrong_states
from .watch import Draws, WatchedExchange, watched_link

ROUNDS, SAVED_AT, SERVERS = 30, 10, 3
BATCH = 4


def check_method(
    method: Method | str,
    *,
    problem: Problem | str | None = None,
    compressor: Compressor | str | None = None,
    step: float | None = None,
    seed: int = 0,
) -> None:
    """Check that a method keeps the contract: 30 rounds in this process, in float64 and float32.

    Two runs have the same bits.
    A run that goes on from a checkpoint at round 10 has them, too, so that no state which outlives a round is undeclared.
    So has one with three servers of slices, where the messages can be cut.
    The declared states keep their shapes and dtypes.
    No two exchanges share random draws, unless `draw=` asks for it.
    The step size by theory is positive, or an error that says what to do; with it f falls.

    Server and clients are one process here: what belongs under `if link.is_worker` shows under mpirun alone, so run it there once, too.

    Parameters
    ----------
    method : an object, or its text ("ef21:start=zero").
    problem : what to run on; a small least-squares problem with a ridge where None.
    compressor : in place of the method's default.
    step : where the method has no theory; 0.05/L (0.01 where L is unknown) where None.
    seed : of the runs.

    Raises
    ------
    AssertionError : the first fault, and what to do.

    >>> from mpicomp.testing import check_method
    >>> check_method("ef21", compressor="topk:k=5")
    """
    chosen: Method = methods.create(method) if isinstance(method, str) else method
    on: Problem = problems.create(problem) if isinstance(problem, str) else problem or SmallLeastSquares()
    by: Compressor | None = compressors.create(compressor) if isinstance(compressor, str) else compressor
    suite = _Suite(chosen, on, by, seed)
    suite.step = suite.cautious_step() if step is None else step
    suite.check_theory()
    if step is not None:
        suite.step = step
    for dtype in ("float64", "float32"):
        suite.check_runs(dtype)


@dataclass
class _Suite:
    method: Method
    problem: Problem
    compressor: Compressor | None
    seed: int
    step: float = 0.0
    batch: int = 0
    case: dict[str, Any] = field(default_factory=dict)

    def fail(self, fault: str, remedy: str = "") -> NoReturn:
        fail(
            part_name(self.method),
            {**self.case, "problem": type(self.problem).__name__, "seed": self.seed},
            fault,
            remedy,
        )

    def config(self, dtype: str = "float64", out: str | None = None) -> Config:
        return Config(
            rounds=ROUNDS, clients=self.problem.n_clients, dtype=dtype, seed=self.seed, batch=self.batch, init="normal:1", step="1",
            out=out, allow_unsafe=True,
        )  # fmt: skip

    def composition(self, config: Config) -> Composition:
        return Composition(config, self.problem, self.method, self.compressor)

    def session(self, dtype: str, exchange: Exchange, draws: Draws | None = None) -> Session:
        config = self.config(dtype)
        parts, link = self.composition(config).parts(self.step), watched_link(draws) if draws else Link
        return Session(config, self.problem, parts, exchange, self.step, link=link)

    def local(self, dtype: str) -> LocalExchange:
        return LocalExchange(self.problem.n_clients, self.problem.dim, np.dtype(dtype))

    # ---- theory ---------------------------------------------------------------------------------------------------
    def check_theory(self) -> None:
        """A positive step size under which f falls, or a UserError; composing works, with minibatches where the method wants them."""
        try:
            self.session("float64", self.local("float64")).round(0)
        except UserError as error:
            if not any(self.problem.n_samples(i) for i in range(self.problem.n_clients)):
                self.fail(f"it refuses the problem: {error}", "Give another problem, or another compressor")
            self.batch = BATCH
        except Exception as error:
            self.fail(f"the first round raised {text_of(error)}", "See docs/explanation/architecture.md, One round")
        self.check_fresh()
        try:
            composition = self.composition(self.config())
            step = composition.method.step_size(composition.setting)  # the method's own answer, unchecked
        except UserError:
            return
        if not 0 < step < np.inf:
            self.fail(
                f"step_size(setting) is {step}",
                "Return a positive number, or raise mpicomp.TheoryError where no theorem covers the setting",
            )
        self.step = step
        try:
            session = self.session("float64", self.local("float64"))
            before, slope = session.evaluate()
            slopes = [slope]
            for t in range(ROUNDS):
                session.round(t)
                slopes.append(session.evaluate()[1])
            after = session.evaluate()[0]
        except UserError as error:
            self.fail(f"it cannot be composed: {error}", "Give another compressor or problem")
        if not (after <= before and min(slopes[1:]) <= slope):
            self.fail(
                f"with the step size {step:.6g} of its theory f went from {before:.6g} to {after:.6g} in {ROUNDS} rounds, and ‖∇f‖² from "
                f"{slope:.6g} to {min(slopes[1:]):.6g} at best, on a convex problem",
                "Compare the mechanism's update with the paper's, and step_size with the theorem",
            )

    def check_fresh(self) -> None:
        """Each call of compose gives parts of its own."""
        composition = self.composition(self.config())
        one, other = composition.parts(1.0), composition.parts(1.0)
        for name in ("uplink", "downlink", "optimizer"):
            if getattr(one, name) is getattr(other, name):
                self.fail(
                    f"compose returns the same {name} twice", "Make it in compose: a part holds the state of one run"
                )

    def cautious_step(self) -> float:
        try:
            return 0.05 / self.problem.smoothness().L
        except UserError:
            return 0.01

    # ---- runs -----------------------------------------------------------------------------------------------------
    def check_runs(self, dtype: str) -> None:
        self.case = {"dtype": dtype, "step": f"{self.step:.6g}", **({"batch": self.batch} if self.batch else {})}
        draws = Draws()
        exchange = WatchedExchange(self.problem.n_clients, self.problem.dim, np.dtype(dtype))
        exchange.draws = draws
        session = self.session(dtype, exchange, draws)
        with tempfile.TemporaryDirectory() as folder:
            self.rounds(session, 0, SAVED_AT)
            self.check_draws(draws)
            for fault in wrong_states(session, np.dtype(dtype)):
                self.fail(fault, "Assign in place (self.h[:] = ...), or declare columns and dtype")
            Saver(session, self.config(dtype, folder), None).save(SAVED_AT, {})
            self.check_resume(session, dtype, folder)
        if not np.all(np.isfinite(session.x)):
            self.fail(f"x is not finite after {ROUNDS} rounds", "Give a smaller step, or look for a division by zero")
        expected = session.x.tobytes()
        self.rounds(again := self.session(dtype, self.local(dtype)), 0, ROUNDS)
        if again.x.tobytes() != expected:
            self.fail(
                "two runs with one seed gave different x",
                "Draw random numbers from keys only (link.keys, link.coin, the message's key), and let compose return fresh parts",
            )
        self.check_slices(dtype, expected)

    def rounds(self, session: Session, first: int, last: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(first, last):
                try:
                    session.round(t)
                    if isinstance(session.exchange, WatchedExchange):
                        session.exchange.draws.next_round()
                except Exception as error:
                    self.fail(
                        f"round {t + 1} raised {text_of(error)}", "See docs/explanation/architecture.md, One round"
                    )

    def check_resume(self, session: Session, dtype: str, folder: str) -> None:
        """The session goes on to the end; so does a fresh one, from the checkpoint."""
        resumed = self.session(dtype, self.local(dtype))
        refusal = _restore(resumed, folder)
        if refusal:
            self.fail(
                f"the checkpoint of round {SAVED_AT} cannot be restored: {refusal}",
                "A declared state is to have the declared shape, and to be assigned in place (self.g[:] = ...)",
            )
        suspects = undeclared_differences(session, resumed)
        self.rounds(session, SAVED_AT, ROUNDS)
        self.rounds(resumed, SAVED_AT, ROUNDS)
        if resumed.x.tobytes() != session.x.tobytes():
            which = (
                f"; after the checkpoint these attributes differ, undeclared: {', '.join(suspects)}" if suspects else ""
            )
            self.fail(
                f"a run that goes on from its checkpoint of round {SAVED_AT} has another x at round {ROUNDS} than the run that was not "
                f"interrupted, so a state that outlives a round is not declared{which}",
                "Declare it in the class body, for instance h_i = ClientState(), h = ServerState(), or m = ModelState() in an optimizer",
            )

    def check_draws(self, draws: Draws) -> None:
        if draws.shared_in_round:
            t, one, other = draws.shared_in_round
            self.fail(
                f"in round {t} the exchanges {one} and {other} have the same random draws",
                "Exchange by self.link.gather, broadcast and scatter, which number the draws, or ask for the same ones by draw=",
            )
        if draws.wrong_round:
            t, given = draws.wrong_round
            self.fail(
                f"an exchange of round {t} was given the round number {given}",
                "Pass transmit's `round` to every exchange",
            )
        if draws.shared_over_rounds:
            t, u, what = draws.shared_over_rounds
            self.fail(
                f"the exchange {what} has the same random draws in the rounds {t} and {u}",
                "Take the keys of the round, self.link.keys(round)",
            )

    def check_slices(self, dtype: str, expected: bytes) -> None:
        """With several servers of slices: the same bits, or a refusal in so many words."""
        config = self.config(dtype)
        n, d, composition = self.problem.n_clients, self.problem.dim, self.composition(config)
        try:
            setting = exchange_setting(config, self.problem, composition, None)
            alignment = alignment_of(setting.codecs(), setting.downlink_codecs())
            exchange = LocalShardedExchange(n, d, np.dtype(dtype), servers=SERVERS, alignment=alignment)
            session = self.session(dtype, exchange)
        except ConfigError:
            return  # its messages cannot be cut
        try:
            for t in range(ROUNDS):
                session.round(t)
        except ConfigError:
            return
        except Exception as error:
            self.fail(
                f"with several servers, each with a slice of the coordinates, it raised {text_of(error)}", _SLICES
            )
        if session.x.tobytes() != expected:
            self.fail(
                "with several servers, each with a slice of the coordinates, x has other bits than with one", _SLICES
            )


_SLICES = "What a server computes must be elementwise, in arrays of link.served_dim columns (v[:, link.served] of a vector with d)"


def _restore(session: Session, folder: str) -> str:
    """Restore a session from the checkpoint in a folder; returns what went wrong, empty where nothing did."""
    try:
        Checkpoint.open(next(Path(folder).glob(f"{FOLDER}/round-*"))).restore(session)
    except Exception as error:
        return text_of(error)
    return ""
