"""TopK: the k entries of largest magnitude, exactly, with their indices."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import lean, njit
from ..kernels.bits import CHUNK, bit_length, packed_nbytes, unsigned
from ..kernels.few_bits import HALF, cut_values, read_values, write_values
from ..kernels.indices import (
    FIXED,
    choose_coding,
    first_reader,
    next_indices,
    read_head,
    read_indices,
    read_low_parts,
    write_head,
    write_indices,
)
from ..kernels.intrinsics import float_of
from ..kernels.random import client_key
from ..kernels.select import candidate_capacity, largest, largest_by, largest_difference
from ..kernels.status import TRUNCATED
from .agreement import Kth
from .base import Compressor, compressors, count_of
from .codec import Codec, Cutting
from .few_bits import few_bits
from .identity import Identity

_WHOLE = -1  # in place of a part's first coordinate
_TOGETHER = 64  # entries that are on their way from memory at once


@compressors.register("topk")
class TopK(Compressor):
    """C(x) = Σ x_j e_j over the k largest |x_j|; of equal ones the lower index first. NaN counts as the largest magnitude.

    Entries that are exactly zero are not sent.

    Parameters
    ----------
    k : number of entries kept, or
    fraction : part of the entries kept, in (0, 1].
    values : "exact"; or 2, 4 or 8 bits for each kept value; "sign", one bit; "bfloat16", 16 bits.
    rounding : of values in few bits: "nearest", with scales by least squares; or "stochastic", without bias.
    bucket : number of kept values that share scales, 64 by default: two values of the wire, for signs one.

    α = κk/d with the κ of `FewBits.kappa` for the values, 1 for exact ones; derived in docs/derivations/few-bits.md.

    >>> TopK(k=2).alpha(10)
    0.2
    >>> TopK(k=2, values="sign").apply([4.0, -2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    array([ 3., -3.,  0.,  0.,  0.,  0.,  0.,  0.])
    """

    codec_id = 1
    carries_nan = True
    summary = "the k entries of largest magnitude, with their indices"
    formulas = "α = k/d; values in few bits: κk/d [derived]"
    paper = "Stich, Cordonnier and Jaggi 2018, Sparsified SGD with memory; Alistarh et al. 2018"

    def __init__(
        self,
        k: int | None = None,
        fraction: float | None = None,
        values: int | str = "exact",
        rounding: str = "nearest",
        bucket: int | None = None,
    ):
        self.k, self.fraction = k, fraction
        self.values, self.rounding, self.bucket = values, rounding, bucket
        self.coding = few_bits(self.name, values, bucket, rounding)
        if self.coding.exact and self.coding.stochastic:
            raise ConfigError(f"{self.name}: values=exact are not rounded; drop rounding=stochastic")
        self.deterministic = not self.coding.stochastic
        self.homogeneous = self.coding.bits != HALF
        self.nonexpansive = self.coding.nonexpansive
        self.contractive = self.coding.kappa(self.coding.bucket) > 0

    def count(self, d: int) -> int:
        """k for dimension d."""
        return count_of(self, self.k, self.fraction, d)

    def alpha(self, d: int, n: int = 1) -> float:
        kept = self.count(d)
        if not self.contractive:
            raise TheoryError(
                f"{self.spec} has no α: rounded at random, so few bits lose more than they keep; take rounding=nearest, or a smaller bucket"
            )
        return kept / d if self.coding.exact else self.coding.kappa(kept) * kept / d

    def density(self, d: int, n: int = 1) -> float:
        return self.coding.nbytes(self.count(d), np.dtype(np.float32)) / 4.0

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire, k = self.wire_of(dim, wire_dtype), self.count(dim)
        index_bits = min(k * bit_length(dim - 1), dim)  # fixed width, or a bitmap
        max_nbytes = 1 + packed_nbytes(index_bits, 1) + self.coding.nbytes(k, wire)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        capacity, given = candidate_capacity(dim, k), np.empty((0, 2), np.uint64)
        args = (
            k,
            np.empty(capacity, np.int64),
            np.empty(capacity, np.uint64),
            np.empty(k, np.uint32),
            np.empty(256, np.int64),
            np.empty(CHUNK, np.uint8),
            self.coding.scratch(k, wire),
        )
        count_nbytes = packed_nbytes(bit_length(k), 1)

        def part_nbytes(width: int) -> int:
            most = min(k, width)
            return (
                1
                + count_nbytes
                + packed_nbytes(most, bit_length(max(width - 1, 0)))
                + self.coding.part_nbytes(most, wire)
            )

        exact = self.coding.exact  # few bits have scales that entries of several slices share
        cutting = Cutting(
            _cut,
            (np.empty(0, wire), *args),
            part_nbytes,
            offset=True,
            separable=exact,
            agreement=Kth(k) if exact else None,
        )
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (*args, given, _WHOLE), cutting=cutting,
            difference_kernel=_encode_difference, given=given,
        )  # fmt: skip


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, k: int, indices: np.ndarray, keys: np.ndarray, fields: np.ndarray,
    bins: np.ndarray, top: np.ndarray, few: tuple | None, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        if given.shape[0]:
            threshold, ties = given[rows[j], 0], given[rows[j], 1]
            count = largest_by(V[rows[j]], threshold, np.int64(ties), indices, keys, bins, top)
        else:
            count = largest(V[rows[j]], k, indices, keys, bins, top)
        key = client_key(private, clients[j])
        pos = _write(V[rows[j]], count, key, buf, pos, tally, wire, k, indices, keys, fields, top, few)
    return pos


@njit
def _encode_difference(
    V: np.ndarray, state: np.ndarray, work: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64,
    private: np.uint64, buf: np.ndarray, pos: int, tally: np.ndarray, wire: np.ndarray, k: int, indices: np.ndarray,
    keys: np.ndarray, fields: np.ndarray, bins: np.ndarray, top: np.ndarray, few: tuple | None, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        key = client_key(private, clients[j])
        count = largest_difference(V[rows[j]], state[rows[j]], work[rows[j]], k, indices, keys, bins, top)
        pos = _write(V[rows[j]], count, key, buf, pos, tally, wire, k, indices, keys, fields, top, few)
    return pos


@njit
def _write(
    x: np.ndarray, count: int, key: np.uint64, buf: np.ndarray, pos: int, tally: np.ndarray, wire: np.ndarray, k: int,
    indices: np.ndarray, keys: np.ndarray, fields: np.ndarray, top: np.ndarray, few: tuple | None,
) -> int:  # fmt: skip
    """The message of `count` entries, in x's dtype, of which `indices` and `keys` hold the places and the bits."""
    d, start, coding = x.shape[0], pos, choose_coding(indices, count, x.shape[0])
    pos = write_head(coding, count, k, buf, pos)
    pos = write_indices(indices, count, d, coding, buf, pos, fields, top)
    before, word = pos, unsigned(x).dtype.type
    if few is None:
        pos += count * wire.itemsize
        values = buf[before:pos].view(wire.dtype)
        for i in range(count):
            values[i] = float_of(word(keys[i]))
    else:
        for i in range(count):
            few[1][i] = float_of(word(keys[i]))
        pos = write_values(few, count, key, buf, pos, wire)
    tally[0] += 8 * (pos - start)
    tally[1] += 8 * (pos - before)
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, k: int, indices: np.ndarray, keys: np.ndarray,
    fields: np.ndarray, bins: np.ndarray, top: np.ndarray, few: tuple | None, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        acc, weight = out[rows[j]], weights[j]
        pos, coding, count = read_head(buf, pos, end, k)
        if pos < 0:
            return pos
        if few is not None:
            pos = read_indices(buf, pos, end, count, d, coding, indices, fields, top)
            if pos >= 0:
                pos = read_values(few, count, buf, pos, end, wire, lo != _WHOLE)
            if pos < 0:
                return pos
            _add_values(indices, few[2], 0, count, weight, acc)
            continue
        if coding == FIXED:
            after = read_indices(buf, pos, end, count, d, coding, indices, fields, top)
        else:
            after = read_low_parts(buf, pos, end, count, d, coding, fields, top)
        if after < 0:
            return after
        nbytes = count * wire.itemsize
        if after + nbytes > end:
            return TRUNCATED
        values = buf[after : after + nbytes].view(wire.dtype)
        if coding == FIXED:
            _add_values(indices, values, 0, count, weight, acc)
        else:  # the entries of a block come from memory while the indices of the next one are read
            reader, done = first_reader(buf, pos, end, count, coding), 0
            for first in range(0, count, _TOGETHER):
                stop = min(first + _TOGETHER, count)
                reader = next_indices(buf, end, first, stop, d, coding, indices, fields, reader, acc)
                if reader.after < 0:
                    return reader.after
                _add_values(indices, values, done, first, weight, acc)
                done = first
            _add_values(indices, values, done, count, weight, acc)
        pos = after + nbytes
    return pos


@lean
def _add_values(indices: np.ndarray, values: np.ndarray, first: int, stop: int, weight: float, acc: np.ndarray) -> None:
    for i in range(first, stop):
        acc[np.uint64(indices[i])] += weight * values[i]  # unsigned: no check for a negative index


@njit
def _cut(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, wire: np.ndarray, k: int, indices: np.ndarray, keys: np.ndarray,
    fields: np.ndarray, bins: np.ndarray, top: np.ndarray, few: tuple | None,
) -> int:  # fmt: skip
    """The part for a slice is a message of the entries that lie in it."""
    for _ in range(clients.shape[0]):
        pos, coding, count = read_head(buf, pos, buf.shape[0], k)
        pos = read_indices(buf, pos, buf.shape[0], count, bounds[-1], coding, indices, fields, top)
        first, after, size = 0, pos + count * wire.itemsize, wire.itemsize
        if few is not None:
            after = read_values(few, count, buf, pos, buf.shape[0], wire)
        for s in range(places.shape[0]):
            lo, hi, at, last = bounds[s], bounds[s + 1], places[s], first
            if lo == hi:
                continue
            while last < count and indices[last] < hi:
                indices[last] -= lo
                last += 1
            entries = indices[first:last]
            coding = choose_coding(entries, last - first, hi - lo)
            at = write_head(coding, last - first, k, out, at)
            at = write_indices(entries, last - first, hi - lo, coding, out, at, fields, top)
            if few is None:
                out[at : at + (last - first) * size] = buf[pos + first * size : pos + last * size]
                at += (last - first) * size
            else:
                at = cut_values(few, count, first, last, buf, pos, wire, out, at)
            places[s], first = at, last
        pos = after
    return pos
