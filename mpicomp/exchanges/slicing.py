"""What the exchanges that cut messages into slices share."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import numpy as np

from ..cluster.clock import ENCODE
from ..compressors import Codec, compressors
from ..compressors.agreement import Agreement
from ..compressors.base import EXAMPLE_CLIENTS, EXAMPLE_DIM, example
from ..compressors.codec import Difference, Sum
from ..errors import ConfigError
from ..kernels.random import Keys
from ..kernels.rows import add_scaled
from ..wire import HEADER_NBYTES, dtype_flag, write_header
from .base import Exchange, Group, Vectors, frame_capacity

LEAST = 40  # slices begin at multiples of so many coordinates, at least: whole bytes of bits, and of trits at five to a byte
_COARSE = 1024


def alignment_of(codecs: Sequence[Codec], downlink: Sequence[Codec] = ()) -> int:
    """What all bounds of slices must be multiples of, so that messages can be cut there.

    codecs : of both directions. downlink : those among them that encode slices.
    """
    steps = [codec.cutting.alignment for codec in codecs if codec.cutting is not None]
    grids = [codec.cutting.grid for codec in downlink if codec.cutting is not None]
    # slices that begin at blocks of thousands of coordinates are not made five times as coarse for trits that nobody has named
    return lcm(*steps, *grids) if max(grids, default=0) > _COARSE else lcm(LEAST, *steps, *grids)


def _cut() -> str:
    """The names of mpicomp's own compressors whose messages can be cut."""
    own = (name for name in compressors if compressors[name].__module__.startswith("mpicomp."))
    return ", ".join(name for name in own if example(name).bind(EXAMPLE_DIM, EXAMPLE_CLIENTS).cutting is not None)


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
        if codec.whole:
            return
        cutting, name = codec.cutting, codec.compressor.spec
        if cutting is None or not (uplink or cutting.separable):
            able = "cannot cut the messages of" if cutting is None else "cuts on the way up alone those of"
            raise ConfigError(
                f"«exchange='sharded'» {able} compressor {name!r} into slices; it can with {_cut()}, with most of "
                "their options; use «exchange='sliced'», where every slice is compressed for itself, or «exchange='p2p'»"
            )
        step = cutting.alignment if uplink else lcm(cutting.alignment, cutting.grid)
        inner = self.bounds[self.bounds < self.dim]
        if np.any(inner % step):
            raise ConfigError(
                f"«exchange='sharded'»: messages of {name!r} can be {'cut' if uplink else 'written in parts'} only at multiples of {step} "
                f"coordinates, and the slices begin at {inner.tolist()}; use another bucket, «exchange='sliced'» or «exchange='p2p'»"
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

    # ---- what slices agree on -------------------------------------------------------------------------------------
    def agreed(self, codec: Codec, v: Vectors, round: int) -> tuple[Vectors, np.ndarray | None]:
        """Before slices of v are encoded: v, formed where it must be looked at, and what the codecs of its parts are given; see `talk`.

        None in its place where nothing is agreed on.
        """
        cutting = codec.cutting
        if codec.whole or cutting is None or cutting.agreement is None or codec.round_maximum is not None:
            return v, None
        v = formed(v)
        return v, self.talk(cutting.agreement, codec, v, round)

    def measure(
        self, codec: Codec, v: Vectors, rows: np.ndarray, clients: np.ndarray, keys: Keys, round: int
    ) -> np.ndarray:
        assert codec.measure is not None
        if codec.whole or codec.cutting is None or codec.cutting.agreement is None:
            return super().measure(codec, v, rows, clients, keys, round)
        v = formed(v)
        return codec.measure(v, rows, clients, keys, self.talk(codec.cutting.agreement, codec, v, round)[0])

    def talk(self, agreement: Agreement, codec: Codec, v: np.ndarray, round: int) -> np.ndarray:
        """What the servers of all slices find out about vectors, of which v has what is served here; a row for each slice served here."""
        raise NotImplementedError

    def count_once(self, codec: Codec, s: int, messages: int) -> None:
        """Take what parts repeat out of the tally of those for slice s, so that the papers' count is that of whole messages."""
        if s > 0 and codec.cutting is not None and not codec.whole:
            self._tally[1] -= codec.cutting.repeated_bits * messages


def formed(v: Vectors) -> np.ndarray:
    """The vectors as an array, of contiguous rows."""
    assert v is not None
    if isinstance(v, Difference):
        return np.subtract(v.V, v.state, out=v.work)
    if isinstance(v, Sum):
        add_scaled(v.state, v.V, v.factor)
        return v.state
    return np.ascontiguousarray(v)
