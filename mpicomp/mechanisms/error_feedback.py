"""Downlinks that carry a gradient estimate to replicated optimizers: without memory, and with an error memory on the server."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..state import ServerState
from .base import Downlink, downlinks
from .direct import DenseDownlink


@downlinks.register("direct")
class DirectDownlink(DenseDownlink):
    """w^{t+1} = C(g^t), one message for all."""

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)


@downlinks.register("ef14")
class EF14Downlink(Downlink):
    """w^{t+1} = C(g^t + e^t), one message for all; e^{t+1} = g^t + e^t − w^{t+1} stays on the server."""

    e = ServerState()

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self) -> None:
        self.codec = self.link.contractive_codec(self.compressor)

    def begin(self, g: np.ndarray, /) -> np.ndarray:
        self.w = g.copy()
        return self.w

    def transmit(self, g: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        if link.is_server:
            self.e += g  # g + e
        link.broadcast(self.codec, self.e if link.is_server else None, round, self.w)
        if link.is_server:
            self.e -= self.w[:, link.served]
        return self.w
