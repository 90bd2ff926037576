"""Sharded exchange: every rank hosts clients and serves a slice of the coordinates, so that no rank's link or memory is the wall.

Up, a client's message is encoded once, as for one server, and cut into parts (`compressors.codec.Cutting`), each of which goes to the rank
that serves its slice. Every server adds the parts in client order: the bits are those of one server. Down, each rank broadcasts its slice,
compressed as that of the whole vector: where that takes a number of the whole vector (a norm, a threshold), the servers first agree on it.
Vectors of another dimension (a few scalars beside the vectors: `Codec.whole`) go to every rank whole, so that all
of them know the same sum and nothing is left to send down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import ENCODE, SEND, WAIT, Clock
from ..cluster.comm import Comm
from ..cluster.ledger import DOWNLINK, IN_MEMORY, UPLINK, VALUE_BITS, Ledger
from ..cluster.placement import slices
from ..compressors import Codec
from ..compressors.agreement import Agreement
from ..compressors.layers import columns
from ..kernels.random import Keys
from ..wire import HEADER_NBYTES, check_header, dtype_flag, read_header, write_header
from .base import Exchange, ExchangeSetting, Group, Vectors, exchanges, frame_capacity
from .local import LocalExchange
from .mpi import MPIExchange
from .p2p import SLOTS, TAG_DOWN, TAG_UP
from .slicing import LEAST, Slicing, alignment_of

if TYPE_CHECKING:
    from ..cluster.messages import AnyRequest

TAG_AGREE = 5  # what servers say about their slices before they encode them


@exchanges.register("sharded")
class ShardedExchange(Slicing, MPIExchange):
    """Every rank is a worker and the server of a slice.

    Parameters
    ----------
    alignment : see `alignment_of`. For the others see Exchange.
    """

    summary = "every rank hosts clients and serves a slice of the coordinates: no server wall"
    serves_everywhere, survives_deaths = True, False

    @classmethod
    def create(cls, setting: ExchangeSetting) -> ShardedExchange:
        assert setting.comm is not None
        alignment = alignment_of(setting.codecs(), setting.downlink_codecs())
        return cls(
            setting.comm, setting.n_clients, setting.dim, setting.dtype, setting.weights, setting.clock, alignment
        )

    @classmethod
    def create_for_warmup(cls, setting: ExchangeSetting, clients: np.ndarray, ranks: int) -> Exchange:
        return LocalShardedExchange(
            setting.n_clients, setting.dim, setting.dtype, clients=clients, servers=ranks,
            alignment=alignment_of(setting.codecs(), setting.downlink_codecs()),
        )  # fmt: skip

    def __init__(
        self,
        comm: Comm,
        n_clients: int,
        dim: int,
        dtype: DTypeLike,
        weights: np.ndarray,
        clock: Clock,
        alignment: int = LEAST,
    ):
        super().__init__(comm, n_clients, dim, dtype, weights, clock)
        self.cut_at(slices(dim, comm.size, alignment))
        self.served = self.slice_of(self.rank)
        self.others = [(self.rank + k) % comm.size for k in range(1, comm.size)]  # not all to the same one at once
        self._pending: dict[tuple, list[AnyRequest]] = {}

    @property
    def is_server(self) -> bool:
        return True

    def _complete(self, name: tuple) -> None:
        """Wait until what was sent under this name has left."""
        for request in self._pending.pop(name, ()):
            self.comm.wait(request)
        self.clock.lap(SEND)

    # ---- up -----------------------------------------------------------------------------------------------------
    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan, reader = self.plan(codec), self.reader(codec, self.rank)
        groups = [self.speaking(plan, rank, active) for rank in range(self.placement.size)]
        capacity = self.part_capacity(codec, plan.largest)
        requests: dict[tuple, Any] = {}

        def post(rank: int, g: int) -> None:
            buf = self.buffer(("from", rank, g % SLOTS), capacity)
            requests[rank, g] = self.comm.irecv(buf[:capacity], rank, TAG_UP), buf

        if reader is not None:
            for rank in self.others:
                for g in range(min(SLOTS, len(groups[rank]))):
                    post(rank, g)
        own = [
            self._send_up(codec, V, group, keys, round, ("up", g), capacity, add_to, scale)
            for g, group in enumerate(groups[self.rank])
        ]
        if reader is None:
            return
        fold = self.fold(codec, total, weights, separate)
        for rank, speaking in enumerate(groups):
            for g, group in enumerate(speaking):
                if rank == self.rank:
                    buf, nbytes = own[g], len(own[g])
                else:
                    request, buf = requests.pop((rank, g))
                    nbytes = self.comm.wait(request)
                    self.clock.lap(WAIT)
                self.accumulate(reader, buf, nbytes, group, keys, round, fold)
                if rank != self.rank and g + SLOTS < len(speaking):
                    post(rank, g + SLOTS)

    def _send_up(
        self, codec: Codec, V: Vectors, group: Group, keys: Keys, round: int, name: tuple, capacity: int,
        add_to: np.ndarray | None, scale: float,
    ) -> np.ndarray:  # fmt: skip
        """A group's messages to all servers; returns the frame for this one. Nothing is waited for, so no two ranks wait for each other."""
        self._complete(name)
        frame, nbytes, frames = self.write_parts(codec, V, group, keys, round, name, capacity)
        values = int(self._tally[1])
        self.ledger.traffic[UPLINK, VALUE_BITS] += values
        self._pending[name] = [self._send(frames[r], r, TAG_UP, len(group.rows)) for r in self.others if len(frames[r])]
        self.clock.lap(SEND)
        if add_to is not None:
            self.absorb(codec, frame, nbytes, group, keys, round, add_to, scale)
        return frames[self.rank]

    def _send(self, frame: np.ndarray, rank: int, tag: int, messages: int) -> AnyRequest:
        """Send a frame, entering all of its bytes but what the papers count."""
        direction = UPLINK if tag == TAG_UP else DOWNLINK
        self.ledger.frame(direction, (8 * (len(frame) - HEADER_NBYTES), 0), len(frame), messages, self.level(rank))
        return self.comm.isend(frame, rank, tag)

    # ---- down ---------------------------------------------------------------------------------------------------
    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        group = self._server_row
        v, numbers = self.agreed(codec, v, round)
        if codec.whole:  # every rank has it
            buf = self.buffer(("broadcast",), frame_capacity(codec))
            nbytes = self.write_frame(codec, v, group.rows, group.clients, keys, round, buf)
            if self.is_root:
                self.ledger.traffic[DOWNLINK, VALUE_BITS] += self._tally[1] * self.n_clients
            self.deliver(codec, buf, nbytes, keys, round, into, add, False)
            return
        readers = [self.reader(codec, s) for s in range(self.placement.size)]
        arriving = []
        for rank in self.others:
            reader = readers[rank]
            if reader is not None:
                capacity = frame_capacity(reader)
                buf = self.buffer(("slice", rank), capacity)
                arriving.append((rank, reader, self.comm.irecv(buf[:capacity], rank, TAG_DOWN), buf))
        name, own, mine = ("broadcast",), None, readers[self.rank]
        if mine is not None:
            self._complete(name)
            if numbers is not None:
                mine.give(numbers[0])
            own = self.own_frame(mine, v, group.rows)
            buf = self.buffer(name, frame_capacity(mine)) if own is None else own
            nbytes = self.write_frame(mine, v, group.rows, group.clients, keys, round, buf, own is not None)
            self.count_once(codec, self.rank, 1)
            self.ledger.traffic[DOWNLINK, VALUE_BITS] += self._tally[1] * self.n_clients
            self._pending[name] = [self._send(buf[:nbytes], rank, TAG_DOWN, 1) for rank in self.others]
            self.clock.lap(SEND)
            if into is not None:
                self.deliver(mine, buf, nbytes, keys, round, into[:, self.served], add, False)
        for rank, reader, request, buf in arriving:
            nbytes = self.comm.wait(request)
            self.clock.lap(WAIT)
            if into is not None:
                self.deliver(reader, buf, nbytes, keys, round, into[:, self.slice_of(rank)], add, False)
        if own is not None:
            self._complete(name)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        assert into is not None
        plan = self.plan(codec)
        readers = [self.reader(codec, s) for s in range(self.placement.size)]
        groups = [self.addressed(plan, rank, active) for rank in range(self.placement.size)]
        mine = readers[self.rank]
        numbers = self.agreed(codec, v, round)[1]
        if mine is not None:
            if numbers is not None:
                mine.give(numbers[0])
            capacity = frame_capacity(mine, plan.largest)
            for rank in [*self.others, self.rank]:
                for g, group in enumerate(groups[rank]):
                    name = ("to", rank, g)
                    self._complete(name)
                    buf = self.buffer(name, capacity)
                    nbytes = self.write_scattered(mine, v, group, keys, round, buf, mirror, add)
                    self.count_once(codec, self.rank, len(group.rows))
                    self.ledger.traffic[DOWNLINK, VALUE_BITS] += self._tally[1]
                    if rank != self.rank:
                        self._pending[name] = [self._send(buf[:nbytes], rank, TAG_DOWN, len(group.rows))]
                        self.clock.lap(SEND)
                    elif len(group.rows):
                        self.set_rows(mine, buf, nbytes, group, keys, round, into[:, self.served], add)
        for rank in self.others:
            reader = readers[rank]
            if reader is None:
                continue
            buf = self.buffer(("from", rank, 0), frame_capacity(reader, plan.largest))
            for group in groups[self.rank]:
                nbytes = self.comm.recv(buf, rank, TAG_DOWN)
                self.clock.lap(WAIT)
                self.set_rows(reader, buf, nbytes, group, keys, round, into[:, self.slice_of(rank)], add)

    def talk(self, agreement: Agreement, codec: Codec, v: np.ndarray, round: int) -> np.ndarray:
        talk = agreement.talk(v, self.rank, self.placement.size)
        said = next(talk)
        while True:
            heard = self._hear(agreement, codec, said.view(np.uint8), len(v), round)
            try:
                said = talk.send(heard)
            except StopIteration as end:
                return np.array([end.value])

    def _hear(self, agreement: Agreement, codec: Codec, said: np.ndarray, rows: int, round: int) -> list[np.ndarray]:
        """What all ranks have said, in their order, after telling them what this one says."""
        arriving, heard, name = [], [said] * self.placement.size, ("say",)
        for rank in self.others:
            served = self.slice_of(rank)
            capacity = HEADER_NBYTES + agreement.room(rows, served.stop - served.start)
            buf = self.buffer(("heard", rank), capacity)
            arriving.append((rank, self.comm.irecv(buf[:capacity], rank, TAG_AGREE), buf))
        self._complete(name)
        self.clock.lap(ENCODE)
        frame = self.buffer(name, HEADER_NBYTES + len(said))[: HEADER_NBYTES + len(said)]
        frame[HEADER_NBYTES:] = said
        write_header(frame, codec.codec_id, dtype_flag(codec.wire_dtype), round, rows, len(said))
        self._pending[name] = [self._send(frame, rank, TAG_AGREE, 0) for rank in self.others]
        self.clock.lap(SEND)
        for rank, request, buf in arriving:
            nbytes = self.comm.wait(request)
            self.clock.lap(WAIT)
            header = read_header(buf, nbytes)
            check_header(header, codec=codec.codec_id, wire_dtype=codec.wire_dtype, round=round, messages=rows)
            heard[rank] = buf[HEADER_NBYTES:nbytes]
        return heard

    # ---- evaluation and the end -------------------------------------------------------------------------------------
    def assemble(self, x: np.ndarray) -> np.ndarray:
        size = x.dtype.itemsize
        whole = np.zeros((1, self.dim), x.dtype) if self.is_root else None
        part = np.ascontiguousarray(x).view(np.uint8).ravel()
        target = whole.view(np.uint8).ravel() if whole is not None else None
        self.comm.gatherv(part, target, np.diff(self.bounds) * size, self.bounds[:-1] * size, room=self.dim * size)
        return np.zeros((1, self.dim), x.dtype) if whole is None else whole

    def finish(self) -> None:
        for name in list(self._pending):
            self._complete(name)


class LocalShardedExchange(Slicing, LocalExchange):
    """One process that hosts everybody and serves every slice: it cuts and reads parts as `ShardedExchange` does, and sends nothing.

    The warm-up compiles the kernels with it, and tests compare it with `LocalExchange` bit for bit.

    Parameters
    ----------
    servers, alignment : number of slices, and what their bounds are multiples of. For the others see LocalExchange.
    """

    name = "sharded"

    def __init__(
        self, n_clients: int, dim: int, dtype: DTypeLike = np.float64, weights: np.ndarray | None = None,
        ledger: Ledger | None = None, clock: Clock | None = None, clients: np.ndarray | None = None, servers: int = 2,
        alignment: int = LEAST,
    ):  # fmt: skip
        super().__init__(n_clients, dim, dtype, weights, ledger, clock, clients)
        self.cut_at(slices(dim, servers, alignment))

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        fold, capacity = self.fold(codec, total, weights, separate), self.part_capacity(codec, plan.largest)
        for group in self.speaking(plan, 0, active):
            frame, nbytes, frames = self.write_parts(codec, V, group, keys, round, ("up",), capacity)
            self.record_uplink(nbytes, len(group.rows))
            for s, part in enumerate(frames[:1] if codec.whole else frames):
                reader = self.reader(codec, s)
                if reader is not None:
                    columns = fold.total if codec.whole else fold.total[:, self.slice_of(s)]
                    self.accumulate(reader, part, len(part), group, keys, round, fold._replace(total=columns))
            if add_to is not None:
                self.absorb(codec, frame, nbytes, group, keys, round, add_to, scale)

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        if codec.whole:
            super().broadcast(codec, v, keys, round, into, add)
            return
        v, numbers = self.agreed(codec, v, round)
        assert v is not None and into is not None
        group = self._server_row
        for s in range(len(self.bounds) - 1):
            reader = self.reader(codec, s)
            if reader is not None:
                if numbers is not None:
                    reader.give(numbers[s])
                buf = self.buffer(("frame",), frame_capacity(reader))
                served = self.slice_of(s)
                part, target = columns(v, served.start, served.stop), into[:, served]
                nbytes = self.write_frame(reader, part, group.rows, group.clients, keys, round, buf)
                self.count_once(codec, s, 1)
                self.record_downlink(nbytes, 1, IN_MEMORY, self.n_clients)
                self.deliver(reader, buf, nbytes, keys, round, target, add, False)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        assert v is not None and into is not None
        plan, numbers = self.plan(codec), self.agreed(codec, v, round)[1]
        for s in range(len(self.bounds) - 1):
            reader = self.reader(codec, s)
            if reader is None:
                continue
            if numbers is not None:
                reader.give(numbers[s])
            buf, columns = self.buffer(("frame",), frame_capacity(reader, plan.largest)), self.slice_of(s)
            own = mirror[:, columns] if mirror is not None else None
            for group in self.addressed(plan, 0, active):
                nbytes = self.write_scattered(
                    reader, np.ascontiguousarray(v[:, columns]), group, keys, round, buf, own, add
                )
                self.count_once(codec, s, len(group.rows))
                self.record_downlink(nbytes, len(group.rows), IN_MEMORY)
                self.set_rows(reader, buf, nbytes, group, keys, round, into[:, columns], add)

    def talk(self, agreement: Agreement, codec: Codec, v: np.ndarray, round: int) -> np.ndarray:
        slices = len(self.bounds) - 1
        talks = [agreement.talk(np.ascontiguousarray(v[:, self.slice_of(s)]), s, slices) for s in range(slices)]
        heard = [next(talk).view(np.uint8) for talk in talks]
        found: list[np.ndarray] = []
        while not found:
            said = []
            for talk in talks:
                try:
                    said.append(talk.send(heard).view(np.uint8))
                except StopIteration as end:
                    found.append(end.value)
            heard = said
        return np.array(found)
