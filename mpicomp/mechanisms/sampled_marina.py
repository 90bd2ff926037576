"""MARINA with partial participation, and the way in which clients that were not asked catch up."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..oracles import Oracle
from ..participation import Sampling
from ..state import ClientState, ServerState
from .base import Downlink
from .marina import MarinaUplink


class SampledMarinaUplink(MarinaUplink):
    """MARINA whose compressed rounds ask only a sample.

    g^{t+1} = g^t + Σ ξ_i C_i(∇f_i(x^{t+1}) − ∇f_i(x^t)), E ξ_i = 1/n.

    Parameters
    ----------
    compressor, p : as for Marina. sampling : draws the ξ_i of a round; who has ξ_i = 0 sends nothing.
    """

    def __init__(self, compressor: Compressor, p: float, sampling: Sampling):
        super().__init__(compressor, p)
        self.sampling = sampling

    def asked(self, round: int) -> np.ndarray | None:
        """Who takes part in a round: bool, shape (n,), or None for everybody."""
        if round == 0 or self.link.coin(self.p, round):
            return None
        return self.sampling.weights(round) > 0

    def transmit_change(self, oracle: Oracle, round: int) -> None:
        xi = self.sampling.weights(round)
        V = oracle.difference() if self.link.is_worker else None
        self.link.gather(self.codec, V, round, self.mean, active=xi > 0, weights=xi)


class CatchUpDownlink(Downlink):
    """x^{t+1} travels only to the clients that round t+1 asks; who was not asked in round t gets x^t, too.

    Every client that is asked thus has the two points whose gradients it must compare, and the bytes of catching up
    are counted. In a dense round x^{t+1} goes to all. The clients' points are w_i, and before_i the points before.

    Parameters
    ----------
    uplink : knows who is asked.
    """

    w_i = ClientState()
    before_i = ClientState()
    x = ServerState()

    def __init__(self, uplink: SampledMarinaUplink):
        self.uplink = uplink

    def prepare(self) -> None:
        self.codec = self.link.codec(Identity())
        self.fresh = np.zeros((1, self.link.dim), self.link.dtype)

    def begin(self, x: np.ndarray, /) -> np.ndarray:
        if self.link.is_server:
            self.x[:] = x[:, self.link.served]
        if self.link.is_worker:
            self.w_i[:] = x
        return self.w_i

    def transmit(self, x: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        next_asked = self.uplink.asked(round + 1)
        if next_asked is None:
            link.broadcast(self.codec, x, round, self.fresh if link.is_worker else None)
            if link.is_worker:
                self.before_i[:] = self.w_i
                self.w_i[:] = self.fresh
        else:
            informed = self.uplink.asked(round)  # who has x^t
            late = np.zeros_like(next_asked) if informed is None else next_asked & ~informed
            if link.is_worker:
                mine = next_asked[link.exchange.clients]
                self.before_i[mine] = self.w_i[mine]
            if late.any():
                link.scatter(self.codec, self.x if link.is_server else None, round, self.before_i, active=late)
            link.scatter(self.codec, x, round, self.w_i, active=next_asked)
        if link.is_server:
            self.x[:] = x
        return self.w_i


class TwoPoints(Oracle):
    """Another oracle, its differences taken between the points of a `CatchUp` downlink.

    Clients that were silent did not evaluate the older one.

    Gradients of hosted clients that are not asked are evaluated, too, where they stand; nobody sees them.

    Parameters
    ----------
    oracle : the oracle. downlink : where the points are.
    """

    oracle: Oracle

    def __init__(self, oracle: Oracle, downlink: CatchUpDownlink):
        self.oracle, self.downlink, self.block, self.dim = oracle, downlink, oracle.block, oracle.dim

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.points, self.round = points, round

    def value(self) -> np.ndarray:
        """Gradient estimates at the current points."""
        self.oracle.move(self.points, self.round)
        return self.oracle.value()

    def full(self) -> np.ndarray:
        """Exact gradients at the current points."""
        self.oracle.move(self.points, self.round)
        return self.oracle.full()

    def difference(self) -> np.ndarray:
        """Gradient estimates at the current points minus those at the points before."""
        self.oracle.move(self.downlink.before_i, self.round)
        self.oracle.value()
        self.oracle.move(self.points, self.round)
        return self.oracle.difference()
