"""Which rank hosts which clients: consecutive ones, as evenly as possible, in the order of ranks; and which serves which coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """Clients of each rank.

    Attributes
    ----------
    n_clients : n. first : int64, shape (size + 1,): rank r hosts clients first[r] .. first[r+1] − 1.
    """

    n_clients: int
    first: np.ndarray

    @classmethod
    def star(cls, n_clients: int, size: int) -> Placement:
        """Rank 0 serves and hosts nobody; the other `size − 1` ranks share the clients.

        >>> Placement.star(10, 4).first
        array([ 0,  0,  3,  6, 10])

        Raises
        ------
        ConfigError : no worker, or fewer clients than workers.
        """
        workers = size - 1
        if workers < 1:
            raise ConfigError(
                "an exchange over MPI needs at least 2 ranks, a server and a worker; use «exchange='local'» for one"
            )
        if n_clients < workers:
            raise ConfigError(
                f"{n_clients} clients cannot be spread over {workers} workers: every worker must host at least one; "
                f"start at most {n_clients + 1} ranks or raise «clients» to {workers} or more"
            )
        return cls(n_clients, np.concatenate([[0], np.arange(workers + 1) * n_clients // workers]).astype(np.int64))

    @classmethod
    def everywhere(cls, n_clients: int, size: int) -> Placement:
        """All ranks share the clients, rank 0 too.

        >>> Placement.everywhere(10, 4).first
        array([ 0,  2,  5,  7, 10])

        Raises
        ------
        ConfigError : fewer clients than ranks.
        """
        if n_clients < size:
            raise ConfigError(
                f"{n_clients} clients cannot be spread over {size} ranks that all host clients; start at most {n_clients} ranks or raise "
                f"«clients» to {size} or more"
            )
        return cls(n_clients, (np.arange(size + 1) * n_clients // size).astype(np.int64))

    @classmethod
    def single(cls, n_clients: int) -> Placement:
        """One process is the server and hosts everybody."""
        if n_clients < 1:
            raise ConfigError(f"«clients={n_clients}»: at least one client is needed")
        return cls(n_clients, np.array([0, n_clients], np.int64))

    @cached_property
    def workers(self) -> list[int]:
        """The ranks that host clients, in client order."""
        return [r for r in range(self.size) if self.first[r + 1] > self.first[r]]

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.first) - 1

    def clients(self, rank: int) -> np.ndarray:
        """The clients of a rank, int64."""
        return np.arange(self.first[rank], self.first[rank + 1])

    def groups(self, rank: int, per_group: int) -> list[tuple[int, int]]:
        """The rank's clients cut into consecutive ranges [low, high) of at most `per_group` clients."""
        low, high = int(self.first[rank]), int(self.first[rank + 1])
        return [(start, min(start + per_group, high)) for start in range(low, high, per_group)]


def slices(dim: int, size: int, alignment: int) -> np.ndarray:
    """Bounds of consecutive slices of [0, dim), one for each rank, as even as the alignment allows; int64, shape (size + 1,).

    Rank 0 always has some coordinates; where there are too few, the last ranks have none.

    >>> slices(1000, 4, 64)
    array([   0,  256,  512,  768, 1000])
    """
    units = -(-dim // alignment)
    return np.minimum(-(-np.arange(size + 1) * units // size) * alignment, dim)
