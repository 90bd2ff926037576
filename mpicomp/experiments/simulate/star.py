"""Schedules of the exchanges with one server, and of the one without: `p2p`, `collective`, `allreduce`."""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import (
    CONTROL_FLAGS,
    HEADER_NBYTES,
    IN_TURN_NBYTES,
    PIECE_NBYTES,
    SLOTS,
    TAG_DOWN,
    TAG_RING,
    TAG_UP,
    Call,
    moves_less,
    ring_bounds,
)
from .operations import Operation
from .schedule import Frame, Framed, Layout, Schedule

LENGTH_NBYTES = 8  # of a frame's length, which travels beside it


class P2P(Schedule):
    """`exchanges/p2p.py`: two frames under way for each pair of ranks; long broadcasts in turn to other nodes."""

    def __init__(self, layout: Layout, rank: int, write: Callable[[Call], None]):
        super().__init__(layout, rank, write)
        self._pending: dict[tuple, int] = {}
        self._ahead: dict[int, int] = {}

    def _free_slot(self, name: tuple) -> None:
        if name in self._pending:
            self.wait(self._pending.pop(name))

    def complete(self) -> None:
        """Wait until everything that was sent has left."""
        for request in self._pending.values():
            self.wait(request)
        self._pending.clear()

    def gather(self, o: Operation, framed: Framed) -> None:
        if self.is_server:
            self.receive_all(o, {rank: framed.frames(rank) for rank in self.layout.workers})
            return
        frames = framed.frames(self.rank)
        own = framed.whole(self.rank, frames)
        for g, frame in enumerate(frames):
            name = ("up", g % SLOTS)
            if not own:
                self._free_slot(name)
                self.work(o.encode.of(frame.messages))
            request = self.isend(0, TAG_UP, frame.nbytes)
            if o.absorbs:
                self.work(o.absorb.of(frame.messages))
            if own:
                self.wait(request)
            else:
                self._pending[name] = request

    def receive_all(self, o: Operation, frames: dict[int, list[Frame]]) -> None:
        """Server: receives are posted before, and decoded in the order of ranks."""
        requests: dict[tuple[int, int], int] = {}

        def post(rank: int, g: int) -> None:
            ahead = self._ahead.pop(rank, None) if g == 0 else None
            requests[rank, g] = self.irecv(rank, TAG_UP) if ahead is None else ahead

        for rank, own in frames.items():
            for g in range(min(SLOTS, len(own))):
                post(rank, g)
        self.between(o)
        for rank, own in frames.items():
            for g, frame in enumerate(own):
                self.wait(requests.pop((rank, g)), frame.nbytes)
                self.work(o.decode.of(frame.messages))
                if g + SLOTS < len(own):
                    post(rank, g + SLOTS)

    def between(self, o: Operation) -> None:
        """What a server does before the first frame arrives."""

    def broadcast(self, o: Operation, framed: Framed) -> None:
        nbytes = HEADER_NBYTES + int(o.lengths[0])
        if not self.is_server:
            self.recv(0, TAG_DOWN, nbytes)
            self.work(o.absorb.of(1))
            return
        self.complete()
        if not o.dense:
            self.work(o.encode.of(1))
        self.send_to(self.layout.workers, nbytes)
        if o.dense:
            self.complete()

    def send_to(self, ranks: list[int], nbytes: int) -> None:
        """A broadcast to these ranks."""
        nodes = self.layout.nodes
        far = [rank for rank in ranks if nodes[rank] != nodes[self.rank]] if nbytes >= IN_TURN_NBYTES else []
        away = set(far)
        for rank in ranks:
            if rank not in away:
                self._pending["broadcast", rank] = self.isend(rank, TAG_DOWN, nbytes)
        for rank in far:
            if rank not in self._ahead:
                self._ahead[rank] = self.irecv(rank, TAG_UP)
        for rank in far:
            self._free_slot(("in turn",))
            self._pending["in turn",] = self.isend(rank, TAG_DOWN, nbytes)

    def scatter(self, o: Operation, framed: Framed) -> None:
        if not self.is_server:
            for frame in framed.addressed(self.rank):
                self.recv(0, TAG_DOWN, frame.nbytes)
                self.work(o.absorb.of(frame.messages))
            return
        groups = {rank: framed.addressed(rank) for rank in self.layout.workers}
        for g in range(max(map(len, groups.values()))):
            for rank, own in groups.items():
                if g < len(own):
                    name = ("to", rank, g % SLOTS)
                    self._free_slot(name)
                    self.work(o.encode.of(own[g].messages))
                    self._pending[name] = self.isend(rank, TAG_DOWN, own[g].nbytes)


class Collective(Schedule):
    """`exchanges/collective.py`: Gatherv, Bcast and Scatterv; lengths beside them where they may vary."""

    one_frame = True

    def gather(self, o: Operation, framed: Framed) -> None:
        frames = framed.frames(self.rank)
        own = sum(frame.nbytes for frame in frames)
        if frames and not framed.whole(self.rank, frames):
            self.work(o.encode.of(frames[0].messages))
        if not o.fixed:
            self.collective("Gather", LENGTH_NBYTES)
        if not self.is_server:
            self.collective("Gatherv", own)
            if o.absorbs and frames:
                self.work(o.absorb.of(frames[0].messages))
            return
        everybody = [framed.frames(rank) for rank in range(self.layout.size)]
        self.collective("Gatherv", 0, [sum(frame.nbytes for frame in own) for own in everybody])
        spoken = [frame.messages for own in everybody for frame in own]
        self.work(o.decode.of(sum(spoken), len(spoken)))

    def broadcast(self, o: Operation, framed: Framed) -> None:
        length = int(o.lengths[0])
        if self.is_server and not o.dense:
            self.work(o.encode.of(1))
        for nbytes in [HEADER_NBYTES + length] if o.fixed else [HEADER_NBYTES, length]:
            self.collective("Bcast", nbytes)
        if not self.is_server:
            self.work(o.absorb.of(1))

    def scatter(self, o: Operation, framed: Framed) -> None:
        size = self.layout.size
        if not self.is_server:
            frames = framed.addressed(self.rank)
            self.collective("Scatterv", LENGTH_NBYTES)
            self.collective("Scatterv", sum(frame.nbytes for frame in frames))
            self.work(o.absorb.of(sum(frame.messages for frame in frames)))
            return
        everybody = [framed.addressed(rank) for rank in range(size)]
        messages = [frame.messages for own in everybody for frame in own]
        self.work(o.encode.of(sum(messages), len(messages)))
        for counts in (
            [0, *[LENGTH_NBYTES] * (size - 1)],
            [sum(frame.nbytes for frame in own) for own in everybody],
        ):
            self.collective("Scatterv", sum(counts), counts)


class Allreduce(Schedule):
    """`exchanges/allreduce.py`: the library's sum, or a ring."""

    serves_everywhere = True
    one_frame = True

    def gather(self, o: Operation, framed: Framed) -> None:
        for frame in framed.frames(self.rank):
            if not framed.whole(self.rank, [frame]):
                self.work(o.encode.of(frame.messages))
            self.work(o.decode.of(frame.messages))
            if o.absorbs:
                self.work(o.absorb.of(frame.messages))
        values, size = o.dim + CONTROL_FLAGS.bit_count(), self.layout.size
        if moves_less(size, self.layout.hosts, values * o.itemsize):
            self._ring(values, o.itemsize)
        else:
            self.collective("Allreduce", values * o.itemsize)

    def broadcast(self, o: Operation, framed: Framed) -> None:
        """Nothing travels down."""

    def scatter(self, o: Operation, framed: Framed) -> None:
        raise NotImplementedError

    def _ring(self, values: int, itemsize: int) -> None:
        """`cluster/ring.py`."""
        size, rank = self.layout.size, self.rank
        right, left, bounds = (rank + 1) % size, (rank - 1) % size, ring_bounds(values, size)
        last, piece = 2 * size - 3, PIECE_NBYTES // itemsize

        def pieces(step: int) -> list[int]:
            s = (rank - step - 1) % size
            low, high = int(bounds[s]), int(bounds[s + 1])
            return [itemsize * (min(at + piece, high) - at) for at in range(low, high, piece)]

        def post(step: int) -> list[tuple[int, int]]:
            return [(self.irecv(left, TAG_RING), nbytes) for nbytes in pieces(step)]

        arriving = post(0)
        sent = [[self.isend(right, TAG_RING, nbytes) for nbytes in pieces(-1)]]
        for step in range(last + 1):
            if len(sent) >= size - 1:
                for request in sent.pop(0):
                    self.wait(request)
            following = post(step + 1) if step < last else []
            on_their_way = []
            for request, nbytes in arriving:
                self.wait(request, nbytes)
                if step < last:
                    on_their_way.append(self.isend(right, TAG_RING, nbytes))
            sent.append(on_their_way)
            arriving = following
        for requests in sent:
            for request in requests:
                self.wait(request)
