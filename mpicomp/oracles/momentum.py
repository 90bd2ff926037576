"""Momentum at the clients: the estimate forgets its noise at the rate η (EF21-SGDM; Fatkhullin, Tyurin and Richtárik 2023)."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..state import ClientState
from .base import Oracle
from .tracked import Tracked


class Momentum(Tracked):
    """v_i^t = (1−η) v_i^{t−1} + η ∇f_i(x^t, ξ_i^t), v_i⁰ = ∇f_i(x⁰, ξ_i⁰).

    Parameters
    ----------
    oracle : gives ∇f_i(x^t, ξ_i^t). eta : η in (0, 1].

    Raises
    ------
    ConfigError : η outside (0, 1].
    """

    def __init__(self, oracle: Oracle, eta: float):
        if not 0 < eta <= 1:
            raise ConfigError(f"momentum: eta={eta} is not in (0, 1]")
        super().__init__(oracle)
        self.eta = eta
        self._work = np.empty_like(self.v_i)

    def value(self) -> np.ndarray:
        """v_i^t."""
        self._average(self.v_i, self.oracle.value())
        return self.v_i

    def _average(self, mean: np.ndarray, new: np.ndarray) -> None:
        """mean ← (1−η) mean + η new; in round 0 mean ← new."""
        if self.round == 0:
            mean[:] = new
            return
        mean *= 1.0 - self.eta
        np.multiply(new, self.eta, out=self._work)
        mean += self._work


class DoubleMomentum(Momentum):
    """u_i^t = (1−η) u_i^{t−1} + η v_i^t with v_i as in Momentum, u_i⁰ = v_i⁰; its value is u_i (EF21-SGD2M)."""

    u_i = ClientState(allocate=False)

    def __init__(self, oracle: Oracle, eta: float):
        super().__init__(oracle, eta)
        self.u_i = np.zeros_like(self.v_i)

    def value(self) -> np.ndarray:
        """u_i^t."""
        self._average(self.u_i, super().value())
        return self.u_i

    def difference(self) -> np.ndarray:
        """The new value minus the old one; in place of `value`."""
        return self._minus_last(self.u_i)
