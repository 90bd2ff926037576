"""Whether all ranks see the same data, and the same as the run that a checkpoint is of."""

from __future__ import annotations

import hashlib
import platform
from os import PathLike
from typing import Any

import numpy as np

from ..cluster.comm import Comm
from ..errors import ConfigError, DataError
from ..problems import Problem
from ..problems.subset import SubsetProblem


def compare_sizes(comm: Comm | None, problem: Problem) -> None:
    """Compare d and n over the ranks.

    Raises
    ------
    DataError : they differ, on all ranks alike; names rank, host and data.
    """
    if comm is None:
        return
    comm.meet()  # some ranks may still be reading their data
    rows = comm.gather_json(
        {"host": platform.node(), "data": named_data(problem), "n": problem.n_clients, "d": problem.dim}
    )
    error, everybody = "", rows or []
    for rank, row in enumerate(everybody):
        first = everybody[0]
        if (row["n"], row["d"]) != (first["n"], first["d"]):
            error = (
                f"rank {rank} on {row['host']} has {row['n']} clients of dimension {row['d']}{_from(row)}, rank 0 on {first['host']} has "
                f"{first['n']} of dimension {first['d']}{_from(first)}; give all ranks the same data, or "
                f"«problem_options={{'features': {max(r['d'] for r in everybody)}}}» where files lack the last columns"
            )
            break
    _raise_alike(comm, error)


def data_digest(comm: Comm | None, problem: Problem, hosted: np.ndarray) -> str:
    """A digest of all clients' data, on rank 0; empty elsewhere, and where a client's is not known.

    Where rank 0 holds all data, each rank's clients are compared with it.

    Raises
    ------
    DataError : a rank sees other data, on all ranks alike; names rank, host and data.
    """
    mine = problem.digests(hosted)
    if len(mine) != len(hosted) or not all(isinstance(text, str) for text in mine):
        raise ConfigError(f"{type(problem).__name__}.digests must return a text for each of the {len(hosted)} clients")
    if comm is None:
        return _combined(mine)
    comm.meet()  # some ranks may still be at it
    rows = comm.gather_json(
        {"host": platform.node(), "data": named_data(problem), "clients": hosted.tolist(), "digests": mine}
    )
    error, everything = "", [""] * problem.n_clients
    if rows is not None:
        known = problem.digests(np.arange(problem.n_clients)) if problem.holds_all else None
        for rank, row in enumerate(rows):
            for client, digest in zip(row["clients"], row["digests"], strict=True):
                everything[client] = digest
                if not error and known is not None and digest != known[client]:
                    error = (
                        f"rank {rank} on {row['host']} sees other rows of client {client}{_from(row)} than rank 0 on {rows[0]['host']}"
                        f"{_from(rows[0])}; give all ranks the same data"
                    )
    _raise_alike(comm, error)
    return _combined(everything)


def _combined(digests: list[str]) -> str:
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest() if all(digests) else ""


def named_data(problem: Problem) -> str | None:
    """The file or data set that the problem names, if it does."""
    whole = problem.whole if isinstance(problem, SubsetProblem) else problem
    data = getattr(whole, "data", None)
    return str(data) if isinstance(data, str | PathLike) else None


def _from(row: dict[str, Any]) -> str:
    return f" (from {row['data']})" if row["data"] else ""


def _raise_alike(comm: Comm, error: str) -> None:
    comm.meet()  # rank 0 may be comparing
    text: str = comm.bcast_json(error)
    if text:
        raise DataError(text)
