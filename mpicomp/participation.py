"""Participation: which clients speak in a round. Drawn from the shared stream, so that every rank knows without being told."""

from __future__ import annotations

import numpy as np

from .errors import ConfigError
from .kernels import njit
from .kernels.random import Stream, below, derive, uniform64


class Participation:
    """Base class."""

    def active(self, round: int) -> np.ndarray:
        """bool, shape (n,): who speaks; the same array is reused for each round."""
        raise NotImplementedError

    def probabilities(self) -> np.ndarray:
        """Prob(client i speaks), float64, shape (n,)."""
        raise NotImplementedError


class Bernoulli(Participation):
    """Client i speaks with probability p_i, independently.

    Parameters
    ----------
    p : a number or shape (n,), each in (0, 1]. n_clients : n. seed : of the run.

    Raises
    ------
    ConfigError : a probability outside (0, 1].
    """

    def __init__(self, p: float | np.ndarray, n_clients: int, seed: int):
        self.p = np.broadcast_to(np.asarray(p, np.float64), (n_clients,)).copy()
        if not (np.all(self.p > 0) and np.all(self.p <= 1)):
            raise ConfigError(f"participation: probabilities must lie in (0, 1], got {p}")
        self.seed, self._active = seed, np.zeros(n_clients, bool)

    def active(self, round):
        _bernoulli(derive(self.seed, Stream.PARTICIPATION, round), self.p, self._active)
        return self._active

    def probabilities(self):
        return self.p


class Nice(Participation):
    """s clients, uniformly without replacement (s-nice sampling).

    Parameters
    ----------
    s : how many, 1 ≤ s ≤ n. n_clients : n. seed : of the run.

    Raises
    ------
    ConfigError : s outside 1..n.
    """

    def __init__(self, s: int, n_clients: int, seed: int):
        if not 1 <= s <= n_clients:
            raise ConfigError(f"participation: s={s} must lie between 1 and the number of clients, {n_clients}")
        self.s, self.seed, self._active = s, seed, np.zeros(n_clients, bool)

    def active(self, round):
        _nice(derive(self.seed, Stream.PARTICIPATION, round), self.s, self._active)
        return self._active

    def probabilities(self):
        return np.full(len(self._active), self.s / len(self._active))


@njit
def _bernoulli(key, p, active):
    for i in range(p.shape[0]):
        active[i] = uniform64(key, i) < p[i]


@njit
def _nice(key, s, active):
    """Floyd's algorithm: a uniform subset of size s."""
    n = active.shape[0]
    active[:] = False
    for j in range(n - s, n):
        i = below(key, j, j + 1)
        active[j if active[i] else i] = True
