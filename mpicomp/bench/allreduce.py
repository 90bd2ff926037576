"""The baseline without a server: gradient descent by dense `MPI_Allreduce`, every rank with its share of the clients."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from ..cluster.clock import COMPUTE, STEP, WAIT, Clock
from ..cluster.comm import Comm
from ..cluster.ledger import DOWNLINK, UPLINK
from ..errors import ConfigError
from ..optimizers import GradientDescent
from ..runtime.abort import guard
from ..runtime.config import Config, initial_point
from ..runtime.record import Record, conclude
from ..runtime.rehearsal import leaders_first
from ..runtime.results import Result
from ..runtime.session import Composition, build_problem


class Everybody:
    """Every rank hosts clients, and there is no server; what `Record` and `conclude` want of an exchange."""

    name = "allreduce"

    def __init__(self, comm: Comm, n_clients: int):
        self.comm, self.ledger, self.n_clients = comm, comm.ledger, n_clients
        low, high = (n_clients * (comm.rank + k) // comm.size for k in (0, 1))
        self.clients = np.arange(low, high)

    def collect(self, row: np.ndarray) -> np.ndarray | None:
        """Every rank's `row`, stacked, on rank 0."""
        rows = np.zeros((self.comm.size, row.size)) if self.comm.rank == 0 else None
        self.comm.gather(np.ascontiguousarray(row, np.float64), rows)
        return rows

    def spread(self, x: np.ndarray) -> None:
        """Rank 0's `x` overwrites everybody's."""
        self.comm.bcast(x)


class AllreduceSession:
    """x^{t+1} = x^t − γ (1/n) Σ ∇f_i(x^t) on every rank; the sum's order is the MPI library's, so its bits depend on the ranks.

    Attributes
    ----------
    x : the model, shape (1, d), alike on all ranks.
    """

    def __init__(self, config: Config, problem: Any, exchange: Everybody, step_size: float):
        dtype = np.dtype(config.dtype)
        self.exchange, self.clock = exchange, Clock(exchange.comm.now, config.rounds)
        self.block = problem.block(exchange.clients, dtype)
        self.gradients = np.zeros((len(exchange.clients), problem.dim), dtype)
        self.x, self.g = np.zeros((1, problem.dim), dtype), np.zeros((1, problem.dim), dtype)
        self.x[0] = (
            problem.paper_start() if config.init == "paper" else initial_point(config.init, problem.dim, config.seed)
        )
        self.optimizer = GradientDescent()
        self.optimizer.start(self.x, step_size)
        self._bits = np.full(2, 8 * self.g.nbytes, np.int64)

    def round(self) -> None:
        """One round; each rank hands over its sum and receives everybody's."""
        self._local_gradient()
        self.clock.lap(COMPUTE)
        self.exchange.comm.allreduce_sum(self.g)
        for direction in (UPLINK, DOWNLINK):
            self.exchange.ledger.frame(direction, self._bits, self.g.nbytes, 1)
        self.clock.lap(WAIT)
        self.optimizer.step(self.x, self.g)
        self.clock.lap(STEP)

    def evaluate(self) -> tuple[float, float]:
        """f(x) and ‖∇f(x)‖², off the clock."""
        losses = np.zeros(len(self.exchange.clients))
        self.block.losses(self.x, losses)
        self._local_gradient()
        loss, g = np.array([losses.sum() / self.exchange.n_clients]), self.g[0].astype(np.float64)
        self.exchange.comm.allreduce_sum(loss)
        self.exchange.comm.allreduce_sum(g)
        return float(loss[0]), float(g @ g)

    def rehearse(self) -> None:
        """Compile what a round needs, without communication."""
        self.block.losses(self.x, np.zeros(len(self.exchange.clients)))
        self._local_gradient()
        self.optimizer.step(np.zeros_like(self.x), self.g)

    def _local_gradient(self) -> None:
        self.block.gradients(self.x, self.gradients)
        np.sum(self.gradients, axis=0, out=self.g[0])
        self.g /= self.exchange.n_clients


def allreduce(config: Config, comm: Any) -> Result:
    """Run gradient descent by Allreduce; the result, and the files under `config.out`, are those of a run.

    Parameters
    ----------
    config : of a run; its problem, data, step, rounds, tol, dtype and evaluation count, its method and compressor do not.
    comm : an mpi4py communicator; every one of its ranks hosts clients.

    Returns
    -------
    Result : complete on rank 0. `uplink` bytes are what the ranks contribute, `downlink` bytes what they get back.

    Raises
    ------
    ConfigError : fewer clients than ranks.
    """
    config = dataclasses.replace(config, method="gd", method_options={}, compressor=None, downlink_compressor=None)
    with guard(comm):
        started = time.perf_counter()
        counted = Comm(comm)
        problem = leaders_first(counted, lambda: build_problem(config))
        if problem.n_clients < counted.size:
            raise ConfigError(
                f"{problem.n_clients} clients cannot be spread over {counted.size} ranks, all of which host some; raise --clients"
            )
        composition = Composition(config, problem)
        step_size = composition.step_size(config.step)
        exchange = Everybody(counted, problem.n_clients)
        session = AllreduceSession(config, problem, exchange, step_size)
        overhead = {"setup": time.perf_counter() - started}
        leaders_first(counted, session.rehearse)
        counted.barrier()
        overhead["warmup"] = time.perf_counter() - started - overhead["setup"]
        record = Record(config, session, counted, None)  # type: ignore[arg-type]
        rounds = _rounds(config, session, record)
        result = conclude(config, problem, composition, session, record, rounds, overhead, counted)  # type: ignore[arg-type]
        counted.barrier()
        counted.free()
        return result


def _rounds(config: Config, session: AllreduceSession, record: Record) -> int:
    every = config.eval_every or max(1, config.rounds // 100)
    stop, t = record.evaluate(0), 0
    while t < config.rounds and not stop:
        session.exchange.comm.purpose = "round"
        session.clock.start_round()
        session.round()
        session.clock.end_round()
        t += 1
        if t % every == 0 or t == config.rounds:
            stop = record.evaluate(t)
    return t
