"""The exact gradient of every hosted client."""

from __future__ import annotations

import numpy as np

from ..problems import Block
from ..state import ClientState, held
from ..wire import framed_zeros
from .base import Oracle


class Full(Oracle):
    """∇f_i(w_i) for the m clients of a block.

    Parameters
    ----------
    block : the hosted clients. dim : d. seed : of the run.

    Attributes
    ----------
    points : where the clients are, shape (1, d) or (m, d); `move` replaces it.
    """

    gradient = ClientState(allocate=False)

    def __init__(self, block: Block, dim: int, seed: int = 0):
        m = len(block.clients)
        self.block, self.dim, self.seed = block, dim, seed
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


class RandomFull(Full):
    """The same of a problem whose gradients depend on the key of the round: both points of a difference have this round's draw.

    Parameters
    ----------
    block, dim, seed : as for Full.
    """

    current = ClientState(allocate=False)  # copies of the points, made when these are first known

    def __init__(self, block: Block, dim: int, seed: int = 0):
        super().__init__(block, dim, seed)
        self._before: np.ndarray | None = None

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`, for the evaluations of this round."""
        if "current" not in held(self):
            self.current = np.array(points)
        if self._before is None:
            self._before = np.empty_like(self.current)
        self._before[:] = self.current
        self.current[:] = points
        self.points = points

    def difference(self) -> np.ndarray:
        """∇f_i(w_i) minus ∇f_i at the points of the round before."""
        assert self._before is not None, "move comes first"
        self.block.gradients(self._before, self._previous)
        self.block.gradients(self.points, self.gradient)
        np.subtract(self.gradient, self._previous, out=self._difference)
        return self._difference
