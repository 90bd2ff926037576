"""Sets of indices as few bits: fixed width, or gaps.

A set of N increasing indices below d is written as N fields of ⌈log2 d⌉ bits, or as gaps. The gap g >= 0 is the number of
indices left out before an index. Its low l bits go to a packed array; the rest, q = g >> l, follows in its very next bits as q zeros and a
one (Golomb 1966, Rice 1979). For a random set of N << d this takes 0.03 to 0.13 bits an index more than the least possible,
log2 C(d, N) / N; Elias and Fano's code of the same l (0.5 bits more) is never shorter, and l = 0 is the bitmap of the set
without the zeros after the last one. The encoder takes what is shortest for the set at hand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import njit
from .bits import bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from .intrinsics import fetch_entry, load_word, ones, store_word, trailing_zeros
from .status import BAD_COUNT, BAD_INDEX, BAD_MODE, BAD_PADDING, TRUNCATED

FIXED = 32  # index coding "fixed width"; 0 to 31 are the low widths l of gaps
_PARTIAL = 0x80  # bit of a message's first byte: fewer than k entries, their number follows


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
def write_head(coding, count, k, buf, pos):
    """The coding of a message of `count` entries, k at most: its first byte, and the number of entries where it is not k."""
    buf[pos] = coding | (_PARTIAL if count < k else 0)
    pos += 1
    if count < k:
        for b in range(packed_nbytes(bit_length(k), 1)):
            buf[pos] = (count >> (8 * b)) & 255
            pos += 1
    return pos


@njit
def read_head(buf, pos, end, k):
    """What `write_head` wrote: the position after it, or a negative status; the coding; the number of entries."""
    if pos >= end:
        return TRUNCATED, 0, 0
    coding, count = np.int64(buf[pos]) & ~_PARTIAL, k
    pos += 1
    if coding > FIXED:
        return BAD_MODE, 0, 0
    if buf[pos - 1] & _PARTIAL:
        size = packed_nbytes(bit_length(k), 1)
        if pos + size > end:
            return TRUNCATED, 0, 0
        count = 0
        for b in range(size):
            count |= np.int64(buf[pos]) << (8 * b)
            pos += 1
        if count >= k:
            return BAD_COUNT, 0, 0
    return pos, coding, count


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
    after = read_low_parts(buf, pos, end, count, dim, coding, fields, top)
    if after < 0:
        return after
    if coding != FIXED:
        reader = next_indices(
            buf, end, 0, count, dim, coding, indices, fields, first_reader(buf, pos, end, count, coding), None
        )
        return min(reader.after, after)
    previous = -1
    for i in range(count):
        indices[i] = fields[i]
        if indices[i] <= previous or indices[i] >= dim:
            return BAD_INDEX
        previous = indices[i]
    return after


@njit
def read_low_parts(buf, pos, end, count, dim, coding, fields, top):
    """Read the packed array of a set of indices; returns the position after the whole set or a negative status."""
    width = bit_length(dim - 1) if coding == FIXED else coding
    bit, after = 8 * pos + count * width, pos + packed_nbytes(count, width)
    if after > end:
        return TRUNCATED
    unpack_all(buf, pos, count, width, fields, top)
    if coding != FIXED:
        bit = _after_ones(buf, bit, end, count)
        if bit < 0:
            return TRUNCATED
        after = (bit + 7) >> 3
    return after if padding_is_zero(buf, bit) else BAD_PADDING


@njit
def _after_ones(buf, bit, end, count):
    """The number of the bit after one number `count` of those from `bit` on, or −1 where there are fewer before byte `end`."""
    byte = bit >> 3
    if count == 0:
        return bit
    word = _word_before(buf, byte, end) >> np.uint64(bit & 7) << np.uint64(bit & 7)
    while ones(word) < count:
        count -= ones(word)
        byte += 8
        if byte >= end:
            return -1
        word = _word_before(buf, byte, end)
    for _ in range(count - 1):
        word &= word - np.uint64(1)
    return 8 * byte + trailing_zeros(word) + 1


class Reader(NamedTuple):
    """Where `next_indices` goes on.

    word, byte : the ones not read yet of the eight bytes from `byte` on. start : the bit at which the high parts begin. total : the next
    index without its zeros. after : 2**62, or the status of what is wrong.
    """

    word: np.uint64
    byte: int
    start: int
    total: int
    after: int


@njit
def first_reader(buf, pos, end, count, coding):
    """The reader before the first of `count` gaps of a set at `pos`."""
    bit = 8 * pos + count * coding
    word = _word_before(buf, bit >> 3, end) >> np.uint64(bit & 7) << np.uint64(bit & 7)
    return Reader(word, bit >> 3, bit, (1 << coding) - 1, 1 << 62)


@njit
def next_indices(buf, end, first, stop, dim, coding, indices, fields, reader, target):
    """indices[first:stop] from the low parts of the gaps in `fields` and their unary high parts; returns the next reader.

    Index i is the number of zeros before one number i, shifted by l, and the sum of all low parts up to its own, and i. The caller has
    read the low parts, and so knows that all ones are there. Where `target` is an array and not None, its entries at the indices are
    meanwhile brought from memory.
    """
    word, byte, start, total, after = reader
    step = 1 - (1 << coding)
    for i in range(first, stop):
        while word == 0:
            byte += 8
            if 8 * byte - start - i > dim >> coding:
                return Reader(word, byte, start, total, BAD_INDEX)
            word = _word_before(buf, byte, end)
        total += np.int64(fields[i]) + step
        index = ((8 * byte + trailing_zeros(word) - start) << coding) + total
        word &= word - np.uint64(1)  # without its lowest one
        if index >= dim:
            return Reader(word, byte, start, total, BAD_INDEX)
        if target is not None:
            fetch_entry(target, index)
        store_word(indices, 8 * i, index)
    return Reader(word, byte, start, total, after)


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
