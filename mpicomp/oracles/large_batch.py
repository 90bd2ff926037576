"""Where the exact gradient cannot be had: a large minibatch in its place (the online form of VR-MARINA)."""

from __future__ import annotations

import numpy as np

from .base import Oracle
from .minibatch import Minibatch


class LargeBatch(Oracle):
    """A minibatch oracle whose `full` is the mean over `sync` fresh samples of each client.

    In one round either the large or the small minibatch is drawn, with the same keys.

    Parameters
    ----------
    minibatch : the small one, b' samples. sync : b.
    """

    oracle: Minibatch

    def __init__(self, minibatch: Minibatch, sync: int):
        self.oracle, self.block, self.dim = minibatch, minibatch.block, minibatch.dim
        self.large = Minibatch(minibatch.block, minibatch.dim, sync, minibatch.seed)

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`."""
        self.oracle.move(points, round)
        self.large.move(points, round)

    def value(self) -> np.ndarray:
        """The small minibatch's gradients."""
        return self.oracle.value()

    def full(self) -> np.ndarray:
        """The large minibatch's gradients."""
        return self.large.value()

    def difference(self) -> np.ndarray:
        """The small minibatch's differences, the same samples at both points."""
        return self.oracle.difference()
