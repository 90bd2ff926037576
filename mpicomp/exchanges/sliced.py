"""Sliced exchange: as sharded, but every slice of a vector is compressed for itself, so that any compressor travels in both directions.

A message for a slice is written where it is sent from, and the next slice is compressed while it travels. Nothing is cut, so compressors
of one's own go too, and a server compresses what it sends down by the same compressor as the clients theirs.
What a compressor does then depends on where slices begin, and so on the number of ranks: Top-K keeps k entries of each slice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import SEND
from ..cluster.ledger import UPLINK, VALUE_BITS
from ..compressors import Codec, Compressor
from ..compressors.layers import LayeredCodec, Layers, columns
from ..kernels.random import Keys
from .base import Exchange, ExchangeSetting, Group, Vectors, exchanges
from .p2p import TAG_UP
from .sharded import LocalShardedExchange, ShardedExchange
from .slicing import Slicing


class BySlice(Slicing):
    """A codec for each slice."""

    def bind(self, compressor: Compressor, wire_dtype: DTypeLike) -> Codec:
        return Layers.over(compressor, np.unique(self.bounds)).bind(self.dim, self.n_clients, wire_dtype)

    def check(self, codec: Codec, uplink: bool) -> None:
        if not isinstance(codec, LayeredCodec):
            super().check(codec, uplink)


@exchanges.register("sliced")
class SlicedExchange(BySlice, ShardedExchange):
    """Every rank is a worker and the server of a slice, which is compressed for itself. Parameters as for ShardedExchange."""

    summary = "sharded, each slice compressed for itself: any compressor, both directions; results depend on the number of ranks"

    @classmethod
    def create(cls, setting: ExchangeSetting) -> SlicedExchange:
        assert setting.comm is not None
        return cls(setting.comm, setting.n_clients, setting.dim, setting.dtype, setting.weights, setting.clock)

    @classmethod
    def create_for_warmup(cls, setting: ExchangeSetting, clients: np.ndarray, ranks: int) -> Exchange:
        return LocalSlicedExchange(setting.n_clients, setting.dim, setting.dtype, clients=clients, servers=ranks)

    def _send_up(
        self, codec: Codec, V: Vectors, group: Group, keys: Keys, round: int, name: tuple, capacity: int,
        add_to: np.ndarray | None, scale: float,
    ) -> np.ndarray:  # fmt: skip
        if not isinstance(codec, LayeredCodec):
            return super()._send_up(codec, V, group, keys, round, name, capacity, add_to, scale)
        self._complete(name)
        assert V is not None
        frames, requests = self.buffer(("parts", *name), self.placement.size * capacity), []
        own = frames[:0]
        for rank in [*self.others, self.rank]:
            reader = self.reader(codec, rank)
            if reader is None:
                continue
            part, served = frames[rank * capacity : (rank + 1) * capacity], self.slice_of(rank)
            vectors = columns(V, served.start, served.stop)
            nbytes = self.write_frame(reader, vectors, group.rows, group.clients, keys, round, part)
            self.ledger.traffic[UPLINK, VALUE_BITS] += self._tally[1]
            if rank == self.rank:
                own = part[:nbytes]
            else:
                requests.append(self._send(part[:nbytes], rank, TAG_UP, len(group.rows)))
                self.clock.lap(SEND)
            if add_to is not None:
                self.absorb(reader, part, nbytes, group, keys, round, add_to[:, served], scale)
        self._pending[name] = requests
        return own


class LocalSlicedExchange(BySlice, LocalShardedExchange):
    """One process that hosts everybody and serves every slice, as `LocalShardedExchange`: for the warm-up, and for tests."""

    name = "sliced"

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(codec, LayeredCodec):
            super().gather(codec, V, keys, round, total, add_to, scale, active, weights, separate)
            return
        assert V is not None
        plan = self.plan(codec)
        fold = self.fold(codec, total, weights, separate)
        buf = self.buffer(("frame",), self.part_capacity(codec, plan.largest))
        for group in self.speaking(plan, 0, active):
            for s in range(len(self.bounds) - 1):
                reader, served = self.reader(codec, s), self.slice_of(s)
                if reader is None:
                    continue
                vectors = columns(V, served.start, served.stop)
                nbytes = self.write_frame(reader, vectors, group.rows, group.clients, keys, round, buf)
                self.record_uplink(nbytes, len(group.rows))
                part = fold._replace(total=fold.total[:, served])
                self.accumulate(reader, buf, nbytes, group, keys, round, part)
                if add_to is not None:
                    self.absorb(reader, buf, nbytes, group, keys, round, add_to[:, served], scale)
