"""Stochastic gradient descent with what networks are trained with: momentum, Nesterov's too, and weight decay."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from ..errors import ConfigError
from ..kernels import njit
from ..state import ModelState
from .base import optimizers
from .schedule import Scheduled, ScheduleOptions


@optimizers.register("sgd")
class SGD(Scheduled):
    """u = g + λx; v ← ηv + u; x ← x − γ_t v, or x ← x − γ_t(u + ηv) with Nesterov's momentum, as PyTorch's SGD (Sutskever et al. 2013).

    Parameters
    ----------
    momentum : η in [0, 1). nesterov : needs a momentum. weight_decay : λ ≥ 0. For the others see `Scheduled`.

    Raises
    ------
    ConfigError : an option outside its range.
    """

    v = ModelState(allocate=False)  # where there is a momentum

    def __init__(
        self,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(**schedule)
        if not 0 <= momentum < 1:
            raise ConfigError(f"{self.name}: momentum={momentum} is not in [0, 1)")
        if nesterov and not momentum:
            raise ConfigError(f"{self.name}: nesterov=true needs a momentum, for example momentum=0.9")
        if not weight_decay >= 0:
            raise ConfigError(f"{self.name}: weight_decay={weight_decay} is negative")
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    def start(self, x: np.ndarray, step_size: float) -> None:
        super().start(x, step_size)
        if self.momentum:
            self.v = np.zeros_like(x)

    def step(self, x: np.ndarray, g: np.ndarray) -> bool:
        number = x.dtype.type
        step, weight_decay = number(self.advance()), number(self.weight_decay)
        if not self.momentum:
            return _decayed_step(x, g, step, weight_decay)
        return _momentum_step(x, g, self.v, step, number(self.momentum), weight_decay, self.nesterov)


@njit
def _decayed_step(x: np.ndarray, g: np.ndarray, step: float, weight_decay: float) -> bool:
    bad = 0
    for j in range(x.shape[1]):
        value = x[0, j] - step * (g[0, j] + weight_decay * x[0, j])
        x[0, j] = value
        bad |= not abs(value) < np.inf
    return bad == 0


@njit
def _momentum_step(
    x: np.ndarray, g: np.ndarray, v: np.ndarray, step: float, momentum: float, weight_decay: float, nesterov: bool
) -> bool:
    bad = 0
    for j in range(x.shape[1]):
        u = g[0, j] + weight_decay * x[0, j]
        v[0, j] = momentum * v[0, j] + u
        value = x[0, j] - step * (u + momentum * v[0, j] if nesterov else v[0, j])
        x[0, j] = value
        bad |= not abs(value) < np.inf
    return bad == 0
