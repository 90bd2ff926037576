"""Uniform quantizers: entries as integers in units of a step, with shared dither or to the nearest, and back.

With dither, q = ⌊x/Δ + u⌉ for u ∈ (−½, ½) from a key that both ends know, and the receiver takes Δ(q − u): what is between them is
uniform on ±Δ/2 and independent of x (Roberts 1962; Schuchman 1964). Without, |q| = ⌊|x|/Δ + ρ⌋ with ρ ≤ ½, and the receiver takes
Δ(|q| − s), with one shift s for |q| = 1 and one for |q| ≥ 2: the mean of what is rounded to them.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .intrinsics import exchanged32
from .quantize import norm
from .random import bits32

GROUP = 32  # entries that are coded alike
SHIFTS = 2  # shifts that a message has, for |q| = 1, and for 2 or more
SHIFT_UNITS = 256.0  # of a step, in which shifts are counted
LARGEST = 1 << 28  # |q| is below
_PAIR, _BLOCK = 32, 16  # entries that share random words, see `random.dither32`
LANES = 16  # that sums are taken in


@lean
def length_of(x, partial_sums):
    """‖x‖₂ as a float64, also where squares overflow or underflow; not finite where an entry is not."""
    size = norm(x, 2, partial_sums)
    if 1e-140 < size < 1e150:
        return size
    largest, total = 0.0, 0.0
    for j in range(x.shape[0]):
        magnitude = np.float64(abs(x[j]))
        if not magnitude <= largest:  # a NaN, too
            largest = magnitude
    if not 0.0 < largest < np.inf:
        return largest
    for j in range(x.shape[0]):
        total += (np.float64(x[j]) / largest) ** 2
    return largest * np.sqrt(total)


@lean
def step_below(size, wire):
    """The largest number of the wire dtype that is not above `size` > 0, or the smallest positive one."""
    step = wire.dtype.type(size)
    if np.float64(step) > size:
        step = np.nextafter(step, wire.dtype.type(0))
    return step if step > 0 else np.nextafter(wire.dtype.type(0), wire.dtype.type(1))


@lean
def scales_of(x, step):
    """Two factors in x's dtype, whose product is 1/step, with neither too large: first the one, then the other."""
    lift = 1.0
    if x.itemsize == 4 and step < 2.0**-100:
        lift = 2.0**100
    elif x.itemsize == 8 and step < 2.0**-900:
        lift = 2.0**900
    return x.dtype.type(lift), x.dtype.type(1.0 / (np.float64(step) * lift))


@lean
def centred(bits):
    """32 random bits as a number uniform on the odd multiples of 2⁻²⁵ in (−½, ½), which float32 holds."""
    return np.float32(np.int32(bits >> np.uint32(8))) * np.float32(2.0**-24) + np.float32(2.0**-25 - 0.5)


@lean
def write_dither(key, entry, u):
    """u[j] for the GROUP entries from number `entry` on, a multiple of GROUP: `centred(dither32(key, entry + j))`."""
    for pair in range(0, GROUP, _PAIR):
        element = (entry + pair) >> 1
        for j in range(_BLOCK):
            word = bits32(key, element + j)
            u[pair + j] = centred(word)
            u[pair + _BLOCK + j] = centred(exchanged32(word))


@lean
def round_dithered(part, scales, u, q):
    """q[j] = ⌊part[j]/Δ + u[j]⌉ for its at most GROUP entries, zeros behind them."""
    lift, inverse = scales
    for j in range(part.shape[0]):
        q[j] = np.int32(np.rint(part[j] * lift * inverse + u[j]))
    for j in range(part.shape[0], GROUP):
        q[j] = 0


@lean
def round_nearest(part, scales, rounding, q):
    """q[j] = sign(part[j]) ⌊|part[j]|/Δ + rounding⌋ likewise."""
    (lift, inverse), offset = scales, part.dtype.type(rounding)
    for j in range(part.shape[0]):
        size = np.int32(abs(part[j]) * lift * inverse + offset)
        q[j] = -size if part[j] < 0 else size
    for j in range(part.shape[0], GROUP):
        q[j] = 0


@lean
def add_errors(part, scales, rounding, sums):
    """What `round_nearest` does to the entries, added to `sums` (float64, (1 + 2 · SHIFTS, LANES), entry j to lane j mod LANES).

    With e = |x|/Δ − |q|: Σ e²; for |q| = 1 and for |q| ≥ 2 how many there are; and Σ e of either.
    """
    (lift, inverse), offset, kind = scales, part.dtype.type(rounding), part.dtype.type
    whole = part.shape[0] & ~(LANES - 1)
    for start in range(0, whole, LANES):
        for j in range(LANES):
            size = abs(part[start + j]) * lift * inverse
            k = np.int32(size + offset)
            e = np.float64(size - kind(k))
            sums[0, j] += e * e
            sums[1, j] += 1.0 if k == 1 else 0.0
            sums[2, j] += 1.0 if k > 1 else 0.0
            sums[3, j] += e if k == 1 else 0.0
            sums[4, j] += e if k > 1 else 0.0
    for j in range(whole, part.shape[0]):
        size = abs(part[j]) * lift * inverse
        k = np.int32(size + offset)
        e = np.float64(size - kind(k))
        sums[0, 0] += e * e
        if k > 0:
            row = 1 if k == 1 else 2
            sums[row, 0] += 1.0
            sums[SHIFTS + row, 0] += e


@lean
def error_of(sums, shifts):
    """‖C(x) − x‖²/Δ² from the sums of `add_errors`; `shifts` (int64) are set to the best ones, in units of Δ/SHIFT_UNITS."""
    total = sums[0].sum()
    for g in range(SHIFTS):
        count, tilt = sums[1 + g].sum(), sums[1 + SHIFTS + g].sum()
        shift = np.rint(-SHIFT_UNITS * tilt / count) if count > 0 else 0.0
        shift = min(max(shift, -127.0), 127.0)
        shifts[g] = np.int64(shift)
        s = shift / SHIFT_UNITS
        total += s * (2.0 * tilt + count * s)
    return total


@lean
def add_dithered(q, u, step, largest, weight, out):
    """out[j] += weight · step · (q[j] − u[j]), the product in the dtype of `largest`, and not beyond it."""
    kind = largest.dtype.type
    bound, unit = largest[0], kind(step)
    for j in range(out.shape[0]):
        value = unit * (kind(q[j]) - kind(u[j]))
        value = value if value < bound else bound
        value = value if value > -bound else -bound
        out[j] += weight * out.dtype.type(value)


@lean
def add_nearest(q, first, others, step, largest, weight, out):
    """out[j] += weight · step · sign(q[j]) (|q[j]| − s) likewise, with s = `first` where |q[j]| is 1, `others` where it is more."""
    kind = largest.dtype.type
    bound, unit, one, more = largest[0], kind(step), kind(first), kind(others)
    for j in range(out.shape[0]):
        size = abs(q[j])
        shift = more if size > 1 else (one if size == 1 else kind(0))
        value = unit * (kind(size) - shift)
        value = value if value < bound else bound
        value = -value if q[j] < 0 else value
        out[j] += weight * out.dtype.type(value)
