"""Flag: one yes or no of each client, beside its vectors."""

from __future__ import annotations

import numpy as np

from ..kernels import njit
from ..kernels.status import BAD_VALUE, TRUNCATED
from .base import Codec, Compressor


class Flag(Compressor):
    """C(x) = 1 where x ≠ 0, else 0, for a single number x. One byte, charged as one bit in the papers' count.

    It is not in the registry: mechanisms use it for what only both ends understand, such as the branch that EF21+ took.
    """

    name = "flag"
    codec_id = 64
    summary = "one yes or no"
    deterministic = True

    def max_nbytes(self, d: int) -> int:
        return d

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        return Codec(self, self.codec_id, dim, n_clients, np.dtype(wire_dtype), dim, _encode, _decode, fixed=True)


@njit
def _encode(V, rows, clients, shared, private, buf, pos, tally, wire):
    for j in range(rows.shape[0]):
        x = V[rows[j]]
        for c in range(x.shape[0]):
            buf[pos] = x[c] != 0
            pos += 1
    tally[0] += 8 * V.shape[1] * rows.shape[0]
    tally[1] += V.shape[1] * rows.shape[0]
    return pos


@njit
def _decode(buf, pos, end, rows, clients, weights, shared, private, out, wire):
    for j in range(rows.shape[0]):
        acc = out[rows[j]]
        if pos + acc.shape[0] > end:
            return TRUNCATED
        for c in range(acc.shape[0]):
            if buf[pos] > 1:
                return BAD_VALUE
            acc[c] += weights[j] * buf[pos]
            pos += 1
    return pos
