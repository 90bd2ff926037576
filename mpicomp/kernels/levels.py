"""Messages of levels: for each bucket the distance between levels, then one packed integer for each entry; and packed trits."""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import CHUNK, pack, pack_top, packed_nbytes, padding_is_zero, unpack
from .intrinsics import next_above
from .quantize import norm, round_to_grid
from .random import shifted
from .select import max_magnitude
from .status import BAD_PADDING, BAD_VALUE, TRUNCATED

TRITS = 5  # in a byte: 3⁵ = 243


@lean
def unit_of(x, levels, use_max, partial_sums, wire, given, row):
    """‖x‖/s, the distance between levels, in the wire dtype and rounded up, so that no entry is above level s; NaN if not finite.

    given : the norms of the whole vectors of which the rows are slices, float64; empty where they are not slices.
    """
    if given.shape[0]:
        return _unit(given[row], levels, wire)
    return _unit(np.float64(max_magnitude(x)) if use_max else norm(x, 2, partial_sums), levels, wire)


@lean
def _unit(size, levels, wire):
    unit = wire.dtype.type(size / levels)
    if np.float64(unit) * levels < size:
        unit = next_above(unit)
    return unit if np.isfinite(unit) else wire.dtype.type(np.nan)


@lean
def no_scale(scale):
    """Whether a scale is one that no encoder writes: negative or infinite. NaN stands for a vector that is not finite."""
    return scale < 0 or np.isinf(scale)


@lean
def _largest_of(x, start, stop):  # the slice is taken here: one that is passed on costs two atomic additions
    return np.float64(max_magnitude(x[start:stop]))


@lean
def _length_of(x, start, stop, partial_sums):
    return norm(x[start:stop], 2, partial_sums)


@lean
def write_levels(x, levels, width, bucket, use_max, key, buf, pos, wire, partial_sums, codes, top, size=-1.0, lo=0):
    """Write the units of all buckets of x, and its entries as fields of `width` bits; returns the position after them.

    Parameters
    ----------
    size : the norm of the whole vector, of which x is a slice that shares one bucket with others; negative where x has its buckets.
    lo : index of x's first coordinate in the whole vector: a multiple of eight, and of `bucket`, or with `size` of CHUNK.
    partial_sums : scratch, float64, shape (PARTIAL_SUMS,); codes : scratch, uint16, shape (CHUNK,); top : scratch, uint8, shape (CHUNK,).
    """
    d, cut = (
        x.shape[0],
        not (use_max and wire.itemsize == 4),
    )  # of a float32 and s < 2**15 the product s · unit is exact in `_unit`
    buckets = (d + bucket - 1) // bucket
    units = buf[pos : pos + buckets * wire.itemsize].view(wire.dtype)
    pos += buckets * wire.itemsize
    key, given = shifted(key, lo), size >= 0 or np.isnan(size)
    for grid in range(-(lo % CHUNK), d, CHUNK):  # chunks of the whole vector, which decide who shares random bits
        first, last = max(grid, 0), min(grid + CHUNK, d)
        start = first
        while start < last:
            b = start // bucket
            stop = min((b + 1) * bucket, last)
            if start == b * bucket:  # now, so that the bucket is still in the cache when it is rounded
                end = min(start + bucket, d)
                if not given:
                    size = _largest_of(x, start, end) if use_max else _length_of(x, start, end, partial_sums)
                units[b] = _unit(size, levels, wire)
            if width == 8:
                _write_codes(x, start, stop, units[b], levels, key, buf, pos + start, cut)
            elif width < 8:
                _write_codes(x, start, stop, units[b], levels, key, top, start - first, cut)
            else:
                _write_codes(x, start, stop, units[b], levels, key, codes, start - first, cut)
            start = stop
        if width < 8:
            pack_top(top, first, last - first, d, width, buf, pos)
        elif width > 8:
            pack(codes, first, last - first, d, width, buf, pos, top)
    return pos + packed_nbytes(d, width)


@lean
def _write_codes(x, start, stop, unit, levels, key, codes, at, cut):
    """`round_to_grid`, or the code of zero where the unit is not finite."""
    if np.isfinite(unit):
        round_to_grid(x, start, stop, unit, levels, key, codes, at, cut)
    else:
        for i in range(at, at + stop - start):
            codes[i] = levels


@lean
def add_levels(buf, pos, end, acc, weight, levels, width, bucket, wire, codes, top):
    """acc += weight · (what `write_levels` wrote at `pos`); returns the position after it, or a negative code."""
    d = acc.shape[0]
    buckets = (d + bucket - 1) // bucket
    packed = pos + buckets * wire.itemsize
    if packed + packed_nbytes(d, width) > end:
        return TRUNCATED
    if not padding_is_zero(buf, 8 * packed + d * width):
        return BAD_PADDING
    units = buf[pos:packed].view(wire.dtype)
    for first in range(0, d, CHUNK):
        last, start = min(first + CHUNK, d), first
        unpack(buf, packed, first, last - first, d, width, codes, top)
        if any_above(codes[: last - first], 2 * levels):
            return BAD_VALUE
        while start < last:
            b = start // bucket
            stop = min((b + 1) * bucket, last)
            target, part, unit = acc[start:stop], codes[start - first : stop - first], units[b]
            if no_scale(unit):
                return BAD_VALUE
            for i in range(stop - start):
                target[i] += weight * (unit * (wire.dtype.type(np.int32(part[i])) - wire.dtype.type(levels)))
            start = stop
    return packed + packed_nbytes(d, width)


@lean
def any_above(codes, limit):
    """Whether one of the unsigned integers is above `limit`; all are looked at, which is faster than stopping."""
    above, limit = False, codes.dtype.type(limit)
    for i in range(codes.shape[0]):
        above |= codes[i] > limit
    return above


@lean
def trits_nbytes(count):
    """Bytes that `count` trits take."""
    return (count + TRITS - 1) // TRITS


@lean
def pack_trits(codes, count, buf, pos):
    """Write codes (0, 1 or 2), five to a byte, the first one the least significant digit; returns the position after them."""
    for first in range(0, count, TRITS):
        byte = np.int64(0)
        for i in range(min(first + TRITS, count) - 1, first - 1, -1):
            byte = 3 * byte + np.int64(codes[i])
        buf[pos] = byte
        pos += 1
    return pos


@lean
def unpack_trits(buf, pos, count, codes):
    """Read back what `pack_trits` wrote; returns the position after it, or BAD_VALUE for a byte that holds no such digits."""
    for first in range(0, count, TRITS):
        byte = np.int64(buf[pos])
        for i in range(first, min(first + TRITS, count)):
            codes[i] = byte % 3
            byte //= 3
        if byte:
            return BAD_VALUE
        pos += 1
    return pos
