"""Unbiased rounding to a lattice with thresholds that are correlated over the clients (correlated quantization).

The lattice points are r (q − b_j)/slope, q = 0, ..., symbols − 1, with an offset b_j = base + spread·u_j, u_j ∈ (0, 1]
drawn for each coordinate. Client i rounds z_j = slope·x_j/r + b_j up where U < z_j − ⌊z_j⌋. Its thresholds U = (π_i +
γ)/strata have their own uniform γ, and strata π_i that are a random permutation of 0, ..., strata − 1 over the clients
of a round: π_i = (stratum_i + s_j) mod strata with one permutation `stratum` for all coordinates and a shift s_j for
each. In every single coordinate that is a uniformly random permutation. With strata = 1 the rounding is independent.
"""

from __future__ import annotations

import numpy as np

from . import njit
from .random import bits32, bits64, uniform32

# What the keys are mixed with; part of the format.
PERMUTATION, SIGNS, SHIFTS, OFFSETS = 0, 1, 2, 3


@njit
def _offset(key, element, base, spread):
    """b_j."""
    return base + spread * (np.float64((bits32(key, element) >> np.uint32(8)) + np.uint32(1)) * 5.960464477539063e-08)


@njit
def round_to_lattice(x, radius, slope, base, spread, symbols, common, key, stratum, strata, first, codes):
    """codes[j] = q: x_j rounded to one of its two neighbours without bias.

    An |x_j| above `radius` is rounded to an end of the lattice.

    Parameters
    ----------
    x : float, shape (count,). radius : finite; zero stands for a vector of zeros.
    common, key : keys of what the clients share (shifts and offsets), and of the client's own γ. first : index of the
        first coordinate.
    stratum, strata : this client's place in the permutation, and how many clients share it.
    """
    divisor = radius if radius > 0 else 1.0
    shifts, offsets = bits64(common, SHIFTS), bits64(common, OFFSETS)
    width = np.uint64(strata)
    for j in range(x.shape[0]):
        z = slope * min(max(x[j] / divisor, -1.0), 1.0)
        z += _offset(offsets, first + j, base, spread) if spread > 0 else base
        below = np.floor(z)
        threshold = np.float64(uniform32(key, first + j))
        if strata > 1:
            place = stratum + np.int64((np.uint64(bits32(shifts, first + j)) * width) >> np.uint64(32))
            threshold += place - strata if place >= strata else place
        q = np.int64(below) + np.int64(threshold < strata * (z - below))
        codes[j] = min(max(q, 0), symbols - 1)


@njit
def lattice_points(codes, radius, slope, base, spread, common, first, out):
    """out[j] = r (q_j − b_j)/slope."""
    offsets = bits64(common, OFFSETS)
    for j in range(out.shape[0]):
        b = _offset(offsets, first + j, base, spread) if spread > 0 else base
        out[j] = radius * ((codes[j] - b) / slope)
