"""The round loop: from a configuration to a result, on every rank of a communicator or in one process."""

from __future__ import annotations

import copy
import hashlib
import time
from typing import Any

import numpy as np

from ..cluster.byte_check import VerifiedComm, verified_comm
from ..cluster.comm import Comm
from ..cluster.recovery import OnFailure
from ..cluster.threads import CodecThreads, threads_of
from ..compressors import Compressor
from ..errors import ConfigError, UserError
from ..methods import Method
from ..problems import Problem, Smoothness
from .abort import guard
from .checkpoint import refuse_other_checkpoints, resume, save
from .config import Config
from .control import Control
from .exchanges import make_exchange, warmup_exchange
from .record import Progress, Record, conclude
from .results import Result, check_directory
from .session import Composition, Session, build_problem
from .stall import CHECKPOINT, END, EVALUATION, ROUND, StallWatch
from .survival import Snapshot, Stage, persevere
from .warmup import warm_up


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
    with guard(comm) as held, Control(config) as control:
        if held.comm is not None and OnFailure.parse(config.on_failure).goes_on:
            return persevere(lambda *how: _run(config, own, progress, control, *how), config, held)
        wrapped = _counted(comm, config)
        result = _run(config, own, progress, control, wrapped, Stage(config.resume), Snapshot())
        if wrapped is not None:
            wrapped.free()
        return result


def _counted(comm: Any, config: Config) -> Comm | None:
    if comm is not None and comm.Get_size() > 1:
        by_node = config.exchange.startswith("hierarchical")
        return verified_comm(comm, by_node) if config.verify_bytes else Comm(comm, by_node=by_node)
    if config.verify_bytes:
        raise ConfigError(
            "verify_bytes in one process: nothing goes through MPI; start several, `mpicomp launch -n 5 -- run --verify-bytes ...`"
        )
    return None


def _with_options(config: Config | None, options: dict[str, Any]) -> Config:
    fresh = copy.deepcopy(config) if config is not None else Config()
    for key, value in options.items():
        if key.endswith("_options") and isinstance(value, dict):
            for name, v in value.items():
                fresh.set(f"{key.removesuffix('_options')}.{name}", v)
        else:
            fresh.set(key, value)
    fresh.validate()
    return fresh


def _run(
    config: Config,
    own: dict[str, Any],
    progress: Progress | None,
    control: Control,
    comm: Comm | None,
    stage: Stage,
    seen: Snapshot,
) -> Result:
    started = time.perf_counter()
    staged = stage.config(config)
    problem = stage.problem(own.get("problem") or build_problem(config))
    composition = Composition(staged, problem, own.get("method"), own.get("compressor"))
    step_size = _agree(comm, staged, composition)
    exchange = make_exchange(config, problem, composition, comm)
    exchange.threads = CodecThreads(threads_of(config.threads, 1 if comm is None else comm.size))
    start = None if stage.x is None else np.array(stage.x)
    session = Session(staged, problem, composition.parts(step_size), exchange, step_size, start)
    setup = time.perf_counter() - started
    practice = warmup_exchange(staged, problem, composition, 1 if comm is None else comm.size)
    warm_up(staged, problem, composition, step_size, practice)
    if comm is not None:
        comm.meet()
    warmup = time.perf_counter() - started - setup
    record = Record(config, session, comm, progress, stage, seen)
    resume(staged, session, record, comm)
    # NumPy need not warn of overflow: a run that diverges is stopped with a message of its own
    with StallWatch(config.stall_timeout, comm) as watch:
        control.attach(exchange)
        with np.errstate(over="ignore", invalid="ignore"):
            rounds = _rounds(config, session, record, control, watch, comm)
        exchange.finish()
        watch.at = (END, rounds)
        overhead = {"setup": setup, "warmup": warmup}
        result = conclude(config, problem, composition, session, record, rounds, overhead, comm)
        if isinstance(comm, VerifiedComm):
            result.byte_check = comm.verify()
        if comm is not None:
            comm.barrier()  # nobody ends, which a launcher may take for a failure, before the results are written
        return result


def _begin(config: Config, composition: Composition) -> dict[str, Any]:
    """What rank 0 does before the others go on: a directory that can be written, the step size, the constants that the method asked for."""
    if config.out is not None:
        check_directory(config.out)
        refuse_other_checkpoints(config)
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
    comm.meet()  # rank 0 may be computing the constants
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


def _rounds(
    config: Config, session: Session, record: Record, control: Control, watch: StallWatch, comm: Comm | None
) -> int:
    """All rounds, with evaluations and checkpoints between them; returns how many updates x has had."""
    clock = session.clock
    every = config.eval_every or max(1, config.rounds // 100)
    t = record.resumed_at
    watch.at = (EVALUATION, t)
    stop = t == 0 and record.evaluate(0)
    while t < config.rounds and not stop:
        if comm is not None:
            comm.purpose = "round"
        control.before_round()
        watch.at = (ROUND, t + 1)
        clock.start_round()
        session.round(t - record.stage.since)
        clock.end_round()
        t += 1
        orders = control.after_round(t)
        if orders.diverged:
            record.diverge(t)
            break
        if t % every == 0 or t == config.rounds:
            watch.at = (EVALUATION, t)
            stop = record.evaluate(t)
        if orders.checkpoint and not record.diverged and not record.stage.drops:
            if comm is not None:
                comm.purpose = "checkpoint"
            watch.at = (CHECKPOINT, t)
            save(session, config, t, record.saved(), comm)
        if orders.stop and t < config.rounds and not stop:
            record.interrupted = stop = True
    return t
