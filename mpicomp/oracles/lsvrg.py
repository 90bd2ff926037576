"""L-SVRG: a minibatch gradient corrected by the exact gradient at a reference point that is renewed now and then."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..kernels.random import Stream, derive, uniform64
from ..state import ClientState, held
from .base import Oracle
from .minibatch import Minibatch


class LSVRG(Oracle):
    """(1/b) Σ_{j∈I_i} (∇f_ij(x^t) − ∇f_ij(w^t)) + ∇f_i(w^t); w^{t+1} = x^t with probability p, one coin for all, else w^t. w⁰ = x⁰.

    Kovalev, Horváth and Richtárik 2020; as in VR-DIANA (Horváth et al. 2023).

    Parameters
    ----------
    minibatch : draws I_i, b samples. p : in (0, 1]. seed : of the run.

    Raises
    ------
    ConfigError : p outside (0, 1].
    """

    w = ClientState(allocate=False)  # made when the points are first known
    mu_i = ClientState(allocate=False)
    oracle: Minibatch

    def __init__(self, minibatch: Minibatch, p: float, seed: int):
        if not 0 < p <= 1:
            raise ConfigError(f"l-svrg: p={p} is not in (0, 1]")
        self.oracle, self.block, self.dim = minibatch, minibatch.block, minibatch.dim
        self.p, self.seed, self.round = p, seed, 0
        self.mu_i = np.zeros((len(self.block.clients), self.dim), self.block.dtype)
        self._value = np.empty_like(self.mu_i)
        self._previous = np.zeros_like(self.mu_i)

    def state(self) -> dict[str, np.ndarray]:
        """The state arrays by name."""
        return held(self)

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.points, self.round = points, round
        if "w" not in held(self):
            self.w = np.array(points)
        self.oracle.move(self.w, round)
        self.oracle.move(points, round)  # from w to x: the minibatch's difference is between these two

    def value(self) -> np.ndarray:
        """The estimates; to be asked once a round, from round 0 on."""
        if self.round == 0:
            self.mu_i[:] = self.oracle.full()
        np.add(self.mu_i, self.oracle.difference(), out=self._value)
        if uniform64(derive(self.seed, Stream.ORACLE_COIN, self.round), 0) < self.p:
            self.w[:] = self.points
            self.mu_i[:] = self.oracle.full()
        return self._value

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""
        return self.oracle.full()

    def difference(self) -> np.ndarray:
        """The new value minus the old one; in place of `value`."""
        self._previous[:] = self._value
        return np.subtract(self.value(), self._previous, out=self._previous)
