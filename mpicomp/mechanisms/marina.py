"""MARINA and MARINA-P: with probability p the vector itself, otherwise the compressed change of it.

Gorbunov, Burlachenko, Li and Richtárik 2021 (MARINA, Algorithm 1); Szlendak, Tyurin and Richtárik 2022 (with correlated
compressors); Gruntkowska, Tyurin and Richtárik 2024 (MARINA-P).
"""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..kernels.rows import add_to_all
from ..oracles import Oracle
from ..state import ClientState, ServerState
from .base import Downlink, Uplink, downlinks, probability, uplinks


@uplinks.register("marina")
class MarinaUplink(Uplink):
    """c^t ~ Bernoulli(p), one coin for all.

    c^t = 1: g^{t+1} = Σ w_i ∇f_i(x^{t+1});   c^t = 0: g^{t+1} = g^t + Σ w_i C_i(∇f_i(x^{t+1}) − ∇f_i(x^t)).

    g⁰ = ∇f(x⁰), sent uncompressed and counted. With a minibatch oracle this is VR-MARINA (Algorithm 2): exact
    gradients when c^t = 1, otherwise differences of the same samples at both points.
    """

    takes_change = True
    g = ServerState()

    def __init__(self, compressor: Compressor, p: float):
        self.compressor, self.p = compressor, probability(p, "marina")

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)
        self.dense = self.link.codec(Identity())

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        if round == 0 or link.coin(self.p, round):
            link.gather(self.dense, oracle.full() if link.is_worker else None, round, self.mean)
            if link.is_server:
                self.g[:] = self.mean
        else:
            self.transmit_change(oracle, round)
            if link.is_server:
                self.g += self.mean
        return self.g

    def transmit_change(self, oracle: Oracle, round: int) -> None:
        """mean ← Σ w_i C_i(∇f_i(x^{t+1}) − ∇f_i(x^t))."""
        V = oracle.difference() if self.link.is_worker else None
        self.link.gather(self.codec, V, round, self.mean)


@downlinks.register("marina-p")
class MarinaPDownlink(Downlink):
    """c^t ~ Bernoulli(p).

    c^t = 1: w_i^{t+1} = x^{t+1}, broadcast;   c^t = 0: w_i^{t+1} = w_i^t + Q_i(x^{t+1} − x^t), a message for each
    client.

    With a compressor that draws one mask for all clients (SameRandK) the messages are equal, so one is broadcast.
    """

    w_i = ClientState()
    x = ServerState()

    def __init__(self, compressor: Compressor, p: float):
        self.compressor, self.p = compressor, probability(p, "marina-p")

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)
        self.dense = self.link.codec(Identity())
        self.same_for_all = self.compressor.same_for_all or self.codec.codec_id == Identity.codec_id
        self.fresh = np.zeros((1, self.link.dim), self.link.dtype)

    def begin(self, x: np.ndarray, /) -> np.ndarray:
        link = self.link
        if link.is_server:
            self.x[:] = x[:, link.served]
        if link.is_worker:
            self.w_i[:] = x
        return self.w_i

    def transmit(self, x: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        if link.coin(self.p, round):
            link.broadcast(self.dense, x, round, self.fresh if link.is_worker else None)
            if link.is_worker:
                self.w_i[:] = self.fresh
        else:
            delta = None
            if link.is_server:
                delta = link.server_scratch("model delta", 1)
                np.subtract(x, self.x, out=delta)  # x^{t+1} − x^t
            if self.same_for_all:
                link.broadcast(self.codec, delta, round, self.fresh if link.is_worker else None)
                if link.is_worker:
                    add_to_all(self.w_i, self.fresh)
            else:
                link.scatter(self.codec, delta, round, self.w_i, add=True)
        if link.is_server:
            self.x[:] = x
        return self.w_i
