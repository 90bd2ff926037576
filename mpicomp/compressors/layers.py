"""Layers: consecutive blocks of coordinates (the tensors of a network, the slices of several servers), each with a compressor of its own.

A message of the whole vector is the messages of its blocks, one after the other. Where a rank has several clients, the messages of a
block stand side by side for all of them, so that what belongs to a block is consecutive in a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, WireError
from ..kernels.random import Keys, numbered_keys
from ..kernels.rows import add_scaled
from .base import UNLIMITED, Compressor, Constants
from .codec import WHY, Codec, Difference, Sum
from .identity import Identity

_BLOCKS = 1 << 32  # numbers of the keys of blocks, out of the way of those of a round's draws


class Block(NamedTuple):
    """One block of a codec: its number, the coordinates [lo, hi), the compressor, and its codec for so many coordinates."""

    number: int
    lo: int
    hi: int
    compressor: Compressor
    codec: Codec


class Layers(Compressor):
    """C(x) = (C_1(x_1), …, C_B(x_B)) for x cut into B blocks.

    The classes add up: ω is the largest of the blocks', α the smallest, and C is unbiased where all C_b are.

    Parameters
    ----------
    parts : (number of coordinates, compressor) of each block, in order.

    >>> from mpicomp.compressors import compressors
    >>> C = Layers([(3, compressors.create("topk:k=1")), (2, Identity())])
    >>> C.apply(np.array([1.0, -3.0, 2.0, 5.0, 6.0]))
    array([ 0., -3.,  0.,  5.,  6.])
    >>> C.alpha(5)
    0.3333333333333333

    Raises
    ------
    ConfigError : no block, or one without coordinates.
    """

    name = "layers"
    codec_id = 65
    largest_dim = UNLIMITED
    summary = "blocks of coordinates, each with a compressor of its own"
    formulas = "ω = max ω_b, α = min α_b"

    def __init__(self, parts: Sequence[tuple[int, Compressor]]):
        if not parts or any(count < 1 for count, _ in parts):
            raise ConfigError(f"layers: {len(parts)} blocks; at least one is needed, each of one coordinate or more")
        self.parts = tuple((int(count), compressor) for count, compressor in parts)
        own = [compressor for _, compressor in self.parts]
        self.unbiased = all(c.unbiased for c in own)
        self.contractive = all(c.contractive for c in own)
        self.deterministic = all(c.deterministic for c in own)
        self.homogeneous = all(c.homogeneous for c in own)
        self.nonexpansive = all(c.nonexpansive for c in own)
        self.carries_nan = all(c.carries_nan for c in own)
        self.shared_randomness = any(c.shared_randomness for c in own)

    @property
    def same_for_all(self) -> bool:
        return all(compressor.same_for_all for _, compressor in self.parts)

    @property
    def options(self) -> dict[str, Any]:
        return {"blocks": len(self.parts)}

    @property
    def spec(self) -> str:
        """The compressors and how many blocks each has, for people to read: no text makes one."""
        counts: dict[str, int] = {}
        for _, compressor in self.parts:
            counts[compressor.spec] = counts.get(compressor.spec, 0) + 1
        return "layers(" + ", ".join(f"{count} × {spec}" for spec, count in counts.items()) + ")"

    def cut_at(self, bounds: np.ndarray) -> Layers:
        """The same blocks, cut wherever a slice of coordinates begins; bounds : int64, rising, from 0 to the dimension."""
        ends = np.cumsum([count for count, _ in self.parts])
        inner = np.union1d(ends, bounds[bounds > 0])
        owner = np.searchsorted(ends, inner)
        return Layers(
            [(int(hi - lo), self.parts[b][1]) for (lo, hi), b in zip(pairwise([0, *inner]), owner, strict=True)]
        )

    @classmethod
    def over(cls, compressor: Compressor, bounds: np.ndarray) -> Layers:
        """`compressor` for each slice of coordinates on its own; the blocks of `Layers` are cut where slices begin."""
        whole = compressor if isinstance(compressor, Layers) else cls([(int(bounds[-1]), compressor)])
        return whole.cut_at(bounds)

    # ---- theory -------------------------------------------------------------------------------------------------
    def omega(self, d: int, n: int = 1) -> float:
        self._check(d)
        return max(c.omega(count, n) for count, c in self.parts)

    def alpha(self, d: int, n: int = 1) -> float:
        self._check(d)
        return min(c.alpha(count, n) for count, c in self.parts)

    def ab(self, d: int, n: int) -> tuple[float, float]:
        self._check(d)
        pairs = [c.ab(count, n) for count, c in self.parts]
        return max(a for a, _ in pairs), min(b for _, b in pairs)

    def theta(self, d: int, n: int) -> float:
        self._check(d)
        return max(c.theta(count, n) for count, c in self.parts)

    def gradient_variance(self, d: int, n: int, constants: Constants) -> float:
        # The constants are those of the whole vector, so only (A, B) of all blocks together enters.
        return super().gradient_variance(d, n, constants)

    def density(self, d: int, n: int = 1) -> float:
        self._check(d)
        return sum(c.density(count, n) for count, c in self.parts)

    def _check(self, dim: int) -> None:
        total = sum(count for count, _ in self.parts)
        if dim != total:
            raise ConfigError(f"{self.spec} has blocks for {total} coordinates, the vectors have {dim}")

    # ---- the codec ----------------------------------------------------------------------------------------------
    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        self._check(dim)
        wire, blocks, lo = self.wire_of(dim, wire_dtype), [], 0
        for number, (count, compressor) in enumerate(self.parts):
            codec = compressor.bind(count, n_clients, wire)
            if codec.round_maximum is not None:
                raise ConfigError(
                    f"compressor {compressor.spec!r} needs the largest norm of the whole vector before it writes a message, so it cannot "
                    "go by blocks or slices of coordinates; give it the whole vector, with «exchange='p2p'»"
                )
            blocks.append(Block(number, lo, lo + count, compressor, codec))
            lo += count
        if all(block.codec.codec_id == Identity.codec_id for block in blocks):
            return Identity().bind(dim, n_clients, wire)
        return LayeredCodec(self, blocks, n_clients, wire)


class LayeredCodec(Codec):
    """The codec of `Layers`: the messages of block after block.

    Parameters
    ----------
    blocks : consecutive ones. For the others see `Codec`.
    """

    def __init__(self, compressor: Layers, blocks: list[Block], n_clients: int, wire_dtype: np.dtype):
        first, dim = blocks[0].lo, blocks[-1].hi - blocks[0].lo
        capacity = sum(block.codec.max_nbytes for block in blocks)
        super().__init__(
            compressor, Layers.codec_id, dim, n_clients, wire_dtype, capacity, _not_called, _not_called,
            fixed=all(block.codec.fixed for block in blocks),
        )  # fmt: skip
        self.blocks, self.first = blocks, first

    @property
    def takes_difference(self) -> bool:
        return any(block.codec.takes_difference for block in self.blocks)

    @property
    def takes_sum(self) -> bool:
        return any(block.codec.takes_sum for block in self.blocks)

    def twin(self) -> Codec | None:
        return None

    def contractive(self) -> LayeredCodec:
        """The same in contractive form: the messages of blocks whose compressor is only unbiased count 1/(1+ω_b)."""
        blocks = [
            block._replace(codec=block.codec.scaled(1.0 / (1.0 + block.compressor.omega(block.hi - block.lo, self.n_clients))))
            if block.compressor.unbiased and not block.compressor.contractive
            else block
            for block in self.blocks
        ]  # fmt: skip
        assert isinstance(self.compressor, Layers)
        return LayeredCodec(self.compressor, blocks, self.n_clients, self.wire_dtype)

    def part(self, lo: int, hi: int) -> Codec:
        """The codec of the blocks in [lo, hi), which begins and ends with a block. It encodes and decodes."""
        inside = [block for block in self.blocks if lo <= block.lo and block.hi <= hi]
        assert inside and inside[0].lo == lo and inside[-1].hi == hi, f"blocks go across {lo} or {hi}"
        assert isinstance(self.compressor, Layers)
        return LayeredCodec(self.compressor, inside, self.n_clients, self.wire_dtype)

    def encode(
        self, V: np.ndarray | Difference | Sum, rows: np.ndarray, clients: np.ndarray, keys: Keys, buf: np.ndarray, pos: int,
        tally: np.ndarray,
    ) -> int:  # fmt: skip
        single = len(_first(V)) == 1
        for block in self.blocks:
            own, lo, hi = self._keys(block, keys), block.lo - self.first, block.hi - self.first
            if single:
                pos = block.codec.encode(_taken(block.codec, columns(V, lo, hi)), rows, clients, own, buf, pos, tally)
                continue
            for j in range(len(rows)):  # a row of a block is contiguous, the block is not
                row = _taken(block.codec, columns(_row(V, int(rows[j])), lo, hi))
                pos = block.codec.encode(row, _ROW, clients[j : j + 1], own, buf, pos, tally)
        return pos

    def decode_add(
        self, buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, keys: Keys, out: np.ndarray
    ) -> int:  # fmt: skip
        single = len(out) == 1
        for block in self.blocks:
            own, lo, hi = self._keys(block, keys), block.lo - self.first, block.hi - self.first
            scaled = weights if block.codec.scale == 1.0 else weights * weights.dtype.type(block.codec.scale)
            if single:
                pos = self._decode_block(block, buf, pos, end, rows, clients, scaled, own, out[:, lo:hi])
                continue
            for j in range(len(rows)):
                row, one = out[rows[j] : rows[j] + 1, lo:hi], slice(j, j + 1)
                pos = self._decode_block(block, buf, pos, end, _ROW, clients[one], scaled[one], own, row)
        if pos != end:
            raise WireError(f"layers messages end at byte {pos}, the frame at byte {end}")
        return pos

    @staticmethod
    def _decode_block(block: Block, buf: np.ndarray, pos: int, end: int, *rest: Any) -> int:
        rows, clients, weights, keys, out = rest
        codec = block.codec
        got = codec._decode(buf, pos, end, rows, clients, weights, keys.shared, keys.private, out, *codec.args)
        if got < 0:
            raise WireError(
                f"corrupted {codec.compressor.name} message of block {block.number}: {WHY.get(got, f'code {got}')}"
            )
        return got

    @staticmethod
    def _keys(block: Block, keys: Keys) -> Keys:
        """The block's own keys, so that no two blocks share random bits."""
        return keys if block.compressor.deterministic else numbered_keys(keys, _BLOCKS + block.number)


def columns(V: np.ndarray | Difference | Sum, lo: int, hi: int) -> Any:
    """Coordinates [lo, hi) of vectors, formed or not."""
    if isinstance(V, Difference):
        return Difference(*(array[:, lo:hi] for array in V))
    if isinstance(V, Sum):
        return Sum(V.state[:, lo:hi], V.V[:, lo:hi], V.factor)
    return V[:, lo:hi]


def _taken(codec: Codec, V: Any) -> Any:
    """The vectors as the codec takes them: formed where it cannot form them itself."""
    if isinstance(V, Difference) and not codec.takes_difference:
        return np.subtract(V.V, V.state, out=V.work)
    if isinstance(V, Sum) and not codec.takes_sum:
        add_scaled(V.state, V.V, V.factor)
        return V.state
    return V


def _first(V: np.ndarray | Difference | Sum) -> np.ndarray:
    return V if isinstance(V, np.ndarray) else V[0]


def _row(V: np.ndarray | Difference | Sum, row: int) -> Any:
    if isinstance(V, Difference):
        return Difference(*(array[row : row + 1] for array in V))
    if isinstance(V, Sum):
        return Sum(V.state[row : row + 1], V.V[row : row + 1], V.factor)
    return V[row : row + 1]


def _not_called(*args: Any) -> int:
    raise AssertionError("the blocks' kernels are called")


_ROW = np.zeros(1, np.int64)
