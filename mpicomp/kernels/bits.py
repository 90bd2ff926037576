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

from . import lean
from .blocks import nibbles_of_blocks
from .intrinsics import load_word, nonzero_bytes, store_word

CHUNK = 2048

_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EVEN_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_LOW_HALF = np.uint64(0x00000000FFFFFFFF)
_GATHER = np.uint64(0x0102040810204080)
_SCATTER = np.uint64(0x0002040810204081)
_SEVEN_BITS = np.uint64(0x7F)
_LOWEST_BITS = np.uint64(0x0101010101010101)


def unsigned(x: np.ndarray) -> np.ndarray:
    """The bits of a float array as unsigned integers of the same width (a view)."""
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


@overload(unsigned)
def _unsigned(x):
    if x.dtype == types.float32:
        return lambda x: x.view(np.uint32)
    return lambda x: x.view(np.uint64)


def mantissa_of(x: np.ndarray) -> int:
    """Number of mantissa bits of the numbers in a floating-point array."""
    return 23 if x.dtype == np.float32 else 52


@overload(mantissa_of)
def _mantissa_of(x):  # a constant in the compiled kernel, so that shifts by it are vectorised
    if x.dtype == types.float32:
        return lambda x: 23
    return lambda x: 52


@lean
def bit_length(n):
    """Number of binary digits of n >= 0: the smallest w with n < 2**w."""
    width = 0
    while n >> width:
        width += 1
    return width


@lean
def packed_nbytes(total, width):
    """Bytes that `total` fields of `width` bits take."""
    return (total * width + 7) >> 3


@lean
def padding_is_zero(buf, bit):
    """Whether the bits from number `bit` of `buf` to the end of its byte are zero."""
    return bit & 7 == 0 or buf[bit >> 3] >> (bit & 7) == 0


@lean
def pack(fields, first, count, total, width, buf, pos, top):
    """Write fields `first` to `first + count` of a packed array of `total` fields that starts at `pos`.

    Parameters
    ----------
    fields : unsigned integers below 2**width, shape (>= count,); `first` and, but for the last chunk, `count` are multiples of 8.
    top : scratch, uint8, shape (CHUNK,).
    """
    planes = width >> 3
    for p in range(planes):
        _take_byte(fields, p, count, buf, pos + p * total + first)
    if width & 7:
        _take_byte(fields, planes, count, top, 0)
        pack_top(top, first, count, total, width, buf, pos)


@lean
def pack_top(top, first, count, total, width, buf, pos):
    """The part of `pack` that writes the remaining bits, width mod 8 > 0, of the fields; `top` holds them and is changed."""
    rest = width & 7
    for i in range(count, (count + 7) & ~7):
        top[i] = 0
    squeeze(top, rest, buf, pos + (width >> 3) * total + ((first * rest) >> 3), packed_nbytes(count, rest))


@lean
def unpack(buf, pos, first, count, total, width, fields, top):
    """Read back what `pack` wrote into `fields`. The caller has checked that the packed array lies inside `buf`."""
    planes = width >> 3
    if width & 7 or width == 0:
        unpack_top(buf, pos, first, count, total, width, top)
        for i in range(count):
            fields[i] = top[i]
    else:
        planes -= 1
        plane = buf[pos + planes * total + first : pos + planes * total + first + count]
        for i in range(count):
            fields[i] = plane[i]
    for p in range(planes - 1, -1, -1):
        start = pos + p * total + first
        plane = buf[start : start + count]
        for i in range(count):
            fields[i] = (fields[i] << 8) | plane[i]


@lean
def unpack_top(buf, pos, first, count, total, width, top):
    """Read back what `pack_top` wrote into `top`."""
    rest = width & 7
    expand(buf, pos + (width >> 3) * total + ((first * rest) >> 3), packed_nbytes(count, rest), rest, top)


@lean
def pack_all(fields, total, width, buf, pos, top):
    """Write all fields of a packed array; returns the position after it."""
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        pack(fields[first : first + count], first, count, total, width, buf, pos, top)
    return pos + packed_nbytes(total, width)


@lean
def unpack_all(buf, pos, total, width, fields, top):
    """Read all fields of a packed array; returns the position after it."""
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        unpack(buf, pos, first, count, total, width, fields[first : first + count], top)
    return pos + packed_nbytes(total, width)


@lean
def _take_byte(fields, number, count, buf, pos):
    """buf[pos + i] = byte `number` of fields[i]; the first one in a loop of its own, which has less to do."""
    out = buf[pos : pos + count]
    if number == 0:
        for i in range(count):
            out[i] = np.uint8(fields[i])
    else:
        for i in range(count):
            out[i] = np.uint8(fields[i] >> (8 * number))


@lean
def squeeze(top, width, buf, pos, nbytes):
    """Bytes that hold `width` < 8 bits each become a string of bits, `nbytes` bytes of `buf` from `pos` on; `top` is changed.

    `top` has whole groups of eight. The loops of one, two and four bits do the same as the general one in a form that is vectorised.
    The slice is taken here: one that is passed on costs two atomic additions, as much as packing a hundred fields.
    """
    out = buf[pos : pos + nbytes]
    if width == 1:
        for i in range(nbytes >> 3):
            store_word(out, 8 * i, nonzero_bytes(top, 64 * i))
        for i in range(nbytes & ~7, nbytes):  # the product moves the lowest bit of byte b to bit 56 + b
            out[i] = np.uint8((load_word(top, 8 * i, np.uint64) * _GATHER) >> np.uint64(56))
    elif width == 2:
        for i in range(nbytes):
            x = load_word(top, 4 * i, np.uint32)
            out[i] = np.uint8(x | x >> np.uint32(6) | x >> np.uint32(12) | x >> np.uint32(18))
    elif width == 4:
        nibbles_of_blocks(top, nbytes >> 6, out)
        for i in range(nbytes & ~63, nbytes):
            x = load_word(top, 2 * i, np.uint16)
            out[i] = np.uint8(x | x >> np.uint16(4))
    else:
        for g in range((nbytes + width - 1) // width):
            store_word(top, 8 * g, _squeeze_word(load_word(top, 8 * g, np.uint64), np.uint64(width)))
        whole = 0  # groups that are written as eight bytes, of which the next group overwrites the last ones
        while whole * width + 8 <= nbytes:
            store_word(out, whole * width, load_word(top, 8 * whole, np.uint64))
            whole += 1
        for i in range(whole * width, nbytes):
            out[i] = top[8 * (i // width) + i % width]


@lean
def _squeeze_word(x, width):
    x = (x & _EVEN_BYTES) | (((x >> np.uint64(8)) & _EVEN_BYTES) << width)
    x = (x & _EVEN_PAIRS) | (((x >> np.uint64(16)) & _EVEN_PAIRS) << (width + width))
    return (x & _LOW_HALF) | ((x >> np.uint64(32)) << (np.uint64(4) * width))


@lean
def expand(buf, pos, nbytes, width, top):
    """The inverse of `squeeze`."""
    packed = buf[pos : pos + nbytes]
    if width == 0:
        top[:] = 0
    elif width == 1:
        for i in range(nbytes):  # seven bits do not meet in the product; the eighth goes by itself
            eight = np.uint64(packed[i])
            low = ((eight & _SEVEN_BITS) * _SCATTER) & _LOWEST_BITS
            store_word(top, 8 * i, low | (eight >> np.uint64(7)) << np.uint64(56))
    elif width == 2:
        for i in range(nbytes):
            four = np.uint32(packed[i])
            four = np.uint32(four | four << np.uint32(6) | four << np.uint32(12) | four << np.uint32(18))
            store_word(top, 4 * i, np.uint32(four & np.uint32(0x03030303)))
    elif width == 4:
        for i in range(nbytes):
            two = np.uint16(packed[i])
            store_word(top, 2 * i, np.uint16((two | two << np.uint16(4)) & np.uint16(0x0F0F)))
    else:
        groups, whole = (nbytes + width - 1) // width, 0
        while whole * width + 8 <= nbytes:
            store_word(top, 8 * whole, load_word(packed, whole * width, np.uint64))
            whole += 1
        for i in range(8 * whole, 8 * groups):
            top[i] = 0
        for i in range(whole * width, nbytes):
            top[8 * (i // width) + i % width] = packed[i]
        for g in range(groups):
            store_word(top, 8 * g, _expand_word(load_word(top, 8 * g, np.uint64), np.uint64(width)))


@lean
def _expand_word(x, width):
    one = np.uint64(1)
    halves = (one << (np.uint64(4) * width)) - one
    pairs = ((one << (width + width)) - one) * np.uint64(0x0000000100000001)
    single = ((one << width) - one) * np.uint64(0x0001000100010001)
    x = (x & halves) | ((x >> (np.uint64(4) * width)) & halves) << np.uint64(32)
    x = (x & pairs) | ((x >> (width + width)) & pairs) << np.uint64(16)
    return (x & single) | ((x >> width) & single) << np.uint64(8)
