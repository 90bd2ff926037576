"""Sets of indices as few bits: fixed width, or gaps.

A set of N increasing indices below d is written as N fields of ⌈log2 d⌉ bits, or as gaps. The gap g >= 0 is the number of
indices left out before an index. Its low l bits go to a packed array; the rest, q = g >> l, follows in its very next bits as q zeros and a
one (Golomb 1966, Rice 1979). For a random set of N << d this takes 0.03 to 0.13 bits an index more than the least possible,
log2 C(d, N) / N; Elias and Fano's code of the same l (0.5 bits more) is never shorter, and l = 0 is the bitmap of the set
without the zeros after the last one. The encoder takes what is shortest for the set at hand.
"""

from __future__ import annotations

import numpy as np

from . import njit
from .bits import bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from .lanes import load_word, store_word, trailing_zeros
from .status import BAD_INDEX, BAD_PADDING, TRUNCATED

FIXED = 32  # index coding "fixed width"; 0 to 31 are the low widths l of gaps


@njit
def choose_coding(indices, count, dim):
    """The shortest coding of the increasing `indices[:count]`: FIXED, or l for gaps with l low bits."""
    coding, best = FIXED, packed_nbytes(count, bit_length(dim - 1))
    if count == 0:
        return coding
    # gaps of mean m are geometric, nearly, and the best l is next to log2(m ln 2)
    mean = (indices[count - 1] + 1 - count) / count
    low = bit_length(np.int64(mean * np.log(2.0)))
    for width in range(max(low - 1, 0), min(low + 1, 31) + 1):
        nbytes = packed_nbytes(count * width + _unary_bits(indices, count, width), 1)
        if nbytes < best:
            coding, best = width, nbytes
    return coding


@njit
def write_indices(indices, count, dim, coding, buf, pos, fields, top):
    """Write the increasing `indices[:count]`; returns the position after them.

    Parameters
    ----------
    fields : scratch, uint32, shape (>= count,); top : scratch, uint8, shape (CHUNK,).
    """
    if coding == FIXED:
        for i in range(count):
            fields[i] = indices[i]
        return pack_all(fields, count, bit_length(dim - 1), buf, pos, top)
    low = (1 << coding) - 1
    if count > 0:
        fields[0] = indices[0] & low
    later, earlier = indices[1:count], indices[: max(count - 1, 0)]
    for i in range(later.shape[0]):
        fields[i + 1] = (later[i] - earlier[i] - 1) & low
    bit = 8 * pos + count * coding
    pack_all(fields, count, coding, buf, pos, top)
    return _write_high_parts(indices, count, coding, buf, bit)


@njit
def _write_high_parts(indices, count, coding, buf, bit):
    """Write the unary high parts of the gaps from bit number `bit` of `buf` on, 64 bits at a time; returns the position after them."""
    byte, offset, next_index = bit >> 3, bit & 7, 0
    word = np.uint64(buf[byte]) if offset else np.uint64(0)
    for i in range(count):
        offset += (indices[i] - next_index) >> coding
        next_index = indices[i] + 1
        while offset >= 64:
            store_word(buf, byte, word)
            byte, offset, word = byte + 8, offset - 64, np.uint64(0)
        word |= np.uint64(1) << np.uint64(offset)
        offset += 1
    end = byte + ((offset + 7) >> 3)
    for b in range(byte, end):
        buf[b] = np.uint8(word >> np.uint64(8 * (b - byte)))
    return end


@njit
def read_indices(buf, pos, end, count, dim, coding, indices, fields, top):
    """Read `count` indices below `dim`; returns the position after them or a negative status."""
    width = bit_length(dim - 1) if coding == FIXED else coding
    start, bit = pos, 8 * pos + count * width
    pos += packed_nbytes(count, width)
    if pos > end:
        return TRUNCATED
    unpack_all(buf, start, count, width, fields, top)
    if coding != FIXED:
        return _add_high_parts(buf, bit, 8 * end, count, dim, coding, indices, fields)
    if not padding_is_zero(buf, bit):
        return BAD_PADDING
    previous = -1
    for i in range(count):
        indices[i] = fields[i]
        if indices[i] <= previous or indices[i] >= dim:
            return BAD_INDEX
        previous = indices[i]
    return pos


@njit
def _add_high_parts(buf, bit, limit, count, dim, coding, indices, fields):
    """Join the low parts of the gaps in `fields` with the unary high parts, which begin at `bit` and end before `limit`."""
    end, byte, next_index = limit >> 3, bit >> 3, 0
    word = _word_before(buf, byte, end) >> np.uint64(bit & 7) << np.uint64(bit & 7)
    for i in range(count):
        while word == 0:
            byte += 8
            if byte >= end:
                return TRUNCATED
            word = _word_before(buf, byte, end)
        one = 8 * byte + trailing_zeros(word)
        word &= word - np.uint64(1)  # without its lowest one
        index = next_index + ((one - bit) << coding) + np.int64(fields[i])
        if index >= dim:
            return BAD_INDEX
        indices[i] = index
        next_index, bit = index + 1, one + 1
    return (bit + 7) >> 3 if padding_is_zero(buf, bit) else BAD_PADDING


@njit
def _word_before(buf, byte, end):
    """Eight bytes of `buf` from `byte` on; zeros for those at `end` and after."""
    if byte + 8 <= end:
        return load_word(buf, byte, np.uint64)
    word = np.uint64(0)
    for b in range(byte, end):
        word |= np.uint64(buf[b]) << np.uint64(8 * (b - byte))
    return word


@njit
def _unary_bits(indices, count, low_width):
    """Length of the unary high parts: a one for each index and, in zeros, the gaps without their low bits."""
    bits = count + (indices[0] >> low_width)
    later, earlier = indices[1:count], indices[: count - 1]
    for i in range(later.shape[0]):
        bits += (later[i] - earlier[i] - 1) >> low_width
    return bits
