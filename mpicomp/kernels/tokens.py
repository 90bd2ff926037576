"""Integers of any size in bytes: small ones as tokens, of larger ones the leading bits.

A token says the sign and the magnitude k of an integer: k < 32 itself; from there on k's highest bit and the two that follow, while the
others are written as they are (as in Moffat and Anh 2006, "Binary codes for locally homogeneous sequences"). Token 2k stands for −k,
2k − 1 for k.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length
from .status import TRUNCATED
from .uniform import GROUP

TOKENS, SMALL = 255, 32  # magnitudes below SMALL are tokens of their own
LEVELS = 28  # that `level_of` tells apart
_FRACTION = 2  # leading bits behind the highest one
_FIRST = 5  # 2 to this power is SMALL
HEAD = 9  # bytes before the bits that no token holds


@lean
def level_of(total):
    """The level of a group whose magnitudes have this sum: two for each doubling."""
    if total == 0:
        return 0
    octave = bit_length(total) - 1
    return 1 + 2 * octave + (2 * total >= 3 << octave)


@lean
def begin_rest(pos, tail):
    """Make ready to write groups at `pos`. tail : uint64, shape (3,): bits that are held, how many, and where the next byte goes."""
    tail[0], tail[1], tail[2] = 0, 0, pos + HEAD


@lean
def rest_bits(pos, tail):
    """How many bits that no token holds have been written since `begin_rest`."""
    return 8 * (np.int64(tail[2]) - (pos + HEAD)) + np.int64(tail[1])


@lean
def write_tokens(q, count, tokens, at, buf, tail):
    """tokens[at + j] for the first `count` of GROUP integers, of which the others are zero; returns the group's level."""
    total, any_bits = np.int64(0), np.int32(0)
    part = tokens[at : at + count]
    for j in range(GROUP):
        size = abs(q[j])
        any_bits |= size
        total += size
    if any_bits < SMALL:
        for j in range(count):
            part[j] = 2 * abs(q[j]) - (q[j] > 0)
        return level_of(total)
    total, held, have, pos = np.int64(0), tail[0], tail[1], tail[2]
    for j in range(count):
        size = np.uint64(abs(q[j]))
        if size >= SMALL:
            rest = np.uint64(bit_length(size) - 1 - _FRACTION)
            held |= (size & ((np.uint64(1) << rest) - np.uint64(1))) << have
            have += rest
            while have >= 8:
                buf[pos] = held & np.uint64(255)
                held, have, pos = held >> np.uint64(8), have - np.uint64(8), pos + np.uint64(1)
            lead = np.uint64(_FIRST - _FRACTION)
            size = np.uint64(SMALL) + ((rest - lead) << np.uint64(_FRACTION)) + ((size >> rest) & np.uint64(3))
        total += np.int64(size)
        part[j] = 2 * np.int64(size) - (q[j] > 0)
    tail[0], tail[1], tail[2] = held, have, pos
    return level_of(total)


@lean
def read_tokens(tokens, buf, end, tail, q):
    """q[j] for the tokens of a group; takes further bits from `buf` before `end`. Returns 0, or a negative code."""
    above = np.uint8(0)
    for j in range(tokens.shape[0]):
        above = max(above, tokens[j])
        small = np.int32((tokens[j] + 1) >> 1)
        q[j] = small if tokens[j] & 1 else -small
    if above < 2 * SMALL - 1:
        return 0
    held, have, pos = tail[0], np.int64(tail[1]), np.int64(tail[2])
    for j in range(tokens.shape[0]):
        size = np.int64(tokens[j] + 1) >> 1
        if size >= SMALL:
            rest = ((size - SMALL) >> _FRACTION) + _FIRST - _FRACTION
            while have < rest:
                if pos >= end:
                    return TRUNCATED
                held |= np.uint64(buf[pos]) << np.uint64(have)
                have, pos = have + 8, pos + 1
            low = np.int64(held & ((np.uint64(1) << np.uint64(rest)) - np.uint64(1)))
            held >>= np.uint64(rest)
            have -= rest
            value = ((4 + ((size - SMALL) & 3)) << rest) | low
            q[j] = value if tokens[j] & 1 else -value
    tail[0], tail[1], tail[2] = held, have, pos
    return 0


@lean
def rest_is_read(tail, stop):
    """Whether `read_tokens` has taken all bits before `stop`, but for zeros that fill the last byte."""
    return np.int64(tail[2]) == stop and tail[0] == 0 and tail[1] < 8
