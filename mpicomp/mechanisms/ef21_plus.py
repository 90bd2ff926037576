"""EF21+: of two candidates for the new estimate, each client takes the one that is nearer to its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..kernels import njit
from ..oracles import Oracle
from ..state import ClientState, ServerClientState
from .base import Uplink, uplinks
from .ef21 import checked_start


@uplinks.register("ef21+")
class EF21PlusUplink(Uplink):
    """b_i = C(∇f_i(x)); m_i = g_i + C(∇f_i(x) − g_i); g_i ← m_i where ‖m_i − ∇f_i(x)‖² ≤ ‖b_i − ∇f_i(x)‖², else g_i ← b_i.

    Richtárik, Sokolov and Fatkhullin 2021, Algorithm 2. A client sends the compressed vector of its branch and, in an exchange of its
    own before that, a flag that names the branch (one byte). Since b_i replaces g_i, **the server must hold every g_i: O(nd)**.
    There is no flag in the first round, where g_i = 0 and the branches are one.

    Parameters
    ----------
    compressor : contractive; an unbiased one enters as C/(1+ω).
    start : as for EF21.
    """

    g_i = ClientState()
    g_i_at_server = ServerClientState()

    def __init__(self, compressor: Compressor, start: str = "compressed"):
        self.compressor, self.start_from = compressor, checked_start(start)

    def prepare(self) -> None:
        link = self.link
        self.codec = link.contractive_codec(self.compressor)
        self.dense = link.codec(Identity())
        self.flag = link.bits()
        self.replaced = np.zeros((link.hosted, 1), link.dtype)
        self.replaced_at_server: Any = np.zeros((link.n_clients, 1), link.dtype) if link.is_server else None

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        if round == 0 and self.start_from == "zero":
            if link.is_worker:
                oracle.value()
            return self.mean
        codec = self.dense if round == 0 and self.start_from == "dense" else self.codec
        vector = None
        if link.is_worker:
            gradient, m = oracle.value(), link.hosted
            vector = link.scratch("delta", m)
            np.subtract(gradient, self.g_i, out=vector)  # ∇f_i(x) − g_i
            if round > 0:
                change = link.compressed(codec, vector, round, link.scratch("change", m))
                fresh = link.compressed(codec, gradient, round, link.scratch("fresh", m))
                choose(gradient, self.g_i, change, fresh, vector, self.replaced)
        if round > 0:
            flags = self.replaced if link.is_worker else None
            link.gather(self.flag, flags, round, self.replaced_at_server, separate=True)
            if link.is_server:
                clear(self.replaced_at_server, self.g_i_at_server)
        messages = link.server_scratch("messages", link.n_clients) if link.is_server else None
        link.gather(codec, vector, round, messages, add_to=self.g_i, separate=True)
        if link.is_server:
            self.g_i_at_server += messages
            weighted_sum(link.exchange.scaled_weights(1.0), self.g_i_at_server, self.mean)  # g = Σ w_i g_i
        return self.mean


@njit
def choose(
    gradient: np.ndarray, g_i: np.ndarray, change: np.ndarray, fresh: np.ndarray, vector: np.ndarray,
    replaced: np.ndarray,
) -> None:  # fmt: skip
    """Where C(∇f_i) is nearer to ∇f_i than g_i + C(∇f_i − g_i): replaced_i = 1, g_i = 0 and the vector to send is ∇f_i."""
    for j in range(g_i.shape[0]):
        of_change, of_fresh = 0.0, 0.0
        for c in range(g_i.shape[1]):
            of_change += np.float64(g_i[j, c] + change[j, c] - gradient[j, c]) ** 2
            of_fresh += np.float64(fresh[j, c] - gradient[j, c]) ** 2
        replaced[j, 0] = of_change > of_fresh
        if of_change > of_fresh:
            g_i[j] = 0
            vector[j] = gradient[j]


@njit
def clear(flags: np.ndarray, rows: np.ndarray) -> None:
    """rows[i] = 0 where the flag is set."""
    for i in range(rows.shape[0]):
        if flags[i, 0] != 0:
            rows[i] = 0


@njit
def weighted_sum(weights: np.ndarray, rows: np.ndarray, total: np.ndarray) -> None:
    """total[0] = Σ weights[i] rows[i], in the order of the rows."""
    total[:] = 0
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            total[0, c] += weights[i] * rows[i, c]
