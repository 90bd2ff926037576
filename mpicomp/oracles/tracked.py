"""What oracles share that ask another one, and those among them with a memory: an estimate v_i for each client that a round updates."""

from __future__ import annotations

import numpy as np

from ..state import ClientState
from .base import Oracle


class Wrapping(Oracle):
    """An oracle that asks another one.

    Parameters
    ----------
    oracle : the oracle that it asks.
    """

    oracle: Oracle

    def __init__(self, oracle: Oracle):
        self.oracle, self.block, self.dim, self.round = oracle, oracle.block, oracle.dim, 0
        self._difference: np.ndarray | None = None

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.points, self.round = points, round
        self.oracle.move(points, round)

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""
        return self.oracle.full()

    def _minus_last(self, last: np.ndarray) -> np.ndarray:
        """The new value minus the old one, which is still in `last`."""
        if self._difference is None:
            self._difference = np.empty_like(last)
        np.negative(last, out=self._difference)
        self._difference += self.value()
        return self._difference


class Tracked(Wrapping):
    """An oracle whose value is an estimate v_i that it updates once a round, from those of another oracle.

    Attributes
    ----------
    v_i : the estimates, shape (m, d).

    Parameters
    ----------
    oracle : the oracle that it asks.
    """

    v_i = ClientState(allocate=False)

    def __init__(self, oracle: Oracle):
        super().__init__(oracle)
        self.v_i = np.zeros((len(self.block.clients), self.dim), self.block.dtype)

    def value(self) -> np.ndarray:
        """The new estimates; to be asked once a round, from round 0 on."""
        raise NotImplementedError(f"{type(self).__name__} must define value()")

    def difference(self) -> np.ndarray:
        """The new value minus the old one; in place of `value`."""
        return self._minus_last(self.v_i)
