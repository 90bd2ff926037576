"""Adam, AdamW and AMSGrad, and the optimizer of 1-bit Adam."""

from __future__ import annotations

from math import sqrt
from typing import Unpack

import numpy as np

from ..errors import ConfigError, unknown
from ..kernels import njit
from ..state import ModelState
from .base import optimizers
from .schedule import Scheduled, ScheduleOptions

VARIANTS = ("paper", "code")


class Moments(Scheduled):
    """What Adam-like optimizers share: m = b₁m + (1−b₁)g, v = b₂v + (1−b₂)g².

    Parameters
    ----------
    b1, b2 : decay rates, in [0, 1).
    weight_decay : λ ≥ 0; g + λx takes the place of g, unless the optimizer says otherwise. For the others see `Scheduled`.

    Raises
    ------
    ConfigError : an option outside its range.
    """

    m, v = ModelState(), ModelState()
    t = ModelState(columns=1, dtype=np.int64)  # steps taken
    counts = True

    def __init__(self, b1: float, b2: float, weight_decay: float, **schedule: Unpack[ScheduleOptions]):
        super().__init__(**schedule)
        for name, value in (("b1", b1), ("b2", b2)):
            if not 0 <= value < 1:
                raise ConfigError(f"{self.name}: {name}={value} is not in [0, 1)")
        if not weight_decay >= 0:
            raise ConfigError(f"{self.name}: weight_decay={weight_decay} is negative")
        self.b1, self.b2, self.weight_decay = b1, b2, weight_decay

    def advanced(self) -> tuple[int, float]:
        """Count the step; returns t (from 1 on) and γ_t."""
        step = self.advance()
        return int(self.t[0, 0]), step


@optimizers.register("adam")
class Adam(Moments):
    """x ← x − γ_t m̂/(√v̂ + ε), m̂ = m/(1−b₁ᵗ), v̂ = v/(1−b₂ᵗ). Kingma and Ba 2015, Algorithm 1.

    Parameters
    ----------
    eps : ε. bias_correction : False for m̂ = m, v̂ = v. For the others see `Moments`.
    """

    decoupled = False  # AdamW's weight decay

    def __init__(
        self,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(b1, b2, weight_decay, **schedule)
        self.eps, self.bias_correction = eps, bias_correction

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        t, step = self.advanced()
        root, kept, weight_decay = 1.0, 1.0, self.weight_decay
        if self.decoupled:
            kept, weight_decay = 1.0 - step * self.weight_decay, 0.0
        if self.bias_correction:
            step, root = step / (1 - self.b1**t), sqrt(1 - self.b2**t)
        _step(
            x[0], g[0], self.m[0], self.v[0], self.v[0], step, self.b1, self.b2, weight_decay, kept, 0.0, root, self.eps
        )


@optimizers.register("adamw")
class AdamW(Adam):
    """x ← (1 − γ_t λ)x − γ_t m̂/(√v̂ + ε): Adam whose weight decay is decoupled from the gradient. Loshchilov and Hutter 2019, Algorithm 2.

    Parameters
    ----------
    weight_decay : λ. The decay takes part in the schedule of γ_t, as in PyTorch. For the others see `Adam`.
    """

    decoupled = True

    def __init__(
        self,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        bias_correction: bool = True,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(b1, b2, eps, weight_decay, bias_correction, **schedule)


@optimizers.register("amsgrad")
class AMSGrad(Moments):
    """v̂ = max(v̂, v); x ← x − γ_t m/√(v̂ + ν). Reddi, Kale and Kumar 2018, as CD-Adam has it (Wang, Lin and Chen 2022, Algorithm 1).

    Parameters
    ----------
    nu : ν. variant : "paper", as above; "code", as CD-Adam's published program has it: x ← x − γ_t/(1−b₁ᵗ) · m/(√v̂/√(1−b₂ᵗ) + ε),
        where v̂ is still the largest of the v without correction. eps : ε. For the others see `Moments`.
    """

    v_hat = ModelState()

    def __init__(
        self,
        b1: float = 0.9,
        b2: float = 0.99,
        nu: float = 1e-8,
        variant: str = "paper",
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(b1, b2, weight_decay, **schedule)
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        self.nu, self.variant, self.eps = nu, variant, eps

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        t, step = self.advanced()
        nu, root, eps = self.nu, 1.0, 0.0
        if self.variant == "code":
            nu, root, eps = 0.0, sqrt(1 - self.b2**t), self.eps
            step /= 1 - self.b1**t
        _step(
            x[0],
            g[0],
            self.m[0],
            self.v[0],
            self.v_hat[0],
            step,
            self.b1,
            self.b2,
            self.weight_decay,
            1.0,
            nu,
            root,
            eps,
        )


class OneBitAdam(Moments):
    """The optimizer of 1-bit Adam (Tang et al. 2021, Algorithm 1): the first T_w estimates are gradients, the later ones are the momentum.

    t ≤ T_w: m = b₁m + (1−b₁)g, v = b₂v + (1−b₂)g²; later m = g, and v stays as it is. x ← x − γ_t (m/(√v + ε) + λx), without bias
    correction. A coordinate whose v is zero when it freezes (its gradient never was anything else) stays where it is: the compressed
    momentum is nowhere zero, so it would move by γ_t m/ε. DeepSpeed leaves it to the user to mask such coordinates.

    Parameters
    ----------
    dense_rounds : T_w ≥ 1. For the others see `Adam`.
    """

    name = "onebit-adam"

    def __init__(
        self,
        dense_rounds: int,
        b1: float,
        b2: float,
        eps: float,
        weight_decay: float,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(b1, b2, weight_decay, **schedule)
        self.dense_rounds, self.eps = dense_rounds, eps

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        t, step = self.advanced()
        if t <= self.dense_rounds:
            b1, b2 = self.b1, self.b2
        else:
            b1, b2 = 0.0, 1.0  # m = g, v frozen
        _onebit_step(x[0], g[0], self.m[0], self.v[0], step, b1, b2, self.weight_decay, self.eps)


@njit
def _step(
    x: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, v_hat: np.ndarray, step: float, b1: float, b2: float,
    weight_decay: float, kept: float, nu: float, root: float, eps: float,
) -> None:  # fmt: skip
    """v̂ and v are the same array in Adam. kept : what is left of x, 1 − γ_t λ in AdamW. A NaN goes through."""
    for j in range(x.shape[0]):
        u = g[j] + weight_decay * x[j]
        m[j] = b1 * m[j] + (1.0 - b1) * u
        v[j] = b2 * v[j] + (1.0 - b2) * u * u
        if not v[j] <= v_hat[j]:
            v_hat[j] = v[j]
        x[j] = kept * x[j] - step * m[j] / (np.sqrt(v_hat[j] + nu) / root + eps)


@njit
def _onebit_step(
    x: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, step: float, b1: float, b2: float, weight_decay: float,
    eps: float,
) -> None:  # fmt: skip
    for j in range(x.shape[0]):
        m[j] = b1 * m[j] + (1.0 - b1) * g[j]
        v[j] = b2 * v[j] + (1.0 - b2) * g[j] * g[j]
        if v[j] != 0:
            x[j] -= step * (m[j] / (np.sqrt(v[j]) + eps) + weight_decay * x[j])
