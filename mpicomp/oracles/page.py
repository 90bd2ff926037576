"""PAGE: now and then the exact gradient, otherwise the last estimate moved on by a minibatch (Li, Bao, Zhang and Richtárik 2021)."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.random import Stream, derive, uniform64
from ..problems import Block
from ..problems.base import hosted_block
from .minibatch import Minibatch
from .tracked import Tracked

COINS = ("private", "shared")


class Page(Tracked):
    """v_i^t = ∇f_i(x^t) with probability p, else v_i^{t−1} + (1/τ) Σ_{j∈I_i} (∇f_ij(x^t) − ∇f_ij(x^{t−1})); v_i⁰ = ∇f_i(x⁰).

    Parameters
    ----------
    minibatch : draws I_i, τ samples. p : in (0, 1]. seed : of the run.
    coin : "private", each client its own (as the paper prints it), or "shared", one for all (as its code does).

    Raises
    ------
    ConfigError : p outside (0, 1], an unknown coin.
    """

    def __init__(self, minibatch: Minibatch, p: float, seed: int, coin: str = "private"):
        if not 0 < p <= 1:
            raise ConfigError(f"page: p={p} is not in (0, 1]")
        if coin not in COINS:
            raise ConfigError(f"page: coin={coin!r}; allowed: {', '.join(COINS)}")
        super().__init__(minibatch)
        self.p, self.seed, self.coin = p, seed, coin
        self._heads = np.zeros(len(self.v_i), bool)
        self._alone: dict[int, Block] = {}

    def value(self) -> np.ndarray:
        """v_i^t."""
        if self.round == 0:
            self.oracle.difference()  # zero; a warm-up thus meets this kernel whatever its coins show
            self.v_i[:] = self.oracle.full()
            return self.v_i
        toss(
            derive(self.seed, Stream.ORACLE_COIN, self.round),
            self.coin == "shared",
            self.p,
            self.block.clients,
            self._heads,
        )
        if self._heads.all():
            self.v_i[:] = self.oracle.full()
            return self.v_i
        self.v_i += self.oracle.difference()
        for j in np.flatnonzero(self._heads):
            point = j if len(self.points) > 1 else 0
            self._client(int(j)).gradients(self.points[point : point + 1], self.v_i[j : j + 1])
        return self.v_i

    def _client(self, j: int) -> Block:
        """The block of client j alone: of all clients' exact gradients only a few are wanted in a round."""
        if j not in self._alone:
            self._alone[j] = hosted_block(self.block.problem, self.block.clients[j : j + 1], self.block.dtype)
        return self._alone[j]


@njit
def toss(key: np.uint64, shared: bool, p: float, clients: np.ndarray, heads: np.ndarray) -> None:
    """heads[j] = the coin of clients[j], or of all, shows heads."""
    for j in range(heads.shape[0]):
        heads[j] = uniform64(key, 0 if shared else 1 + clients[j]) < p
