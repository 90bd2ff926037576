"""`--on-failure continue`: a rank dies, and the run goes on.

`rehost` (the default): all ranks that are left begin again from the newest checkpoint, or from x⁰ where there is none, with the
clients dealt out anew. Everything random is keyed and clients are added in their order, so the result is that of an undisturbed run, bit
for bit. `drop`: the dead rank's clients leave, and the method starts afresh on f = (1/|S|) Σ f_i over the others, from the server's x at
the last evaluation: the server's states are sums over all clients, of which nobody can take a dead rank's part away.

The server's death ends the job: x, the history and the exit code are its.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..cluster.comm import Comm
from ..cluster.placement import Placement
from ..cluster.recovery import Member, OnFailure, Survivors
from ..errors import RankFailure
from ..problems import Problem
from ..problems.subset import SubsetProblem
from .abort import Guarded
from .config import Config
from .results import Result
from .resume import newest


@dataclass
class Stage:
    """Where an attempt at a run begins, and with whom; the server's word, in JSON types.

    Attributes
    ----------
    resume : as in the configuration. losses : the ranks that have died, and what became of their clients, for the summary.
    clients : those that are left after some were dropped; None for all.
    drops : how often that happened. since : rounds before the last time. x : where it then went on, d numbers; None for x⁰.
    saved : history and totals of the rounds before.
    """

    resume: str | None = None
    losses: list[dict[str, Any]] = field(default_factory=list)
    clients: list[int] | None = None
    drops: int = 0
    since: int = 0
    x: list[float] | None = None
    saved: dict[str, Any] | None = None

    def problem(self, whole: Problem) -> Problem:
        """The problem of the clients that take part."""
        return whole if self.clients is None else SubsetProblem(whole, np.array(self.clients))

    def config(self, config: Config) -> Config:
        """After a drop rounds count from zero, so that methods see their first round; hence another seed, for other draws."""
        return dataclasses.replace(config, resume=self.resume, seed=config.seed + self.drops)


@dataclass
class Snapshot:
    """What the server knows of an attempt that fails: who took part, and x, history and totals at the last evaluation."""

    n_clients: int = 0
    round: int = 0
    x: np.ndarray | None = None
    saved: dict[str, Any] | None = None


Attempt = Callable[[Comm | None, Stage, Snapshot], Result]


def run_with_survivors(attempt: Attempt, config: Config, held: Guarded) -> Result:
    """Attempt the run with the ranks that are left, until one attempt comes to its end.

    Parameters
    ----------
    attempt : the run, over a communicator (None: this process is all that is left). held : follows the ranks that are left.

    Raises
    ------
    EnvironmentMismatch : MPI cannot go on without a dead rank.
    RankFailure : the server has died.
    """
    assert held.comm is not None
    survivors, stage = Survivors(held.comm), Stage(config.resume)
    while True:
        seen = Snapshot()
        action = partial(_together, attempt, survivors, held, stage, seen)
        well, result = survivors.attempt(action)
        if well and result is not None:
            return result
        size, lost = len(survivors.members), survivors.close_ranks()
        held.move(survivors.comm)
        if survivors.members[0].rank != 0:
            raise RankFailure(
                f"{_named(lost)} died; the server was among them, and without its x nobody can go on: use «resume='auto'»"
            )
        stage = _next(config, stage, seen, survivors, lost, size)


def _together(
    attempt: Attempt, survivors: Survivors, held: Guarded, stage: Stage, seen: Snapshot, comm: Comm
) -> Result:
    held.renew()
    told = Stage(**comm.bcast_json(dataclasses.asdict(stage)))
    result = attempt(comm if comm.size > 1 else None, told, seen)
    held.release()
    return result


def _next(config: Config, stage: Stage, seen: Snapshot, survivors: Survivors, lost: list[Member], size: int) -> Stage:
    """The next attempt's beginning, on the server; the others will hear of it."""
    if survivors.comm.Get_rank() != 0:
        return stage
    loss: dict[str, Any] = {
        "ranks": [m.rank for m in lost],
        "hosts": [m.host for m in lost],
        "ranks_left": len(survivors.members),
    }
    if OnFailure.parse(config.on_failure).drops and seen.x is not None:
        gone = _hosted(seen.n_clients, survivors, lost, size)
        everybody = np.arange(seen.n_clients) if stage.clients is None else np.array(stage.clients)
        left = np.delete(everybody, gone).tolist()
        names = everybody[gone].tolist()
        where = f"without {'client' if len(names) == 1 else 'clients'} {_ranges(names)}, afresh from x after round {seen.round}"
        following = Stage(None, stage.losses, left, stage.drops + 1, seen.round, seen.x.tolist(), seen.saved)
        loss |= {"round": seen.round, "dropped": names}
    else:
        last = newest(config)
        where = f"from {last}" if last is not None else "from the start, since there is no checkpoint"
        following = dataclasses.replace(stage, resume="auto" if last is not None else config.resume)
    following.losses = [*stage.losses, loss]
    ranks = "rank is" if len(survivors.members) == 1 else "ranks are"
    print(
        f"mpicomp: {_named(lost)} died; {len(survivors.members)} {ranks} left and go on {where}",
        file=sys.stderr,
        flush=True,
    )
    return following


def _hosted(n_clients: int, survivors: Survivors, lost: list[Member], size: int) -> list[int]:
    """The clients of the ranks that are lost, as the attempt that failed numbered them."""
    placement, before = (
        Placement.star(n_clients, size),
        sorted([*survivors.members, *lost], key=lambda member: member.rank),
    )
    return [int(i) for member in lost for i in placement.clients(before.index(member))]


def _ranges(numbers: list[int]) -> str:
    """Increasing numbers as text.

    >>> _ranges([3, 4, 5, 9])
    '3-5, 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _named(lost: list[Member]) -> str:
    return ", ".join(f"rank {member.rank} on {member.host}" for member in lost)
