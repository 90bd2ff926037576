"""Packed arrays of small unsigned integers, and the bits of floating-point numbers.

A packed array of N fields of w bits takes ⌈Nw/8⌉ bytes: ⌊w/8⌋ planes of N bytes with the low bytes of all fields, the lowest first,
and then the remaining w mod 8 bits of all fields back to back, first field in the lowest bits. Unused bits at the end are zero.

Fields are handled in chunks of at most `CHUNK`, so that the arrays between two steps stay in the first-level cache. `CHUNK` is a
multiple of 8: chunks meet at whole bytes.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from . import njit

CHUNK = 2048

_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EVEN_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_LOW_HALF = np.uint64(0x00000000FFFFFFFF)


def unsigned(x: np.ndarray) -> np.ndarray:
    """The bits of a float array as unsigned integers of the same width (a view)."""
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


@overload(unsigned)
def _unsigned(x):
    if x.dtype == types.float32:
        return lambda x: x.view(np.uint32)
    return lambda x: x.view(np.uint64)


@njit
def bit_length(n):
    """Number of binary digits of n >= 0: the smallest w with n < 2**w."""
    width = 0
    while n >> width:
        width += 1
    return width


@njit
def packed_nbytes(total, width):
    """Bytes that `total` fields of `width` bits take."""
    return (total * width + 7) >> 3


@njit
def padding_is_zero(buf, bit):
    """Whether the bits from number `bit` of `buf` to the end of its byte are zero."""
    return bit & 7 == 0 or buf[bit >> 3] >> (bit & 7) == 0


@njit
def pack(fields, first, count, total, width, buf, pos, top):
    """Write fields `first` to `first + count` of a packed array of `total` fields that starts at `pos`.

    Parameters
    ----------
    fields : unsigned integers below 2**width, shape (>= count,); `first` and, but for the last chunk, `count` are multiples of 8.
    top : scratch, uint8, shape (CHUNK,).
    """
    planes = width >> 3
    for p in range(planes):
        start = pos + p * total + first
        plane = buf[start : start + count]
        for i in range(count):
            plane[i] = fields[i] >> (8 * p) & 255
    rest = width & 7
    if rest:
        for i in range(count):
            top[i] = fields[i] >> (8 * planes)
        top[count : (count + 7) & ~7] = 0
        start = pos + planes * total + ((first * rest) >> 3)
        _squeeze(top.view(np.uint64), rest, buf[start : start + packed_nbytes(count, rest)])


@njit
def unpack(buf, pos, first, count, total, width, fields, top):
    """Read back what `pack` wrote into `fields`. The caller has checked that the packed array lies inside `buf`."""
    planes = width >> 3
    rest = width & 7
    if rest:
        start = pos + planes * total + ((first * rest) >> 3)
        _spread(buf[start : start + packed_nbytes(count, rest)], rest, top.view(np.uint64))
        for i in range(count):
            fields[i] = top[i]
    else:
        fields[:count] = 0
    for p in range(planes - 1, -1, -1):
        start = pos + p * total + first
        plane = buf[start : start + count]
        for i in range(count):
            fields[i] = (fields[i] << 8) | plane[i]


@njit
def pack_all(fields, total, width, buf, pos, top):
    """Write all fields of a packed array; returns the position after it."""
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        pack(fields[first : first + count], first, count, total, width, buf, pos, top)
    return pos + packed_nbytes(total, width)


@njit
def unpack_all(buf, pos, total, width, fields, top):
    """Read all fields of a packed array; returns the position after it."""
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        unpack(buf, pos, first, count, total, width, fields[first : first + count], top)
    return pos + packed_nbytes(total, width)


@njit
def _squeeze(words, width, out):
    """Eight bytes that hold `width` < 8 bits each become `width` bytes: neighbours move together, then pairs, then halves."""
    groups = out.shape[0] // width
    for g in range(groups):
        x = _squeeze_word(words[g], np.uint64(width))
        for b in range(width):
            out[g * width + b] = np.uint8((x >> np.uint64(8 * b)) & np.uint64(255))
    if groups * width < out.shape[0]:
        x = _squeeze_word(words[groups], np.uint64(width))
        for b in range(groups * width, out.shape[0]):
            out[b] = np.uint8((x >> np.uint64(8 * (b - groups * width))) & np.uint64(255))


@njit
def _squeeze_word(x, width):
    x = (x & _EVEN_BYTES) | (((x >> np.uint64(8)) & _EVEN_BYTES) << width)
    x = (x & _EVEN_PAIRS) | (((x >> np.uint64(16)) & _EVEN_PAIRS) << (width + width))
    return (x & _LOW_HALF) | ((x >> np.uint64(32)) << (np.uint64(4) * width))


@njit
def _spread(packed, width, words):
    """The inverse of `_squeeze`."""
    groups = packed.shape[0] // width
    for g in range(groups):
        x = np.uint64(0)
        for b in range(width):
            x |= np.uint64(packed[g * width + b]) << np.uint64(8 * b)
        words[g] = _spread_word(x, np.uint64(width))
    if groups * width < packed.shape[0]:
        x = np.uint64(0)
        for b in range(groups * width, packed.shape[0]):
            x |= np.uint64(packed[b]) << np.uint64(8 * (b - groups * width))
        words[groups] = _spread_word(x, np.uint64(width))


@njit
def _spread_word(x, width):
    one = np.uint64(1)
    halves = (one << (np.uint64(4) * width)) - one
    pairs = ((one << (width + width)) - one) * np.uint64(0x0000000100000001)
    single = ((one << width) - one) * np.uint64(0x0001000100010001)
    x = (x & halves) | ((x >> (np.uint64(4) * width)) & halves) << np.uint64(32)
    x = (x & pairs) | ((x >> (width + width)) & pairs) << np.uint64(16)
    return (x & single) | ((x >> width) & single) << np.uint64(8)
