"""Unbiased rounding to a lattice with thresholds that are correlated over the clients (correlated quantization).

The lattice points are r (q − b_j)/slope, q = 0, ..., symbols − 1, with an offset b_j = base + spread·u_j, u_j ∈ (0, 1]
drawn for each coordinate. Client i rounds z_j = slope·x_j/r + b_j up where U < z_j − ⌊z_j⌋. Its thresholds U = (π_i +
γ)/strata have their own uniform γ, and strata π_i that are a random permutation of 0, ..., strata − 1 over the clients
of a round: π_i = (stratum_i + s_j) mod strata with one permutation `stratum` for all coordinates and a shift s_j for
each. In every single coordinate that is a uniformly random permutation. With strata = 1 the rounding is independent.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import CHUNK, pack, pack_top, packed_nbytes, padding_is_zero, unpack
from .blocks import ends_of_blocks, lattice_of_blocks
from .intrinsics import load_word
from .levels import any_above
from .random import bits32, bits64, dither32, fraction32, shifted
from .sizes import BLOCK, PAIR
from .status import BAD_PADDING, BAD_VALUE, TRUNCATED

# What the keys are mixed with; part of the format.
PERMUTATION, SIGNS, SHIFTS, OFFSETS = 0, 1, 2, 3

_UNIT = 2.0**-24
_MOST_CLIENTS, _MOST_SYMBOLS = 1 << 16, 1 << 10  # of what is rounded in float32
# n, or m, times as much is above the rounding errors of `ends_of_blocks`, below 8n · 2⁻²⁴, and of `lattice_of_blocks`, (6.5m + 5) · 2⁻²⁴
_DOUBT = np.float32(2.0**-20)


@lean
def _offset(key, element, base, spread):
    """b_j."""
    return base + spread * (np.float64((bits32(key, element) >> np.uint32(8)) + np.uint32(1)) * _UNIT)


@lean
def round_exactly(x, radius, lattice, draws, element, codes):
    """codes[j] = q: x_j rounded to one of its two neighbours without bias.

    An |x_j| above `radius` is rounded to an end of the lattice.

    Parameters
    ----------
    x : float, shape (count,). radius : finite; zero stands for a vector of zeros. lattice : (slope, base, spread, symbols).
    draws : (common, key, stratum, strata): keys of what the clients share (shifts and offsets), and of the client's own γ; this client's
        place in the permutation, and how many clients share it.
    element : index of the first coordinate. codes : unsigned integers, shape (>= count,).
    """
    (slope, base, spread, symbols), (common, key, stratum, strata) = lattice, draws
    divisor = radius if radius > 0 else 1.0
    shifts, offsets = bits64(common, SHIFTS), bits64(common, OFFSETS)
    width = np.uint64(strata)
    for j in range(x.shape[0]):
        z = slope * min(max(x[j] / divisor, -1.0), 1.0)
        z += _offset(offsets, element + j, base, spread) if spread > 0 else base
        below = np.floor(z)
        threshold = np.float64(fraction32(dither32(key, element + j)))
        if strata > 1:
            place = stratum + np.int64((np.uint64(dither32(shifts, element + j)) * width) >> np.uint64(32))
            threshold += place - strata if place >= strata else place
        q = np.int64(below) + np.int64(threshold < strata * (z - below))
        codes[j] = min(max(q, 0), symbols - 1)


@lean
def round_to_lattice(x, radius, lattice, draws, element, codes, doubts):
    """`round_exactly`, the same codes, several times as fast.

    Whole groups of 32 coordinates are done in float32. Where the result is in doubt there, which with m symbols is one entry of 2¹⁹/m, its
    block of sixteen is done again in float64. `doubts` is scratch, uint8, a bit for each entry.
    """
    (slope, base, spread, symbols), (common, key, stratum, strata) = lattice, draws
    count, head, pairs = x.shape[0], 0, 0
    inverse = np.float32(1.0 / radius) if radius > 0 else np.float32(np.inf)
    if strata <= _MOST_CLIENTS and symbols <= _MOST_SYMBOLS and np.float32(2.0**-90) < inverse < np.float32(2.0**90):
        head = min(-element & (PAIR - 1), count)
        pairs = (count - head) // PAIR
    lattice_of_blocks(
        x, head, pairs, element + head, np.uint32(strata), np.uint32(stratum), inverse, np.float32(slope), np.float32(base),
        np.float32(spread * _UNIT), np.float32(symbols) * _DOUBT, bits64(common, SHIFTS), bits64(common, OFFSETS), np.uint64(key),
        codes, head, doubts,
    )  # fmt: skip
    rest = head + PAIR * pairs
    for part in range(-2, 2 * pairs):  # what is before and after the whole groups; blocks in doubt
        if part < 0:
            begin, end = (0, head) if part == -2 else (rest, count)
        else:
            begin = head + BLOCK * part
            end = begin + BLOCK if load_word(doubts, 2 * part, np.uint16) else begin
        if begin < end:
            round_exactly(x[begin:end], radius, lattice, draws, element + begin, codes[begin:end])


@lean
def _round_slowly(x, start, stop, element, radius, common, key, stratum, strata, buf, pos, codes):
    round_exactly(x[start:stop], radius, (0.5, 0.5, 0.0, 2), (common, key, stratum, strata), element, codes)
    pack_top(codes, 0, stop - start, stop - start, 1, buf, pos)


@lean
def round_to_ends(x, start, stop, radius, common, key, stratum, strata, buf, pos, codes, again, lo=0):
    """`round_exactly` of x[start:stop] to the two ends −r and r (slope = offset = ½), the same codes, ten times as fast, as bits.

    Where U = (π + γ)/n is clearly above or below (x_j/r + 1)/2 in float32, no division in float64 is needed to know the code; blocks
    with an entry that is in doubt, one of 500,000, are done again by the slow way. The bits go to `buf` from byte `pos` on. `codes` and
    `again` are scratch, uint8, a byte for each entry in whole groups of eight. `start` is a multiple of 32, and so is `lo`, the index of
    x's first coordinate.
    """
    slope, pairs = np.float32(0.5 * strata / radius) if radius > 0 else np.float32(np.inf), 0
    if strata <= _MOST_CLIENTS and np.float32(2.0**-90) < slope < np.float32(2.0**90):
        pairs = (stop - start) // PAIR
    half, margin = np.float32(0.5) * np.float32(strata), np.float32(strata) * _DOUBT
    shifts, clear = shifted(bits64(common, SHIFTS), lo >> 1), True
    ends_of_blocks(
        x,
        start,
        pairs,
        np.uint32(strata),
        np.uint32(stratum),
        slope,
        half,
        margin,
        shifts,
        shifted(key, lo >> 1),
        buf,
        pos,
        codes,
    )
    blocks = 2 * pairs
    for i in range(blocks):
        clear &= load_word(buf, pos + 2 * i, np.uint16) == load_word(codes, 2 * i, np.uint16)
    for i in range(0 if clear else blocks):
        if load_word(buf, pos + 2 * i, np.uint16) != load_word(codes, 2 * i, np.uint16):
            at = start + BLOCK * i
            _round_slowly(x, at, at + BLOCK, lo + at, radius, common, key, stratum, strata, buf, pos + 2 * i, again)
    rest = start + BLOCK * blocks
    if rest < stop:
        _round_slowly(x, rest, stop, lo + rest, radius, common, key, stratum, strata, buf, pos + 2 * blocks, again)


@lean
def write_rounded(x, radius, lattice, draws, element, width, codes, doubts, top, buf, pos):
    """`round_to_lattice` to a packed array of fields of `width` bits, zeros if the radius is not finite; returns the position after it.

    Parameters
    ----------
    codes : uint16, doubts, top : uint8: scratch, CHUNK entries.
    """
    total = x.shape[0]
    stop = pos + packed_nbytes(total, width)
    if not np.isfinite(radius):
        buf[pos:stop] = 0
        return stop
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        round_to_lattice(x[first : first + count], radius, lattice, draws, element + first, codes, doubts)
        pack(codes, first, count, total, width, buf, pos, top)
    return stop


@lean
def add_points(codes, radius, lattice, common, element, weight, out):
    """out[j] += weight r (q_j − b_j)/slope; `weight` has out's dtype, in which the points are rounded."""
    slope, base, spread, _ = lattice
    offsets = bits64(common, OFFSETS)
    for j in range(out.shape[0]):
        b = _offset(offsets, element + j, base, spread)
        out[j] += weight * out.dtype.type(radius * ((codes[j] - b) / slope))


@lean
def add_packed(buf, pos, end, radius, lattice, common, element, width, codes, top, weight, out):
    """`add_points` of the packed array at `pos`; returns the position after it, or a negative code."""
    total = out.shape[0]
    stop = pos + packed_nbytes(total, width)
    if stop > end:
        return TRUNCATED
    if not padding_is_zero(buf, 8 * pos + total * width):
        return BAD_PADDING
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        unpack(buf, pos, first, count, total, width, codes, top)
        if any_above(codes[:count], lattice[3] - 1):
            return BAD_VALUE
        add_points(codes, radius, lattice, common, element + first, weight, out[first : first + count])
    return stop
