"""EF21 and its primal twin EF21-P: send the compressed difference to what the receiver already has.

Richtárik, Sokolov and Fatkhullin 2021 (EF21, Algorithm 1); Gruntkowska, Tyurin and Richtárik 2023 (EF21-P).
"""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..errors import ConfigError
from ..oracles import Oracle
from ..state import ClientState, CommonState, ServerState
from .base import Downlink, Uplink, downlinks, uplinks

STARTS = ("compressed", "dense", "zero")


def checked_start(start: str) -> str:
    """The option `start`. Raises ConfigError where it is none of the three."""
    if start not in STARTS:
        raise ConfigError(f"ef21: start={start!r}; allowed: {', '.join(STARTS)}")
    return start


@uplinks.register("ef21")
class EF21Uplink(Uplink):
    """c_i^t = C(∇f_i(x^{t+1}) − g_i^t); g_i^{t+1} = g_i^t + c_i^t; on the server g^{t+1} = g^t + Σ w_i c_i^t.

    With partial participation (EF21-PP, Fatkhullin et al. 2021) c_i^t = 0 for the silent clients, which keep their g_i; all speak in
    round 0, which makes the g_i⁰.

    Parameters
    ----------
    compressor : contractive; an unbiased one enters as C/(1+ω).
    start : g_i⁰ = C(∇f_i(x⁰)) ("compressed"), ∇f_i(x⁰) ("dense"), or 0 with nothing sent in round 0 ("zero").
    """

    g_i = ClientState()
    g = ServerState()

    def __init__(self, compressor: Compressor, start: str = "compressed"):
        self.compressor, self.start_from = compressor, checked_start(start)

    def prepare(self) -> None:
        self.codec = self.link.contractive_codec(self.compressor)
        self.dense = self.link.codec(Identity())

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        if round == 0 and self.start_from == "zero":
            if link.is_worker:
                oracle.value()  # an oracle with a memory of its own begins it at x⁰
            return self.g
        codec = self.dense if round == 0 and self.start_from == "dense" else self.codec
        delta = None
        if link.is_worker:
            delta = link.difference(codec, oracle.value(), self.g_i, "delta")  # ∇f_i(x) − g_i
        active = link.active(round) if round > 0 else None
        link.gather(codec, delta, round, self.mean, add_to=self.g_i, active=active)  # g_i ← g_i + c_i
        if link.is_server:
            self.g += self.mean  # g ← g + Σ w_i c_i
        return self.g


@downlinks.register("ef21-p")
class EF21PDownlink(Downlink):
    """p^{t+1} = C(x^{t+1} − w^t), broadcast; w^{t+1} = w^t + p^{t+1} on the server and on every client.

    Gruntkowska, Tyurin and Richtárik 2023, Algorithm 1.
    """

    w = CommonState()

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self) -> None:
        self.codec = self.link.contractive_codec(self.compressor)

    def begin(self, x: np.ndarray, /) -> np.ndarray:
        self.w = x.copy()
        return self.w

    def transmit(self, x: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        delta = None
        if link.is_server:
            delta = link.difference(self.codec, x, self.w[:, link.served], "model delta")  # x − w
        link.broadcast(self.codec, delta, round, self.w, add=True)  # w ← w + p
        return self.w
