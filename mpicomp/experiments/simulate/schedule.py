"""The calls of one rank, written down from the operations of a round without running it: what is common to all exchanges.

There is one `Schedule` for each exchange. Tests compare their calls with those of real runs, one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from ..runtime import GROUP_NBYTES, HEADER_NBYTES, Call, Placement
from .operations import BROADCAST, GATHER, SCATTER, TALK, Operation, Round


class Frame(NamedTuple):
    """A frame: the number of its messages, and its bytes."""

    messages: int
    nbytes: int


class Layout:
    """Who is where, and who hosts whom.

    Parameters
    ----------
    placement : of the clients. nodes : int64, shape (size,), of each rank the lowest rank of its node.
    overhead : seconds that a processor spends on each message that it sends or receives. itemsize : bytes of a number of the states.
    """

    def __init__(self, placement: Placement, nodes: np.ndarray, overhead: float = 0.0, itemsize: int = 8):
        self.placement, self.nodes, self.overhead, self.itemsize = placement, nodes, overhead, itemsize
        self.size, self.workers = placement.size, placement.workers
        self.n_clients = placement.n_clients

    @cached_property
    def hosts(self) -> int:
        """Number of nodes."""
        return len(np.unique(self.nodes))

    def of_node(self, leader: int) -> list[int]:
        """The ranks of a node, in their order."""
        return self._members[leader]

    @cached_property
    def _members(self) -> dict[int, list[int]]:
        members: dict[int, list[int]] = {}
        for rank, leader in enumerate(self.nodes.tolist()):
            members.setdefault(leader, []).append(rank)
        return members


@dataclass
class Framed:
    """An operation whose messages are put into frames; prefix sums, so that a frame's length is a difference."""

    operation: Operation
    layout: Layout
    one_frame: bool

    def __post_init__(self) -> None:
        o = self.operation
        n, per = self.layout.n_clients, max(1, (GROUP_NBYTES - HEADER_NBYTES) // max(o.capacity, 1))
        self.per_group = n if self.one_frame else per
        if o.kind in (GATHER, SCATTER):
            spoken = np.ones(n, np.int64) if o.active is None else o.active.astype(np.int64)
            self.messages = np.concatenate([[0], np.cumsum(spoken)])
            lengths = o.lengths * (spoken if o.lengths.ndim == 1 else spoken[:, None])
            self.nbytes = np.concatenate([np.zeros((1, *lengths.shape[1:]), np.int64), np.cumsum(lengths, axis=0)])

    def frames(self, rank: int, server: int | None = None) -> list[Frame]:
        """The rank's frames; of a cut message those for a server. A group of which nobody speaks sends none."""
        found = []
        for low, high in self.layout.placement.groups(rank, self.per_group):
            if messages := int(self.messages[high] - self.messages[low]):
                found.append(Frame(messages, HEADER_NBYTES + self._between(low, high, server)))
        return found

    def addressed(self, rank: int, server: int | None = None) -> list[Frame]:
        """The same down: a rank of which nobody takes part gets a frame without messages."""
        found = self.frames(rank, server)
        empty = not found and self.operation.active is not None and self.layout.placement.groups(rank, self.per_group)
        return [Frame(0, HEADER_NBYTES)] if empty else found

    def _between(self, low: int, high: int, server: int | None) -> int:
        lengths = self.nbytes[high] - self.nbytes[low]
        return int(lengths if server is None else lengths[server])

    def whole(self, rank: int, frames: Sequence[Frame]) -> bool:
        """The frame lies around the array of all the rank's vectors: nothing is encoded."""
        placement = self.layout.placement
        hosted = int(placement.first[rank + 1] - placement.first[rank])
        return self.operation.dense and len(frames) == 1 and frames[0].messages == hosted


class Schedule(ABC):
    """Writes the calls of one rank.

    Parameters
    ----------
    layout : of the run. rank : whose calls. write : takes each call.

    Attributes
    ----------
    serves_everywhere, one_frame : as of the exchange. cut : lengths of messages are by server.
    """

    serves_everywhere: ClassVar[bool] = False
    one_frame: ClassVar[bool] = False
    cut: ClassVar[bool] = False

    def __init__(self, layout: Layout, rank: int, write: Callable[[Call], None]):
        self.layout, self.rank, self._write = layout, rank, write
        placement = layout.placement
        self.hosted = int(placement.first[rank + 1] - placement.first[rank])
        self._requests, self._seconds = 0, 0.0

    @property
    def is_server(self) -> bool:
        """It serves: rank 0, or everybody."""
        return self.rank == 0 or self.serves_everywhere

    # ---- rounds -------------------------------------------------------------------------------------------------
    def round(self, round: Round, framed: Callable[[Operation], Framed]) -> None:
        """The calls of a round. framed : puts an operation's messages into frames, once for all ranks."""
        self._call("Round")
        if self.hosted:
            self.work(round.compute * self.hosted)
        went_up = False
        for operation in round.operations:
            if went_up and operation.kind in (BROADCAST, SCATTER):
                self._step(round.step)
                went_up = False
            went_up |= operation.kind == GATHER
            {GATHER: self.gather, BROADCAST: self.broadcast, SCATTER: self.scatter, TALK: self.talk}[operation.kind](
                operation, framed(operation)
            )
        if went_up:
            self._step(round.step)
        self._call("End")

    def _step(self, seconds: float) -> None:
        if self.is_server:
            self.work(seconds)

    @abstractmethod
    def gather(self, o: Operation, framed: Framed) -> None:
        """An uplink."""

    @abstractmethod
    def broadcast(self, o: Operation, framed: Framed) -> None:
        """A message for all."""

    @abstractmethod
    def scatter(self, o: Operation, framed: Framed) -> None:
        """A message for each client."""

    def talk(self, o: Operation, framed: Framed) -> None:
        """What servers of slices say to each other."""
        raise NotImplementedError

    # ---- calls --------------------------------------------------------------------------------------------------
    def work(self, seconds: float) -> None:
        """This rank is busy for so long before its next call."""
        self._seconds += seconds

    def _call(
        self,
        function: str,
        peer: int = -1,
        tag: int = 0,
        nbytes: int = 0,
        request: int = -1,
        counts: Sequence[int] = (),
    ) -> None:
        self._write(Call("round", function, peer, tag, nbytes, request, self._seconds, tuple(counts)))
        self._seconds = 0.0

    def isend(self, dest: int, tag: int, nbytes: int) -> int:
        """Returns the number of the request."""
        self.work(self.layout.overhead)
        self._call("Isend", dest, tag, nbytes, self._requests)
        self._requests += 1
        return self._requests - 1

    def irecv(self, source: int, tag: int) -> int:
        """Returns the number of the request."""
        self._call("Irecv", source, tag, 0, self._requests)
        self._requests += 1
        return self._requests - 1

    def wait(self, request: int, received: int = 0) -> None:
        """For a request, by which so many bytes come."""
        self._call("Wait", nbytes=received, request=request)
        if received:
            self.work(self.layout.overhead)

    def recv(self, source: int, tag: int, nbytes: int) -> None:
        """Receive, and wait for it."""
        self.wait(self.irecv(source, tag), nbytes)

    def send(self, dest: int, tag: int, nbytes: int) -> None:
        """Send, and wait until the buffer is free."""
        self.work(self.layout.overhead)
        self._call("Send", dest, tag, nbytes)

    def collective(self, function: str, nbytes: int, counts: Sequence[int] = (), root: int = 0) -> None:
        """A call of all ranks."""
        self._call(function, root if function != "Allreduce" else -1, nbytes=nbytes, counts=counts)
