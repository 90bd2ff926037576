"""Natural compression: stochastic rounding to a power of two; only sign and exponent travel."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import lean
from ..kernels.bits import CHUNK, mantissa_of, pack_top, packed_nbytes, padding_is_zero, unpack_top
from ..kernels.blocks import powers_of_blocks, wide_powers_of_blocks
from ..kernels.intrinsics import bits_of, float_of
from ..kernels.random import client_key, dither32, shifted
from ..kernels.sizes import PAIR
from ..kernels.status import BAD_PADDING, TRUNCATED
from .base import Compressor, compressors
from .codec import Codec, cut_by_fields


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
    carries_nan = True
    summary = "sign and exponent, rounded at random to a power of two"
    formulas = "ω = 1/8"
    paper = "Horváth, Ho, Horváth, Sahu, Canini and Richtárik 2022, Natural compression"
    unbiased = True
    homogeneous = False

    def omega(self, d: int, n: int = 1) -> float:
        return 1 / 8

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        mantissa = np.finfo(wire).nmant
        width = 8 * wire.itemsize - mantissa
        args = np.empty(0, f"u{wire.itemsize}"), np.empty(CHUNK, np.uint8), 0
        max_nbytes = packed_nbytes(dim, width)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True,
            cutting=cut_by_fields(width=width).encoded_on(PAIR)._replace(offset=True),
        )  # fmt: skip


@lean
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, words: np.ndarray, top: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d, mantissa = V.shape[1], mantissa_of(wire)
    width = 8 * wire.itemsize - mantissa
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], shifted(client_key(private, clients[j]), lo >> 1)  # a word for two entries
        for first in range(0, d, CHUNK):
            stop = min(first + CHUNK, d)
            pairs = (stop - first) // PAIR
            rest = first + PAIR * pairs
            if mantissa == 23:
                powers_of_blocks(x, first, pairs, key, buf, pos + first, pos + d + (first >> 3))
                first = rest
            else:
                wide_powers_of_blocks(x, first, pairs, key, buf, pos + first, top)
            _round(x, rest, stop, key, buf, pos, wire, words, top[rest - first :])
            pack_top(top, first, stop - first, d, width, buf, pos)
        pos += packed_nbytes(d, width)
    tally[0] += 8 * packed_nbytes(d, width) * rows.shape[0]
    tally[1] += d * width * rows.shape[0]
    return pos


@lean
def _round(
    x: np.ndarray, first: int, stop: int, key: np.uint64, buf: np.ndarray, pos: int, wire: np.ndarray,
    words: np.ndarray, top: np.ndarray,
) -> None:  # fmt: skip
    """x[first:stop] as fields, whose low bytes go to their place in the packed array at `pos`, and the bits above to `top`."""
    word, mantissa = words.dtype.type, mantissa_of(wire)
    width = 8 * wire.itemsize - mantissa
    magnitude, largest = word(word(-1) >> word(1)), word(((1 << (width - 1)) - 2) << mantissa)
    for j in range(first, stop):
        bits = bits_of(wire.dtype.type(x[j]))
        # as many random bits as the mantissa has; where it has more than 32, at its upper end
        draw = word(dither32(key, j))
        draw = word(draw << word(20) if mantissa > 32 else draw >> word(9))
        # the largest power of two stays, and so do infinity and NaN
        field = word(bits + draw if word(bits & magnitude) < largest else bits)
        buf[pos + j] = np.uint8(field >> word(mantissa))
        top[j - first] = np.uint8(field >> word(mantissa + 8))


@lean
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, words: np.ndarray, top: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d, word, mantissa = out.shape[1], words.dtype.type, mantissa_of(wire)
    width = 8 * wire.itemsize - mantissa
    infinity = word(((1 << (width - 1)) - 1) << mantissa)
    for j in range(rows.shape[0]):
        if pos + packed_nbytes(d, width) > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * pos + d * width):
            return BAD_PADDING
        weight = weights[j]
        for first in range(0, d, CHUNK):
            chunk = out[rows[j], first : first + CHUNK]
            count = chunk.shape[0]
            low = buf[pos + first : pos + first + count]
            unpack_top(buf, pos, first, count, d, width, top)
            for i in range(count):
                field = word(word(low[i]) << word(mantissa) | word(top[i]) << word(mantissa + 8))
                # a set mantissa bit makes NaN of what would be infinity
                bits = word(field | word(1)) if word(field & infinity) == infinity else field
                chunk[i] += weight * float_of(bits)
        pos += packed_nbytes(d, width)
    return pos
