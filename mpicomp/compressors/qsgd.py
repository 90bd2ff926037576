"""QSGD: stochastic rounding to a uniform grid of few levels, packed at any width."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, pack, packed_nbytes, padding_is_zero, unpack
from ..kernels.quantize import LANES, norm, round_to_grid
from ..kernels.random import client_key
from ..kernels.select import argmax_magnitude
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .base import Codec, Compressor, compressors
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

    ω is that of one bucket of b entries. l2: min(b/s², √b/s) (Lemma 3.1). max: (√(1 + (b−1)/s²) − 1)/2, derived here: with the
    largest entry on the grid, the worst case of Σ f_j(1−f_j) / (s² + Σ f_j²) over the other b − 1 has all f_j equal; it is reached.

    A bucket with a NaN or an infinity, or whose norm overflows, arrives as NaN.

    >>> QSGD(levels=2).omega(4), QSGD(bits=8).s
    (1.0, 127)
    """

    codec_id = 5
    summary = "stochastic rounding to s levels of the norm, in 2 to 16 bits"
    formulas = "ω = min(d/s², √d/s); norm=max: ω = (√(1 + (d−1)/s²) − 1)/2"
    paper = "Alistarh, Grubic, Li, Tomioka and Vojnovic 2017, QSGD"
    unbiased = True

    def __init__(self, bits: int | None = None, levels: int | None = None, norm: str = "l2", bucket: int | None = None):
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
        self.bits, self.levels, self.norm, self.bucket = bits, levels, norm, bucket

    @property
    def s(self) -> int:
        """Number of levels above zero."""
        return self.levels if self.levels is not None else 2 ** ((self.bits or 0) - 1) - 1

    def omega(self, d: int, n: int = 1) -> float:
        b, s = min(self.bucket or d, d), self.s
        if self.norm == "max":
            return (math.sqrt(1 + (b - 1) / s**2) - 1) / 2
        return min(b / s**2, math.sqrt(b) / s)

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        wire = np.dtype(wire_dtype)
        bucket = min(self.bucket or dim, dim)
        width = bit_length(2 * self.s)
        max_nbytes = -(-dim // bucket) * wire.itemsize + packed_nbytes(dim, width)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        scratch = np.empty(LANES), np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
        args = self.s, width, bucket, self.norm == "max", *scratch
        return Codec(self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True)


@njit
def _unit(x, levels, use_max, lanes, wire):
    """‖x‖/s, the distance between levels, in the wire dtype and rounded up, so that no entry is above level s."""
    size = np.float64(abs(x[argmax_magnitude(x)])) if use_max else norm(x, 2, lanes)
    unit = wire.dtype.type(size / levels)
    if np.float64(unit) * levels < size:
        unit = wire.dtype.type(np.nextafter(unit, wire.dtype.type(np.inf)))
    return unit if np.isfinite(unit) else wire.dtype.type(np.nan)


@njit
def _encode(
    V, rows, clients, shared, private, buf, pos, tally, wire, levels, width, bucket, use_max, lanes, codes, top
):  # fmt: skip
    d, begin = V.shape[1], pos
    buckets = (d + bucket - 1) // bucket
    for j in range(rows.shape[0]):
        x, key = V[rows[j]], client_key(private, clients[j])
        units = buf[pos : pos + buckets * wire.itemsize].view(wire.dtype)
        for b in range(buckets):
            units[b] = _unit(x[b * bucket : (b + 1) * bucket], levels, use_max, lanes, wire)
        pos += buckets * wire.itemsize
        for first in range(0, d, CHUNK):
            last, start = min(first + CHUNK, d), first
            while start < last:
                b = start // bucket
                stop = min((b + 1) * bucket, last)
                part = codes[start - first : stop - first]
                if np.isfinite(units[b]):
                    round_to_grid(x[start:stop], units[b], levels, key, start, part)
                else:
                    part[:] = levels
                start = stop
            pack(codes, first, last - first, d, width, buf, pos, top)
        pos += packed_nbytes(d, width)
    tally[0] += 8 * (pos - begin)
    tally[1] += (d * width + 8 * wire.itemsize * buckets) * rows.shape[0]
    return pos


@njit
def _decode(
    buf, pos, end, rows, clients, weights, shared, private, out, wire, levels, width, bucket, use_max, lanes, codes, top
):  # fmt: skip
    d = out.shape[1]
    buckets = (d + bucket - 1) // bucket
    for j in range(rows.shape[0]):
        packed = pos + buckets * wire.itemsize
        if packed + packed_nbytes(d, width) > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * packed + d * width):
            return BAD_PADDING
        units = buf[pos:packed].view(wire.dtype)
        weight = weights[j]
        for first in range(0, d, CHUNK):
            last, start = min(first + CHUNK, d), first
            unpack(buf, packed, first, last - first, d, width, codes, top)
            if codes[: last - first].max() > 2 * levels:
                return BAD_VALUE
            while start < last:
                b = start // bucket
                stop = min((b + 1) * bucket, last)
                acc, part, unit = out[rows[j], start:stop], codes[start - first : stop - first], units[b]
                for i in range(stop - start):
                    acc[i] += weight * (unit * wire.dtype.type(np.int32(part[i]) - np.int32(levels)))
                start = stop
        pos = packed + packed_nbytes(d, width)
    return pos
