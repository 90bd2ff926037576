"""The proximal step, for f plus a simple function r that need not be smooth."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from ..errors import ConfigError, unknown
from .base import descend, optimizers
from .schedule import Scheduled, ScheduleOptions

FUNCTIONS = ("l1", "ridge", "elastic", "box")


@optimizers.register("prox")
class Prox(Scheduled):
    """x^{t+1} = prox_{γr}(x^t − γ g^t), prox_{γr}(y) = argmin_x { r(x) + ‖x − y‖²/(2γ) }.

    Parameters
    ----------
    r : "l1", weight·‖x‖₁; "ridge", (weight/2)‖x‖²; "elastic", the elastic net weight·(l1_ratio·‖x‖₁ + ½(1 − l1_ratio)‖x‖²) of Zou and
        Hastie 2005; "box", 0 where low ≤ x_j ≤ high for all j, else infinite.
    weight : ≥ 0. low, high : of the box. l1_ratio : in [0, 1], None for 0.5. For the others, by which γ is γ_t, see `Scheduled`.

    Raises
    ------
    ConfigError : an unknown r, a negative weight, an l1_ratio outside of [0, 1] or of another r, an empty box.
    """

    def __init__(
        self,
        r: str = "l1",
        weight: float = 1e-3,
        low: float = -1.0,
        high: float = 1.0,
        l1_ratio: float | None = None,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(**schedule)
        if r not in FUNCTIONS:
            raise unknown("r of optimizer 'prox':", r, FUNCTIONS)
        if not weight >= 0:
            raise ConfigError(f"prox: weight={weight} is negative")
        if not low <= high:
            raise ConfigError(f"prox: the box from low={low} to high={high} is empty")
        if l1_ratio is not None and (r != "elastic" or not 0 <= l1_ratio <= 1):
            raise ConfigError(f"prox: l1_ratio={l1_ratio} with r={r!r}; it is a share from 0 to 1, for r='elastic'")
        self.r, self.weight, self.low, self.high = r, weight, low, high
        self.l1_ratio = {"l1": 1.0, "ridge": 0.0}.get(r, 0.5 if l1_ratio is None else l1_ratio)

    def start(self, x: np.ndarray, step_size: float) -> None:
        super().start(x, step_size)
        self._work = np.zeros_like(x)

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        step = self.advance()
        descend(x, g, x.dtype.type(step))
        self.apply(x, step)

    def apply(self, x: np.ndarray, step_size: float) -> None:
        """x ← prox_{γr}(x), in place; x has shape (1, d)."""
        if self.r == "box":
            np.clip(x, self.low, self.high, out=x)
            return
        if self.r != "ridge":
            np.abs(x, out=self._work)
            self._work -= step_size * self.weight * self.l1_ratio
            np.maximum(self._work, 0, out=self._work)
            np.copysign(self._work, x, out=x)
        if self.r != "l1":
            x /= 1.0 + step_size * self.weight * (1.0 - self.l1_ratio)

    def value(self, x: np.ndarray) -> float:
        """r(x)."""
        if self.r == "box":
            return 0.0 if np.all((self.low <= x) & (x <= self.high)) else float("inf")
        ones, squares = float(np.sum(np.abs(x))), float(np.sum(np.square(x)))
        return self.weight * (self.l1_ratio * ones + 0.5 * (1.0 - self.l1_ratio) * squares)
