"""Norms in an order that is fixed and still fast, and stochastic rounding to a grid."""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import packed_nbytes
from .lanes import LANES, add_absolute_blocks, add_square_blocks, bits_of, signs_of_blocks
from .random import draw32, fraction32, next32, state32


@lean
def add_magnitudes(x, order, lanes):
    """Add |x_j| (order 1) or x_j² (order 2) to partial sums: lane l takes j = l, l + LANES, ... (float64, (LANES,)).

    Many sums instead of one let the processor add several numbers at once, in an order that does not depend on which processor.
    """
    blocks = x.shape[0] // LANES
    whole = blocks * LANES
    if order == 1:
        add_absolute_blocks(x, None, None, blocks, lanes, None, 0)
    else:
        add_square_blocks(x, None, None, blocks, lanes, None, 0)
    for j in range(whole, x.shape[0]):
        magnitude = np.float64(abs(x[j]))
        lanes[j - whole] += magnitude if order == 1 else magnitude * magnitude


@lean
def write_signs(x, other, factor, order, lanes, buf, pos):
    """Whether x_j < 0, one bit each, in `buf` from byte `pos` on; and `add_magnitudes` in the same pass (nothing for order 0).

    Where `other` is an array and not None, x − other takes the place of x; where `factor` is a number of its dtype, too, x becomes
    x + factor · other, the product rounded before it is added.
    """
    blocks = x.shape[0] // LANES
    whole = blocks * LANES
    if order == 0:
        signs_of_blocks(x, other, factor, blocks, lanes, buf, pos)
    elif order == 1:
        add_absolute_blocks(x, other, factor, blocks, lanes, buf, pos)
    else:
        add_square_blocks(x, other, factor, blocks, lanes, buf, pos)
    buf[pos + (whole >> 3) : pos + packed_nbytes(x.shape[0], 1)] = 0
    for j in range(whole, x.shape[0]):
        if factor is not None:
            x[j] += factor * other[j]
        value = x[j] if other is None or factor is not None else x[j] - other[j]
        magnitude = np.float64(abs(value))
        if order > 0:
            lanes[j - whole] += magnitude if order == 1 else magnitude * magnitude
        buf[pos + (j >> 3)] |= np.uint8(value < 0) << np.uint8(j & 7)


@lean
def norm(x, order, lanes):
    """‖x‖₁ (order 1) or ‖x‖₂ (order 2) as a float64; NaN or infinity where an entry is."""
    lanes[:] = 0.0
    add_magnitudes(x, order, lanes)
    total = lanes.sum()
    return total if order == 1 else np.sqrt(total)


@lean
def round_to_grid(x, start, stop, unit, levels, key, codes, at, cut=True):
    """codes[at + j − start] = q + levels, where q is x_j / unit rounded to one of its two neighbours in −levels..levels, without bias.

    For start <= j < stop. Element j uses the random number j of `key`. `unit` is finite; zero stands for a vector of zeros. What is
    beyond the levels is cut off, unless the caller knows (cut=False) that |x_j| <= levels · unit without any rounding.
    """
    divisor = unit if unit > 0 else unit + x.dtype.type(1)
    limit = np.float32(levels) + x.dtype.type(0) * divisor  # a floating-point number of the quotients' type
    integer = np.float32(levels + 2**23)
    state = state32(key, start)
    x, codes = (
        x[start:stop],
        codes[at : at + stop - start],
    )  # here: a slice that is passed on costs two atomic additions
    for i in range(x.shape[0]):
        ratio = x[i] / divisor
        below = np.floor(ratio)
        q = below + np.float32(1) if fraction32(draw32(key, state)) < ratio - below else below
        if cut:
            q = q if q > -limit else -limit
            q = q if q < limit else limit
        codes[i] = bits_of(np.float32(q) + integer)  # whose low bits are q + levels: faster than a conversion
        state = next32(state)
