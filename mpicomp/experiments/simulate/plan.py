"""A run at a size that nobody has: its ranks and nodes, the calls of a round on each, and the time that a network needs for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import HEADER_NBYTES, Call, ConfigError, MpicompError, Placement
from .lower import Lowering, messages_of_bcast
from .nodes import Hierarchical, SummingHierarchical
from .operations import BROADCAST, TALK, Operation, Recorder, Round
from .platforms import Platform
from .replay import Simulated, replay
from .schedule import Framed, Layout, Schedule
from .shards import Sharded
from .star import P2P, Allreduce, Collective

SCHEDULES: dict[str, type[Schedule]] = {
    "p2p": P2P, "collective": Collective, "allreduce": Allreduce, "sharded": Sharded, "sliced": Sharded, "hierarchical": Hierarchical,
    "hierarchical:sum": SummingHierarchical,
}  # fmt: skip
MOST_MESSAGES = 3_000_000  # of all recorded rounds: beyond it a replay takes an hour and gigabytes


@dataclass(frozen=True)
class Where:
    """So many nodes with so many ranks on each; overhead : processor seconds for each message sent or received."""

    nodes: int
    per_node: int
    overhead: float = 0.0

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1 or self.ranks < 2 or not self.overhead >= 0:
            raise ConfigError(
                f"{self.nodes} nodes with {self.per_node} ranks and an overhead of {self.overhead:g} s: at least two ranks are needed, and "
                "no negative seconds"
            )

    @property
    def ranks(self) -> int:
        """P."""
        return self.nodes * self.per_node

    @property
    def leaders(self) -> np.ndarray:
        """Of each rank, the lowest rank of its node; int64, shape (P,)."""
        return np.arange(self.ranks) // self.per_node * self.per_node


@dataclass
class Planned:
    """A run's rounds by one exchange in one place.

    Attributes
    ----------
    rounds : with the messages of all clients. filled : of each slice, whether it has coordinates; empty where messages are not cut.
    """

    exchange: str
    where: Where
    layout: Layout
    rounds: list[Round]
    filled: list[bool]

    @classmethod
    def of(cls, recorder: Recorder, exchange: str, where: Where, clients: int = 0) -> Planned:
        """Record a configuration's rounds and carry them to a place.

        Parameters
        ----------
        clients : n there; 0 for those of the configuration, or one for each rank that hosts some where that are more.

        Raises
        ------
        ConfigError : an exchange without a schedule, or that cannot carry the messages; too few clients.
        """
        if exchange not in SCHEDULES:
            raise ConfigError(
                f"nobody has written down the calls of «exchange={exchange!r}»; allowed: {', '.join(SCHEDULES)}"
            )
        kind, problem = SCHEDULES[exchange], recorder.problem
        hosting = where.ranks - (not kind.serves_everywhere)
        n = clients or max(problem.n_clients, hosting)
        place = Placement.everywhere if kind.serves_everywhere else Placement.star
        layout = Layout(place(n, where.ranks), where.leaders, where.overhead, np.dtype(recorder.config.dtype).itemsize)
        least = where.ranks * (where.ranks - 1) * 2 if kind.cut else 0
        _refuse_many(exchange, where, recorder.count * least)
        rounds = recorder.rounds(exchange, where.ranks)
        filled = recorder.filled(exchange, where.ranks) if kind.cut else []
        carried = [
            Round([o.spread(n, recorder.capacity(o, n)) for o in round.operations], round.compute, round.step)
            for round in rounds
        ]
        planned = cls(exchange, where, layout, carried, filled)
        _refuse_many(exchange, where, planned.messages())
        return planned

    def messages(self) -> int:
        """About how many messages travel in all rounds."""
        P, count = self.where.ranks, 0
        for operation in (o for round in self.rounds for o in round.operations):
            if operation.kind == TALK or self.exchange in ("sharded", "sliced"):
                count += P * (P - 1)
            elif self.exchange == "collective" and operation.kind == BROADCAST:
                count += messages_of_bcast(HEADER_NBYTES + int(operation.lengths[0]), P)
            elif self.exchange == "allreduce":
                count += 2 * P * (P if self.layout.hosts > 1 and P & (P - 1) else P.bit_length())
            else:
                count += P
        return count

    def calls(self, rank: int, framed: Callable[[Operation], Framed] | None = None) -> list[Call]:
        """The calls of a rank in all rounds."""
        found: list[Call] = []
        schedule = SCHEDULES[self.exchange](self.layout, rank, found.append)
        if isinstance(schedule, Sharded):
            schedule.filled = self.filled
        for round in self.rounds:
            schedule.round(round, framed or self.framing())
        return found

    def framing(self) -> Callable[[Operation], Framed]:
        """Puts operations into frames, each once."""
        kept: dict[int, Framed] = {}
        one_frame = SCHEDULES[self.exchange].one_frame

        def framed(operation: Operation) -> Framed:
            if id(operation) not in kept:
                kept[id(operation)] = Framed(operation, self.layout, one_frame)
            return kept[id(operation)]

        return framed

    def traces(self) -> Iterator[list[str]]:
        """The time-independent trace of each rank, in SimGrid's words."""
        framed = self.framing()
        for rank in range(self.where.ranks):
            yield Lowering(rank, self.where.ranks).play(self.calls(rank, framed))

    def simulate(self, platform: Platform, keep: Path | None = None, timeout: float = 3600.0) -> Simulated:
        """Replay the rounds; returns seconds of one round."""
        nodes = (np.arange(self.where.ranks) // self.where.per_node).tolist()
        found = replay(self.traces(), platform, self.where.nodes, nodes, keep, timeout)
        return Simulated(found.seconds / len(self.rounds))


def replay_recorded(
    ranks: Sequence[Sequence[Call]], nodes: Sequence[int], platform: Platform, keep: Path | None = None, timeout: float = 3600.0
) -> Simulated:  # fmt: skip
    """Replay the rounds of a trace that a run recorded; returns seconds of one round.

    Parameters
    ----------
    ranks : the calls of each rank. nodes : of each rank, the lowest rank of its node.

    Raises
    ------
    MpicompError : no round is in it.
    """
    rounds = sum(call.function == "Round" for call in ranks[0])
    if not rounds:
        raise MpicompError("the trace has no round; record a run of at least one")
    leaders = sorted(set(nodes))
    number = {leader: k for k, leader in enumerate(leaders)}
    lines = (Lowering(rank, len(ranks)).play(calls) for rank, calls in enumerate(ranks))
    found = replay(lines, platform, len(leaders), [number[node] for node in nodes], keep, timeout)
    return Simulated(found.seconds / rounds)


def _refuse_many(exchange: str, where: Where, messages: int) -> None:
    if messages > MOST_MESSAGES:
        raise ConfigError(
            f"«exchange={exchange!r}» on {where.ranks:,} ranks sends about {messages:,} messages in these rounds, more than the "
            f"{MOST_MESSAGES:,} that are replayed; give fewer --nodes, --per-node or --rounds"
        )
