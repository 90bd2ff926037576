"""Bit mask: one yes or no for each entry, for what a mechanism says beside its vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import njit
from ..kernels.status import BAD_PADDING, TRUNCATED
from .base import UNLIMITED, Compressor
from .codec import Codec


class BitMask(Compressor):
    """C(x)_j = 1 where x_j ≠ 0, else 0. ⌈d/8⌉ bytes, the first entry in the lowest bit; charged as d bits in the papers' count.

    It is not in the registry: mechanisms use it (`Link.bits`) for what only both ends understand, such as the branch that EF21+ took.
    """

    name = "bit-mask"
    codec_id = 64
    largest_dim = UNLIMITED
    summary = "one yes or no for each entry"
    deterministic = True
    homogeneous = False

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        return Codec(
            self,
            self.codec_id,
            dim,
            n_clients,
            self.wire_of(dim, wire_dtype),
            -(-dim // 8),
            _encode,
            _decode,
            fixed=True,
        )


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray,
) -> int:  # fmt: skip
    d = V.shape[1]
    for j in range(rows.shape[0]):
        x = V[rows[j]]
        for first in range(0, d, 8):
            byte = 0
            for c in range(first, min(first + 8, d)):
                if x[c] != 0:
                    byte |= 1 << (c - first)
            buf[pos] = byte
            pos += 1
    tally[0] += 8 * ((d + 7) // 8) * rows.shape[0]
    tally[1] += d * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        acc = out[rows[j]]
        if pos + (d + 7) // 8 > end:
            return TRUNCATED
        for first in range(0, d, 8):
            byte, last = np.int64(buf[pos]), min(first + 8, d)
            if byte >> (last - first):
                return BAD_PADDING
            for c in range(first, last):
                acc[c] += weights[j] * ((byte >> (c - first)) & 1)
            pos += 1
    return pos
