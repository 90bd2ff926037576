"""Small integers, packed: for sums of quantized vectors, which are exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, pack, packed_nbytes, padding_is_zero, unpack
from ..kernels.quantize import round_to_grid
from ..kernels.random import client_key, shifted
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .base import Compressor, compressors
from .codec import Codec, cut_by_fields
from .identity import Identity


@compressors.register("integers")
class Integers(Compressor):
    """C(x)_j is x_j rounded up or down at random, without bias, and cut off at ±levels; an integer stays what it is.

    Parameters
    ----------
    levels : 1 to 32767; an entry takes ⌈log2(2·levels + 1)⌉ bits. There is no scale and no NaN: the entries must be finite.
    """

    codec_id = 34
    summary = "integers in −levels..levels, packed; for vectors of integers, without error"
    formulas = "exact for integers; no ω, the error is absolute"
    paper = "Wen et al. 2017, TernGrad (its downlink)"
    homogeneous = False

    def __init__(self, levels: int = 127):
        if not isinstance(levels, int) or not 1 <= levels <= 32767:
            raise ConfigError(f"integers: levels={levels} must be an integer from 1 to 32767")
        self.levels = levels

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        width = bit_length(2 * self.levels)
        nbytes = packed_nbytes(dim, width)
        if nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        args = self.levels, width, np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8), 0
        return Codec(
            self, self.codec_id, dim, n_clients, wire, nbytes, _encode, _decode, args, fixed=True,
            cutting=cut_by_fields(width=width).encoded_on(CHUNK)._replace(offset=True),
        )  # fmt: skip


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, levels: int, width: int, codes: np.ndarray, top: np.ndarray,
    lo: int,
) -> int:  # fmt: skip
    d = V.shape[1]
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], shifted(client_key(private, clients[j]), lo)
        for first in range(0, d, CHUNK):
            last = min(first + CHUNK, d)
            round_to_grid(x, first, last, wire.dtype.type(1), levels, key, codes, 0)
            pack(codes, first, last - first, d, width, buf, pos, top)
        pos += packed_nbytes(d, width)
    tally[0] += 8 * packed_nbytes(d, width) * rows.shape[0]
    tally[1] += d * width * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, levels: int, width: int, codes: np.ndarray, top: np.ndarray,
    lo: int,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        stop, weight = pos + packed_nbytes(d, width), weights[j]
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * pos + d * width):
            return BAD_PADDING
        for first in range(0, d, CHUNK):
            chunk = out[rows[j], first : first + CHUNK]
            unpack(buf, pos, first, chunk.shape[0], d, width, codes, top)
            if codes[: chunk.shape[0]].max() > 2 * levels:
                return BAD_VALUE
            for i in range(chunk.shape[0]):
                chunk[i] += weight * wire.dtype.type(np.int32(codes[i]) - np.int32(levels))
        pos = stop
    return pos
