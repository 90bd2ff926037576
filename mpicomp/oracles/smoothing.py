"""Averaged model points: z_i^{t+1} = (1−β) z_i^t + β w_i^{t+1} (the momentum of M3; Gruntkowska, Tyurin and Richtárik 2024)."""

from __future__ import annotations

import numpy as np

from ..state import ClientState, held
from .base import Oracle


class Smoothing(Oracle):
    """Another oracle, evaluated at the averages z_i of the clients' points; z_i⁰ = w_i⁰.

    Parameters
    ----------
    oracle : the oracle. beta : β in (0, 1]; with 1 the points themselves.
    """

    z = ClientState(allocate=False)  # made when the points are first known
    oracle: Oracle

    def __init__(self, oracle: Oracle, beta: float):
        self.oracle, self.beta, self.block, self.dim = oracle, beta, oracle.block, oracle.dim
        self._step: np.ndarray | None = None

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`: z ← (1−β) z + β points."""
        if not held(self):
            self.z = np.array(points)
        if self._step is None:
            self._step = np.empty_like(points)
        self.z *= 1.0 - self.beta
        np.multiply(points, self.beta, out=self._step)
        self.z += self._step
        self.oracle.move(self.z, round)

    def value(self) -> np.ndarray:
        """Gradient estimates at z."""
        return self.oracle.value()

    def full(self) -> np.ndarray:
        """Exact gradients at z."""
        return self.oracle.full()

    def difference(self) -> np.ndarray:
        """Differences between this round's z and the last one's."""
        return self.oracle.difference()
