"""The downlink of uplinks that end on every rank: nothing is left to send."""

from __future__ import annotations

from .base import Downlink


class NoDownlink(Downlink):
    """Every rank already has the estimate, the same bits everywhere; the optimizer is replicated."""

    def begin(self, x):
        return x

    def transmit(self, x, round):
        return x
