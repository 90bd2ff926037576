"""Downlinks that carry a gradient estimate to replicated optimizers: without memory, and with an error memory on the server."""

from __future__ import annotations

from ..compressors import Compressor
from .base import Downlink, downlinks
from .direct import DenseDownlink


@downlinks.register("direct")
class DirectDownlink(DenseDownlink):
    """w^{t+1} = C(g^t), one message for all."""

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self):
        self.codec = self.link.codec(self.compressor)


@downlinks.register("ef14")
class EF14Downlink(Downlink):
    """w^{t+1} = C(g^t + e^t), one message for all; e^{t+1} = g^t + e^t − w^{t+1} stays on the server."""

    server_state = ("e",)

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self):
        self.codec = self.link.contractive_codec(self.compressor)

    def begin(self, x):
        self.w = x.copy()
        return self.w

    def transmit(self, x, round):
        link = self.link
        if link.is_server:
            self.e += x  # g + e
        self.w[:] = 0
        link.broadcast(self.codec, self.e if link.is_server else None, round, self.w)
        if link.is_server:
            self.e -= self.w[:, link.served]
        return self.w
