"""Unbiased rounding to a lattice with thresholds that are correlated over the clients (correlated quantization).

The lattice points are r (q − b_j)/slope, q = 0, ..., symbols − 1, with an offset b_j = base + spread·u_j, u_j ∈ (0, 1]
drawn for each coordinate. Client i rounds z_j = slope·x_j/r + b_j up where U < z_j − ⌊z_j⌋. Its thresholds U = (π_i +
γ)/strata have their own uniform γ, and strata π_i that are a random permutation of 0, ..., strata − 1 over the clients
of a round: π_i = (stratum_i + s_j) mod strata with one permutation `stratum` for all coordinates and a shift s_j for
each. In every single coordinate that is a uniformly random permutation. With strata = 1 the rounding is independent.
"""

from __future__ import annotations

import numpy as np

from . import lean, njit
from .lanes import add32, mul32, sub32
from .random import bits32, bits64, draw32, fraction32, next32, state32, uniform32

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


_DOUBT = np.float32(
    2.0**-20
)  # n times as much is above all rounding errors of `round_to_ends`, which are below 4n · 2⁻²⁴
_MOST_CLIENTS = 1 << 16


@lean
def _round_slowly(x, start, stop, radius, common, key, stratum, strata, codes):
    round_to_lattice(x[start:stop], radius, 0.5, 0.5, 0.0, 2, common, key, stratum, strata, start, codes)


@lean
def round_to_ends(x, start, stop, radius, common, key, stratum, strata, codes):
    """`round_to_lattice` of x[start:stop] to the two ends −r and r (slope = offset = ½), the same codes, ten times as fast.

    Where U = (π + γ)/n is clearly above or below (x_j/r + 1)/2 in float32, no division in float64 is needed to know the code; chunks
    with an entry that is in doubt, one of 500,000, are done again by the slow way. `codes` is uint8.
    """
    half = np.float32(0.5) * np.float32(strata)
    slope = np.float32(0.5 * strata / radius) if radius > 0 else np.float32(np.inf)
    if strata > _MOST_CLIENTS or not np.float32(2.0**-100) < slope < np.float32(2.0**100):
        _round_slowly(x, start, stop, radius, common, key, stratum, strata, codes)
        return
    n, place, low = np.uint32(strata), np.uint32(stratum), np.uint32(0xFFFF)
    doubt, margin = False, np.float32(strata) * _DOUBT
    shifts = bits64(common, SHIFTS)
    own, other = state32(key, start), state32(shifts, start)
    part = x[start:stop]
    for i in range(part.shape[0]):
        shift = draw32(shifts, other)
        # the upper half of shift · n, by halves of `shift`
        upper, lower = mul32(shift >> np.uint32(16), n), mul32(shift & low, n)
        shift = add32(place, add32(upper, lower >> np.uint32(16)) >> np.uint32(16))
        shift = min(shift, sub32(shift, n))  # modulo n: where it is below n, the difference is huge
        threshold = np.float32(np.int32(shift)) + fraction32(draw32(key, own))
        above = slope * np.float32(part[i]) + half - threshold
        codes[i] = above > np.float32(0)
        doubt |= not abs(above) > margin
        own, other = next32(own), next32(other)
    if doubt:
        _round_slowly(x, start, stop, radius, common, key, stratum, strata, codes)


@njit
def lattice_points(codes, radius, slope, base, spread, common, first, out):
    """out[j] = r (q_j − b_j)/slope."""
    offsets = bits64(common, OFFSETS)
    for j in range(out.shape[0]):
        b = _offset(offsets, first + j, base, spread) if spread > 0 else base
        out[j] = radius * ((codes[j] - b) / slope)
