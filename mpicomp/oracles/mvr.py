"""Momentum variance reduction (STORM): the last estimate is moved on by a minibatch, and forgets its noise at the rate b."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .base import Oracle
from .tracked import Tracked


class MVR(Tracked):
    """v_i^t = ∇f_i(x^t, ξ^t) + (1−b)(v_i^{t−1} − ∇f_i(x^{t−1}, ξ^t)), the same samples ξ^t at both points; v_i⁰ = ∇f_i(x⁰), exact.

    Cutkosky and Orabona 2019; as in DASHA-MVR (Tyurin and Richtárik 2023).

    Parameters
    ----------
    oracle : gives minibatch gradients and their differences. b : momentum in (0, 1]; with 1 the minibatch gradient itself.

    Raises
    ------
    ConfigError : b outside (0, 1].
    """

    def __init__(self, oracle: Oracle, b: float):
        if not 0 < b <= 1:
            raise ConfigError(f"mvr: b={b} is not in (0, 1]")
        super().__init__(oracle)
        self.b = b
        self._work = np.empty_like(self.v_i)

    def value(self) -> np.ndarray:
        """v_i^t = (1−b)(v_i^{t−1} + [∇f_i(x^t, ξ^t) − ∇f_i(x^{t−1}, ξ^t)]) + b∇f_i(x^t, ξ^t)."""
        if self.round == 0:
            self.v_i[:] = self.oracle.full()
            return self.v_i
        self.v_i += self.oracle.difference()
        self.v_i *= 1.0 - self.b
        self.v_i += np.multiply(self.oracle.value(), self.b, out=self._work)
        return self.v_i
