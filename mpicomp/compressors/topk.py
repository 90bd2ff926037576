"""TopK: the k entries of largest magnitude, exactly, with their indices."""

from __future__ import annotations

import numpy as np

from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, packed_nbytes, unsigned
from ..kernels.indices import FIXED, choose_coding, read_indices, write_indices
from ..kernels.lanes import float_of
from ..kernels.select import candidate_capacity, largest, largest_difference
from ..kernels.status import BAD_COUNT, BAD_MODE, TRUNCATED
from .base import Codec, Compressor, compressors, count_of
from .identity import Identity

_PARTIAL = 0x80  # bit of a message's first byte: fewer than k entries, their number follows


@compressors.register("topk")
class TopK(Compressor):
    """C(x) = Σ x_j e_j over the k largest |x_j|; of equal ones the lower index first. NaN counts as the largest magnitude.

    Entries that are exactly zero are not sent.

    Parameters
    ----------
    k : number of entries kept, or
    fraction : part of the entries kept, in (0, 1].

    >>> TopK(k=2).alpha(10)
    0.2
    """

    codec_id = 1
    summary = "the k entries of largest magnitude, with their indices"
    formulas = "α = k/d"
    paper = "Stich, Cordonnier and Jaggi 2018, Sparsified SGD with memory; Alistarh et al. 2018"
    contractive = deterministic = nonexpansive = True

    def __init__(self, k: int | None = None, fraction: float | None = None):
        self.k, self.fraction = k, fraction

    def count(self, d: int) -> int:
        """k for dimension d."""
        return count_of(self, self.k, self.fraction, d)

    def alpha(self, d: int, n: int = 1) -> float:
        return self.count(d) / d

    def density(self, d: int, n: int = 1) -> float:
        return float(self.count(d))

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        wire, k = np.dtype(wire_dtype), self.count(dim)
        index_bits = min(k * bit_length(dim - 1), dim)  # fixed width, or a bitmap
        max_nbytes = 1 + packed_nbytes(index_bits, 1) + k * wire.itemsize
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        capacity = candidate_capacity(dim, k)
        args = (
            k,
            np.empty(capacity, np.int64),
            np.empty(capacity, np.uint64),
            np.empty(k, np.uint32),
            np.empty(256, np.int64),
            np.empty(CHUNK, np.uint8),
        )
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, difference_kernel=_encode_difference
        )  # fmt: skip


@njit
def _encode(V, rows, clients, shared, private, buf, pos, tally, wire, k, indices, keys, fields, bins, top):
    for j in range(rows.shape[0]):
        count = largest(V[rows[j]], k, indices, keys, bins, top)
        pos = _write(V[rows[j]], count, buf, pos, tally, wire, k, indices, keys, fields, top)
    return pos


@njit
def _encode_difference(
    V, state, work, rows, clients, shared, private, buf, pos, tally, wire, k, indices, keys, fields, bins, top
):  # fmt: skip
    for j in range(rows.shape[0]):
        count = largest_difference(V[rows[j]], state[rows[j]], work[rows[j]], k, indices, keys, bins, top)
        pos = _write(V[rows[j]], count, buf, pos, tally, wire, k, indices, keys, fields, top)
    return pos


@njit
def _write(x, count, buf, pos, tally, wire, k, indices, keys, fields, top):
    """The message of `count` entries, in x's dtype, of which `indices` and `keys` hold the places and the bits."""
    d, start, coding = x.shape[0], pos, choose_coding(indices, count, x.shape[0])
    buf[pos] = coding | (_PARTIAL if count < k else 0)
    pos += 1
    if count < k:
        for b in range(packed_nbytes(bit_length(k), 1)):
            buf[pos] = (count >> (8 * b)) & 255
            pos += 1
    pos = write_indices(indices, count, d, coding, buf, pos, fields, top)
    nbytes = count * wire.itemsize
    values = buf[pos : pos + nbytes].view(wire.dtype)
    word = unsigned(x).dtype.type
    for i in range(count):
        values[i] = float_of(word(keys[i]))
    pos += nbytes
    tally[0] += 8 * (pos - start)
    tally[1] += 8 * nbytes
    return pos


@njit
def _decode(
    buf, pos, end, rows, clients, weights, shared, private, out, wire, k, indices, keys, fields, bins, top
):  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        if pos >= end:
            return TRUNCATED
        coding, count = np.int64(buf[pos]) & ~_PARTIAL, k
        pos += 1
        if coding > FIXED:
            return BAD_MODE
        if buf[pos - 1] & _PARTIAL:
            size = packed_nbytes(bit_length(k), 1)
            if pos + size > end:
                return TRUNCATED
            count = 0
            for b in range(size):
                count |= np.int64(buf[pos]) << (8 * b)
                pos += 1
            if count >= k:
                return BAD_COUNT
        pos = read_indices(buf, pos, end, count, d, coding, indices, fields, top)
        if pos < 0:
            return pos
        nbytes = count * wire.itemsize
        if pos + nbytes > end:
            return TRUNCATED
        values = buf[pos : pos + nbytes].view(wire.dtype)
        acc, weight = out[rows[j]], weights[j]
        for i in range(count):
            acc[indices[i]] += weight * values[i]
        pos += nbytes
    return pos
