"""Local steps: each client descends by itself, and what it sends is where it got."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..kernels.random import Stream, derive
from .base import Oracle, begin_round
from .minibatch import Minibatch, draw_samples
from .tracked import Wrapping


class Local(Wrapping):
    """y_i^0 = x; y_i^{k+1} = y_i^k − η(∇f_i(y_i^k) + μ(y_i^k − x)), k < K. The value is (x − y_i^K)/(Kη), the mean direction of the path.

    With K = 1 this is the gradient. With a minibatch each local step draws its own samples, the first those of the round, and a problem
    with random gradients is told a key for each.

    Parameters
    ----------
    oracle : Full or Minibatch. steps : K ≥ 1. step : η > 0. prox : μ ≥ 0 (FedProx).

    Raises
    ------
    ConfigError : an option outside its range.
    """

    def __init__(self, oracle: Oracle, steps: int, step: float, prox: float = 0.0):
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"local steps: steps={steps} must be an integer, at least 1")
        if not step > 0 or not prox >= 0:
            raise ConfigError(f"local steps: step={step} must be positive, prox={prox} not negative")
        super().__init__(oracle)
        self.steps, self.step, self.prox = steps, step, prox
        self.minibatch = oracle if isinstance(oracle, Minibatch) else None
        innermost = oracle
        while innermost.oracle is not None:
            innermost = innermost.oracle
        self._seed: int = getattr(innermost, "seed", 0)
        shape = (len(self.block.clients), self.dim)
        self._total, self._work, self._y, self._gradient = (np.zeros(shape, self.block.dtype) for _ in range(4))

    def value(self) -> np.ndarray:
        """The mean directions."""
        total = self._total
        total[:] = 0
        for k in range(self.steps):
            if k == 0:
                total += self._at(self.points, 0)
                continue
            np.multiply(total, -self.step, out=self._work)  # y_i^k − x
            np.add(self.points, self._work, out=self._y)
            total += self._at(self._y, k)
            if self.prox:
                self._work *= self.prox
                total += self._work
        total /= self.steps
        return total

    def difference(self) -> np.ndarray:
        """The new value minus the old one; in place of `value`."""
        return self._minus_last(self._total)

    def _at(self, y: np.ndarray, k: int) -> np.ndarray:
        """∇f_i(y_i), on the samples of local step k."""
        if k > 0:
            begin_round(self.block.problem, self._seed, self.round, k)
        if self.minibatch is None:
            self.block.gradients(y, self._gradient)
        else:
            samples, sizes = self.minibatch.samples, self.minibatch.sizes
            draw_samples(
                derive(self.minibatch.seed, Stream.MINIBATCH, self.round, k), self.block.clients, sizes, samples
            )
            self.block.batch_gradients(y, samples, self._gradient)
        return self._gradient
