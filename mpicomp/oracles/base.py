"""What an oracle is: how the clients of a rank evaluate their gradients at their current points."""

from __future__ import annotations

import numpy as np

from ..kernels.random import Stream, derive
from ..problems import Block, Problem


def begin_round(problem: Problem, seed: int, round: int, step: int = 0) -> None:
    """Tell a problem which round begins, or which local step of it, and the key of what it draws at random."""
    if type(problem).begin_round is not Problem.begin_round:
        problem.begin_round(round, int(derive(seed, Stream.GRADIENT, round, step)) >> 1)


class Oracle:
    """Base class. All results have shape (m, d), a row for each hosted client, in the run's dtype, and live until the next call.

    What outlives a round is declared in the class body as `ClientState` (`mpicomp.state`) with `allocate=False`, and made by the oracle.

    Attributes
    ----------
    block : the hosted clients' functions. dim : d.
    oracle : the oracle that this one asks, None for one that asks the block itself.
    """

    block: Block
    dim: int
    oracle: Oracle | None = None

    def move(self, points: np.ndarray, round: int) -> None:
        """The clients are now at `points`, shape (1, d) for one point of all or (m, d), for the evaluations of this round."""
        raise NotImplementedError(f"{type(self).__name__} must define move(points, round)")

    def value(self) -> np.ndarray:
        """The clients' gradient estimates at the current points."""
        raise NotImplementedError(f"{type(self).__name__} must define value()")

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""
        raise NotImplementedError(f"{type(self).__name__} must define full()")

    def difference(self) -> np.ndarray:
        """Gradient estimates at the current points minus those at the previous ones, from the same samples."""
        raise NotImplementedError(f"{type(self).__name__} must define difference()")


class NoClients(Oracle):
    """What a rank without clients has in place of an oracle: it cannot be asked."""

    def move(self, points: np.ndarray, round: int) -> None:
        raise _refusal()

    def value(self) -> np.ndarray:
        raise _refusal()

    def full(self) -> np.ndarray:
        raise _refusal()

    def difference(self) -> np.ndarray:
        raise _refusal()


def _refusal() -> RuntimeError:
    return RuntimeError(
        "this rank hosts no clients and has no gradients; ask the oracle only under `if link.is_worker`"
    )


class StandIn(Oracle):
    """Fixed numbers in place of gradients, for the warm-up of a rank that hosts no clients.

    Parameters
    ----------
    rows, dim : shape of the results. dtype : of the run.
    """

    def __init__(self, rows: int, dim: int, dtype: np.dtype):
        self.dim, self._values = dim, np.ones((rows, dim), dtype)
        self._values[:, ::2] = -0.5

    def move(self, points: np.ndarray, round: int) -> None:
        pass

    def value(self) -> np.ndarray:
        return self._values

    def full(self) -> np.ndarray:
        return self._values

    def difference(self) -> np.ndarray:
        return self._values
