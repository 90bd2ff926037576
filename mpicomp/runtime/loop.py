"""The round loop: from a configuration to a result, on every rank of a communicator or in one process."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..arrays import ours
from ..cluster.byte_check import VerifiedComm, verified_comm
from ..cluster.comm import Comm
from ..cluster.counts import checked_communicator
from ..cluster.recovery import OnFailure
from ..cluster.threads import CodecThreads, threads_of
from ..cluster.trace import FACTS, TracedComm
from ..compressors import Compressor
from ..data import shared_reading
from ..errors import ConfigError, UserError
from ..exchanges.base import Exchange
from ..exchanges.kinds import exchange_kind
from ..methods import Method
from ..optimizers import Optimizer
from ..problems import Problem, Smoothness
from ..streams import be_silent
from .abort import guard
from .checkpoint import Saver
from .choice import choose, may_host
from .claim import LOCK, Claim
from .client_states import has_states
from .config import Config
from .control import Control
from .data import compare_sizes, data_digest
from .exchanges import exchange_setting
from .followers import Followers
from .imports import import_parts
from .options import RunOptions
from .record import Progress, Record, conclude
from .results import Result, discard_results, origin, refuse_results
from .resume import newest, refuse_other_checkpoints, resume
from .session import Composition, Session, build_problem, init_of, total_samples
from .stall import CHECKPOINT, END, EVALUATION, ROUND, StallWatch
from .survival import Snapshot, Stage, run_with_survivors
from .warmup import warm_up

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm


@dataclass(frozen=True)
class OwnParts:
    """Parts that were given as objects, in place of the configured ones; None for those that were not."""

    problem: Problem | None = None
    method: Method | None = None
    compressor: Compressor | None = None
    optimizer: Optimizer | None = None
    exchange: type[Exchange] | None = None

    def check(self) -> None:
        """Raises ConfigError where something else was given than an object of the kind that is asked for."""
        kinds = {"problem": Problem, "method": Method, "compressor": Compressor, "optimizer": Optimizer}
        for name, kind in kinds.items():
            part = getattr(self, name)
            if isinstance(part, type):
                raise ConfigError(f"{name}={part.__name__} is a class; give an object, {part.__name__}(...)")
            if part is not None and not isinstance(part, kind):
                raise ConfigError(f"{name}={part!r} is neither a name nor a {kind.__name__}")
        if self.exchange is not None and not (isinstance(self.exchange, type) and issubclass(self.exchange, Exchange)):
            raise ConfigError(f"exchange={self.exchange!r} is neither a name nor a class derived from Exchange")

    def recorded(self, config: Config) -> Config:
        """The configuration for the records: a part that was given as an object stands there by its class and its plain attributes."""
        named: dict[str, Any] = {
            f.name: _described(part) for f in fields(self) if (part := getattr(self, f.name)) is not None
        }
        return replace(config, **named)


def _described(part: object) -> str:
    """A part of one's own, for the records; no name of a part looks like it.

    >>> _described(Config)
    '<mpicomp.runtime.config.Config>'
    """
    cls = part if isinstance(part, type) else type(part)
    plain = (
        {}
        if isinstance(part, type)
        else {k: v for k, v in vars(part).items() if isinstance(v, int | float | str | bool)}
    )
    options = "".join(f" {k}={v}" for k, v in sorted(plain.items()) if not k.startswith("_"))
    return f"<{cls.__module__}.{cls.__qualname__}{options}>"


def run(
    config: Config | None = None,
    *,
    comm: MPIComm | None = None,
    problem: Problem | str | None = None,
    method: Method | str | None = None,
    compressor: Compressor | str | None = None,
    optimizer: Optimizer | str | None = None,
    exchange: type[Exchange] | str | None = None,
    progress: Progress | Iterable[Progress] | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Run a method on a problem.

    Parameters
    ----------
    config : all options; or give them by name (`rounds=1000, step="theory*8", ...`, see Config). What is given by name wins.
    comm : an mpi4py communicator of at least two ranks, on all of which this is called alike; None runs in this process.
    problem, method, compressor, optimizer : an object of your own, or a name with options.
    exchange : a class of your own, or a name.
    progress : called on rank 0 with each evaluation's row: a function, a tracker (`mpicomp.trackers`), or a list of them.

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
    parts = {
        "problem": problem,
        "method": method,
        "compressor": compressor,
        "optimizer": optimizer,
        "exchange": exchange,
    }
    given: dict[str, Any] = {**options, **{name: part for name, part in parts.items() if isinstance(part, str)}}
    objects: dict[str, Any] = {name: part for name, part in parts.items() if not isinstance(part, str)}
    own = OwnParts(**objects)
    checked_communicator(comm)
    if comm is not None and comm.Get_rank() > 0:
        be_silent()
    with guard(comm) as held:
        whole = _configured(config, given)
        own.check()
        _refuse_ignored(own, options)
        followers = Followers(progress, own.recorded(whole))
        with Control(whole) as control, _claim(whole, held.comm) as claim, followers:
            if held.comm is not None and OnFailure.parse(whole.on_failure).goes_on:
                whole.refuse_dependence(exchange_kind(whole.exchange, held.comm.Get_size(), own.exchange))
                result = run_with_survivors(lambda *how: _run(whole, own, followers, control, claim, *how), whole, held)
            else:
                wrapped = _counted(comm, whole, own)
                result = _run(whole, own, followers, control, claim, wrapped, Stage(whole.resume), Snapshot())
                if wrapped is not None:
                    wrapped.free()
            followers.summary = result.summary
            return result


def _claim(config: Config, comm: MPIComm | None) -> Claim:
    """The lock of the results' directory, which rank 0 will take."""
    writes = config.out is not None and (comm is None or comm.Get_rank() == 0)
    return Claim(Path(config.out or "", LOCK) if writes else None, shared=comm is not None)


def _refuse_ignored(own: OwnParts, options: RunOptions) -> None:
    """Raises ConfigError for an option of a part that was given as an object and is another than the option says."""
    of_problem = ("problem_options", "data", "partition", "clients")
    ignored = {"problem": of_problem, "method": ("method_options",), "optimizer": ("optimizer_options",)}
    for name, keys in ignored.items():
        part = getattr(own, name)
        for key in keys if part is not None else ():
            given = options.get(key)
            wanted = given if isinstance(given, dict) else {"n_clients" if key == "clients" else key: given}
            if key in options and any(getattr(part, k, None) != v for k, v in wanted.items()):
                raise ConfigError(
                    f"{key}={given!r} is for a {name} that is named; this one is an object that has another: drop {key}"
                )


def _counted(comm: MPIComm | None, config: Config, own: OwnParts) -> Comm | None:
    if comm is not None and comm.Get_size() > 1:
        by_node = exchange_kind(config.exchange, comm.Get_size(), own.exchange).by_node
        if config.trace is not None:
            return TracedComm(comm, by_node)
        return verified_comm(comm, by_node) if config.verify_bytes else Comm(comm, by_node=by_node)
    for option, given in (("verify_bytes=True", config.verify_bytes), (f"trace={config.trace!r}", config.trace)):
        if given:
            flag = f"--{option.partition('=')[0].replace('_', '-')}{' DIR' if given == config.trace else ''}"
            raise ConfigError(
                f"«{option}» in one process: nothing goes through MPI; start several, `mpicomp launch -n 5 -- run {flag} ...`"
            )
    return None


def _configured(config: Config | None, given: dict[str, Any]) -> Config:
    """The configuration with the given options, checked. An option that is not there is named in Python's words."""
    fresh = copy.deepcopy(config) if config is not None else Config()
    for key, value in given.items():
        if key not in [f.name for f in fields(Config)]:
            raise fresh.unknown_option(key, value)
    for key, value in given.items():
        if key.endswith("_options") and isinstance(value, dict):
            getattr(fresh, key).update(value)
        else:
            fresh.set(key, value)
    import_parts(fresh.imports)
    fresh.validate()
    return fresh


def _run(
    config: Config,
    own: OwnParts,
    progress: Progress,
    control: Control,
    claim: Claim,
    comm: Comm | None,
    stage: Stage,
    seen: Snapshot,
) -> Result:
    started = time.perf_counter()
    _compare(comm, config)
    shares = own.problem is None and comm is not None  # the problem's data, with other ranks
    with shared_reading() if shares and comm is not None and comm.rank > 0 else nullcontext():
        whole = own.problem or build_problem(config)
    config = replace(own.recorded(config), init=init_of(config, whole))
    staged = stage.config(config)
    problem = stage.problem(whole)
    compare_sizes(comm, problem)
    has_states(problem)  # or lacks what they need
    ranks = 1 if comm is None else comm.size
    composition = Composition(staged, problem, own.method, own.compressor, own.optimizer, samples=0.0)
    rank = 0 if comm is None else comm.rank
    kind = exchange_kind(config.exchange, ranks, own.exchange)
    hosted = kind.place(problem.n_clients, ranks).clients(rank)
    if shares and rank > 0:
        problem.keep_clients(may_host(config, problem.n_clients, ranks, rank, kind))
    data = data_digest(comm, problem, hosted)
    composition.setting.samples = _mean_samples(staged, problem, hosted, comm)
    step_size = _agree(comm, staged, composition, claim)
    source = _origin(config, problem, composition) if comm is None or comm.rank == 0 else {}
    anywhere = problem.holds_all or (own.problem is None and ours(problem))
    choice = choose(staged, problem, composition, step_size, ranks, own.exchange, anywhere)
    setup = time.perf_counter() - started
    hosted = choice.kind.place(problem.n_clients, ranks).clients(rank)
    if shares:
        problem.keep_clients(hosted)
    warm_up(staged, problem, composition, step_size, choice.kind, ranks, hosted, rank == 0)
    warmed = time.perf_counter()
    exchange = choice.kind.create(exchange_setting(config, problem, composition, comm))
    exchange.threads = CodecThreads(threads_of(config.threads, ranks))
    start = None if stage.x is None else np.array(stage.x)
    session = Session(
        staged, problem, composition.parts(step_size), exchange, step_size, start
    )  # after the warm-up's has gone
    session.data_digest = data
    session.states.agree(comm)
    setup += time.perf_counter() - warmed
    if comm is not None:
        comm.meet()
    warmup = time.perf_counter() - started - setup
    record = Record(config, session, comm, progress, stage, seen)
    resume(staged, session, record, comm)
    # NumPy need not warn of overflow: a run that diverges is stopped with a message of its own
    with StallWatch(config.stall_timeout, comm) as watch:
        control.attach(exchange)
        with np.errstate(over="ignore", invalid="ignore"):
            rounds = _rounds(config, session, record, control, watch, Saver(session, config, comm), comm)
        exchange.finish()
        watch.at = (END, rounds)
        overhead = {"setup": setup, "warmup": warmup}
        result = conclude(config, problem, composition, session, record, rounds, overhead, source, choice.why, comm)
        if isinstance(comm, VerifiedComm):
            result.byte_check = comm.verify()
        if isinstance(comm, TracedComm):
            facts = {
                "exchange": exchange.name,
                "dim": problem.dim,
                "clients": problem.n_clients,
                "config": config.to_toml(),
            }
            comm.save(Path(config.trace or ""), facts)
        if comm is not None:
            comm.barrier()  # nobody ends, which a launcher may take for a failure, before the results are written
        return result


def _compare(comm: Comm | None, config: Config) -> None:
    """Raises ConfigError where this rank has another configuration than rank 0."""
    if comm is None:
        return
    fingerprint = hashlib.sha256(config.to_toml().encode()).hexdigest()
    if comm.bcast_json(fingerprint) != fingerprint:
        raise ConfigError(
            f"rank {comm.rank} was started with another configuration than rank 0; start all ranks with the same options"
        )


def _mean_samples(config: Config, problem: Problem, hosted: np.ndarray, comm: Comm | None) -> float:
    """Mean of the clients' numbers of samples. Each rank asks the problem for the clients that it hosts."""
    total = np.array([total_samples(config, problem, hosted)])
    if comm is not None and config.batch:
        comm.meet()  # some ranks may still be reading their data
        comm.allreduce_sum(total)
    return float(total[0]) / problem.n_clients


def _origin(config: Config, problem: Problem, composition: Composition) -> dict[str, Any]:
    """The manifest, as far as it is known before the rounds. Constants of the problem are in it where the method has asked for them."""
    facts, constants = problem.describe(), composition.setting.__dict__.get("smoothness")
    if constants is not None:
        facts = {**facts, **constants.heterogeneity()}
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(problem).__name__}.describe() does not hold JSON types, so no result file could: {error}; convert arrays by tolist(), "
            "numbers by float()"
        ) from None
    return origin(config, facts)


def _begin(config: Config, composition: Composition, claim: Claim) -> dict[str, Any]:
    """What rank 0 does before the others go on: a directory that can be written, the step size, the constants that the method asked for."""
    if config.out is not None:
        first = claim.take()
        if first and config.force:
            discard_results(config.out)
        refuse_other_checkpoints(config)
        if first and newest(config) is None:
            refuse_results(config.out, resumed=config.resume == "auto")
    if config.trace is not None and Path(config.trace, FACTS).exists():
        raise ConfigError(
            f"«trace={config.trace!r}» has the trace of another run; give another directory, or remove it"
        )
    step_size = composition.step_size(config.step)
    composition.parts(step_size)
    constants = composition.setting.__dict__.get("smoothness")
    return {"step": step_size, "smoothness": constants.to_dict() if constants is not None else None}


def _agree(comm: Comm | None, config: Config, composition: Composition, claim: Claim) -> float:
    """The step size, found on rank 0; its UserError on all ranks.

    The smoothness constants, where the method needs them, are computed once and sent along.
    """
    if comm is None:
        return float(_begin(config, composition, claim)["step"])
    answer: dict[str, Any] = {}
    if comm.rank == 0:
        try:
            answer = _begin(config, composition, claim)
        except UserError as error:
            answer = {"error": str(error)}
    comm.meet()  # rank 0 may be computing the constants
    answer = comm.bcast_json(answer)
    if "error" in answer:
        raise ConfigError(answer["error"])
    if answer["smoothness"] is not None:
        composition.setting.smoothness = Smoothness.from_dict(answer["smoothness"])
    return float(answer["step"])


def _rounds(
    config: Config,
    session: Session,
    record: Record,
    control: Control,
    watch: StallWatch,
    saver: Saver,
    comm: Comm | None,
) -> int:
    """All rounds, with evaluations and checkpoints between them; returns how many updates x has had."""
    clock = session.clock
    every = config.eval_every or max(1, config.rounds // 100)
    t = record.resumed_at
    watch.at = (EVALUATION, t)
    stop = t == 0 and record.evaluate(0)
    while t < config.rounds and not stop:
        control.before_round()
        watch.at = (ROUND, t + 1)
        if comm is not None:
            comm.begin_round()
        clock.start_round()
        session.round(t - record.stage.since)
        clock.end_round()
        if comm is not None:
            comm.end_round()
        t += 1
        orders = control.after_round(t)
        if orders.diverged:
            record.diverge(t)
            break
        if t % every == 0 or t == config.rounds:
            watch.at = (EVALUATION, t)
            stop = record.evaluate(t)
        wanted = orders.checkpoint or (record.paused and config.out is not None)
        if wanted and not record.diverged and not record.stage.drops:
            if comm is not None:
                comm.purpose = "checkpoint"
            watch.at = (CHECKPOINT, t)
            saver.save(t, record.saved())
        if t < config.rounds and (record.paused or (orders.stop and not stop)):
            record.interrupted = stop = True
    return t
