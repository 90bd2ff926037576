"""What an optimizer is: x and the gradient estimate in, the new x out. It runs on the server, or replicated on every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..kernels import njit
from ..registry import Registry

optimizers: Registry[type[Optimizer]] = Registry("optimizer", "mpicomp.optimizers")


class Optimizer:
    """Base class. Its state is the arrays named in `state_names`, shape (1, d)."""

    name: ClassVar[str] = "user"
    state_names: ClassVar[tuple[str, ...]] = ()
    step_size: float

    if TYPE_CHECKING:  # the arrays named in state_names

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def start(self, x: np.ndarray, step_size: float) -> None:
        """Allocate the state, all zero. x : shape (1, d); step_size : γ."""
        self.step_size = step_size
        for name in self.state_names:
            setattr(self, name, np.zeros_like(x))

    def state(self) -> dict[str, np.ndarray]:
        """The state arrays by name."""
        return {name: getattr(self, name) for name in self.state_names}

    def step(self, x: np.ndarray, g: np.ndarray) -> bool | None:
        """Update x in place from the estimate g, both of shape (1, d). Returns whether the new x is finite, None where it did not look."""
        raise NotImplementedError


@njit
def descend(x, g, step_size):
    """x ← x − γ g in one pass over both, shape (1, d); returns whether the new x is finite. The same bits as two passes of NumPy."""
    bad = 0
    for c in range(x.shape[1]):
        value = x[0, c] - step_size * g[0, c]
        x[0, c] = value
        bad |= not abs(value) < np.inf
    return bad == 0
