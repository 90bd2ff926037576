"""Natural dithering: stochastic rounding to levels that are powers of two of the norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, pack, packed_nbytes, padding_is_zero, unpack
from ..kernels.levels import no_scale, unit_of
from ..kernels.random import client_key, uniform32
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .agreement import Norm
from .base import Compressor, compressors
from .codec import Codec, cut_by_fields
from .identity import Identity

_NORMS = ("l2", "max")


@compressors.register("natural-dithering")
class NaturalDithering(Compressor):
    """C(x)_j = ‖x‖ sign(x_j) ξ_j, ξ_j = |x_j|/‖x‖ rounded at random, without bias, to one of its neighbours among 0, 2^{1−s}, …, 1/2, 1.

    Parameters
    ----------
    levels : s, 1 to 1000; an entry takes ⌈log2(2s + 1)⌉ bits.
    norm : "l2" (the paper's p = 2) or "max" (p = ∞).

    ω is the paper's (r = min(p, 2) = 2): 1/8 for what lies above the lowest level u = 2^{1−s}, and below it y(u − y) ≤ uy, whose
    sum is at most √d u‖x‖₂² for both norms; d u² bounds it as well. A vector that is not finite, or whose norm overflows, arrives as NaN.

    >>> round(NaturalDithering(levels=8).omega(100), 4)
    0.1311
    """

    codec_id = 48
    carries_nan = True
    homogeneous = True
    summary = "stochastic rounding to s levels that are powers of two, times the norm"
    formulas = "ω = 1/8 + √d 2^{1−s} min{1, √d 2^{1−s}}"
    paper = "Horváth, Ho, Horváth, Sahu, Canini and Richtárik 2022, Natural compression"
    unbiased = True

    def __init__(self, levels: int = 7, norm: str = "l2"):
        if not isinstance(levels, int) or not 1 <= levels <= 1000:
            raise ConfigError(f"natural-dithering: levels={levels} must be an integer from 1 to 1000")
        if norm not in _NORMS:
            raise ConfigError(f"natural-dithering: norm={norm!r} is unknown; known: {', '.join(_NORMS)}")
        self.levels, self.norm = levels, norm

    def omega(self, d: int, n: int = 1) -> float:
        lowest = math.sqrt(d) * 2.0 ** (1 - self.levels)
        return 1 / 8 + lowest * min(1.0, lowest)

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire, width = self.wire_of(dim, wire_dtype), bit_length(2 * self.levels)
        max_nbytes = wire.itemsize + packed_nbytes(dim, width)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        scratch = np.empty(PARTIAL_SUMS), np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
        use_max, given = self.norm == "max", np.empty(0)
        norm = Norm(0 if use_max else 2)
        cutting = cut_by_fields(wire.itemsize, width=width).encoded_on(8, norm, 8 * wire.itemsize)._replace(offset=True)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (self.levels, width, use_max, *scratch, given, 0),
            fixed=True, cutting=cutting, given=given,
        )  # fmt: skip


@njit
def round_to_powers(x: np.ndarray, norm: float, levels: int, key: np.uint64, first: int, codes: np.ndarray) -> None:
    """codes[j] = q + levels, where |q| = l > 0 stands for 2^(l − levels) of the norm and has the sign of x_j; norm finite, > 0."""
    lowest = math.ldexp(1.0, 1 - levels)
    for j in range(x.shape[0]):
        y = np.float64(abs(x[j])) / norm
        u = uniform32(key, first + j)
        if y < lowest:
            level = np.int32(u * lowest < y)
        else:
            mantissa, exponent = math.frexp(y)  # y = mantissa · 2^exponent, mantissa in [1/2, 1)
            level = min(np.int32(exponent - 1 + levels + (u < 2.0 * mantissa - 1.0)), np.int32(levels))
        codes[j] = levels - level if x[j] < 0 else levels + level


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, levels: int, width: int, use_max: bool, partial_sums: np.ndarray,
    codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d = V.shape[1]
    nbytes = wire.itemsize + packed_nbytes(d, width)
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], client_key(private, clients[j])
        norm = unit_of(x, 1, use_max, partial_sums, wire, given, rows[j])
        buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = norm
        for first in range(0, d, CHUNK):
            chunk = x[first : first + CHUNK]
            if np.isfinite(norm) and norm > 0:
                round_to_powers(chunk, np.float64(norm), levels, key, lo + first, codes)
            else:
                codes[: chunk.shape[0]] = levels
            pack(codes, first, chunk.shape[0], d, width, buf, pos + wire.itemsize, top)
        pos += nbytes
    tally[0] += 8 * nbytes * rows.shape[0]
    tally[1] += (8 * wire.itemsize + d * width) * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, levels: Any, width: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        packed = pos + wire.itemsize
        stop = packed + packed_nbytes(d, width)
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * packed + d * width):
            return BAD_PADDING
        norm, weight = buf[pos:packed].view(wire.dtype)[0], weights[j]
        if no_scale(norm):
            return BAD_VALUE
        for first in range(0, d, CHUNK):
            chunk = out[rows[j], first : first + CHUNK]
            unpack(buf, packed, first, chunk.shape[0], d, width, codes, top)
            if codes[: chunk.shape[0]].max() > 2 * levels:
                return BAD_VALUE
            for i in range(chunk.shape[0]):
                q = np.int32(codes[i]) - np.int32(levels)
                share = math.ldexp(1.0, abs(q) - levels) if q != 0 else 0.0
                value = norm * wire.dtype.type(share)
                chunk[i] += weight * (-value if q < 0 else value)
        pos = stop
    return pos
