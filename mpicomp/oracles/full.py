"""The exact gradient of every hosted client."""

from __future__ import annotations

import numpy as np

from ..problems import Block
from ..state import ClientState
from ..wire import framed_zeros
from .base import Oracle


class Full(Oracle):
    """∇f_i(w_i) for the m clients of a block.

    Parameters
    ----------
    block : the hosted clients. dim : d.

    Attributes
    ----------
    points : where the clients are, shape (1, d) or (m, d); `move` replaces it.
    """

    gradient = ClientState(allocate=False)

    def __init__(self, block: Block, dim: int):
        m = len(block.clients)
        self.block, self.dim = block, dim
        self.points = np.zeros((1, dim), block.dtype)
        self.gradient = framed_zeros((m, dim), block.dtype)
        self._previous = framed_zeros((m, dim), block.dtype)
        self._difference = framed_zeros((m, dim), block.dtype)

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`, for the evaluations of this round."""
        self.points = points

    def value(self) -> np.ndarray:
        """∇f_i(w_i)."""
        self.block.gradients(self.points, self.gradient)
        return self.gradient

    def full(self) -> np.ndarray:
        """∇f_i(w_i)."""
        return self.value()

    def difference(self) -> np.ndarray:
        """∇f_i(w_i) minus what the last evaluation gave at the previous points."""
        self._previous, self.gradient = self.gradient, self._previous
        self.block.gradients(self.points, self.gradient)
        np.subtract(self.gradient, self._previous, out=self._difference)
        return self._difference
