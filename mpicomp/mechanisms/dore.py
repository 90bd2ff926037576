"""DORE's downlink: the change of the model, compressed with an error memory. Liu, Li, Tang and Yan 2020 (Algorithm 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compressors import Compressor
from ..state import ServerState
from .base import Downlink


class DoubleResidualDownlink(Downlink):
    """q^t = −γg^t + ηe^t; q̂^t = C(q^t), one message for all; e^{t+1} = q^t − q̂^t; every rank moves its model by βq̂^t.

    What it hands on is −βq̂/γ, so that a replicated optimizer of step γ makes that move.

    Parameters
    ----------
    compressor : unbiased. step : γ. beta, eta : β in (0, 1], η in [0, 1].
    """

    e = ServerState()

    def __init__(self, compressor: Compressor, step: float, beta: float, eta: float):
        self.compressor, self.step, self.beta, self.eta = compressor, step, beta, eta

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)

    def begin(self, g: np.ndarray, /) -> np.ndarray:
        self.w = g.copy()
        return self.w

    def transmit(self, g: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        q: Any = None
        if link.is_server:
            q = link.server_scratch("residual", 1)
            np.multiply(g, -self.step, out=q)
            self.e *= self.eta
            q += self.e
        link.broadcast(self.codec, q, round, self.w)
        if link.is_server:
            np.subtract(q, self.w[:, link.served], out=self.e)
        self.w *= -self.beta / self.step
        return self.w
