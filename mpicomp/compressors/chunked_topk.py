"""Chunked Top-K: the k largest entries of every chunk of consecutive ones, their values in 2 bits; SparseLoCo's compressor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, unknown
from ..kernels import lean, njit
from ..kernels.bits import CHUNK, bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from ..kernels.few_bits import HALF, read_values, write_values
from ..kernels.indices import choose_coding, read_head, read_indices, write_head, write_indices
from ..kernels.select import candidate_capacity, largest
from ..kernels.status import BAD_PADDING, TRUNCATED
from .base import Compressor, compressors, count_of
from .codec import Codec
from .few_bits import VALUES, few_bits
from .identity import Identity

TWO_BITS, TABLES = "2bit", ("vector", "chunk")
_LEVELS = 4  # of 2 bits
_SIGMAS = 6.0  # the range of the four bins, in standard deviations; docs/how-to/diloco.md says where it comes from


@compressors.register("chunked-topk")
class ChunkedTopK(Compressor):
    """C(x): of every chunk of c consecutive entries the ⌈k·(its length)/c⌉ of largest |x_j|, of equal ones the lower index first.

    With values=2bit the kept values travel in 2 bits each. With their mean μ and standard deviation σ (of m − 1 degrees of freedom),
    value v falls in bin number round((v − μ)/(6σ/4) + 2), clipped to 0..3, and arrives as the mean of the values of its bin;
    four values or fewer arrive as they are. Entries that are exactly zero are not sent.

    The mean of a bin makes the error orthogonal to what arrives, ‖C(x) − x‖² = ‖x‖² − ‖C(x)‖². For m values that share a table,
    ‖C(x)‖² ≥ κ(m) · (their squares), with κ(m) = min{1/2, 3/(4√(m−1))} (1 − 9m/(16(m−1))) for m > 4, else 1; derived in
    docs/derivations/chunked-topk.md. It is a bound for the worst vector: of normal values κ is above 0.9.

    Parameters
    ----------
    k : number of entries kept of each whole chunk, or
    fraction : part of them, in (0, 1].
    chunk : c, consecutive entries.
    values : "2bit", or "exact" for the values themselves, or 2, 4, 8, "sign" or "bfloat16", rounded to the nearest, as for TopK.
    table : "vector", one table of four values a message; or "chunk", one for each chunk, for vectors
        whose parts differ in size.
    bucket : number of kept values that share scales, 64 by default, for values of 2, 4 or 8 bits and signs.

    >>> ChunkedTopK(k=1, chunk=3, values="exact").apply([1.0, -3.0, 2.0, 0.5, 0.0, 0.1])
    array([ 0. , -3. ,  0. ,  0.5,  0. ,  0. ])
    >>> ChunkedTopK(k=32, values="exact").alpha(100_000)
    0.0078125
    """

    codec_id = 52
    carries_nan = True
    summary = "the k largest entries of each chunk, with indices; values in 2 bits"
    formulas = (
        "α = κk/c; values=exact: κ = 1; 2bit: κ = min{1/2, 3/(4√(m−1))}(1 − 9m/(16(m−1))), m values a table [derived]"
    )
    paper = "Sarfi, Thérien, Lidin and Belilovsky 2025, SparseLoCo"
    contractive = deterministic = True

    def __init__(
        self,
        k: int | None = None,
        fraction: float | None = None,
        chunk: int = 4096,
        values: int | str = TWO_BITS,
        table: str = "vector",
        bucket: int | None = None,
    ):
        if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
            raise ConfigError(f"chunked-topk: chunk={chunk} must be a positive integer, a number of entries")
        if values != TWO_BITS and (isinstance(values, bool) or values not in VALUES):
            raise unknown("values of compressor 'chunked-topk':", str(values), [TWO_BITS, *map(str, VALUES)])
        if table not in TABLES:
            raise unknown("table of compressor 'chunked-topk':", table, TABLES)
        if values != TWO_BITS and table != "vector":
            raise ConfigError(f"chunked-topk: values={values} has no table; drop table=chunk")
        self.k, self.fraction, self.chunk = k, fraction, chunk
        self.values, self.table, self.bucket = values, table, bucket
        self.binned = values == TWO_BITS
        if self.binned and bucket is not None:
            raise ConfigError(f"chunked-topk: values=2bit has a table and no buckets; drop bucket={bucket}")
        self.coding = few_bits(self.name, "exact" if self.binned else values, bucket)
        self.homogeneous, self.nonexpansive = self.coding.bits != HALF, self.coding.nonexpansive
        self.per_chunk = count_of(self, k, fraction, chunk)

    def _counts(self, d: int) -> tuple[int, int]:
        """The numbers of entries that a whole chunk and the last, shorter one keep."""
        return self.per_chunk, -(-self.per_chunk * (d % self.chunk) // self.chunk)

    def count(self, d: int) -> int:
        """The number of entries kept of d, where none is zero."""
        whole, last = self._counts(d)
        return d // self.chunk * whole + last

    def kappa(self, m: int) -> float:
        """κ(m): what 2 bits a value keep at least of the squares of m values that share a table."""
        if m <= _LEVELS:
            return 1.0
        return min(0.5, 0.75 / math.sqrt(m - 1)) * (1.0 - 9.0 * m / (16.0 * (m - 1)))

    def alpha(self, d: int, n: int = 1) -> float:
        kept = self.per_chunk / self.chunk
        if not self.binned:
            return kept * self.coding.kappa(self.count(d))
        return kept * self.kappa(self.count(d) if self.table == "vector" else max(self._counts(d)))

    def density(self, d: int, n: int = 1) -> float:
        return float(self.count(d))

    def _tables(self, d: int) -> int:
        return 1 if self.table == "vector" else -(-d // self.chunk)

    def _max_nbytes(self, d: int, wire: np.dtype) -> int:
        m = self.count(d)
        indices = packed_nbytes(min(m * bit_length(d - 1), d), 1)
        values = (
            self._tables(d) * _LEVELS * wire.itemsize + packed_nbytes(m, 2)
            if self.binned
            else self.coding.nbytes(m, wire)
        )
        return 1 + packed_nbytes(bit_length(m), 1) + indices + values

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        max_nbytes = self._max_nbytes(dim, wire)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        m, chunk = self.count(dim), min(self.chunk, dim)
        whole, last = self._counts(dim)
        capacity = max(candidate_capacity(chunk, max(whole if dim >= self.chunk else last, 1)), chunk)
        layout = chunk, whole if dim >= self.chunk else last, last, m
        selection = np.empty(capacity, np.int64), np.empty(capacity, np.uint64), np.empty(256, np.int64)
        values, fields, top = np.empty(m), np.empty(m, np.uint32), np.empty(CHUNK, np.uint8)
        few = None if self.binned else self.coding.arrays(m, wire)
        span = chunk if self.table == "chunk" else dim
        args = layout, span, np.empty((_LEVELS, 2)), *selection, np.empty(m, np.int64), values, fields, top, few
        return Codec(self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args)


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, layout: tuple, span: int, sums: np.ndarray,
    candidates: np.ndarray, keys: np.ndarray, bins: np.ndarray, indices: np.ndarray, values: np.ndarray,
    fields: np.ndarray, top: np.ndarray, few: tuple | None,
) -> int:  # fmt: skip
    room, size = layout[3], wire.itemsize
    for j in range(rows.shape[0]):
        x, start = V[rows[j]], pos
        d, kept = x.shape[0], values
        if few is not None:
            kept = few[1]
        count = _select(x, layout, candidates, keys, bins, indices, kept, top)
        coding = choose_coding(indices, count, d)
        pos = write_head(coding, count, room, buf, pos)
        pos = write_indices(indices, count, d, coding, buf, pos, fields, top)
        before = pos
        if few is not None:
            pos = write_values(few, count, private, buf, pos, wire)  # to the nearest: no key is used
        else:
            first = 0
            for lo in range(0, d, span):
                stop = first
                while stop < count and indices[stop] < lo + span:
                    stop += 1
                table = buf[pos : pos + _LEVELS * size].view(wire.dtype)
                _quantize(values, first, stop, fields, sums, table)
                pos, first = pos + _LEVELS * size, stop
            pos = pack_all(fields, count, 2, buf, pos, top)
        tally[0] += 8 * (pos - start)
        tally[1] += 8 * (pos - before)
    return pos


@njit
def _select(
    x: np.ndarray, layout: tuple, candidates: np.ndarray, keys: np.ndarray, bins: np.ndarray, indices: np.ndarray,
    values: np.ndarray, top: np.ndarray,
) -> int:  # fmt: skip
    """The kept entries of all chunks, in order; returns how many."""
    chunk, whole, last, _ = layout
    d, count = x.shape[0], 0
    for lo in range(0, d, chunk):
        part = x[lo : lo + chunk]
        found = largest(part, whole if part.shape[0] == chunk else last, candidates, keys, bins, top)
        for i in range(found):
            indices[count + i], values[count + i] = lo + candidates[i], part[candidates[i]]
        count += found
    return count


@lean
def _quantize(
    values: np.ndarray, first: int, stop: int, fields: np.ndarray, sums: np.ndarray, table: np.ndarray
) -> None:
    """The bins of values first to stop, and the means of the bins; all of it in units of the largest, so that no square overflows."""
    m, unit, total, squares = stop - first, 0.0, 0.0, 0.0
    for b in range(_LEVELS):
        table[b] = 0
        sums[b, 0] = sums[b, 1] = 0
    if m <= _LEVELS:
        for i in range(m):
            fields[first + i], table[i] = i, values[first + i]
        return
    for i in range(first, stop):
        unit = max(unit, abs(values[i]))
    for i in range(first, stop):
        total += values[i] / unit
    mean = total / m
    for i in range(first, stop):
        squares += (values[i] / unit - mean) ** 2
    width = _SIGMAS * np.sqrt(squares / (m - 1)) / _LEVELS
    if width == 0:
        width = 1.0
    for i in range(first, stop):
        place = (values[i] / unit - mean) / width + 2.0
        number = 2  # NaN, too: then all are here, and the mean shows it
        if place <= 0.5:
            number = 0
        elif place < 1.5:
            number = 1
        elif place > 2.5:
            number = 3
        fields[i] = number
        sums[number, 0] += values[i] / unit
        sums[number, 1] += 1
    for b in range(_LEVELS):
        if sums[b, 1] > 0:
            table[b] = unit * (sums[b, 0] / sums[b, 1])


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, layout: tuple, span: int, sums: np.ndarray,
    candidates: np.ndarray, keys: np.ndarray, bins: np.ndarray, indices: np.ndarray, values: np.ndarray,
    fields: np.ndarray, top: np.ndarray, few: tuple | None,
) -> int:  # fmt: skip
    d, size, room = out.shape[1], wire.itemsize, layout[3]
    for j in range(rows.shape[0]):
        acc, weight = out[rows[j]], weights[j]
        pos, coding, count = read_head(buf, pos, end, room)
        if pos < 0:
            return pos
        pos = read_indices(buf, pos, end, count, d, coding, indices, fields, top)
        if pos < 0:
            return pos
        if few is not None:
            pos = read_values(few, count, buf, pos, end, wire)
            if pos < 0:
                return pos
            for i in range(count):
                acc[indices[i]] += weight * few[2][i]
            continue
        n_tables = (d + span - 1) // span
        after = pos + n_tables * _LEVELS * size
        if after + packed_nbytes(count, 2) > end:
            return TRUNCATED
        tables = buf[pos:after].view(wire.dtype)
        if not padding_is_zero(buf, 8 * after + 2 * count):
            return BAD_PADDING
        pos = unpack_all(buf, after, count, 2, fields, top)
        for i in range(count):
            acc[indices[i]] += weight * tables[_LEVELS * (indices[i] // span) + fields[i]]
    return pos
