"""A minibatch of each client's samples, drawn anew every round with keyed randomness."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.random import Stream, below, client_key, derive
from ..problems import Block
from ..state import ClientState, held
from .base import Oracle


class Minibatch(Oracle):
    """Mean gradient of `batch` samples per client, drawn uniformly with replacement.

    Parameters
    ----------
    block, dim : as for Full. batch : samples per client. seed : of the run.

    Raises
    ------
    ConfigError : batch < 1, or a client's f_i is not a finite sum.
    """

    current = ClientState(allocate=False)  # copies of the points, made when these are first known

    def __init__(self, block: Block, dim: int, batch: int, seed: int):
        if batch < 1:
            raise ConfigError(f"minibatch: batch={batch} must be at least 1")
        m = len(block.clients)
        self.block, self.dim, self.seed, self.round = block, dim, seed, 0
        self.sizes = np.array([block.problem.n_samples(int(i)) for i in block.clients], np.int64)
        if m and self.sizes.min() < 1:
            raise ConfigError(
                f"problem {block.problem.name!r} has no samples to draw a minibatch from; use the full gradient"
            )
        self.samples = np.zeros((m, batch), np.int64)
        self._before: np.ndarray | None = None
        self._value = np.zeros((m, dim), block.dtype)
        self._previous = np.zeros((m, dim), block.dtype)

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`; this round's samples are drawn when they are first needed."""
        if not held(self):
            self.current = np.array(points)
        if self._before is None:
            self._before = np.empty_like(self.current)
        self._before[:] = self.current
        self.current[:] = points
        self.round = round

    def _draw(self) -> None:
        draw_samples(derive(self.seed, Stream.MINIBATCH, self.round), self.block.clients, self.sizes, self.samples)

    def value(self) -> np.ndarray:
        """The minibatch gradients at the current points."""
        self._draw()
        self.block.batch_gradients(self.current, self.samples, self._value)
        return self._value

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""
        self.block.gradients(self.current, self._value)
        return self._value

    def difference(self) -> np.ndarray:
        """The minibatch gradients at the current points minus those of the same samples at the previous points."""
        assert self._before is not None, "move comes first"
        self._draw()
        self.block.batch_gradients(self._before, self.samples, self._previous)
        self.block.batch_gradients(self.current, self.samples, self._value)
        self._value -= self._previous
        return self._value


@njit
def draw_samples(key: np.uint64, clients: np.ndarray, sizes: np.ndarray, samples: np.ndarray) -> None:
    """samples[j, s] uniform on {0, ..., sizes[j] − 1}; depends on the client, not on the block."""
    for j in range(samples.shape[0]):
        own = client_key(key, clients[j])
        for s in range(samples.shape[1]):
            samples[j, s] = below(own, s, sizes[j])
