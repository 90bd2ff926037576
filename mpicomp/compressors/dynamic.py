"""Dynamic quantization: QSGD's levels with the width written in every message, so that each client may choose its own each round."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.bits import CHUNK, packed_nbytes
from ..kernels.cutting import cut_fields, fields_nbytes
from ..kernels.levels import add_levels, write_levels
from ..kernels.random import client_key
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_VALUE, TRUNCATED
from ..kernels.widths import LEAST, MOST, message_bits
from .agreement import Norm
from .base import Compressor, compressors
from .codec import Codec, Cutting
from .identity import Identity
from .qsgd import QSGD


class DynamicCodec(Codec):
    """A codec of dynamic quantization.

    Attributes
    ----------
    widths : bits of an entry, int64, shape (n,): client i's next message has width widths[i mod n]. Receivers do not look at it.
    bucket, use_max : entries that share a norm; whether that is the largest magnitude.
    """

    widths: np.ndarray
    bucket: int
    use_max: bool

    def message_bits(self, width: int) -> int:
        """Bits of a message of this width, everything included: the width itself, the norms, padding."""
        return int(message_bits(self.overhead_nbytes, self.dim, width))

    @property
    def common(self) -> tuple[np.ndarray, ...]:
        return (*super().common, self.widths)

    @property
    def overhead_nbytes(self) -> int:
        """Bytes of a message beside the entries."""
        return _overhead(self.dim, self.bucket, self.wire_dtype.itemsize)


@compressors.register("dynamic")
class Dynamic(Compressor):
    """Q_s(x)_j = (‖x‖/s) q_j as in `qsgd`, s = 2^(B−1) − 1, where B ∈ 2..16 is the message's own width.

    Parameters
    ----------
    bits : B, where no method chooses it (method dq-sgd does).
    norm : "max", or "l2" (then with a bucket: over a whole network its error is many times the gradient).
    bucket : number of consecutive entries that share a norm; by default all d.

    >>> Dynamic(bits=2).omega(9), Dynamic(bits=8).alpha(1)
    (1.0, 1.0)
    """

    codec_id = 32
    carries_nan = True
    homogeneous = True
    summary = "stochastic rounding, each message in a width of its own, 2 to 16 bits"
    formulas = "as qsgd with s = 2^(B−1) − 1"
    paper = "Yan, Huang, Lan and Song 2021, DQ-SGD"
    unbiased = True

    def __init__(self, bits: int = 4, norm: str = "max", bucket: int | None = None):
        self._fixed = QSGD(bits=bits, norm=norm, bucket=bucket)
        self.bits, self.norm, self.bucket = bits, norm, bucket

    @property
    def s(self) -> int:
        """Number of levels above zero at width `bits`."""
        return self._fixed.s

    def omega(self, d: int, n: int = 1) -> float:
        return self._fixed.omega(d, n)

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        bucket, use_max = min(self.bucket or dim, dim), self.norm == "max"
        max_nbytes = _overhead(dim, bucket, wire.itemsize) + packed_nbytes(dim, MOST)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        widths = np.full(n_clients, self.bits, np.int64)
        args = widths, bucket, use_max, np.empty(PARTIAL_SUMS), np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint8)
        alignment, given = (math.lcm(8, bucket) if bucket < dim else 8), np.empty(0)
        cutting = Cutting(
            _cut, (wire.itemsize, bucket), lambda width: fields_nbytes(width, 1, wire.itemsize, bucket, MOST), alignment, offset=True
        )  # fmt: skip
        if bucket < dim:
            cutting = cutting.encoded_on(alignment, None, 8)
        else:
            cutting = cutting.encoded_on(CHUNK, Norm(0 if use_max else 2), 8 + 8 * wire.itemsize)
        codec = DynamicCodec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (*args, given, 0), cutting=cutting,
            given=given if bucket == dim else None,
        )  # fmt: skip
        codec.widths, codec.bucket, codec.use_max = widths, bucket, use_max
        return codec


def dynamic(compressor: Compressor, method: str) -> Dynamic:
    """The compressor, if it is one whose width can be chosen.

    Raises
    ------
    ConfigError : it is not.
    """
    if not isinstance(compressor, Dynamic):
        raise ConfigError(
            f"method {method!r} chooses the width of each message, so its compressor is dynamic (dynamic:norm=l2,bucket=512, ...), "
            f"not {compressor.spec!r}; for fixed bits take method qsgd"
        )
    return compressor


@njit
def _overhead(d: int, bucket: int, itemsize: int) -> int:
    return 1 + (d + bucket - 1) // bucket * itemsize


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, widths: np.ndarray, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    d, begin = V.shape[1], pos
    for j in range(rows.shape[0]):
        key, width = client_key(private, clients[j]), widths[clients[j] % widths.shape[0]]
        levels, size = (1 << (width - 1)) - 1, given[rows[j]] if given.shape[0] else -1.0
        buf[pos] = width
        pos = write_levels(
            V[rows[j]], levels, width, bucket, use_max, key, buf, pos + 1, wire, partial_sums, codes, top, size, lo
        )
        tally[1] += d * width + 8 * _overhead(d, bucket, wire.itemsize)
    tally[0] += 8 * (pos - begin)
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, widths: np.ndarray, bucket: int, use_max: bool,
    partial_sums: np.ndarray, codes: np.ndarray, top: np.ndarray, given: np.ndarray, lo: int,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        if pos >= end:
            return TRUNCATED
        width = np.int64(buf[pos])
        if width < LEAST or width > MOST:
            return BAD_VALUE
        levels = (1 << (width - 1)) - 1
        pos = add_levels(buf, pos + 1, end, out[rows[j]], weights[j], levels, width, bucket, wire, codes, top)
        if pos < 0:
            return pos
    return pos


@njit
def _cut(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, itemsize: int, bucket: int,
) -> int:  # fmt: skip
    for j in range(clients.shape[0]):  # each in its own width
        one, width = clients[j : j + 1], np.int64(buf[pos])
        pos = cut_fields(buf, pos, one, shared, private, bounds, out, places, 1, itemsize, bucket, width)
    return pos
