"""TernGrad: clipped gradients become −s, 0 or s with one scale for all, so that their sum is a vector of small integers.

Wen et al. 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compressors.identity import Identity
from ..compressors.integers import Integers
from ..compressors.ternary import Ternary
from ..kernels import njit
from ..oracles import Oracle
from .base import Downlink, Uplink


class TernGradUplink(Uplink):
    """s = max_i max_j |clip(g_i)_j|, agreed on by a number up from each client and one down; then the sum of q_i ∈ {−1, 0, 1}^d.

    Parameters
    ----------
    clip : c of |g_j| ≤ cσ, σ the standard deviation of g's entries; 0 for none.
    """

    def __init__(self, clip: float):
        self.clip, self.compressor = clip, Ternary(scale="unit")

    def prepare(self) -> None:
        link = self.link
        self.number, self.codec = link.codec(Identity(), dim=1), link.codec(self.compressor)
        self.sizes: Any = np.zeros((link.hosted, 1), link.dtype) if link.is_worker else None
        self.all_sizes: Any = np.zeros((link.n_clients, 1), link.dtype) if link.is_server else None
        self.largest, self.scale = np.zeros((1, 1), link.dtype), np.zeros((1, 1), link.dtype)
        self.votes = np.ones(link.n_clients)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        V = None
        if link.is_worker:
            V = link.scratch("delta", link.hosted)
            V[:] = oracle.value()
            _clip(V, self.clip, self.sizes)
        link.gather(self.number, self.sizes, round, self.all_sizes, separate=True)
        if link.is_server:
            self.largest[0, 0] = self.all_sizes.max()
        link.broadcast(self.number, self.largest if link.is_server else None, round, self.scale)
        if link.is_worker and self.scale[0, 0] > 0:
            V /= self.scale[0, 0]
        link.gather(self.codec, V, round, self.mean, weights=self.votes)
        return self.mean


class TernGradDownlink(Downlink):
    """The integers Σ_i q_i in ⌈log2(2n + 1)⌉ bits each; every rank multiplies them by s/n."""

    def __init__(self, uplink: TernGradUplink, n_clients: int):
        self.uplink, self.compressor = uplink, Integers(n_clients)

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)

    def begin(self, g: np.ndarray, /) -> np.ndarray:
        self.w = g.copy()
        return self.w

    def transmit(self, g: np.ndarray, round: int, /) -> np.ndarray:
        self.link.broadcast(self.codec, g, round, self.w)
        self.w *= self.uplink.scale[0, 0] / self.link.n_clients
        return self.w


@njit
def _clip(V: np.ndarray, clip: float, sizes: np.ndarray) -> None:
    """Cut V's entries off at ±clip·σ, σ of their row; sizes[j] = the row's largest magnitude afterwards."""
    d = V.shape[1]
    for j in range(V.shape[0]):
        x = V[j]
        if clip > 0:
            mean = np.float64(x.sum()) / d
            variance = 0.0
            for c in range(d):
                variance += (x[c] - mean) ** 2
            bound = clip * np.sqrt(variance / d)
            for c in range(d):
                if abs(x[c]) > bound:
                    x[c] = bound if x[c] > 0 else -bound
        size = np.float64(0.0)
        for c in range(d):
            if not abs(x[c]) <= size and size == size:  # a NaN stays
                size = np.float64(abs(x[c]))
        sizes[j, 0] = size
