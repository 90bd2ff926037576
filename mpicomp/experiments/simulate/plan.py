"""A run at a size that nobody has: its ranks and nodes, the calls of a round on each, and the time that a network needs for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import HEADER_NBYTES, Call, ConfigError, DataError, Placement
from .lower import Lowering, messages_of_bcast
from .nodes import Hierarchical, SummingHierarchical
from .operations import BROADCAST, GATHER, TALK, Operation, Round
from .platforms import Platform
from .recorder import Recorder
from .replay import replay
from .schedule import Framed, Layout, Schedule
from .shards import Sharded
from .star import P2P, Allreduce, Collective

SCHEDULES: dict[str, type[Schedule]] = {
    "p2p": P2P, "collective": Collective, "allreduce": Allreduce, "sharded": Sharded, "sliced": Sharded, "hierarchical": Hierarchical,
    "hierarchical:sum": SummingHierarchical,
}  # fmt: skip
MOST_MESSAGES = 1_500_000  # of all recorded rounds: SimGrid plays about 15,000 of them in a second


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
        if exchange == "allreduce" and not all(_dense(o) for round in rounds for o in round.operations):
            raise ConfigError(
                "«exchange='allreduce'» sums dense vectors on the way, it cannot carry this method's messages; use another exchange"
            )
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
                count += len(self.layout.workers)
        return count

    def calls(self, rank: int, framed: Callable[[Operation], Framed] | None = None) -> list[Call]:
        """The calls of a rank in all rounds."""
        found: list[Call] = []
        schedule, framed = SCHEDULES[self.exchange](self.layout, rank, found.append), framed or self.framing()
        if isinstance(schedule, Sharded):
            schedule.filled = self.filled
        for round in self.rounds:
            schedule.round(round, framed)
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

    def simulate(self, platform: Platform, keep: Path | None = None, timeout: float = 3600.0) -> float:
        """Replay the rounds; returns seconds of one, as `steady` has them."""
        framed = self.framing()
        nodes = (np.arange(self.where.ranks) // self.where.per_node).tolist()
        own, overhead = (lambda rank: self.calls(rank, framed)), self.layout.overhead
        return steady(own, len(self.rounds), nodes, platform, keep, timeout, overhead)


def steady(
    calls: Callable[[int], Sequence[Call]], rounds: int, nodes: Sequence[int], platform: Platform, keep: Path | None, timeout: float,
    overhead: float = 0.0,
) -> float:  # fmt: skip
    """Seconds of a round among others: the time of all rounds less that of the first alone, in which nothing overlaps with a round before.

    Parameters
    ----------
    calls : of a rank, in all rounds. nodes : of each rank, the number of its node. keep, timeout : as for `replay`.
    overhead : processor seconds of each message of a collective.
    """
    size, count = len(nodes), max(nodes) + 1

    def seconds(some: Callable[[Sequence[Call]], Sequence[Call]], keep: Path | None) -> float:
        traces = (Lowering(rank, size, overhead).play(some(calls(rank))) for rank in range(size))
        return replay(traces, platform, count, nodes, keep, timeout)

    whole = seconds(lambda own: own, keep)
    return whole if rounds == 1 else (whole - seconds(_first_round, None)) / (rounds - 1)


def _first_round(calls: Sequence[Call]) -> Sequence[Call]:
    return calls[: next(k for k, call in enumerate(calls) if call.function == "End") + 1]


def replay_recorded(
    ranks: Sequence[Sequence[Call]], nodes: Sequence[int], platform: Platform, keep: Path | None = None, timeout: float = 3600.0
) -> float:  # fmt: skip
    """Replay the rounds of a trace that a run recorded; returns seconds of one round, as `steady` has them.

    Parameters
    ----------
    ranks : the calls of each rank. nodes : of each rank, the lowest rank of its node.

    Raises
    ------
    DataError : no round is in it.
    """
    rounds = sum(call.function == "Round" for call in ranks[0])
    if not rounds:
        raise DataError("the trace has no round; record a run of at least one")
    number = {leader: k for k, leader in enumerate(sorted(set(nodes)))}
    return steady(lambda rank: ranks[rank], rounds, [number[node] for node in nodes], platform, keep, timeout)


def _dense(o: Operation) -> bool:
    """Its messages are vectors as they are, the same for all."""
    return o.kind in (GATHER, BROADCAST) and o.capacity == o.dim * o.itemsize and not o.separate


def _refuse_many(exchange: str, where: Where, messages: int) -> None:
    if messages > MOST_MESSAGES:
        raise ConfigError(
            f"«exchange={exchange!r}» on {where.ranks:,} ranks sends about {messages:,} messages in these rounds, more than the "
            f"{MOST_MESSAGES:,} that are replayed; give fewer --nodes, --per-node or --rounds"
        )
