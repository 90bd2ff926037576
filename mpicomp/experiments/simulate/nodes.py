"""Schedules of the exchanges whose ranks meet in their node's memory: `hierarchical` and `hierarchical:sum`."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ..runtime import (
    HEADER_NBYTES,
    TAG_DOWN,
    TAG_POSTED,
    TAG_READ,
    TAG_TAKEN,
    TAG_UP,
    TAG_WRITTEN,
    Call,
)
from .operations import Operation
from .schedule import Frame, Framed, Layout
from .star import P2P


class Hierarchical(P2P):
    """`exchanges/hierarchical.py`: messages of no bytes within a node, frames between leaders and the server."""

    summed: ClassVar[bool] = False

    def __init__(self, layout: Layout, rank: int, write: Callable[[Call], None]):
        super().__init__(layout, rank, write)
        self.leader = int(layout.nodes[rank])
        self.mates = [other for other in layout.of_node(self.leader) if other != self.leader]
        self.leaders = sorted(set(layout.nodes.tolist()) - {0}) if rank == 0 else []
        self._owed: dict[tuple[int, int], int] = {}
        self._arrived: Callable[[], None] = lambda: None

    @property
    def leads_node(self) -> bool:
        """It crosses the network for its node."""
        return self.rank == self.leader

    def _tell(self, rank: int, tag: int) -> None:
        self.send(rank, tag, 0)

    def _hear(self, rank: int, tag: int) -> None:
        self.recv(rank, tag, 0)

    def _settle(self, tag: int) -> None:
        for rank, kind in [key for key in self._owed if key[1] == tag]:
            for _ in range(self._owed.pop((rank, kind))):
                self._hear(rank, kind)

    def gather(self, o: Operation, framed: Framed) -> None:
        self._settle(TAG_TAKEN)
        frames = framed.frames(self.rank)
        if self.hosted:
            self._write_up(o, frames)
        if not self.leads_node:
            return
        summed = self.summed and not o.separate and self._sum_pays(o, framed)
        if self.is_server:
            self._receive_up(o, framed, summed)
        elif summed:
            self._send_sum(o, framed)
        else:
            self._send_on(framed)

    def _write_up(self, o: Operation, frames: list[Frame]) -> None:
        for frame in frames:
            self.work(o.encode.of(frame.messages))
            if not self.leads_node:
                self._tell(self.leader, TAG_WRITTEN)
            if o.absorbs:
                self.work(o.absorb.of(frame.messages))
        if frames and not self.leads_node:
            self._owed[self.leader, TAG_TAKEN] = 1

    def _each(self, framed: Framed, take: Callable[[Frame], None]) -> None:
        """Take the frames of this node in client order, each once it is heard of."""
        for rank in [self.leader, *self.mates]:
            for frame in framed.frames(rank):
                if rank != self.rank:
                    self._hear(rank, TAG_WRITTEN)
                take(frame)

    def _release(self, framed: Framed) -> None:
        for rank in self.mates:
            if framed.frames(rank):
                self._tell(rank, TAG_TAKEN)

    def _send_on(self, framed: Framed) -> None:
        requests: list[int] = []
        self._each(framed, lambda frame: requests.append(self.isend(0, TAG_UP, frame.nbytes)))
        for request in requests:
            self.wait(request)
        self._release(framed)

    def _send_sum(self, o: Operation, framed: Framed) -> None:
        spoken: list[Frame] = []

        def take(frame: Frame) -> None:
            self.work(o.decode.of(frame.messages))
            spoken.append(frame)

        self._each(framed, take)
        self._release(framed)
        if spoken:
            self.wait(self.isend(0, TAG_UP, self._dense_nbytes(o)))

    def _receive_up(self, o: Operation, framed: Framed, summed: bool) -> None:
        def begin() -> None:
            self._each(framed, lambda frame: self.work(o.decode.of(frame.messages)))
            self._release(framed)

        arriving: dict[int, list[Frame]] = {}
        for leader in self.leaders:
            of_node = [frame for rank in self.layout.of_node(leader) for frame in framed.frames(rank)]
            arriving[leader] = [Frame(1, self._dense_nbytes(o))] * bool(of_node) if summed else of_node
        self._arrived = begin
        self.receive_all(o, arriving)

    def between(self, o: Operation) -> None:
        self._arrived()

    def _dense_nbytes(self, o: Operation) -> int:
        """Of a frame with a sum, in the dtype of the computation."""
        return HEADER_NBYTES + o.dim * self.layout.itemsize

    def _sum_pays(self, o: Operation, framed: Framed) -> bool:
        messages = sums = 0
        leaders = set(self.layout.nodes.tolist()) - {0}
        for leader in leaders:
            of_node = [frame for rank in self.layout.of_node(leader) for frame in framed.frames(rank)]
            messages += sum(HEADER_NBYTES + frame.messages * o.capacity for frame in of_node)
            sums += self._dense_nbytes(o) if of_node else 0
        return sums < messages

    def broadcast(self, o: Operation, framed: Framed) -> None:
        nbytes = HEADER_NBYTES + int(o.lengths[0])
        self._settle(TAG_READ)
        self.complete()
        if self.is_server:
            self.work(o.encode.of(1))
            self.send_to(self.leaders, nbytes)
        elif self.leads_node:
            self.recv(0, TAG_DOWN, nbytes)
        for rank in self.mates if self.leads_node else ():
            self._tell(rank, TAG_POSTED)
            self._owed[rank, TAG_READ] = 1
        if not self.leads_node:
            self._hear(self.leader, TAG_POSTED)
        if not self.is_server:
            self.work(o.absorb.of(1))
        if not self.leads_node:
            self._tell(self.leader, TAG_READ)


class SummingHierarchical(Hierarchical):
    """`hierarchical:sum`: a node sends the sum of its messages where that is shorter."""

    summed = True
