"""What a run records of itself: evaluations, bytes and seconds while it goes on, and the summary at its end."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..cluster.clock import PHASES, median_interval
from ..cluster.comm import Comm
from ..cluster.ledger import Ledger, describe
from ..cluster.recovery import OnFailure
from ..errors import worded
from ..exchanges.base import Exchange
from ..problems import Problem
from .config import FULL, NOTHING, Config
from .data import named_data
from .results import Result, digest, rank_facts
from .resume import newest
from .session import Composition, Session, complete
from .survival import Snapshot, Stage

Progress = Callable[[dict[str, Any]], object]
PAUSE: Final = (
    object()
)  # what a follower returns for a row after which the run is to stop, with a checkpoint, like an interrupted one


class Record:
    """Evaluations: off the clock, and entered in the ledger apart from the rounds.

    Parameters
    ----------
    stage : where this attempt at the run begins. seen : kept up to date with the last evaluation, on the server.
    """

    def __init__(
        self,
        config: Config,
        session: Session,
        comm: Comm | None,
        progress: Progress | None,
        stage: Stage,
        seen: Snapshot,
    ):
        self.config, self.session, self.comm, self.progress = config, session, comm, progress
        self.stage, self._seen = stage, seen
        self.history: list[dict[str, Any]] = []
        self.reached = self.diverged = self.paused = self.interrupted = False
        self.resumed_at = 0
        self.divergence: str | None = None  # what a person should know of it, on the server
        self._carried = {
            "traffic": np.zeros_like(session.exchange.ledger.traffic),
            "seconds": np.zeros(len(PHASES)),
            "total": 0.0,
        }
        self._flag = np.zeros(1)
        seen.n_clients = session.exchange.n_clients
        if stage.saved is not None:
            self.resume(stage.since, stage.saved)

    def resume(self, t: int, saved: dict[str, Any]) -> None:
        """Go on after round t from what `saved()` gave to a checkpoint."""
        self.resumed_at, self.history = t, saved["history"]
        totals = saved["totals"]
        self._carried = {
            "traffic": np.array(totals["traffic"], np.int64),
            "seconds": np.array(totals["seconds"]),
            "total": totals["total"],
        }
        self._see(t, totals)

    def _see(self, t: int, totals: dict[str, Any]) -> None:
        seen = self._seen
        seen.round = t
        if OnFailure.parse(self.config.on_failure).goes_on:  # then the run may go on from there
            seen.x = self.session.x[0].copy()
        seen.saved = {"history": list(self.history), "totals": totals}

    def saved(self) -> dict[str, Any]:
        """History and totals for a checkpoint; complete on rank 0."""
        measured = self.measure()
        return {} if measured is None else {"history": self.history, "totals": _sums(*measured)}

    def evaluate(self, t: int) -> bool:
        """Add a row for x^t; True where the run is to stop, on all ranks alike."""
        session = self.session
        self._off_the_clock()
        try:
            loss, norm, measures = session.observe(self.config.evaluate)
        except BaseException as error:
            error.add_note(f"in the evaluation after round {t}")
            raise
        ranks = self.measure()
        if ranks is not None:
            self.history.append(self._row(t, loss, norm, measures, *ranks))
            if loss is not None and norm is not None:
                self._judge(t, loss, norm)
            if not self.diverged:
                self._see(t, _sums(*ranks))
            over = self.reached or self.diverged
            asked = self.progress(self.history[-1]) if self.progress else None
            self._flag[0] = 1.0 if over else 2.0 * (asked is PAUSE and t > 0)
        session.exchange.broadcast_model(self._flag)
        self.paused = bool(self._flag[0] == 2.0)
        return bool(self._flag[0])

    def _judge(self, t: int, loss: float, norm: float) -> None:
        """Whether the run has diverged, or reached its tolerance."""
        first = next(row["loss"] for row in self.history if row["loss"] is not None)
        if not np.isfinite(loss + norm):
            self.divergence = self._advice(t, "f or ‖∇f‖² is not finite")
        elif self.config.explosion and loss - first > self.config.explosion * max(abs(first), 1.0):
            what = f"f has grown from {first:.6g} to {loss:.6g} («explosion={self.config.explosion:g}»)"
            self.divergence = self._advice(t, what, self._seen.round)
        self.diverged = self.divergence is not None
        self.reached = norm <= self.config.tol and self.config.tol > 0

    def diverge(self, t: int) -> None:
        """The server met a NaN or Inf in the t-th round: add a last row, without asking the problem at such a point, and find who began."""
        self._off_the_clock()
        fact = {"client": self.session.suspect(), "host": platform.node()}
        facts = [fact] if self.comm is None else self.comm.gather_json(fact)
        ranks = self.measure()
        self.diverged = True
        if ranks is None or facts is None:
            return
        unknown = np.nan if self.config.evaluate == FULL else None
        others: dict[str, float | None] = dict.fromkeys(
            self.session.problem.measures, None if self.config.evaluate == NOTHING else np.nan
        )
        self.history.append(self._row(t, unknown, unknown, others, *ranks))
        if self.progress:
            self.progress(self.history[-1])
        names = [f"client {f['client']} (rank {r} on {f['host']})" for r, f in enumerate(facts) if f["client"] >= 0]
        whose = f"; not finite were the gradients of {', '.join(names[:3])}" if names else "; all gradients were finite"
        self.divergence = self._advice(t, f"the gradient estimate or the step is not finite{whose}")

    def _off_the_clock(self) -> None:
        if self.comm is not None:
            self.comm.purpose = "evaluation"

    def _advice(self, t: int, what: str, good: int | None = None) -> str:
        """What happened in the t-th round and what to do; a checkpoint after round `good` may be no good."""
        last = newest(self.config, good)
        kept = f"; the last good checkpoint is {last}" if last is not None else ""
        step, compressor = self.session.optimizer.step_size, complete(self.config).compressor
        milder = f", or a compressor that loses less than {compressor}" if compressor != "identity" else ""
        advice = f"try a smaller «step» or «step='theory'»{milder}{kept}"
        return worded(f"diverged in round {t}: {what}; the step size is {step:.6g}: {advice}")

    def measure(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(traffic summed over ranks, seconds by rank and phase, round totals by rank), on the server."""
        exchange, clock = self.session.exchange, self.session.clock
        traffic = exchange.ledger.traffic
        rows = exchange.gather_rows(np.concatenate([traffic.ravel().astype(np.float64), clock.seconds, [clock.total]]))
        if rows is None:
            return None
        carried: Any = self._carried
        return (
            rows[:, : traffic.size].sum(axis=0).astype(np.int64).reshape(traffic.shape) + carried["traffic"],
            rows[:, traffic.size : -1] + carried["seconds"],
            rows[:, -1] + carried["total"],
        )

    @staticmethod
    def _row(
        t: int,
        loss: float | None,
        norm: float | None,
        measures: dict[str, float | None],
        traffic: np.ndarray,
        seconds: np.ndarray,
        totals: np.ndarray,
    ) -> dict[str, Any]:
        bytes_by = describe(traffic)
        row: dict[str, Any] = {"round": t, "loss": loss, "grad_norm_sq": norm, **measures}
        for direction, counts in bytes_by.items():
            for name in ("payload", "header", "message", "values_only"):
                row[f"{direction}_{name}"] = counts[name]
        for phase, value in zip(PHASES, seconds.max(axis=0), strict=True):
            row[f"seconds_{phase}"] = float(value)
        row["seconds_total"] = float(totals.max())
        return row


def _sums(traffic: np.ndarray, seconds: np.ndarray, totals: np.ndarray) -> dict[str, Any]:
    """What `Record.measure` found, in JSON types and without the single ranks."""
    return {"traffic": traffic.tolist(), "seconds": seconds.max(axis=0).tolist(), "total": float(totals.max())}


def conclude(
    config: Config,
    problem: Problem,
    composition: Composition,
    session: Session,
    record: Record,
    rounds: int,
    overhead: dict[str, float],
    origin: dict[str, Any],
    choice: str,
    comm: Comm | None,
) -> Result:
    """Put the result together on rank 0, and write it where `out` says. Nothing is asked of the problem any more.

    Parameters
    ----------
    origin : `results.origin`, on rank 0. choice : why the exchange was chosen; empty where it was named.
    """
    exchange = session.exchange
    x = session.assembled()
    fact = {**rank_facts(comm), "clients": len(exchange.clients), "mpi_calls": _calls(exchange.ledger)}
    facts = [fact] if comm is None else comm.gather_json(fact)
    measured = record.measure()
    overhead = {k: float(v) for k, v in zip(overhead, _maxima(exchange, list(overhead.values())), strict=True)}
    if measured is None or facts is None:
        return Result(config, interrupted=record.interrupted)
    traffic, seconds, totals = measured
    median, low, high = median_interval(session.clock.round_seconds())
    last = record.history[-1]
    summary = {
        "method": composition.method.name,
        "compressor": composition.compressor.spec,
        "heading": composition.heading,
        "problem": problem.name,
        "data": named_data(problem),
        "reg": origin["problem"].get("reg"),
        "regularizer": origin["problem"].get("regularizer"),
        "clients": problem.n_clients,
        "ranks": 1 if comm is None else comm.size,
        "exchange": exchange.name,
        "exchange_choice": choice or None,
        "rounds": rounds,
        "dim": problem.dim,
        "loss": last["loss"],
        "grad_norm_sq": last["grad_norm_sq"],
        "measures": {name: last[name] for name in problem.measures},
        "reached_tol": record.reached,
        "diverged": record.diverged,
        "divergence": record.divergence,
        "interrupted": record.interrupted,
        "resumed_at": record.resumed_at,
        "losses": record.stage.losses,
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
        "iterate_sha256": digest(x[0]),
        "seed": config.seed,
    }
    for rank, fact in enumerate(facts):
        fact["seconds"] = {**dict(zip(PHASES, seconds[rank].tolist(), strict=True)), "total": float(totals[rank])}
    result = Result(complete(config), x[0].copy(), record.history, summary, {**origin, "ranks": facts})
    result.interrupted = record.interrupted
    if config.out is not None:
        result.write(Path(config.out))
    return result


def _calls(ledger: Ledger) -> dict[str, list[int]]:
    """[calls, bytes] by purpose and MPI function, up to this moment."""
    return {f"{purpose} {function}": list(count) for (purpose, function), count in sorted(ledger.functions.items())}


def _maxima(exchange: Exchange, values: list[float]) -> np.ndarray:
    rows = exchange.gather_rows(np.array(values))
    return rows.max(axis=0) if rows is not None else np.array(values)
