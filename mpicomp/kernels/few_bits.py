"""The values of a sparse message, exact or in few bits.

A bucket is so many consecutive values, and has scales of its own. With b = 2, 4 or 8 bits a value v is a sign and a number q of b − 1 bits,
and arrives as ±(low + q · step), the two scales being the bucket's; with one bit it is a sign, and arrives as ±scale. With 16 bits it is a
bfloat16, without scales. Where values in few bits would not be shorter than the values themselves, these are sent.

A message may be cut into parts. Where values have scales, a part says how many values of its first bucket are in the parts before it, and
has the scales of all buckets of which it has values.
"""

from __future__ import annotations

import math

import numpy as np

from . import lean, njit
from .bits import pack_all, packed_nbytes, padding_is_zero, unpack_all
from .half import to_bfloat16
from .intrinsics import bits_of, float_of
from .levels import no_scale
from .random import uniform64
from .status import BAD_PADDING, BAD_VALUE, TRUNCATED

EXACT, SIGN, HALF = 0, 1, 16  # numbers of bits that mean something of their own; EXACT: the values themselves
_WHOLE = 0xFFFF  # in place of that number: the values are sent as they are
MOST = _WHOLE  # values in a bucket
_SMALLEST = -126  # exponent of the smallest normal float32


@lean
def values_nbytes(count, bits, bucket, size, skip=0):
    """Bytes of `count` values in so many bits, scales included; `size` is that of a value of the wire, `skip` as for `read_values`."""
    if bits == EXACT:
        return count * size
    if bits == HALF:
        return 2 * count
    scales = (count + skip + bucket - 1) // bucket * (1 if bits == SIGN else 2)
    return scales * size + packed_nbytes(count, bits)


@lean
def bits_for(count, bits, bucket, size):
    """The bits in which `count` values are sent: EXACT where that is not longer."""
    return bits if values_nbytes(count, bits, bucket, size) < count * size else EXACT


@njit
def write_values(few, count, key, buf, pos, wire):
    """Write the first `count` values; returns the position after them.

    Parameters
    ----------
    few : ((bits, stochastic, bucket), values, decoded, fields, top). Rounding is without bias where `stochastic`, with the key's number i
        for value i, else to the nearest, scales being those that fit the rounded values best. values : float64, what is to be sent.
        decoded : of the wire dtype, what is read. fields : scratch, uint32; top : scratch, uint8, shape (CHUNK,).
    """
    (bits, stochastic, bucket), values, _, fields, top = few
    bits = bits_for(count, bits, bucket, wire.itemsize)
    stop = pos + values_nbytes(count, bits, bucket, wire.itemsize)
    if bits == EXACT:
        sent = buf[pos:stop].view(wire.dtype)
        for i in range(count):
            sent[i] = values[i]
        return stop
    if bits == HALF:
        halves = buf[pos:stop].view(np.uint16)
        for i in range(count):
            single = _bfloat16_at_random(values[i], uniform64(key, i)) if stochastic else np.float32(values[i])
            halves[i] = to_bfloat16(bits_of(single))
        return stop
    packed = stop - packed_nbytes(count, bits)
    scales = buf[pos:packed].view(wire.dtype)
    for first in range(0, count, bucket):
        last, b = min(first + bucket, count), first // bucket
        if bits == SIGN:
            _write_signs(values, first, last, stochastic, key, scales[b : b + 1], fields)
        else:
            _write_magnitudes(values, first, last, bits, stochastic, key, scales[2 * b : 2 * b + 2], fields)
    pack_all(fields, count, bits, buf, packed, top)
    return stop


@lean
def have_scales(few):
    """Whether values share scales, so that a part of a message begins with the number `skip` of `read_values`."""
    return few[0][0] != EXACT and few[0][0] != HALF


@njit
def read_values(few, count, buf, pos, end, wire, part=False):
    """Read what `write_values`, or for a part `cut_values`, wrote to few's `decoded`; returns the position after it, or a negative status.

    A part begins with the number `skip` of values of its first bucket that it does not have.
    """
    (bits, _, bucket), _, values, fields, top = few
    skip = np.int64(0)
    if part and have_scales(few):
        if pos + 2 > end:
            return TRUNCATED
        skip = np.int64(buf[pos]) | np.int64(buf[pos + 1]) << 8
        pos += 2
        if skip == _WHOLE:
            bits, skip = EXACT, np.int64(0)
        elif skip >= bucket or (count == 0 and skip > 0):
            return BAD_VALUE
    else:
        bits = bits_for(count, bits, bucket, wire.itemsize)
    stop = pos + values_nbytes(count, bits, bucket, wire.itemsize, skip)
    if stop > end:
        return TRUNCATED
    if bits == EXACT:
        sent = buf[pos:stop].view(wire.dtype)
        for i in range(count):
            values[i] = sent[i]
        return stop
    if bits == HALF:
        halves = buf[pos:stop].view(np.uint16)
        for i in range(count):
            values[i] = float_of(np.uint32(np.uint32(halves[i]) << np.uint32(16)))
        return stop
    packed = stop - packed_nbytes(count, bits)
    if not padding_is_zero(buf, 8 * packed + count * bits):
        return BAD_PADDING
    scales = buf[pos:packed].view(wire.dtype)
    for scale in scales:
        if no_scale(scale):
            return BAD_VALUE
    unpack_all(buf, packed, count, bits, fields, top)
    mask = (1 << (bits - 1)) - 1
    for begin in range(-skip, count, bucket):
        b = (begin + skip) // bucket
        low, step = scales[b if bits == SIGN else 2 * b], wire.dtype.type(0)
        if bits != SIGN:
            step = scales[2 * b + 1]
        for i in range(max(begin, 0), min(begin + bucket, count)):
            field = np.int64(fields[i])
            size = low + wire.dtype.type(field & mask) * step
            values[i] = -size if field > mask else size
    return stop


@njit
def cut_values(few, count, first, last, buf, pos, wire, out, at):
    """Write the part of values first to last of the `count` at `pos`, which `read_values` has read; returns the position after the part."""
    (bits, _, bucket), _, _, fields, top = few
    size, scaled = wire.itemsize, have_scales(few)
    bits = bits_for(count, bits, bucket, size)
    skip = _WHOLE if bits == EXACT else first % bucket if first < last else 0
    if scaled:
        out[at], out[at + 1] = skip & 255, skip >> 8
        at += 2
    if bits in (EXACT, HALF):
        size = 2 if bits == HALF else size
        out[at : at + (last - first) * size] = buf[pos + first * size : pos + last * size]
        return at + (last - first) * size
    size *= 1 if bits == SIGN else 2
    begin, end = first // bucket, (last + bucket - 1) // bucket if first < last else first // bucket
    out[at : at + (end - begin) * size] = buf[pos + begin * size : pos + end * size]
    return pack_all(fields[first:last], last - first, bits, out, at + (end - begin) * size, top)


@njit
def _largest(values, first, last):
    """The largest |v|; NaN where one is not finite."""
    largest = 0.0
    for i in range(first, last):
        size = abs(values[i])
        if not size < np.inf:
            return np.nan
        largest = max(largest, size)
    return largest


@njit
def _rounded_up(value, scales):
    """A number of the dtype of `scales`, not below `value` >= 0; NaN where there is none."""
    number = scales.dtype.type(value)
    if np.float64(number) < value:
        number = np.nextafter(number, scales.dtype.type(np.inf))
    return number if np.isfinite(number) else scales.dtype.type(np.nan)


@njit
def _write_signs(values, first, last, stochastic, key, scales, fields):
    """Signs, and r = max|v| with P(+) = (1 + v/r)/2; or the signs of the values, and the mean of |v|."""
    largest, total = _largest(values, first, last), 0.0
    if stochastic:
        scales[0] = _rounded_up(largest, scales)
        radius = np.float64(scales[0])
        for i in range(first, last):
            share = values[i] / radius if radius > 0 else 0.0
            fields[i] = 0.5 * (1.0 + share) <= uniform64(key, i)
        return
    for i in range(first, last):
        fields[i] = values[i] < 0
        total += abs(values[i]) / largest if largest > 0 else 0.0
    mean = largest * (total / (last - first))
    scales[0] = mean if np.isfinite(scales.dtype.type(mean)) else np.nan


@njit
def _write_magnitudes(values, first, last, bits, stochastic, key, scales, fields):
    """|v| on the grid of 2^(b−1) levels from the smallest to the largest of the bucket, and signs."""
    largest, steps, smallest = _largest(values, first, last), (1 << (bits - 1)) - 1, np.inf
    for i in range(first, last):
        smallest = min(smallest, abs(values[i]))
        fields[i] = 0
    scales[:] = np.nan
    if not np.isfinite(scales.dtype.type(largest)):
        return
    if stochastic:
        scales[0] = smallest
        if np.float64(scales[0]) > smallest:
            scales[0] = np.nextafter(scales[0], scales.dtype.type(0))
        smallest = np.float64(scales[0])
        scales[1] = _rounded_up((largest - smallest) / steps, scales)
        width = np.float64(scales[1])
    else:
        width = (largest - smallest) / steps
    for i in range(first, last):
        place = (abs(values[i]) - smallest) / width if width > 0 else 0.0
        whole = np.floor(place)
        up = uniform64(key, i) < place - whole if stochastic else place - whole >= 0.5
        fields[i] = min(np.int64(whole) + up, steps)
    if not stochastic:
        _fit(values, first, last, largest, scales, fields)
    for i in range(first, last):
        fields[i] |= (values[i] < 0) << (bits - 1)


@njit
def _fit(values, first, last, largest, scales, fields):
    """low and step >= 0 with the least Σ (|v| − low − q · step)², in units of the largest, so that no square overflows."""
    count, numbers, squares, total, product = last - first, 0.0, 0.0, 0.0, 0.0
    for i in range(first, last):
        size, q = abs(values[i]) / largest if largest > 0 else 0.0, np.float64(fields[i])
        numbers += q
        squares += q * q
        total += size
        product += q * size
    spread = count * squares - numbers * numbers
    step = max((count * product - numbers * total) / spread, 0.0) if spread > 0 else 0.0
    low = (total - step * numbers) / count
    if low < 0:
        low, step = 0.0, product / squares
    scales[0], scales[1] = low * largest, step * largest


@njit
def _bfloat16_at_random(value, uniform):
    """One of the two bfloat16 numbers beside a value, as a float32, without bias."""
    size = abs(value)
    if not size < np.inf:
        return np.float32(value)
    spacing = math.ldexp(1.0, max(math.frexp(size)[1] - 1, _SMALLEST) - 7)
    place = size / spacing
    whole = np.floor(place)
    rounded = (whole + (uniform < place - whole)) * spacing
    return np.float32(-rounded if value < 0 else rounded)
