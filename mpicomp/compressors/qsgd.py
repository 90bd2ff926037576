"""QSGD: stochastic rounding to a uniform grid of few levels, packed at any width, or entropy coded."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import lean, njit
from ..kernels.bits import CHUNK, bit_length, pack_all, packed_nbytes, unpack_all
from ..kernels.entropy import MAX_SYMBOLS, read_fields, scratch, write_fields
from ..kernels.levels import add_levels, write_levels
from ..kernels.random import client_key
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import TRUNCATED
from .agreement import Norm
from .base import Compressor, compressors
from .codec import Codec, cut_by_fields
from .identity import Identity

_NORMS = ("l2", "max")


@compressors.register("qsgd")
class QSGD(Compressor):
    """C(x)_j = (‖x‖/s) q_j, where q_j is s x_j/‖x‖ rounded up or down at random, without bias, to an integer in −s..s.

    Parameters
    ----------
    bits : width of an entry in bits, sign included, 2 to 16: s = 2^(bits−1) − 1; or
    levels : s, 1 to 32767; an entry then takes ⌈log2(2s + 1)⌉ bits. s = 1 with norm=max is TernGrad.
    norm : "l2" (the paper's) or "max", which has less variance at the same width.
    bucket : number of consecutive entries that share a norm; by default all d.
    entropy : entries are entropy coded wherever that is shorter, in place of the paper's Elias code; s up to 511. With the l2 norm and few
        levels nearly all entries are zero.

    ω is that of one bucket of b entries. l2: min(b/s², √b/s) (Lemma 3.1). max: (√(1 + (b−1)/s²) − 1)/2, derived here: with the
    largest entry on the grid, the worst case of Σ f_j(1−f_j) / (s² + Σ f_j²) over the other b − 1 has all f_j equal; it is reached.

    A bucket with a NaN or an infinity, or whose norm overflows, arrives as NaN.

    >>> QSGD(levels=2).omega(4), QSGD(bits=8).s
    (1.0, 127)
    """

    codec_id = 5
    carries_nan = True
    homogeneous = True
    summary = "stochastic rounding to s levels of the norm, in 2 to 16 bits"
    formulas = "ω = min(d/s², √d/s); norm=max: ω = (√(1 + (d−1)/s²) − 1)/2"
    paper = "Alistarh, Grubic, Li, Tomioka and Vojnovic 2017, QSGD"
    unbiased = True

    def __init__(
        self,
        bits: int | None = None,
        levels: int | None = None,
        norm: str = "l2",
        bucket: int | None = None,
        entropy: bool = False,
    ):
        if (bits is None) == (levels is None):
            raise ConfigError("qsgd takes either bits or levels, for example qsgd:bits=4 or qsgd:levels=7")
        if bits is not None and (not isinstance(bits, int) or not 2 <= bits <= 16):
            raise ConfigError(f"qsgd: bits={bits} must be an integer from 2 to 16")
        if levels is not None and (not isinstance(levels, int) or not 1 <= levels <= 32767):
            raise ConfigError(f"qsgd: levels={levels} must be an integer from 1 to 32767")
        if norm not in _NORMS:
            raise ConfigError(f"qsgd: norm={norm!r} is unknown; known: {', '.join(_NORMS)}")
        if bucket is not None and (not isinstance(bucket, int) or bucket < 1):
            raise ConfigError(f"qsgd: bucket={bucket} must be a positive integer")
        self.bits, self.levels, self.norm, self.bucket, self.entropy = bits, levels, norm, bucket, entropy
        if entropy and 2 * self.s + 1 > MAX_SYMBOLS:
            raise ConfigError(
                f"qsgd: entropy=true takes at most bits=10 or levels={(MAX_SYMBOLS - 1) // 2}, here are {self.s} levels"
            )

    @property
    def s(self) -> int:
        """Number of levels above zero."""
        return self.levels if self.levels is not None else 2 ** ((self.bits or 0) - 1) - 1

    def omega(self, d: int, n: int = 1) -> float:
        b, s = min(self.bucket or d, d), self.s
        if self.norm == "max":
            return (math.sqrt(1 + (b - 1) / s**2) - 1) / 2
        return min(b / s**2, math.sqrt(b) / s)

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        bucket = min(self.bucket or dim, dim)
        width = bit_length(2 * self.s)
        units, fields = -(-dim // bucket) * wire.itemsize, packed_nbytes(dim, width)
        max_nbytes = units + self.entropy + fields
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        buffers = np.empty(PARTIAL_SUMS), np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
        args = self.s, width, bucket, self.norm == "max", *buffers
        if self.entropy:
            coding = np.empty(dim, np.uint16), np.empty(units + fields, np.uint8), scratch(2 * self.s + 1)
            return Codec(
                self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode_coded, _decode_coded, (*args, coding)
            )
        alignment = math.lcm(8, bucket) if bucket < dim else 8
        given = np.empty(0)
        cutting = cut_by_fields(0, wire.itemsize, bucket, width, alignment)._replace(offset=True)
        if bucket < dim:
            cutting = cutting.encoded_on(alignment)
        else:
            cutting = cutting.encoded_on(CHUNK, Norm(2 * (self.norm == "l2")), 8 * wire.itemsize)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (*args, given, 0), fixed=True, cutting=cutting,
            given=given if bucket == dim else None,
        )  # fmt: skip


@lean
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, levels: int, width: int, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d, begin = V.shape[1], pos
    for j in range(rows.shape[0]):
        key, size = client_key(private, clients[j]), given[rows[j]] if given.shape[0] else -1.0
        pos = write_levels(
            V[rows[j]], levels, width, bucket, use_max, key, buf, pos, wire, partial_sums, codes, top, size, lo
        )
    tally[0] += 8 * (pos - begin)
    tally[1] += (d * width + 8 * wire.itemsize * ((d + bucket - 1) // bucket)) * rows.shape[0]
    return pos


@lean
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, levels: int, width: int, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        pos = add_levels(buf, pos, end, out[rows[j]], weights[j], levels, width, bucket, wire, codes, top)
        if pos < 0:
            return pos
    return pos


@njit
def _encode_coded(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, levels: int, width: int, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, coding: tuple,
) -> int:  # fmt: skip
    """As `_encode`, and then the packed fields are read back and coded."""
    (whole, plain, model), d, begin = coding, V.shape[1], pos
    units = plain.shape[0] - packed_nbytes(d, width)
    for j in range(rows.shape[0]):
        key = client_key(private, clients[j])
        write_levels(V[rows[j]], levels, width, bucket, use_max, key, plain, 0, wire, partial_sums, codes, top)
        unpack_all(plain, units, d, width, whole, top)
        buf[pos : pos + units] = plain[:units]
        pos = write_fields(whole, width, model, buf, pos + units, top)
    tally[0] += 8 * (pos - begin)
    tally[1] += 8 * (pos - begin)
    return pos


@njit
def _decode_coded(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, levels: int, width: int, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, coding: tuple,
) -> int:  # fmt: skip
    (whole, plain, model), d = coding, out.shape[1]
    units = plain.shape[0] - packed_nbytes(d, width)
    for j in range(rows.shape[0]):
        if pos + units > end:
            return TRUNCATED
        plain[:units] = buf[pos : pos + units]
        pos = read_fields(buf, pos + units, end, width, model, whole, top)
        if pos < 0:
            return pos
        pack_all(whole, d, width, plain, units, top)
        code = add_levels(plain, 0, plain.shape[0], out[rows[j]], weights[j], levels, width, bucket, wire, codes, top)
        if code < 0:
            return code
    return pos
