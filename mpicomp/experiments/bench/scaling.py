"""What a client costs beyond the kernels that work for it: runs with more and more clients on the same ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runtime import (
    Comm,
    Config,
    Placement,
    build_problem,
    compressors,
    descend,
    median_interval,
    physical_cores,
    run,
    uplink_keys,
)
from .timing import samples

CLIENTS = (10, 100, 1000, 10_000)
_STEP = 1e-3


def scaling_clients(
    comm: Any,
    counts: Sequence[int] = CLIENTS,
    data: str = "a9a",
    compressor: str = "natural",
    rounds: int = 300,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Rounds of DCGD on logistic regression by number of clients, against the same kernels called alone, in turn.

    A worker's kernels are the gradients and the messages of its clients, the server's are their decoded sum and the step; between them
    lie frames, headers, ledger, clock and MPI. Of w workers on c cores min(w, c) work at once, so the workers' kernels take the sum of
    their times divided by that; the server's come on top, as if nothing overlapped.

    Parameters
    ----------
    comm : an mpi4py communicator of two or more ranks. counts : numbers of clients n. rounds, repeats : of each run.

    Returns
    -------
    On rank 0, empty elsewhere: a dict for each n: clients, dim, cores, round (seconds: median, low, high), rate (rounds per second),
    kernels (seconds of a round as above), beyond (seconds a client and round beyond them), each (the same of each client more than in
    the first row: what remains where a round's fixed cost is taken off; 0 in the first row), bytes (messages up, a client and round).
    """
    rows: list[dict[str, Any]] = []
    for n in counts:
        config = Config.load(
            options={
                "method": "dcgd",
                "compressor": compressor,
                "data": data,
                "clients": n,
                "rounds": rounds,
                "step": str(_STEP),
            }
        )
        config.eval_every, config.allow_unsafe = rounds, True
        problem = build_problem(config)
        medians, alone, up = [], [], 0.0
        for _ in range(repeats):
            result = run(config, comm=comm, problem=problem)
            alone.append(_kernel_seconds(comm, problem, compressor))
            if result.summary:
                medians.append(result.summary["seconds"]["round_median"])
                up = result.summary["bytes"]["uplink"]["message"] / (n * rounds)
        if comm.Get_rank() == 0:
            took, kernels = median_interval(np.array(medians)), float(np.median(alone))
            beyond = float(np.median(np.array(medians) - alone))
            each = 0.0
            if rows:
                fewer = rows[0]["clients"]
                each = (beyond - rows[0]["beyond"] * fewer) / (n - fewer)
            rows.append(
                {
                    "clients": n, "dim": problem.dim, "cores": physical_cores(), "round": took, "rate": 1 / took[0],
                    "kernels": kernels, "beyond": beyond / n, "each": each, "bytes": up,
                }
            )  # fmt: skip
    return rows


def _kernel_seconds(comm: Any, problem: Any, compressor: str, repeats: int = 20) -> float:
    """Seconds of a round's kernels, each rank's called while the others sleep; on rank 0."""
    counted = Comm(comm)
    placement, n = Placement.star(problem.n_clients, counted.size), problem.n_clients
    codec = compressors.create(compressor).bind(problem.dim, n, np.dtype("float64"))
    keys, own = uplink_keys(0, 0), placement.clients(counted.rank) if counted.rank else np.arange(n)
    rows, V = np.arange(len(own)), np.ones((len(own), problem.dim))
    buf, tally = np.zeros(len(own) * codec.max_nbytes + 8, np.uint8), np.zeros(2, np.int64)
    if counted.rank:
        block, x = problem.block(own, V.dtype), np.zeros((1, problem.dim))

        def kernels() -> None:
            block.gradients(x, V)
            codec.encode(V, rows, own, keys, buf, 0, tally)

    else:
        end, total, weights = (
            codec.encode(V, rows, own, keys, buf, 0, tally),
            np.zeros((1, problem.dim)),
            np.full(n, 1 / n),
        )
        model, zeros = np.zeros_like(total), np.zeros(n, np.int64)

        def kernels() -> None:
            codec.decode_add(buf, 0, end, zeros, own, weights, keys, total)
            descend(model, total, _STEP)

    mine = 0.0
    for rank in range(counted.size):
        if rank == counted.rank:
            mine = float(np.median(samples(kernels, repeats)))
        counted.meet()
    seconds = np.array(comm.allgather(mine))
    counted.free()
    return float(seconds[0] + seconds[1:].sum() / min(counted.size - 1, physical_cores()))
