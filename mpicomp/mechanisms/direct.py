"""No memory: the vector itself is compressed and sent (DCGD, QSGD; with the identity, gradient descent)."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..oracles import Oracle
from ..wire import framed_zeros
from .base import Downlink, Uplink, downlinks, uplinks


@uplinks.register("direct")
class DirectUplink(Uplink):
    """g^t = Σ w_i C(∇f_i(x^t)). Alistarh et al. 2017 (QSGD); Khirirat, Feyzmahdavian and Johansson 2018 (DCGD)."""

    def __init__(self, compressor: Compressor | None = None):
        self.compressor = compressor or Identity()

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        V = oracle.value() if link.is_worker else None
        link.gather(self.codec, V, round, self.mean)
        return self.mean


@downlinks.register("dense")
class DenseDownlink(Downlink):
    """The vector itself, the model or the gradient estimate, to everybody, in the wire dtype: w^{t+1} = v^{t+1}."""

    def prepare(self) -> None:
        self.codec = self.link.codec(Identity())

    def begin(self, v: np.ndarray, /) -> np.ndarray:
        self.w = v
        if self._keeps():
            self.w = framed_zeros(v.shape, v.dtype)
            self.w[:] = v
        return self.w

    def _keeps(self) -> bool:
        """This rank has a copy of its own: a server without clients has no use for one."""
        return self.link.is_worker or self.mirrored

    def transmit(self, v: np.ndarray, round: int, /) -> np.ndarray:
        self.link.broadcast(self.codec, v, round, self.w if self._keeps() else None)
        return self.w
