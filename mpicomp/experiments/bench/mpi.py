"""What MPI itself gives here, by size of message: the ceiling of every round. Columns as the OSU micro-benchmarks have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..runtime import median_interval
from .timing import samples

SIZES = tuple(1 << p for p in (3, 10, 13, 16, 20, 22, 24))
WINDOW = 16  # messages under way in the bandwidth test
_WARM_UP = 5


def bench_mpi(comm: Any, sizes: Sequence[int] = SIZES, repeats: int = 0) -> list[dict[str, Any]]:
    """Latency, bandwidth and collectives of a communicator of two or more ranks.

    Parameters
    ----------
    sizes : bytes of a message. repeats : how often each is timed; 0 for 1000 of small messages down to 20 of large ones.

    Returns
    -------
    On rank 0, empty elsewhere: a dict for each operation and size. operation: "latency" (half a round trip between the first and the last
    rank), "bandwidth" (the time of a message, 16 under way), "bcast", "gather" (to rank 0, so much from each rank), "allreduce" (float32,
    so much on each rank); size; seconds (median, low, high of the slowest rank); p99; rate (bytes of a message per second); memcpy
    (seconds to copy as much in memory, the ceiling).
    """
    rows = []
    for size in sizes:
        often = repeats or (1000 if size <= 1 << 13 else 200 if size <= 1 << 20 else 20)
        copied = median_interval(samples(_copy(size), often))[0]
        for name, make in _OPERATIONS.items():
            operation, per = make(comm, size)
            took = np.zeros(often + _WARM_UP)
            for r in range(len(took)):
                comm.Barrier()
                start = time.perf_counter()
                operation()
                took[r] = (time.perf_counter() - start) / per
            slowest = np.zeros_like(took)
            comm.Allreduce(took, slowest, _max())
            if comm.Get_rank() == 0:
                kept = slowest[_WARM_UP:]
                seconds = median_interval(kept)
                rows.append(
                    {
                        "operation": name,
                        "size": size,
                        "seconds": seconds,
                        "p99": float(np.percentile(kept, 99)),
                        "rate": size / seconds[0],
                        "memcpy": copied,
                    }
                )
    return rows


def _max() -> Any:
    from mpi4py import MPI

    return MPI.MAX


def _copy(size: int) -> Callable[[], Any]:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return lambda: np.copyto(target, source)


# Each makes (operation, by what its time is divided) for this rank; the ranks that do not take part wait at the next barrier.
Made = tuple[Callable[[], Any], float]


def _latency(comm: Any, size: int) -> Made:
    rank, last, buf = comm.Get_rank(), comm.Get_size() - 1, np.zeros(size, np.uint8)

    def first() -> None:
        comm.Send(buf, last)
        comm.Recv(buf, last)

    def other() -> None:
        comm.Recv(buf, 0)
        comm.Send(buf, 0)

    return {0: first, last: other}.get(rank, _nothing), 2.0


def _bandwidth(comm: Any, size: int) -> Made:
    from mpi4py import MPI

    rank, last, answer = comm.Get_rank(), comm.Get_size() - 1, np.zeros(1, np.uint8)
    buffers = [np.zeros(size, np.uint8) for _ in range(WINDOW)] if rank in (0, last) else []

    def first() -> None:
        MPI.Request.Waitall([comm.Isend(buf, last) for buf in buffers])
        comm.Recv(answer, last)

    def other() -> None:
        MPI.Request.Waitall([comm.Irecv(buf, 0) for buf in buffers])
        comm.Send(answer, 0)

    return {0: first, last: other}.get(rank, _nothing), float(WINDOW)


def _nothing() -> None:
    pass


def _bcast(comm: Any, size: int) -> Made:
    buf = np.zeros(size, np.uint8)
    return lambda: comm.Bcast(buf), 1.0


def _gather(comm: Any, size: int) -> Made:
    buf = np.zeros(size, np.uint8)
    everything = np.zeros(size * comm.Get_size(), np.uint8) if comm.Get_rank() == 0 else None
    return lambda: comm.Gather(buf, everything), 1.0


def _allreduce(comm: Any, size: int) -> Made:
    values = np.ones(max(size // 4, 1), np.float32)
    total = np.zeros_like(values)
    return lambda: comm.Allreduce(values, total), 1.0


_OPERATIONS: dict[str, Callable[[Any, int], Made]] = {
    "latency": _latency,
    "bandwidth": _bandwidth,
    "bcast": _bcast,
    "gather": _gather,
    "allreduce": _allreduce,
}
