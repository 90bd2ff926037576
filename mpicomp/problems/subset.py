"""What is left of a problem when clients are dropped: the mean over the remaining f_i."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .base import Block, Problem, Smoothness, has_random_gradients


class SubsetProblem(Problem):
    """f(x) = (1/|S|) Σ_{i ∈ S} f_i(x) for the clients S of another problem, numbered anew.

    Parameters
    ----------
    whole : the problem. clients : S, int64, increasing.
    """

    def __init__(self, whole: Problem, clients: np.ndarray):
        self.whole, self.left = whole, np.asarray(clients, np.int64)
        self.n_clients, self.dim = len(self.left), whole.dim
        self.name = whole.name  # type: ignore[misc]
        self.holds_all = whole.holds_all  # type: ignore[misc]
        self.measures = whole.measures  # type: ignore[misc]
        self.shapes = whole.shapes
        self.random_gradients = has_random_gradients(whole)

    def loss(self, i: int, x: np.ndarray) -> float:
        return self.whole.loss(int(self.left[i]), x)

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        self.whole.gradient(int(self.left[i]), x, out)

    def n_samples(self, i: int) -> int:
        return self.whole.n_samples(int(self.left[i]))

    def batch_gradient(self, i: int, x: np.ndarray, samples: np.ndarray, out: np.ndarray) -> None:
        self.whole.batch_gradient(int(self.left[i]), x, samples, out)

    def smoothness(self) -> Smoothness:
        """Bounds: sums of squares over S are at most those over all clients, and a variance is smallest around its own mean."""
        all_ = self.whole.smoothness()
        known, growth = Smoothness.bounds(all_.L_i[self.left]), np.sqrt(self.whole.n_clients / self.n_clients)
        L_plus = min(known.L_plus, growth * all_.L_plus)
        L_pm = min(L_plus, growth * all_.L_pm)
        return Smoothness(min(known.L, L_plus), known.L_i, L_plus, L_pm, known.L_A, known.L_B)

    def sample_smoothness(self) -> np.ndarray:
        return self.whole.sample_smoothness()[self.left]

    def paper_start(self) -> np.ndarray:
        return self.whole.paper_start()

    def keep_clients(self, clients: np.ndarray) -> None:
        self.whole.keep_clients(self.left[clients])

    def describe(self) -> dict[str, Any]:
        return {**self.whole.describe(), "clients": self.n_clients, "of_clients": self.whole.n_clients}

    def digests(self, clients: np.ndarray) -> list[str]:
        return self.whole.digests(self.left[clients])

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        return self.whole.measure(x)

    def begin_run(self) -> None:
        self.whole.begin_run()

    def begin_round(self, round: int, key: int) -> None:
        self.whole.begin_round(round, key)

    def begin_evaluation(self, mean: dict[str, np.ndarray]) -> None:
        self.whole.begin_evaluation(mean)

    def state(self, i: int) -> dict[str, np.ndarray]:
        return self.whole.state(int(self.left[i]))

    def load_state(self, i: int, state: dict[str, np.ndarray]) -> None:
        self.whole.load_state(int(self.left[i]), state)

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> Block:
        return self.whole.block(self.left[clients], dtype)
