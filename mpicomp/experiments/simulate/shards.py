"""Schedule of the exchanges in which every rank serves a slice: `sharded` and `sliced`."""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import HEADER_NBYTES, SLOTS, TAG_AGREE, TAG_DOWN, TAG_UP, Call
from .operations import Operation
from .schedule import Framed, Layout, Schedule


class Sharded(Schedule):
    """`exchanges/sharded.py`: parts to and from everybody. `filled` : of each rank, whether its slice has coordinates."""

    serves_everywhere = True
    cut = True

    def __init__(self, layout: Layout, rank: int, write: Callable[[Call], None]):
        super().__init__(layout, rank, write)
        self.others = [(rank + k) % layout.size for k in range(1, layout.size)]
        self._pending: dict[tuple, list[int]] = {}
        self.filled: list[bool] = [True] * layout.size

    def _complete(self, name: tuple) -> None:
        for request in self._pending.pop(name, ()):
            self.wait(request)

    def _reads(self, o: Operation, rank: int) -> bool:
        return o.whole or self.filled[rank]

    def gather(self, o: Operation, framed: Framed) -> None:
        groups = [framed.frames(rank, self.rank) for rank in range(self.layout.size)]
        requests: dict[tuple[int, int], int] = {}
        reads, share = self._reads(o, self.rank), 1.0 if o.whole else 1.0 / self.layout.size
        if reads:
            for rank in self.others:
                for g in range(min(SLOTS, len(groups[rank]))):
                    requests[rank, g] = self.irecv(rank, TAG_UP)
        for g in range(len(groups[self.rank])):
            self._complete(("up", g))
            messages = groups[self.rank][g].messages
            self.work(o.encode.of(messages))
            self._pending["up", g] = [
                self.isend(r, TAG_UP, framed.frames(self.rank, r)[g].nbytes) for r in self.others if self._reads(o, r)
            ]
            if o.absorbs:
                self.work(o.absorb.of(messages))
        if not reads:
            return
        for rank, own in enumerate(groups):
            for g, frame in enumerate(own):
                if rank != self.rank:
                    self.wait(requests.pop((rank, g)), frame.nbytes)
                self.work(o.decode.of(frame.messages * share))
                if rank != self.rank and g + SLOTS < len(own):
                    requests[rank, g + SLOTS] = self.irecv(rank, TAG_UP)

    def broadcast(self, o: Operation, framed: Framed) -> None:
        if o.whole:
            return
        lengths, share = (HEADER_NBYTES + o.lengths[0]).tolist(), 1.0 / self.layout.size
        arriving = [(rank, self.irecv(rank, TAG_DOWN)) for rank in self.others if self.filled[rank]]
        name, mine = ("broadcast",), self.filled[self.rank]
        if mine:
            self._complete(name)
            if not o.dense:
                self.work(o.encode.of(share))
            self._pending[name] = [self.isend(rank, TAG_DOWN, lengths[self.rank]) for rank in self.others]
            self.work(o.absorb.of(share))
        for rank, request in arriving:
            self.wait(request, lengths[rank])
            self.work(o.absorb.of(share))
        if mine and o.dense:
            self._complete(name)

    def scatter(self, o: Operation, framed: Framed) -> None:
        share = 1.0 / self.layout.size
        if self.filled[self.rank]:
            for rank in [*self.others, self.rank]:
                for g, frame in enumerate(framed.addressed(rank, self.rank)):
                    name = ("to", rank, g)
                    self._complete(name)
                    self.work(o.encode.of(frame.messages * share))
                    if rank != self.rank:
                        self._pending[name] = [self.isend(rank, TAG_DOWN, frame.nbytes)]
                    elif frame.messages:
                        self.work(o.absorb.of(frame.messages * share))
        for rank in self.others:
            if self.filled[rank]:
                for frame in framed.addressed(self.rank, rank):
                    self.recv(rank, TAG_DOWN, frame.nbytes)
                    self.work(o.absorb.of(frame.messages * share))

    def talk(self, o: Operation, framed: Framed) -> None:
        lengths = (HEADER_NBYTES + o.lengths).tolist()
        arriving = [(rank, self.irecv(rank, TAG_AGREE)) for rank in self.others]
        self._complete(("say",))
        self._pending["say",] = [self.isend(rank, TAG_AGREE, lengths[self.rank]) for rank in self.others]
        for rank, request in arriving:
            self.wait(request, lengths[rank])

    def _step(self, seconds: float) -> None:
        self.work(seconds / self.layout.size)
