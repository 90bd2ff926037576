"""Cutting messages of fixed width into parts for slices of the coordinates: no field is decoded, bytes are copied."""

from __future__ import annotations

from . import lean
from .bits import packed_nbytes


@lean
def fields_nbytes(count, head, unit, bucket, width):
    """Bytes of a message of `count` entries: a head, a unit for each bucket of entries, and a packed array of `width` bits an entry."""
    return head + (count + bucket - 1) // bucket * unit + packed_nbytes(count, width)


@lean
def cut_fields(buf, pos, clients, shared, private, bounds, out, places, head, unit, bucket, width):
    """Cut such messages; see `Cutting`. All bounds but the last are multiples of 8, and of `bucket` if that is below d."""
    d, planes, rest = bounds[bounds.shape[0] - 1], width >> 3, width & 7
    units = pos + head
    for _ in range(clients.shape[0]):
        fields = units + (d + bucket - 1) // bucket * unit
        for s in range(places.shape[0]):
            lo, hi, at = bounds[s], bounds[s + 1], places[s]
            if lo < hi:
                first = lo // bucket
                at = _copy(buf, units - head, head, out, at)
                at = _copy(buf, units + first * unit, ((hi + bucket - 1) // bucket - first) * unit, out, at)
                for p in range(planes):
                    at = _copy(buf, fields + p * d + lo, hi - lo, out, at)
                places[s] = _copy(buf, fields + planes * d + ((lo * rest) >> 3), packed_nbytes(hi - lo, rest), out, at)
        units = fields + packed_nbytes(d, width) + head
    return units - head


@lean
def _copy(buf, pos, count, out, at):
    source, target = buf[pos : pos + count], out[at : at + count]
    for i in range(count):
        target[i] = source[i]
    return at + count
