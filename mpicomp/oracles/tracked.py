"""What oracles with a memory share: an estimate v_i for each client that a round updates."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class Tracked:
    """An oracle whose value is an estimate v_i that it updates once a round, from those of another oracle.

    Attributes
    ----------
    state_names : the arrays, shape (m, d), that outlive a round. v_i : the estimates.

    Parameters
    ----------
    oracle : the oracle that it asks.
    """

    state_names: ClassVar[tuple[str, ...]] = ("v_i",)

    def __init__(self, oracle: Any):
        self.oracle, self.block, self.dim, self.round = oracle, oracle.block, oracle.dim, 0
        self.v_i = np.zeros((len(self.block.clients), self.dim), self.block.dtype)
        self._difference: np.ndarray | None = None

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.points, self.round = points, round
        self.oracle.move(points, round)

    def value(self) -> np.ndarray:
        """The new estimates; to be asked once a round, from round 0 on."""
        raise NotImplementedError

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""
        return self.oracle.full()

    def difference(self) -> np.ndarray:
        """The new value minus the old one; in place of `value`."""
        if self._difference is None:
            self._difference = np.empty_like(self.v_i)
        np.negative(self.v_i, out=self._difference)
        self._difference += self.value()
        return self._difference
