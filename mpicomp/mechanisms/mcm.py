"""MCM: the model is compressed on its way down, and the server keeps it exactly. Philippenko and Dieuleveut 2021."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compressors import Compressor
from ..state import ClientState, CommonState, ServerClientState
from .base import Downlink, downlinks


def memory_rate(omega: float) -> float:
    """The default rate of the downlink memory: 1/(8ω), and at most 1/(1+ω)."""
    return min(1.0 / (8.0 * omega), 1.0 / (1.0 + omega)) if omega > 0 else 1.0


@downlinks.register("mcm")
class MCMDownlink(Downlink):
    """Ω^{t+1} = C(x^{t+1} − H^t), one message for all; w^{t+1} = H^t + Ω^{t+1}; H^{t+1} = H^t + rate·Ω^{t+1}. H⁰ = x⁰.

    Gradients are taken at w; the server steps from its exact x.

    Parameters
    ----------
    compressor : unbiased. rate : in (0, 1/(1+ω)]; `memory_rate` where None.
    """

    H = CommonState()
    w = CommonState()

    def __init__(self, compressor: Compressor, rate: float | None = None):
        self.compressor, self.rate = compressor, rate

    def prepare(self) -> None:
        link = self.link
        self.codec = link.codec(self.compressor)
        if self.rate is None:
            self.rate = memory_rate(self.compressor.omega(link.dim, link.n_clients))
        self.omega = np.zeros((1, link.dim), link.dtype)

    def begin(self, x: np.ndarray, /) -> np.ndarray:
        self.H, self.w = x.copy(), x.copy()
        return self.w

    def transmit(self, x: np.ndarray, round: int, /) -> np.ndarray:
        link, delta = self.link, None
        if link.is_server:
            delta = link.server_scratch("model delta", 1)
            np.subtract(x, self.H[:, link.served], out=delta)  # x − H
        link.broadcast(self.codec, delta, round, self.omega)
        np.add(self.H, self.omega, out=self.w)
        self.omega *= self.rate
        self.H += self.omega
        return self.w


@downlinks.register("rand-mcm")
class RandMCMDownlink(Downlink):
    """MCM with a message of its own for each client: Ω_i = C_i(x^{t+1} − H_i^t); w_i = H_i^t + Ω_i; H_i ← H_i + rate·Ω_i.

    The memories differ, so **the server must hold all of them: O(nd)**.

    Parameters
    ----------
    As for MCM; the C_i should be independent.
    """

    H_i = ClientState()
    w_i = ClientState()
    H_i_at_server = ServerClientState()

    def __init__(self, compressor: Compressor, rate: float | None = None):
        self.compressor, self.rate = compressor, rate

    def prepare(self) -> None:
        link = self.link
        self.codec = link.codec(self.compressor)
        if self.rate is None:
            self.rate = memory_rate(self.compressor.omega(link.dim, link.n_clients))

    def begin(self, x: np.ndarray, /) -> np.ndarray:
        for memory in (self.H_i, self.w_i):
            if memory is not None:
                memory[:] = x
        if self.H_i_at_server is not None:
            self.H_i_at_server[:] = x[:, self.link.served]
        return self.w_i

    def transmit(self, x: np.ndarray, round: int, /) -> np.ndarray:
        link, rate, n = self.link, self.rate, self.link.n_clients
        delta: Any = None
        sent: Any = None
        if link.is_server:
            delta, sent = link.server_scratch("model deltas", n), link.server_scratch("messages", n)
            np.subtract(x, self.H_i_at_server, out=delta)
        omega: Any = None
        if link.is_worker:
            omega = link.scratch("Omega_i", link.hosted)
        link.scatter(self.codec, delta, round, omega, mirror=sent)
        if link.is_server:
            sent *= rate
            self.H_i_at_server += sent
        if link.is_worker:
            np.add(self.H_i, omega, out=self.w_i)
            omega *= rate
            self.H_i += omega
        return self.w_i
