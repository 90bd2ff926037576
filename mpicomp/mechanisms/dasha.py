"""DASHA: compressed differences with a momentum that pulls the estimates back. Tyurin and Richtárik 2023 (Algorithm 1)."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..errors import ConfigError
from ..oracles import Oracle
from ..state import ClientState, ServerState
from .base import Uplink, uplinks
from .ef21 import checked_start


@uplinks.register("dasha")
class DashaUplink(Uplink):
    """m_i = C_i(h_i^{t+1} − h_i^t − a(g_i^t − h_i^t)); g_i^{t+1} = g_i^t + m_i; on the server g^{t+1} = g^t + Σ w_i m_i.

    h_i is what the oracle gives: the exact gradient (DASHA), or the estimate of PAGE or MVR (DASHA-PAGE, DASHA-MVR). After the first
    round nothing dense is ever sent.

    Parameters
    ----------
    compressor : unbiased.
    a : momentum in (0, 1]; 1/(2ω+1) where None.
    start : g_i⁰ = h_i⁰, sent as it is ("dense", as in the theorems), C_i(h_i⁰) ("compressed"), or 0 with nothing sent ("zero").
    """

    g_i = ClientState()
    h_i = ClientState()
    g = ServerState()

    def __init__(self, compressor: Compressor, a: float | None = None, start: str = "dense"):
        self.compressor, self.a, self.start_from = compressor, a, checked_start(start)

    def prepare(self) -> None:
        link = self.link
        self.codec, self.dense = link.codec(self.compressor), link.codec(Identity())
        if self.a is None:
            self.a = 1.0 / (2.0 * self.compressor.omega(link.dim, link.n_clients) + 1.0)
        if not 0 < self.a <= 1:
            raise ConfigError(f"dasha: a={self.a} is not in (0, 1]")

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link, delta = self.link, None
        if link.is_worker:
            h_i = oracle.value()
            delta = link.scratch("delta", link.hosted)
            if round > 0:
                np.subtract(self.h_i, self.g_i, out=delta)
                delta *= self.a
                delta -= self.h_i
                delta += h_i  # h_i^{t+1} − h_i^t − a (g_i^t − h_i^t)
            else:
                delta[:] = h_i
            self.h_i[:] = h_i
        if round == 0 and self.start_from == "zero":
            return self.g
        codec = self.dense if round == 0 and self.start_from == "dense" else self.codec
        link.gather(codec, delta, round, self.mean, add_to=self.g_i)  # g_i ← g_i + m_i
        if link.is_server:
            self.g += self.mean  # g ← g + Σ w_i m_i
        return self.g
