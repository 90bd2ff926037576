"""Norms in an order that is fixed and still fast, and stochastic rounding to a grid."""

from __future__ import annotations

import numpy as np

from . import njit
from .random import uniform32

LANES = 64


@njit
def add_magnitudes(x, order, lanes):
    """Add |x_j| (order 1) or x_j² (order 2) to partial sums: lane l takes j = l, l + LANES, ... (float64, (LANES,)).

    Many sums instead of one let the processor add several numbers at once, in an order that does not depend on which processor.
    """
    whole = x.shape[0] - x.shape[0] % LANES
    for start in range(0, whole, LANES):
        block = x[start : start + LANES]
        if order == 1:
            for lane in range(LANES):
                lanes[lane] += np.float64(abs(block[lane]))
        else:
            for lane in range(LANES):
                lanes[lane] += np.float64(block[lane]) * np.float64(block[lane])
    for j in range(whole, x.shape[0]):
        magnitude = np.float64(abs(x[j]))
        lanes[j - whole] += magnitude if order == 1 else magnitude * magnitude


@njit
def norm(x, order, lanes):
    """‖x‖₁ (order 1) or ‖x‖₂ (order 2) as a float64; NaN or infinity where an entry is."""
    lanes[:] = 0.0
    add_magnitudes(x, order, lanes)
    total = lanes.sum()
    return total if order == 1 else np.sqrt(total)


@njit
def round_to_grid(x, unit, levels, key, first, codes):
    """codes[j] = q + levels, where q is x_j / unit rounded to one of its two neighbours in −levels..levels, without bias.

    Element j uses the random number `first + j` of `key`. `unit` is finite; zero stands for a vector of zeros.
    """
    divisor = unit if unit > 0 else unit + x.dtype.type(1)
    for j in range(x.shape[0]):
        ratio = x[j] / divisor
        below = np.floor(ratio)
        q = np.int32(below) + np.int32(uniform32(key, first + j) < ratio - below)
        codes[j] = min(max(q, -levels), levels) + levels
