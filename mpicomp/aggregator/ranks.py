"""What the ranks of an aggregator tell each other beside their vectors: errors, and what has to be alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cluster.patient import PatientComm
from ..errors import AggregationError, ConfigError


class Ranks:
    """All ranks of an aggregator. Every method is collective.

    Attributes
    ----------
    comm : None for one process. rank, size : of this process.
    """

    def __init__(self, comm: PatientComm | None, rank: int):
        self.comm, self.rank, self.size = comm, rank, 1 if comm is None else comm.size

    def all(self, *own: Any) -> list[list[Any]]:
        """Of each rank its number and what it gives, as JSON, on all ranks."""
        row = [self.rank, *own]
        return [row] if self.comm is None else list(self.comm.bcast_json(self.comm.gather_json(row)))

    def any(self, failed: bool) -> bool:
        """Some rank says so: one number that is summed over all."""
        if self.comm is None:
            return failed
        total = np.zeros(1)
        self.comm.sum_into(np.array([float(failed)]), total)
        return bool(total[0] > 0)

    def table(self, own: Any, error: str = "") -> list[tuple[int, Any]]:
        """(rank, what it gives) of all ranks, on all of them; own : of this rank, as JSON.

        Raises
        ------
        ConfigError : some rank has an error; on all ranks.
        """
        for rank, _, text in (table := self.all(own, error)):
            if text:
                raise ConfigError(text if self.comm is None else f"rank {rank}: {text}")
        return [(rank, given) for rank, given, _ in table]

    def compare_options(self, options: list[Any], error: str) -> None:
        """Raises ConfigError on all ranks where one has an error, or was given other options than the first.

        options : the tensors as (name, shape, dtype), then whatever else has to be alike.
        """
        (first, reference), *others = self.table(options, error)
        for rank, own in others:
            if own == reference:
                continue
            if own[0] != reference[0]:
                raise ConfigError(f"rank {rank} has {_difference(own[0], reference[0])} on rank {first}")
            mine, theirs = next((a, b) for a, b in zip(own, reference, strict=True) if a != b)
            if isinstance(mine, list) and len(mine) == len(theirs):
                mine, theirs = next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)
            raise ConfigError(f"rank {rank} was given {mine!r} where rank {first} was given {theirs!r}")

    def fail(self, call: int, error: str, cause: BaseException | None) -> None:
        """Raises the same AggregationError on all ranks, with the errors of those that have one."""
        said = [f"rank {rank}: {text}" for rank, text in self.all(error) if text]
        raise AggregationError(f"call {call}: " + ("; ".join(said) or "a sum is not finite")) from cause


def _difference(mine: list[list[Any]], theirs: list[list[Any]]) -> str:
    """The first tensor in which two ranks differ."""
    for own, other in zip(mine, theirs, strict=False):
        if own != other:
            return f"tensor {own[0]!r} of shape {tuple(own[1])} ({own[2]}), not {other[0]!r} of shape {tuple(other[1])} ({other[2]}) as"
    return f"{len(mine)} tensors, not {len(theirs)} as"
