"""Natural compression: stochastic rounding to a power of two; only sign and exponent travel."""

from __future__ import annotations

import numpy as np

from ..kernels import njit
from ..kernels.bits import CHUNK, pack, packed_nbytes, padding_is_zero, unpack
from ..kernels.random import bits32, client_key
from ..kernels.status import BAD_PADDING, TRUNCATED
from .base import Codec, Compressor, compressors


@compressors.register("natural")
class Natural(Compressor):
    """C(t) = sign(t) 2^⌊log2|t|⌋ with probability (2^⌈log2|t|⌉ − |t|)/2^⌊log2|t|⌋, else sign(t) 2^⌈log2|t|⌉, for each entry t.

    9 bits an entry on a float32 wire, 12 on a float64 wire: sign and exponent. Adding random bits to the mantissa and keeping what
    carries into the exponent is this rounding exactly. The same addition rounds a subnormal, without bias, to zero or to the smallest
    normal number 2^−126 (2^−1022), where ω = 1/8 does not hold; a number that would round above the largest power of two
    stays there; infinity, NaN, and what overflows the wire dtype arrive as NaN.

    >>> Natural().omega(100)
    0.125
    """

    codec_id = 6
    summary = "sign and exponent, rounded at random to a power of two"
    formulas = "ω = 1/8"
    paper = "Horváth, Ho, Horváth, Sahu, Canini and Richtárik 2022, Natural compression"
    unbiased = True
    homogeneous = False

    def omega(self, d: int, n: int = 1) -> float:
        return 1 / 8

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        wire = np.dtype(wire_dtype)
        mantissa = np.finfo(wire).nmant
        width = 8 * wire.itemsize - mantissa
        values = np.empty(CHUNK, wire)
        bits = values.view(np.uint32 if wire.itemsize == 4 else np.uint64)
        args = width, mantissa, values, bits, np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
        max_nbytes = packed_nbytes(dim, width)
        return Codec(self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True)


@njit
def _encode(
    V, rows, clients, shared, private, buf, pos, tally, wire, width, mantissa, values, bits, codes, top
):  # fmt: skip
    d = V.shape[1]
    exponents = (1 << (width - 1)) - 1  # the exponent field of infinity and NaN
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], client_key(private, clients[j])
        for first in range(0, d, CHUNK):
            chunk = x[first : first + CHUNK]
            count = chunk.shape[0]
            for i in range(count):
                values[i] = chunk[i]
            for i in range(count):
                field = np.int64(bits[i] >> mantissa)
                # as many random bits as the mantissa has; where it has more than 32, at its upper end
                draw = (
                    np.int64(bits32(key, first + i)) << 20 if mantissa > 32 else np.int64(bits32(key, first + i)) >> 9
                )
                fraction = np.int64(bits[i]) & ((1 << mantissa) - 1)
                exponent = field & exponents
                carry = (fraction + draw) >> mantissa
                codes[i] = field + (carry if exponent < exponents - 1 else 0)
            pack(codes, first, count, d, width, buf, pos, top)
        pos += packed_nbytes(d, width)
    tally[0] += 8 * packed_nbytes(d, width) * rows.shape[0]
    tally[1] += d * width * rows.shape[0]
    return pos


@njit
def _decode(
    buf, pos, end, rows, clients, weights, shared, private, out, wire, width, mantissa, values, bits, codes, top
):  # fmt: skip
    d = out.shape[1]
    exponents = (1 << (width - 1)) - 1
    for j in range(rows.shape[0]):
        if pos + packed_nbytes(d, width) > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * pos + d * width):
            return BAD_PADDING
        weight = weights[j]
        for first in range(0, d, CHUNK):
            chunk = out[rows[j], first : first + CHUNK]
            count = chunk.shape[0]
            unpack(buf, pos, first, count, d, width, codes, top)
            for i in range(count):
                field = np.int64(codes[i])
                # a set mantissa bit makes NaN of what would be infinity
                bits[i] = (field << mantissa) + (field & exponents == exponents)
            for i in range(count):
                chunk[i] += weight * values[i]
        pos += packed_nbytes(d, width)
    return pos
