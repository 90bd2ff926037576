"""Ternary quantization: three values, five of them in a byte."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..errors import unknown
from ..kernels import njit
from ..kernels.bits import CHUNK
from ..kernels.levels import TRITS, no_scale, pack_trits, trits_nbytes, unit_of, unpack_trits
from ..kernels.quantize import round_to_grid
from ..kernels.random import client_key, shifted
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_VALUE, TRUNCATED
from .agreement import Norm
from .base import Compressor, compressors
from .codec import Codec, cut_by_fields
from .identity import Identity

_SCALES = ("max", "unit")
_CHUNK = CHUNK // TRITS * TRITS


@compressors.register("ternary")
class Ternary(Compressor):
    """C(x)_j = s sign(x_j) with probability |x_j|/s, else 0; s = max_j |x_j|. 1.6 bits an entry, where log2 3 = 1.585.

    Parameters
    ----------
    scale : "max", or "unit": s = 1 and is not sent, for entries that lie in −1..1 (beyond, they are cut off). Method terngrad, whose
        clients share one scale, sends that one apart.

    ω = (√d − 1)/2, as of qsgd with one level and the largest magnitude as its norm.

    >>> Ternary().omega(9)
    1.0
    """

    codec_id = 33
    summary = "−s, 0 or s, five entries in a byte"
    formulas = "ω = (√d − 1)/2"
    paper = "Wen et al. 2017, TernGrad"
    unbiased = True

    def __init__(self, scale: str = "max"):
        if scale not in _SCALES:
            raise unknown("scale", scale, _SCALES)
        self.scale = scale
        self.unbiased = self.homogeneous = self.carries_nan = scale == "max"

    def omega(self, d: int, n: int = 1) -> float:
        if not self.unbiased:
            return super().omega(d, n)
        return (math.sqrt(d) - 1) / 2

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        own = self.scale == "max"
        max_nbytes = wire.itemsize * own + trits_nbytes(dim)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        args, given = (own, np.empty(PARTIAL_SUMS), np.empty(_CHUNK, np.uint8)), np.empty(0)
        alignment, head = 8 * TRITS, wire.itemsize * own
        cutting = cut_by_fields(head, 1, TRITS, alignment=alignment)._replace(offset=True)
        grid, norm = math.lcm(alignment, _CHUNK), Norm(0) if own else None
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (*args, given, 0), fixed=True,
            cutting=cutting.encoded_on(grid, norm, 8 * head), given=given if own else None,
        )  # fmt: skip


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, own: bool, partial_sums: np.ndarray, codes: np.ndarray,
    given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d, begin = V.shape[1], pos
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], shifted(client_key(private, clients[j]), lo)
        unit = wire.dtype.type(1)
        if own:
            unit = unit_of(x, 1, True, partial_sums, wire, given, rows[j])
            buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = unit
            pos += wire.itemsize
        for first in range(0, d, codes.shape[0]):
            last = min(first + codes.shape[0], d)
            if np.isfinite(unit):
                round_to_grid(x, first, last, unit, 1, key, codes, 0)
            else:
                codes[:] = 1
            pos = pack_trits(codes, last - first, buf, pos)
    tally += 8 * (pos - begin)
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, own: bool, partial_sums: np.ndarray, codes: np.ndarray,
    given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        start = pos + (wire.itemsize if own else 0)
        if start + trits_nbytes(d) > end:
            return TRUNCATED
        unit = buf[pos:start].view(wire.dtype)[0] if own else wire.dtype.type(1)
        if no_scale(unit):
            return BAD_VALUE
        weight, pos = weights[j], start
        for first in range(0, d, codes.shape[0]):
            chunk = out[rows[j], first : first + codes.shape[0]]
            pos = unpack_trits(buf, pos, chunk.shape[0], codes)
            if pos < 0:
                return BAD_VALUE
            for i in range(chunk.shape[0]):
                chunk[i] += weight * (unit * wire.dtype.type(np.int32(codes[i]) - np.int32(1)))
    return pos
