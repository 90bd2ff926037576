"""Gradient descent, plain and with momentum."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from ..errors import ConfigError
from ..state import ModelState
from .base import descend, optimizers
from .schedule import Scheduled, ScheduleOptions


@optimizers.register("gd")
class GradientDescent(Scheduled):
    """x^{t+1} = x^t − γ_t g^t."""

    def step(self, x: np.ndarray, g: np.ndarray) -> bool:
        return descend(x, g, x.dtype.type(self.advance()))


@optimizers.register("heavyball")
class HeavyBall(Scheduled):
    """v^t = η v^{t−1} + g^t (v⁰ = g⁰); x^{t+1} = x^t − γ_t v^t. Polyak 1964; as EF21-HB has it (Fatkhullin et al. 2021).

    Parameters
    ----------
    momentum : η in [0, 1). For the others see `Scheduled`.
    """

    v = ModelState()

    def __init__(self, momentum: float = 0.9, **schedule: Unpack[ScheduleOptions]):
        super().__init__(**schedule)
        if not 0 <= momentum < 1:
            raise ConfigError(f"heavyball: momentum={momentum} is not in [0, 1)")
        self.momentum = momentum

    def step(self, x: np.ndarray, g: np.ndarray) -> bool:
        self.v *= self.momentum
        self.v += g
        return descend(x, self.v, x.dtype.type(self.advance()))
