"""Messages of correlated quantization with two levels: a radius and one bit for each entry, in one pass over the vector."""

from __future__ import annotations

import numpy as np

from ..kernels import lean, njit
from ..kernels.bits import CHUNK, packed_nbytes, padding_is_zero, unpack_top
from ..kernels.lattice import PERMUTATION, round_to_ends
from ..kernels.levels import no_scale
from ..kernels.quantize import norm
from ..kernels.random import bits64, client_key, permutation
from ..kernels.select import argmax_magnitude
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED


@njit
def radius_of(
    x: np.ndarray, use_max: bool, factor: float, partial_sums: np.ndarray, wire: np.ndarray, given: np.ndarray, row: int
) -> float:
    """The radius as a float64 that the wire dtype holds, rounded up; NaN where it is not finite.

    given : the norms of the whole vectors of which the rows are slices, float64; empty where they are not slices.
    """
    if given.shape[0]:
        size = factor * given[row]
    else:
        size = factor * (np.float64(abs(x[argmax_magnitude(x)])) if use_max else norm(x, 2, partial_sums))
    r = wire.dtype.type(size)
    if np.float64(r) < size:
        r = wire.dtype.type(np.nextafter(r, wire.dtype.type(np.inf)))
    return np.float64(r) if np.isfinite(r) else np.nan


@njit
def encode_bits(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, use_max: bool, partial_sums: np.ndarray, common_radius: np.ndarray,
    order: np.ndarray, codes: np.ndarray, again: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    """The encode kernel. `common_radius` holds the common radius, or nothing; `order` is scratch, shape (n,)."""
    d, head = V.shape[1], 0 if common_radius.shape[0] else wire.itemsize
    nbytes, strata = head + packed_nbytes(d, 1), order.shape[0]
    permutation(bits64(shared, PERMUTATION), order)
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], client_key(private, clients[j])
        if head:
            r = radius_of(x, use_max, 1.0, partial_sums, wire, given, rows[j])
            buf[pos : pos + head].view(wire.dtype)[0] = r
        else:
            r = common_radius[0]
        stratum = order[clients[j] % strata]
        _write_ends(x, r, shared, key, stratum, strata, buf, pos + head, codes, again, lo)
        pos += nbytes
    tally[0] += 8 * nbytes * rows.shape[0]
    tally[1] += (8 * head + d) * rows.shape[0]
    return pos


@lean
def _write_ends(
    x: np.ndarray, r: float, shared: np.uint64, key: np.uint64, stratum: int, strata: int, buf: np.ndarray, pos: int,
    codes: np.ndarray, again: np.ndarray, lo: int,
) -> None:  # fmt: skip
    d = x.shape[0]
    if not np.isfinite(r):
        buf[pos : pos + packed_nbytes(d, 1)] = 0
        return
    for start in range(0, d, CHUNK):
        stop = min(start + CHUNK, d)
        round_to_ends(x, start, stop, r, shared, key, stratum, strata, buf, pos + (start >> 3), codes, again, lo)


@lean
def decode_bits(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, use_max: bool, partial_sums: np.ndarray,
    common_radius: np.ndarray, order: np.ndarray, codes: np.ndarray, again: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    """The decode kernel."""
    d, head = out.shape[1], 0 if common_radius.shape[0] else wire.itemsize
    for j in range(rows.shape[0]):
        bits = pos + head
        stop = bits + packed_nbytes(d, 1)
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * bits + d):
            return BAD_PADDING
        r = common_radius[0] if head == 0 else np.float64(buf[pos:bits].view(wire.dtype)[0])
        if no_scale(r):
            return BAD_VALUE
        plus = weights[j] * out.dtype.type(r)
        minus = plus if np.isnan(plus) else -plus  # no other sign of a NaN
        for first in range(0, d, CHUNK):
            chunk = out[rows[j], first : first + CHUNK]
            unpack_top(buf, bits, first, chunk.shape[0], d, 1, codes)
            for i in range(chunk.shape[0]):
                chunk[i] += plus if codes[i] else minus
        pos = stop
    return pos
