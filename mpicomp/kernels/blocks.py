"""Loops over whole blocks of entries: sums of magnitudes, signs as bits, and rounding at random.

What follows is the plain form. Where a kernel's form is `fast` (see `forms`), the function of the same name in `llvm_blocks` takes its
place. The two blocks of a pair share their random words (`random.dither32`).
"""

from __future__ import annotations

import numpy as np

from . import lean
from .intrinsics import bits_of, load_word, store_word
from .random import bits32, dither32
from .sizes import LANES, PAIR, PARTIAL_SUMS
from .twins import twin


@twin
def signs_of_blocks(x, other, factor, blocks, partial_sums, signs, pos):
    """Bit j from byte `pos` of `signs` on says whether x_j < 0, for j = 0, …, 64 · blocks − 1; nothing where `signs` is None.

    Where `other` is an array and not None, of the same type as x, x − other takes the place of x; where `factor` is a number, too, of
    their dtype, x becomes x + factor · other, the product rounded before it is added.
    """
    for j in range(blocks * PARTIAL_SUMS):
        write_bit(entry(x, other, factor, j) < 0, j, signs, pos)


@twin
def add_absolute_blocks(x, other, factor, blocks, partial_sums, signs, pos):
    """`signs_of_blocks`; and partial_sums[l] += |x_j| for j = l, l + n, …, (blocks − 1)n + l with n = PARTIAL_SUMS = 64, in float64."""
    for j in range(blocks * PARTIAL_SUMS):
        value = entry(x, other, factor, j)
        write_bit(value < 0, j, signs, pos)
        partial_sums[j % PARTIAL_SUMS] += abs(np.float64(value))


@twin
def add_square_blocks(x, other, factor, blocks, partial_sums, signs, pos):
    """`add_absolute_blocks` with x_j² in place of |x_j|."""
    for j in range(blocks * PARTIAL_SUMS):
        value = entry(x, other, factor, j)
        write_bit(value < 0, j, signs, pos)
        partial_sums[j % PARTIAL_SUMS] += np.float64(value) * np.float64(value)


@lean
def entry(x, other, factor, j):
    """x_j, or what takes its place in `signs_of_blocks`."""
    if factor is not None:
        x[j] += factor * other[j]
        return x[j]
    if other is not None:
        return x[j] - other[j]
    return x[j]


@lean
def write_bit(bit, i, buf, pos):
    """Bit i of `buf` from byte `pos` on, nothing where that is None; the first bit of a byte clears the others."""
    if buf is not None:
        if i % 8 == 0:
            buf[pos + i // 8] = 0
        buf[pos + i // 8] |= np.uint8(bit) << np.uint8(i % 8)


@lean
def fraction_digits(n):
    """How many binary digits of a fraction fit beside the places 0, …, n − 1 into 31 bits."""
    digits = 31
    while (n - 1) >> (31 - digits):
        digits -= 1
    return digits


@lean
def threshold(j, n, place, digits, common, key):
    """(S_j + γ_j) · 2^digits as float32, with S_j and γ_j as in `ends_of_blocks`, cut to 31 bits."""
    shift = (np.uint64(dither32(common, j)) * np.uint64(n)) >> np.uint64(32)
    stratum = (np.int64(place) + np.int64(shift)) % np.int64(n)
    return np.float32((stratum << digits) + (np.int64(dither32(key, j)) >> (32 - digits)))


@twin
def ends_of_blocks(x, start, pairs, n, place, slope, half, margin, common, key, buf, pos, clear):
    """For j = start, …, start + 32 · pairs − 1, with S_j = (place + ⌊dither32(common, j) n / 2³²⌋) mod n, γ_j = dither32(key, j)/2³²:

    t_j = slope · x_j + half − (S_j + γ_j); the bits t_j > margin go to `buf` from byte `pos` on, the bits t_j > −margin to `clear` from its
    first byte on, first entry in the lowest bit. t_j is computed in float32 with an error below 8n · 2⁻²⁴: of S_j + γ_j the first 31 bits
    are put together as an integer, in which S_j has as many as n needs, and `half` goes to the other side of the comparison.

    The fast form rounds slope · x_j − (S_j + γ_j) once where the processor has such an instruction. So the two forms may differ where
    t_j is nearer than `margin` to zero: there the two bits of an entry differ, and callers look again.

    Types
    -----
    start : a multiple of 32. n, place : uint32, place < n <= 2**16; slope, half, margin : float32, slope < 2**90; common, key : uint64;
    x : float32 or float64.
    """
    digits = fraction_digits(np.int64(n))
    scale = np.float32(1 << digits)
    steep, above, below = slope * scale, (margin - half) * scale, (-margin - half) * scale
    for i in range(PAIR * pairs):
        excess = steep * np.float32(x[start + i]) - threshold(start + i, n, place, digits, common, key)
        write_bit(excess > above, i, buf, pos)
        write_bit(excess > below, i, clear, 0)


@twin
def lattice_of_blocks(
    x, start, pairs, element, n, place, inverse, slope, base, spread, margin, common, offsets, key, codes, at, doubts
):  # fmt: skip
    """codes[at + i] = ⌈t_i⌉ for i = 0, …, 32 · pairs − 1. With j = element + i, and S_j and γ_j as in `ends_of_blocks`,

        t_i = slope · x_{start + i} · inverse + base + spread · (⌊bits32(offsets, j)/2⁸⌋ + 1) − (S_j + γ_j)/n

    in float32, where the product x · inverse is cut to [−1, 1].

    Where t_i is nearer than `margin` to an integer, or NaN, a bit is set in `doubts`, first entry in the lowest bit. The error of t_i is
    below (6.5m + 5) · 2⁻²⁴ where slope ≤ m/2, base ≤ m, 2²⁴ spread ≤ 1 and |t_i| ≤ m. The two forms may differ in what is in doubt.

    Types
    -----
    element : a multiple of 32. n, place : uint32, place < n <= 2**16; inverse, slope, base, spread, margin : float32; common, offsets, key
    : uint64; x : float32 or float64; codes : uint16; doubts : uint8.
    """
    digits = fraction_digits(np.int64(n))
    share = np.float32(-1.0) / (np.float32(1 << digits) * np.float32(n))
    for i in range(PAIR * pairs):
        j, value = element + i, np.float32(x[start + i]) * inverse
        value = np.float32(1.0) if value > np.float32(1.0) else value
        value = np.float32(-1.0) if value < np.float32(-1.0) else value
        offset = np.float32((np.int64(bits32(offsets, j)) >> 8) + 1)
        point = slope * value + (spread * offset + base)
        point = share * threshold(j, n, place, digits, common, key) + point
        upper = np.ceil(point)
        sure = abs((upper - point) - np.float32(0.5)) <= np.float32(0.5) - margin
        codes[at + i] = np.int32(upper) if sure else np.int32(0)
        write_bit(not sure, i, doubts, 0)


@twin
def powers_of_blocks(x, start, pairs, key, buf, exponents, signs):
    """For j = start, …, start + 32 · pairs − 1: x_j in float32, rounded at random to a power of two as `compressors.natural` says.

    The exponents go to `buf` from byte `exponents` on, the signs, one bit each, from byte `signs` on, first entry in the lowest bit.

    Types
    -----
    start : a multiple of 32. key : uint64; x : float32 or float64.
    """
    for i in range(PAIR * pairs):
        bits = np.uint64(bits_of(np.float32(x[start + i])))
        magnitude, draw = bits & np.uint64(0x7FFFFFFF), np.uint64(dither32(key, start + i)) >> np.uint64(9)
        # the largest power of two stays, and so do infinity and NaN
        rounded = magnitude + draw if magnitude < np.uint64(254 << 23) else magnitude
        buf[exponents + i] = np.uint8(rounded >> np.uint64(23))
        write_bit(bits >> np.uint64(31) != 0, i, buf, signs)


@twin
def wide_powers_of_blocks(x, start, pairs, key, buf, low, top):
    """`powers_of_blocks` in float64: the lower eight of the twelve bits of a field go to `buf` from byte `low` on, the others to `top`
    from its beginning on, a byte for each."""
    for i in range(PAIR * pairs):
        bits = bits_of(np.float64(x[start + i]))
        draw = np.uint64(dither32(key, start + i)) << np.uint64(20)
        below = bits & np.uint64(0x7FFFFFFFFFFFFFFF) < np.uint64(2046 << 52)
        field = (bits + draw if below else bits) >> np.uint64(52)
        buf[low + i] = np.uint8(field & np.uint64(255))
        top[i] = np.uint8(field >> np.uint64(8))


@twin
def levels_of_blocks(x, start, pairs, scale, limit, key, binary, levels, codes, at):
    """codes[at + i] = ⌊z + u⌋ + levels for i = 0, …, 32 · pairs − 1, where z = scale · x_{start + i} in units of 2⁻ᵇ, cut to an integer,
    u = dither32(key, i, start) without its lowest 32 − b bits, and b is `binary`.

    Types
    -----
    scale : of x's dtype; limit : of x's dtype, what is beyond ±limit after the product is cut off and NaN becomes −limit, or None.
    key : uint64. binary : 1 to 24; 24 where codes are uint8. codes : uint8 or uint16. x : float32 or float64.
    """
    for i in range(PAIR * pairs):
        value = scale * x[start + i]
        if limit is not None:
            value = value if value > -limit else -limit
            value = value if value < limit else limit
        dither = np.int64(dither32(key, i, start)) >> (32 - binary)
        codes[at + i] = ((np.int64(value) + dither) >> binary) + levels


@twin
def nibbles_of_blocks(fields, count, out):
    """out[i] = fields[2i] + 16 · fields[2i + 1] for i < 64 · count; the fields are below 16, both arrays uint8."""
    for i in range(64 * count):
        out[i] = fields[2 * i] | (fields[2 * i + 1] << 4)


@twin
def encode_groups(steps, shares, precision, states, symbols, groups, buf, pos):
    """`entropy.encode_backwards` of the first LANES · groups symbols with as many states as LANES; returns the position after the words.

    `buf` has room for two bytes a symbol.
    """
    room, low = np.uint32(32 - precision), np.uint32(0xFFFF)
    for i in range(LANES * groups - 1, -1, -1):
        step, x = steps[symbols[i]], states[i % LANES]
        frequency, first = step & low, step >> np.uint32(16)
        if np.uint64(x) >= np.uint64(frequency) << np.uint64(room):
            store_word(buf, pos, np.uint16(x & low))
            x >>= np.uint32(16)
            pos += 2
        share = x // frequency
        states[i % LANES] = (share << np.uint32(precision)) + (x - share * frequency) + first
    return pos


@twin
def decode_groups(places, precision, states, buf, pos, symbols, at, groups):
    """`entropy.decode_forwards` of LANES · groups symbols from number `at` on, a multiple of LANES, with as many states as LANES; returns
    the position after the words. `buf` holds two bytes a symbol from `pos` on."""
    low, shift = np.uint32((1 << precision) - 1), np.uint32(precision)
    for i in range(at, at + LANES * groups):
        x = states[i % LANES]
        place = places[x & low]
        symbols[i] = place >> (shift + shift)
        x = (((place >> shift) & low) + np.uint32(1)) * (x >> shift) + (place & low)
        if x < np.uint32(1 << 16):
            x = (x << np.uint32(16)) | np.uint32(load_word(buf, pos, np.uint16))
            pos += 2
        states[i % LANES] = x
    return pos
