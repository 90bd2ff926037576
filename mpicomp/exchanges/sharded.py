"""Sharded exchange: every rank hosts clients and serves a slice of the coordinates, so that no rank's link or memory is the wall.

Up, a client's message is encoded once, as for one server, and cut into parts (`compressors.codec.Cutting`), each of which goes to the rank
that serves its slice. Every server adds the parts in client order: the bits are those of one server. Down, each rank broadcasts its slice.
Vectors of another dimension (a few scalars beside the vectors: `Codec.whole`) go to every rank whole, so that all
of them know the same sum and nothing is left to send down.
"""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import ENCODE, SEND, WAIT, Clock
from ..cluster.comm import Comm
from ..cluster.ledger import DOWNLINK, IN_MEMORY, UPLINK, VALUE_BITS, Ledger
from ..cluster.placement import slices
from ..compressors import Codec, compressors
from ..compressors.base import EXAMPLE_CLIENTS, EXAMPLE_DIM, example
from ..compressors.layers import columns
from ..errors import ConfigError
from ..kernels.random import Keys
from ..wire import HEADER_NBYTES, dtype_flag, write_header
from .base import Exchange, ExchangeSetting, Group, Vectors, exchanges, frame_capacity
from .local import LocalExchange
from .mpi import MPIExchange
from .p2p import SLOTS, TAG_DOWN, TAG_UP

if TYPE_CHECKING:
    from ..cluster.messages import AnyRequest

LEAST = 40  # slices begin at multiples of so many coordinates, at least: whole bytes of bits, and of trits at five to a byte


def alignment_of(codecs: list[Codec]) -> int:
    """What all bounds of slices must be multiples of, so that the messages of these codecs can be cut there."""
    return lcm(LEAST, *(codec.cutting.alignment for codec in codecs if codec.cutting is not None))


def _cut(separable: bool) -> str:
    """The names of mpicomp's own compressors whose messages can be cut, or even written slice by slice."""
    names = []
    for name in (name for name in compressors if compressors[name].__module__.startswith("mpicomp.")):
        cutting = example(name).bind(EXAMPLE_DIM, EXAMPLE_CLIENTS).cutting
        if cutting is not None and (cutting.separable or not separable):
            names.append(name)
    return ", ".join(names)


class Slicing(Exchange):
    """What the exchanges that cut messages share.

    Attributes
    ----------
    bounds : int64, shape (S + 1,): slice s is [bounds[s], bounds[s+1]).
    """

    bounds: np.ndarray
    _readers: dict[tuple[Codec, int], Codec | None]

    def cut_at(self, bounds: np.ndarray) -> None:
        """Say where the slices are; once, while the exchange is made."""
        self.bounds, self._readers = bounds, {}

    def check(self, codec: Codec, uplink: bool) -> None:
        cutting, name = codec.cutting, codec.compressor.spec
        if codec.whole or (cutting is not None and (uplink or cutting.separable)):
            inner = self.bounds[self.bounds < self.dim]
            if cutting is not None and not codec.whole and np.any(inner % cutting.alignment):
                raise ConfigError(
                    f"«exchange='sharded'»: messages of {name!r} can be cut only at multiples of {cutting.alignment} coordinates, and "
                    f"the slices begin at {inner.tolist()}; use another bucket, or «exchange='p2p'»"
                )
            return
        if uplink:
            raise ConfigError(
                f"«exchange='sharded'» cannot cut the messages of compressor {name!r} into slices; it can with {_cut(False)}, "
                "with most of their options; or use «exchange='p2p'»"
            )
        raise ConfigError(
            f"«exchange='sharded'»: the downlink compressor {name!r} looks at whole vectors, of which each server has a slice; "
            f"{_cut(True)} and sign:norm=unit go by slices; or use «exchange='p2p'»"
        )

    def slice_of(self, s: int) -> slice:
        """The coordinates of slice s."""
        return slice(int(self.bounds[s]), int(self.bounds[s + 1]))

    def reader(self, codec: Codec, s: int) -> Codec | None:
        """The codec of what the server of slice s gets: parts, or whole messages; None where it gets nothing."""
        if codec.whole:
            return codec
        key = (codec, s)
        if key not in self._readers:
            lo, hi = int(self.bounds[s]), int(self.bounds[s + 1])
            self._readers[key] = codec.part(lo, hi) if lo < hi else None
        return self._readers[key]

    def part_capacity(self, codec: Codec, messages: int) -> int:
        """Bytes that a frame of so many parts may take."""
        readers = [self.reader(codec, s) for s in range(len(self.bounds) - 1)]
        return max(frame_capacity(reader, messages) for reader in readers if reader is not None)

    def write_parts(
        self, codec: Codec, V: Vectors, group: Group, keys: Keys, round: int, name: tuple, capacity: int,
    ) -> tuple[np.ndarray, int, list[np.ndarray]]:  # fmt: skip
        """Encode a group's messages and cut them.

        Returns the whole frame, its length, and a frame for each slice's server, without bytes where the slice is empty.
        """
        own, servers = None if codec.whole else self.own_frame(codec, V, group.rows), len(self.bounds) - 1
        frame = self.buffer(("whole", *name), frame_capacity(codec, len(group.rows))) if own is None else own
        nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, frame, own is not None)
        if codec.whole:
            return frame, nbytes, [frame[:nbytes]] * servers
        parts = self.buffer(("parts", *name), servers * capacity)
        first = np.arange(servers) * capacity
        places = first + HEADER_NBYTES
        codec.cut(frame, HEADER_NBYTES, group.clients, keys, self.bounds, parts, places)
        flags, frames = dtype_flag(codec.wire_dtype) | self.flags_sent, []
        for s in range(servers):
            part, length = parts[first[s] : places[s]], int(places[s] - first[s]) - HEADER_NBYTES
            if self.bounds[s] == self.bounds[s + 1]:
                part = part[:0]
            else:
                write_header(part, codec.codec_id, flags, round, len(group.rows), length)
            frames.append(part)
        self.clock.lap(ENCODE)
        return frame, nbytes, frames


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
        alignment = alignment_of(setting.codecs())
        return cls(
            setting.comm, setting.n_clients, setting.dim, setting.dtype, setting.weights, setting.clock, alignment
        )

    @classmethod
    def create_for_warmup(cls, setting: ExchangeSetting, clients: np.ndarray, ranks: int) -> Exchange:
        return LocalShardedExchange(
            setting.n_clients, setting.dim, setting.dtype, clients=clients, servers=ranks,
            alignment=alignment_of(setting.codecs()),
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
            own = self.own_frame(mine, v, group.rows)
            buf = self.buffer(name, frame_capacity(mine)) if own is None else own
            nbytes = self.write_frame(mine, v, group.rows, group.clients, keys, round, buf, own is not None)
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
        if mine is not None:
            capacity = frame_capacity(mine, plan.largest)
            for rank in [*self.others, self.rank]:
                for g, group in enumerate(groups[rank]):
                    name = ("to", rank, g)
                    self._complete(name)
                    buf = self.buffer(name, capacity)
                    nbytes = self.write_scattered(mine, v, group, keys, round, buf, mirror, add)
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
        assert v is not None and into is not None
        group = self._server_row
        for s in range(len(self.bounds) - 1):
            reader = self.reader(codec, s)
            if reader is not None:
                buf = self.buffer(("frame",), frame_capacity(reader))
                served = self.slice_of(s)
                part, target = columns(v, served.start, served.stop), into[:, served]
                nbytes = self.write_frame(reader, part, group.rows, group.clients, keys, round, buf)
                self.record_downlink(nbytes, 1, IN_MEMORY, self.n_clients)
                self.deliver(reader, buf, nbytes, keys, round, target, add, False)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        assert v is not None and into is not None
        plan = self.plan(codec)
        for s in range(len(self.bounds) - 1):
            reader = self.reader(codec, s)
            if reader is None:
                continue
            buf, columns = self.buffer(("frame",), frame_capacity(reader, plan.largest)), self.slice_of(s)
            own = mirror[:, columns] if mirror is not None else None
            for group in self.addressed(plan, 0, active):
                nbytes = self.write_scattered(
                    reader, np.ascontiguousarray(v[:, columns]), group, keys, round, buf, own, add
                )
                self.record_downlink(nbytes, len(group.rows), IN_MEMORY)
                self.set_rows(reader, buf, nbytes, group, keys, round, into[:, columns], add)
