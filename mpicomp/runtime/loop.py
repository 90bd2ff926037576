"""The round loop: from a configuration to a result, on every rank of a communicator or in one process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..cluster.clock import PHASES, Clock, median_interval
from ..cluster.collective import CollectiveExchange
from ..cluster.comm import Comm
from ..cluster.exchange import Exchange
from ..cluster.ledger import Ledger, describe
from ..cluster.local import LocalExchange
from ..cluster.p2p import P2PExchange
from ..compressors import Compressor
from ..errors import ConfigError, UserError
from ..methods import Method
from ..problems import Problem, Smoothness
from .abort import guard
from .config import Config
from .rehearsal import leaders_first, rehearse
from .results import Result, check_directory, digest, manifest, rank_facts
from .session import Composition, Session, build_problem, complete

Progress = Callable[[dict[str, Any]], None]


def run(
    config: Config | None = None,
    *,
    comm: Any = None,
    problem: Problem | str | None = None,
    method: Method | str | None = None,
    compressor: Compressor | str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run a method on a problem.

    Parameters
    ----------
    config : all options; or give them by name (`rounds=1000, step="theory*8", ...`, see Config).
    comm : an mpi4py communicator of at least two ranks, on all of which this is called alike; None runs in this process.
    problem, method, compressor : an object of your own, or a name with options.
    progress : called on the server with each evaluation's row.

    Returns
    -------
    Result : complete on rank 0.

    Raises
    ------
    UserError : options that cannot work; raised alike on every rank.

    >>> import mpicomp as mc
    >>> result = mc.run(problem="quadratic", method="gd", clients=4, rounds=50, problem_options={"dim": 10, "reg": 0.1})
    >>> result.summary["rounds"]
    50
    """
    named = {"problem": problem, "method": method, "compressor": compressor}
    texts = {k: v for k, v in named.items() if isinstance(v, str)}
    if config is None or options or texts:
        config = _with_options(config, {**options, **texts})
    own = {k: v for k, v in named.items() if v is not None and not isinstance(v, str)}
    with guard(comm):
        wrapped = Comm(comm) if comm is not None and comm.Get_size() > 1 else None
        result = _run(config, wrapped, own, progress)
        if wrapped is not None:
            wrapped.free()
        return result


def _with_options(config: Config | None, options: dict[str, Any]) -> Config:
    fresh = Config(**vars(config)) if config is not None else Config()
    for key, value in options.items():
        if key.endswith("_options") and isinstance(value, dict):
            for name, v in value.items():
                fresh.set(f"{key.removesuffix('_options')}.{name}", v)
        else:
            fresh.set(key, value)
    fresh.validate()
    return fresh


def _run(config: Config, comm: Comm | None, own: dict[str, Any], progress: Progress | None) -> Result:
    started = time.perf_counter()
    problem = own.get("problem") or leaders_first(comm, lambda: build_problem(config))
    composition = Composition(config, problem, own.get("method"), own.get("compressor"))
    step_size = _agree(comm, config, composition)
    exchange = make_exchange(config, problem, comm)
    session = Session(config, problem, composition.parts(step_size), exchange, step_size)
    setup = time.perf_counter() - started
    leaders_first(comm, lambda: rehearse(config, problem, composition, step_size))
    if comm is not None:
        comm.barrier()
    warmup = time.perf_counter() - started - setup
    record = Record(config, session, comm, progress)
    rounds = _rounds(config, session, record, comm)
    exchange.finish()
    return _result(config, problem, composition, session, record, rounds, {"setup": setup, "warmup": warmup}, comm)


def _begin(config: Config, composition: Composition) -> dict[str, Any]:
    """What rank 0 does before the others go on: a directory that can be written, the step size, the constants that the method asked for."""
    if config.out is not None:
        check_directory(config.out)
    step_size = composition.step_size(config.step)
    composition.parts(step_size)
    constants = composition.setting.__dict__.get("smoothness")
    return {"step": step_size, "smoothness": constants.to_dict() if constants is not None else None}


def _agree(comm: Comm | None, config: Config, composition: Composition) -> float:
    """The step size, found on rank 0; its UserError on all ranks. All ranks must have the same configuration.

    The smoothness constants, where the method needs them, are computed once and sent along.
    """
    if comm is None:
        return _begin(config, composition)["step"]
    fingerprint = hashlib.sha256(config.to_toml().encode()).hexdigest()
    answer: dict[str, Any] = {}
    if comm.rank == 0:
        try:
            answer = {"config": fingerprint, **_begin(config, composition)}
        except UserError as error:
            answer = {"error": str(error)}
    answer = comm.bcast_json(answer)
    if "error" in answer:
        raise ConfigError(answer["error"])
    if answer["config"] != fingerprint:
        raise ConfigError(
            f"rank {comm.rank} was started with another configuration than rank 0; start all ranks with the same options"
        )
    if answer["smoothness"] is not None:
        composition.setting.smoothness = Smoothness.from_dict(answer["smoothness"])
    return answer["step"]


def make_exchange(config: Config, problem: Problem, comm: Comm | None) -> Exchange:
    """The configured exchange.

    Raises
    ------
    ConfigError : `local` over several processes, or more workers than clients.
    """
    n, d, dtype = problem.n_clients, problem.dim, np.dtype(config.dtype)
    weights = np.full(n, 1.0 / n)
    if comm is None:
        return LocalExchange(n, d, dtype, weights, Ledger(), Clock(time.perf_counter, config.rounds))
    if config.exchange == "local":
        raise ConfigError(
            f"--exchange local runs in one process, but {comm.size} were started; use p2p or collective, or start one"
        )
    kind = CollectiveExchange if config.exchange == "collective" else P2PExchange
    return kind(comm, n, d, dtype, weights, Clock(comm.now, config.rounds))


def _rounds(config: Config, session: Session, record: Record, comm: Comm | None) -> int:
    """All rounds, with evaluations between them; returns how many were made."""
    clock = session.clock
    every = config.eval_every or max(1, config.rounds // 100)
    stop = record.evaluate(0)
    t = 0
    while t < config.rounds and not stop:
        if comm is not None:
            comm.purpose = "round"
        clock.start_round()
        session.round(t)
        clock.end_round()
        t += 1
        if t % every == 0 or t == config.rounds:
            stop = record.evaluate(t)
    return t


class Record:
    """Evaluations: off the clock, and entered in the ledger apart from the rounds."""

    def __init__(self, config: Config, session: Session, comm: Comm | None, progress: Progress | None):
        self.config, self.session, self.comm, self.progress = config, session, comm, progress
        self.history: list[dict[str, Any]] = []
        self.reached = self.diverged = False
        self._flag = np.zeros(1)

    def evaluate(self, t: int) -> bool:
        """Add a row for x^t; True where the run is to stop, on all ranks alike."""
        session, comm = self.session, self.comm
        if comm is not None:
            comm.purpose = "evaluation"
        loss, norm = session.evaluate()
        ranks = self.measure()
        if ranks is not None:
            self.history.append(self._row(t, loss, norm, *ranks))
            self.diverged = not np.isfinite(loss + norm)
            self.reached = norm <= self.config.tol and self.config.tol > 0
            self._flag[0] = self.reached or self.diverged
            if self.progress:
                self.progress(self.history[-1])
        session.exchange.spread(self._flag)
        return bool(self._flag[0])

    def measure(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(traffic summed over ranks, seconds by rank and phase, round totals by rank), on the server."""
        exchange, clock = self.session.exchange, self.session.clock
        traffic = exchange.ledger.traffic
        rows = exchange.collect(np.concatenate([traffic.ravel().astype(np.float64), clock.seconds, [clock.total]]))
        if rows is None:
            return None
        return (
            rows[:, : traffic.size].sum(axis=0).astype(np.int64).reshape(traffic.shape),
            rows[:, traffic.size : -1],
            rows[:, -1],
        )

    @staticmethod
    def _row(
        t: int, loss: float, norm: float, traffic: np.ndarray, seconds: np.ndarray, totals: np.ndarray
    ) -> dict[str, Any]:
        bytes_by = describe(traffic)
        row: dict[str, Any] = {"round": t, "loss": loss, "grad_norm_sq": norm}
        for direction, counts in bytes_by.items():
            for name in ("payload", "header", "message", "values_only"):
                row[f"{direction}_{name}"] = counts[name]
        for phase, value in zip(PHASES, seconds.max(axis=0), strict=True):
            row[f"seconds_{phase}"] = float(value)
        row["seconds_total"] = float(totals.max())
        return row


def _result(
    config: Config,
    problem: Problem,
    composition: Composition,
    session: Session,
    record: Record,
    rounds: int,
    overhead: dict[str, float],
    comm: Comm | None,
) -> Result:
    """Put the result together on rank 0, and write it where `out` says."""
    exchange = session.exchange
    facts = _gather_json(
        {**rank_facts(comm), "clients": len(exchange.clients), "mpi_calls": _calls(exchange.ledger)}, comm
    )
    measured = record.measure()
    overhead = {k: float(v) for k, v in zip(overhead, _maxima(exchange, list(overhead.values())), strict=True)}
    if measured is None or facts is None:
        return Result(config)
    traffic, seconds, totals = measured
    median, low, high = median_interval(session.clock.round_seconds())
    last = record.history[-1]
    summary = {
        "method": composition.method.name,
        "compressor": composition.compressor.spec,
        "problem": problem.name,
        "data": config.data if problem.name != "quadratic" else None,
        "clients": problem.n_clients,
        "ranks": 1 if comm is None else comm.size,
        "exchange": exchange.name,
        "rounds": rounds,
        "dim": problem.dim,
        "loss": last["loss"],
        "grad_norm_sq": last["grad_norm_sq"],
        "reached_tol": record.reached,
        "diverged": record.diverged,
        "step": session.optimizer.step_size,
        "dtype": config.dtype,
        "wire_dtype": config.wire_dtype or config.dtype,
        "bytes": describe(traffic),
        "seconds": {
            **{phase: float(value) for phase, value in zip(PHASES, seconds.max(axis=0), strict=True)},
            "total": float(totals.max()),
            "round_median": median,
            "round_median_low": low,
            "round_median_high": high,
            **overhead,
        },
        "iterate_sha256": digest(session.x[0]),
        "seed": config.seed,
    }
    for rank, fact in enumerate(facts):
        fact["seconds"] = dict(zip(PHASES, seconds[rank].tolist(), strict=True))
    result = Result(complete(config), session.x[0].copy(), record.history, summary, manifest(config, facts, problem.describe()))
    if config.out is not None:
        result.save(config.out)
    return result


def _calls(ledger: Ledger) -> dict[str, list[int]]:
    """[calls, bytes] by purpose and MPI function, up to this moment."""
    return {f"{purpose} {function}": list(count) for (purpose, function), count in sorted(ledger.functions.items())}


def _maxima(exchange: Exchange, values: list[float]) -> np.ndarray:
    rows = exchange.collect(np.array(values))
    return rows.max(axis=0) if rows is not None else np.array(values)


def _gather_json(value: dict[str, Any], comm: Comm | None) -> list[dict[str, Any]] | None:
    """Every rank's value, in order of ranks, on rank 0."""
    if comm is None:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
    lengths = np.zeros(comm.size, np.int64)
    comm.gather(np.array([len(text)], np.int64), lengths if comm.rank == 0 else None)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    buf = np.empty(int(lengths.sum()), np.uint8) if comm.rank == 0 else None
    comm.gatherv(text, buf, lengths, starts)
    if buf is None:
        return None
    return [json.loads(buf[a : a + n].tobytes()) for a, n in zip(starts, lengths, strict=True)]
