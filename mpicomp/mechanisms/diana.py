"""DIANA: compress the difference to a shift that learns the local gradient. Mishchenko et al. 2019 (Algorithm 1)."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..oracles import Oracle
from ..state import ClientState, ServerState
from .base import Uplink, uplinks


@uplinks.register("diana")
class DianaUplink(Uplink):
    """m_i^t = C(∇f_i(x^t) − h_i^t); h_i^{t+1} = h_i^t + a m_i^t; on the server g^t = h^t + Σ w_i m_i^t, h^{t+1} = h^t + a Σ w_i m_i^t.

    Parameters
    ----------
    compressor : unbiased. shift_step : a; 1/(1+ω) by default.
    """

    h_i = ClientState()
    h = ServerState()
    g = ServerState()

    def __init__(self, compressor: Compressor, shift_step: float):
        self.compressor, self.shift_step = compressor, shift_step

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link, a = self.link, self.shift_step
        delta = None
        if link.is_worker:
            delta = link.scratch("delta", link.hosted)
            np.subtract(oracle.value(), self.h_i, out=delta)  # ∇f_i(x) − h_i
        link.gather(self.codec, delta, round, self.mean, add_to=self.h_i, scale=a)  # h_i ← h_i + a m_i
        if link.is_server:
            np.add(self.h, self.mean, out=self.g)  # g = h + Σ w_i m_i
            self.mean *= a
            self.h += self.mean  # h ← h + a Σ w_i m_i
        return self.g
