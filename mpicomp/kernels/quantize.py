"""Norms in an order that is fixed and still fast, and stochastic rounding to a grid."""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length, packed_nbytes
from .blocks import add_absolute_blocks, add_square_blocks, levels_of_blocks, signs_of_blocks
from .random import dither32
from .sizes import NORM_BLOCK, PAIR, PARTIAL_SUMS


@lean
def add_magnitudes(x, order, partial_sums):
    """Add |x_j| (order 1) or x_j² (order 2) to partial sums: number l takes j = l, l + PARTIAL_SUMS, ... (float64, (PARTIAL_SUMS,)).

    Many sums instead of one let the processor add several numbers at once, in an order that does not depend on which processor.
    """
    blocks = x.shape[0] // PARTIAL_SUMS
    whole = blocks * PARTIAL_SUMS
    if order == 1:
        add_absolute_blocks(x, None, None, blocks, partial_sums, None, 0)
    else:
        add_square_blocks(x, None, None, blocks, partial_sums, None, 0)
    for j in range(whole, x.shape[0]):
        magnitude = np.float64(abs(x[j]))
        partial_sums[j - whole] += magnitude if order == 1 else magnitude * magnitude


@lean
def write_signs(x, other, factor, order, partial_sums, buf, pos):
    """Whether x_j < 0, one bit each, in `buf` from byte `pos` on; returns `total_of` all |x_j| or x_j² (0 for order 0) in the same pass.

    Where `other` is an array and not None, x − other takes the place of x; where `factor` is a number of its dtype, too, x becomes
    x + factor · other, the product rounded before it is added.
    """
    if x.shape[0] <= NORM_BLOCK:
        return _write_block(x, other, factor, order, partial_sums, buf, pos)
    total = 0.0
    for first in range(0, x.shape[0], NORM_BLOCK):
        stop, at = min(first + NORM_BLOCK, x.shape[0]), pos + (first >> 3)
        if other is None:  # and factor with it
            total += _write_block(x[first:stop], None, None, order, partial_sums, buf, at)
        else:
            total += _write_block(x[first:stop], other[first:stop], factor, order, partial_sums, buf, at)
    return total


@lean
def _write_block(x, other, factor, order, partial_sums, buf, pos):
    partial_sums[:] = 0.0
    blocks = x.shape[0] // PARTIAL_SUMS
    whole = blocks * PARTIAL_SUMS
    if order == 0:
        signs_of_blocks(x, other, factor, blocks, partial_sums, buf, pos)
    elif order == 1:
        add_absolute_blocks(x, other, factor, blocks, partial_sums, buf, pos)
    else:
        add_square_blocks(x, other, factor, blocks, partial_sums, buf, pos)
    buf[pos + (whole >> 3) : pos + packed_nbytes(x.shape[0], 1)] = 0
    for j in range(whole, x.shape[0]):
        if factor is not None:
            x[j] += factor * other[j]
        value = x[j] if other is None or factor is not None else x[j] - other[j]
        magnitude = np.float64(abs(value))
        if order > 0:
            partial_sums[j - whole] += magnitude if order == 1 else magnitude * magnitude
        buf[pos + (j >> 3)] |= np.uint8(value < 0) << np.uint8(j & 7)
    return partial_sums.sum()


@lean
def block_sum(x, order, partial_sums):
    """Σ|x_j| (order 1) or Σ x_j² (order 2) of a block, at most NORM_BLOCK entries."""
    partial_sums[:] = 0.0
    add_magnitudes(x, order, partial_sums)
    return partial_sums.sum()


@lean
def block_sums(x, order, partial_sums, sums):
    """sums[b] = `block_sum` of the entries from number b · NORM_BLOCK on, for all blocks of x; the last one may be shorter."""
    for b in range(sums.shape[0]):
        sums[b] = block_sum(x[b * NORM_BLOCK : (b + 1) * NORM_BLOCK], order, partial_sums)


@lean
def total_of(sums):
    """The sums of blocks, added one after the other: whoever has them all comes to the same bits."""
    total = 0.0
    for b in range(sums.shape[0]):
        total += sums[b]
    return total


@lean
def norm(x, order, partial_sums):
    """‖x‖₁ (order 1) or ‖x‖₂ (order 2) as a float64, added up as `total_of` the `block_sums`; NaN or infinity where an entry is."""
    total = 0.0
    for first in range(0, x.shape[0], NORM_BLOCK):
        total += block_sum(x[first : first + NORM_BLOCK], order, partial_sums)
    return total if order == 1 else np.sqrt(total)


@lean
def round_to_grid(x, start, stop, unit, levels, key, codes, at, cut=True):
    """codes[at + j − start] = q + levels, where q is x_j / unit rounded to one of its two neighbours in −levels..levels, without bias.

    For start <= j < stop, by ⌊x_j / unit + u_j⌋ with the dithers u_j of `key` for the part of a vector that begins at `start`. Both are
    counted in units of 2⁻²⁴, or of the finest that leaves levels < 2¹⁵ room in 32 bits.

    `unit` is finite; zero stands for a vector of zeros. What is beyond the levels is cut off, unless the caller knows (cut=False) that
    |x_j| <= levels · unit without any rounding.
    """
    binary = min(24, 31 - bit_length(levels))
    scale, limit = grid_scale(x, unit, 1 << binary), x.dtype.type(levels << binary)
    whole, normal = start, np.isfinite(scale)
    if normal:
        pairs = (stop - start) // PAIR
        if cut:
            levels_of_blocks(x, start, pairs, scale, limit, key, binary, levels, codes, at)
        else:
            levels_of_blocks(x, start, pairs, scale, None, key, binary, levels, codes, at)
        whole += PAIR * pairs
    for j in range(whole, stop):
        value = x[j] * scale if normal else x[j] / unit * x.dtype.type(1 << binary)
        value = value if value > -limit else -limit
        value = value if value < limit else limit
        dither = dither32(key, j - start, start) >> np.uint32(32 - binary)
        codes[at + j - start] = levels + ((np.int64(value) + np.int64(dither)) >> binary)


@lean
def grid_scale(x, unit, parts):
    """parts/unit in x's dtype, in float32 rounded down, so that no entry of x up to n · unit gets above n · parts; may be infinite."""
    if not unit > 0:
        return x.dtype.type(0)
    scale = x.dtype.type(parts / np.float64(unit))
    if x.itemsize == 4 and np.float64(scale) * np.float64(unit) > parts:
        scale *= x.dtype.type(1 - 2.0**-24)
    return scale
