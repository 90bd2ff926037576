"""Identity: the vector itself, in the wire dtype. What every compressor falls back to where compressing would not pay."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import njit
from ..kernels.status import TRUNCATED
from .base import UNLIMITED, Compressor, compressors
from .codec import Codec, cut_by_fields


@compressors.register("identity")
class Identity(Compressor):
    """C(x) = x, rounded to the wire dtype. d values on the wire.

    >>> Identity().omega(100), Identity().alpha(100)
    (0.0, 1.0)
    """

    codec_id = 0
    largest_dim = UNLIMITED
    carries_nan = True
    homogeneous = True
    summary = "the vector itself, d values"
    formulas = "ω = 0, α = 1, (A, B) = (0, 0), θ = 0"
    unbiased = contractive = deterministic = nonexpansive = True

    def omega(self, d: int, n: int = 1) -> float:
        return 0.0

    def alpha(self, d: int, n: int = 1) -> float:
        return 1.0

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        cutting = cut_by_fields(unit=wire.itemsize, separable=True)
        return Codec(
            self,
            self.codec_id,
            dim,
            n_clients,
            wire,
            dim * wire.itemsize,
            _encode,
            _decode,
            fixed=True,
            cutting=cutting,
        )


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray,
) -> int:  # fmt: skip
    d = V.shape[1]
    nbytes = d * wire.itemsize
    for j in range(rows.shape[0]):
        values = buf[pos : pos + nbytes].view(wire.dtype)
        x = V[rows[j]]
        for c in range(d):
            values[c] = x[c]
        pos += nbytes
    tally += 8 * nbytes * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray,
) -> int:  # fmt: skip
    d = out.shape[1]
    nbytes = d * wire.itemsize
    for j in range(rows.shape[0]):
        if pos + nbytes > end:
            return TRUNCATED
        values = buf[pos : pos + nbytes].view(wire.dtype)
        acc, weight = out[rows[j]], weights[j]
        for c in range(d):
            acc[c] += weight * values[c]
        pos += nbytes
    return pos
