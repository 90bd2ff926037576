"""What a round costs beyond moving its bytes: a run with the identity compressor against a bare mpi4py loop with the same buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runtime import Block, Config, Problem, Smoothness, median_interval, run

STEP = 1e-3


class Flat(Problem):
    """f_i(x) = Σ x_j: a gradient that costs nothing but writing ones."""

    name = "flat"

    def __init__(self, dim: int, n_clients: int):
        self.dim, self.n_clients = dim, n_clients

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> Block:
        return _FlatBlock(self, clients, np.dtype(dtype))

    def smoothness(self) -> Smoothness:
        return Smoothness.bounds(np.ones(self.n_clients))


class _FlatBlock(Block):
    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        out[:] = W[0].sum()

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        out[:] = 1.0


def round_seconds(comm: Any, dim: int, rounds: int, exchange: str, dtype: str) -> tuple[float, float, float]:
    """(median, low, high) seconds of a round of gradient descent, one client on each worker; on rank 0."""
    config = Config(method="gd", exchange=exchange, rounds=rounds, eval_every=rounds, step=str(STEP), dtype=dtype)
    result = run(config, comm=comm, problem=Flat(dim, comm.Get_size() - 1))
    if comm.Get_rank():
        return 0.0, 0.0, 0.0
    took = result.summary["seconds"]
    return took["round_median"], took["round_median_low"], took["round_median_high"]


def bare_seconds(comm: Any, dim: int, rounds: int, exchange: str, dtype: str) -> tuple[float, float, float]:
    """The same round written out with mpi4py alone: no header, no ledger, no clock but one reading a round."""
    from mpi4py import MPI

    rank, workers = comm.Get_rank(), comm.Get_size() - 1
    x, gradient, total = (np.zeros(dim, dtype) for _ in range(3))
    received = np.zeros((workers + 1, dim), dtype)
    nothing = np.zeros(0, dtype)
    counts = np.array([0] + [dim] * workers)
    places = np.maximum(np.arange(workers + 1) - 1, 0) * dim
    walls = np.zeros(rounds)
    comm.Barrier()
    for t in range(rounds):
        start = MPI.Wtime()
        if rank:
            gradient[:] = 1.0
        if exchange == "collective":
            kind = MPI.DOUBLE if dtype == "float64" else MPI.FLOAT
            comm.Gatherv(gradient if rank else nothing, [received, (counts, places), kind] if rank == 0 else None, 0)
        elif rank:
            comm.Isend(gradient, 0, 1).Wait()
        else:
            requests = [comm.Irecv(received[w], w + 1, 1) for w in range(workers)]
        if rank == 0:
            total[:] = 0
            for w in range(workers):
                if exchange != "collective":
                    requests[w].Wait()
                total += received[w]
            total *= STEP / workers
            x -= total
        if exchange == "collective":
            comm.Bcast(x, 0)
        elif rank:
            comm.Recv(x, 0, 2)
        else:
            MPI.Request.Waitall([comm.Isend(x, w + 1, 2) for w in range(workers)])
        walls[t] = MPI.Wtime() - start
    return median_interval(walls)


def overhead(
    comm: Any, dims: tuple[int, ...] = (100, 1 << 22), repeats: int = 3, dtype: str = "float32"
) -> list[dict[str, Any]]:
    """Rounds against the bare loop, in turn `repeats` times; the medians of the repeats, on rank 0.

    Returns
    -------
    One dict for each dimension and exchange: dim, exchange, round and bare (seconds, median of medians), ratio, extra (seconds).
    """
    rows = []
    for dim in dims:
        rounds = 2000 if dim <= 10_000 else 30
        for exchange in ("p2p", "collective"):
            pairs = [
                (
                    round_seconds(comm, dim, rounds, exchange, dtype)[0],
                    bare_seconds(comm, dim, rounds, exchange, dtype)[0],
                )
                for _ in range(repeats)
            ]
            if comm.Get_rank() == 0:
                ours, bare = (float(np.median(column)) for column in zip(*pairs, strict=True))
                ratio = float(np.median([a / b for a, b in pairs]))
                rows.append(
                    {
                        "dim": dim,
                        "exchange": exchange,
                        "round": ours,
                        "bare": bare,
                        "ratio": ratio,
                        "extra": ours - bare,
                    }
                )
    return rows
