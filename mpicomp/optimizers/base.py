"""What an optimizer is: x and the gradient estimate in, the new x out. It runs on the server, or replicated on every worker."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..kernels import njit
from ..registry import Registry
from ..state import ModelState, declared, held

optimizers: Registry[Optimizer] = Registry("optimizer", "mpicomp.optimizers")


class Optimizer:
    """Base class. What outlives a step is declared in the class body as `ModelState` (`mpicomp.state`).

    Attributes
    ----------
    step_size : γ, once started. rounds_of_run : T of the run, which it sets before the start; None outside of a run.
    """

    name: ClassVar[str] = "user"
    step_size: float
    rounds_of_run: int | None = None

    def start(self, x: np.ndarray, step_size: float) -> None:
        """Allocate the state, all zero. x : shape (1, d), or on one of several servers (1, served_dim); step_size : γ."""
        self.step_size = step_size
        for state in declared(self, ModelState):
            if state.allocate:
                setattr(self, state.name, state.zeros(1, x.shape[1], x.dtype))

    def state(self) -> dict[str, np.ndarray]:
        """The state arrays by name."""
        return held(self)

    def step(self, x: np.ndarray, g: np.ndarray) -> bool | None:
        """Update x in place from the estimate g, both of shape (1, d). Returns whether the new x is finite, None where it did not look."""
        raise NotImplementedError(f"{type(self).__name__} must define step(x, g)")


@njit
def descend(x: np.ndarray, g: np.ndarray, step_size: float) -> bool:
    """x ← x − γ g in one pass over both, shape (1, d); returns whether the new x is finite. The same bits as two passes of NumPy."""
    bad = 0
    for c in range(x.shape[1]):
        value = x[0, c] - step_size * g[0, c]
        x[0, c] = value
        bad |= not abs(value) < np.inf
    return bad == 0
