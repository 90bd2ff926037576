"""Participation: which clients speak in a round, and how loud. Drawn from the shared stream: every rank knows untold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import ConfigError
from .kernels import njit
from .kernels.random import Stream, below, derive, uniform64

SAMPLINGS = ("nice", "uniform", "importance", "independent")


class Participation:
    """Which clients take part in which round, the same on all ranks. Define `active` and `probabilities`."""

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

    def __init__(self, p: float | Sequence[float] | np.ndarray, n_clients: int, seed: int):
        try:
            self.p = np.broadcast_to(np.asarray(p, np.float64), (n_clients,)).copy()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"participation: p={p!r} must be a number, or one for each of {n_clients} clients: {error}"
            ) from None
        if not (np.all(self.p > 0) and np.all(self.p <= 1)):
            raise ConfigError(f"participation: probabilities must lie in (0, 1], got {p}")
        self.seed, self._active = seed, np.zeros(n_clients, bool)

    def active(self, round: int) -> np.ndarray:
        _bernoulli(derive(self.seed, Stream.PARTICIPATION, round), self.p, self._active)
        return self._active

    def probabilities(self) -> np.ndarray:
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
        if not isinstance(s, int) or not 1 <= s <= n_clients:
            raise ConfigError(f"participation: s={s} must lie between 1 and the number of clients, {n_clients}")
        self.s, self.seed, self._active = s, seed, np.zeros(n_clients, bool)

    def active(self, round: int) -> np.ndarray:
        _nice(derive(self.seed, Stream.PARTICIPATION, round), self.s, self._active)
        return self._active

    def probabilities(self) -> np.ndarray:
        return np.full(len(self._active), self.s / len(self._active))


class Sampling:
    """Unbiased samplings of clients: random weights ξ_i with E ξ_i = 1/n, zero for who is silent.

    They are those of the weighted AB inequality E‖Σ ξ_i a_i − ā‖² ≤ (A/n) Σ ‖a_i‖²/(n w_i) − B‖ā‖² (Tyurin, Sun,
    Burlachenko and Richtárik 2023, "Sharper rates and flexible framework for nonconvex SGD with client and data
    sampling").

    nice : τ clients without replacement, ξ = 1/τ; A = B = (n−τ)/(τ(n−1)), w_i = 1/n.
    uniform, importance : τ draws with replacement with probabilities q_i, 1/n or L_i/ΣL; a client drawn k times has
        ξ = k/(τ n q_i) and speaks once; A = B = 1/τ, w = q.
    independent : client i with probability p_i = min{0.999, τ q_i}, q_i = L_i/ΣL, ξ = 1/(n p_i);
        A = 1/Σ p_i/(1−p_i), B = 0, w_i ∝ p_i/(1−p_i).

    Parameters
    ----------
    kind : one of the four. tau : τ, (expected) number of draws. n_clients : n. seed : of the run. L_i : shape (n,),
        for importance and independent.

    Raises
    ------
    ConfigError : unknown kind, τ < 1, or τ > n where draws are without replacement.
    """

    def __init__(self, kind: str, tau: int, n_clients: int, seed: int, L_i: np.ndarray | None = None):
        if kind not in SAMPLINGS:
            raise ConfigError(f"sampling={kind!r} is unknown; known: {', '.join(SAMPLINGS)}")
        if not isinstance(tau, int) or tau < 1 or (kind in ("nice", "independent") and tau > n_clients):
            raise ConfigError(
                f"sampling {kind!r} of {tau!r} clients among {n_clients}: give a number from 1 to the number of clients"
            )
        n = n_clients
        self.kind, self.tau, self.n, self.seed = kind, tau, n, seed
        self.q = np.full(n, 1.0 / n) if L_i is None or kind in ("nice", "uniform") else np.asarray(L_i) / np.sum(L_i)
        self._weights = np.zeros(n)
        if kind == "nice":
            self._who: Nice | Bernoulli | None = Nice(tau, n, seed)
            self._scale = np.full(n, 1.0 / tau)
        elif kind == "independent":
            p = np.minimum(tau * self.q, 0.999)
            self._who = Bernoulli(p, n, seed)
            self._scale = 1.0 / (n * p)
        else:
            self._who, self._scale = None, 1.0 / (tau * n * self.q)
        self._cumulative = np.cumsum(self.q)

    def weights(self, round: int) -> np.ndarray:
        """ξ of a round, float64, shape (n,); the same array is reused."""
        if self._who is not None:
            np.multiply(self._who.active(round), self._scale, out=self._weights)
        else:
            _with_replacement(derive(self.seed, Stream.PARTICIPATION, round), self.tau, self._cumulative, self._weights)
            self._weights *= self._scale
        return self._weights

    def constants(self) -> tuple[float, float, np.ndarray]:
        """(A, B, w)."""
        n, tau = self.n, self.tau
        if self.kind == "nice":
            A = (n - tau) / (tau * (n - 1)) if n > 1 else 0.0
            return A, A, np.full(n, 1.0 / n)
        if self.kind == "independent":
            p = 1.0 / (n * self._scale)
            odds = p / (1.0 - p)
            return float(1.0 / odds.sum()), 0.0, odds / odds.sum()
        return 1.0 / tau, 1.0 / tau, self.q

    def second_moments(self) -> np.ndarray:
        """E ξ_i², shape (n,)."""
        n, tau = self.n, self.tau
        if self.kind == "nice":
            return np.full(n, 1.0 / (tau * n))
        if self.kind == "independent":
            return self._scale / n
        return ((1.0 - self.q) / (tau * self.q) + 1.0) / n**2


@njit
def _bernoulli(key: np.uint64, p: np.ndarray, active: np.ndarray) -> None:
    for i in range(p.shape[0]):
        active[i] = uniform64(key, i) < p[i]


@njit
def _nice(key: np.uint64, s: int, active: np.ndarray) -> None:
    """Floyd's algorithm: a uniform subset of size s."""
    n = active.shape[0]
    active[:] = False
    for j in range(n - s, n):
        i = below(key, j, j + 1)
        active[j if active[i] else i] = True


@njit
def _with_replacement(key: np.uint64, tau: int, cumulative: np.ndarray, counts: np.ndarray) -> None:
    """counts[i] = how often client i is drawn in τ draws."""
    counts[:] = 0.0
    n = counts.shape[0]
    for draw in range(tau):
        i = np.searchsorted(cumulative, uniform64(key, draw) * cumulative[n - 1], side="right")
        counts[min(i, n - 1)] += 1.0
