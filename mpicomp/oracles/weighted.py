"""Clients' gradients scaled by constants of their own: ∇f_i/(n w_i) for a weighted mean with weights w_i."""

from __future__ import annotations

import numpy as np

from .base import Oracle


class Weighted(Oracle):
    """Another oracle, each client's results multiplied by its factor.

    Parameters
    ----------
    oracle : the oracle. factors : shape (m,), float64.
    """

    oracle: Oracle

    def __init__(self, oracle: Oracle, factors: np.ndarray):
        self.oracle = oracle
        self._factors = np.asarray(factors)[:, None].astype(oracle.block.dtype)
        self._scaled = np.zeros((len(self._factors), oracle.dim), oracle.block.dtype)
        self.block, self.dim = oracle.block, oracle.dim

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.oracle.move(points, round)

    def value(self) -> np.ndarray:
        """Scaled gradient estimates."""
        return np.multiply(self.oracle.value(), self._factors, out=self._scaled)

    def full(self) -> np.ndarray:
        """Scaled exact gradients."""
        return np.multiply(self.oracle.full(), self._factors, out=self._scaled)

    def difference(self) -> np.ndarray:
        """Scaled differences."""
        return np.multiply(self.oracle.difference(), self._factors, out=self._scaled)
