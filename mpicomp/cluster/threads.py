"""Threads that encode and decode a rank's block of clients together: the same bits for any number of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..compressors import Codec
from ..compressors.codec import Difference, Sum
from ..kernels.random import Keys

_LEAST = 1 << 18  # numbers in a block below which waking a thread costs more than it saves
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def threads_of(threads: int, ranks: int, env: Mapping[str, str] = os.environ) -> int:
    """How many threads a rank uses: `threads`, or where that is 0 its share of the processors.

    That is SLURM_CPUS_PER_TASK, or the number of processors that this process may run on, divided by the ranks of the node (where the
    launcher does not tell them, by all `ranks`) if those are more than the process's own.

    >>> threads_of(3, 4), threads_of(0, 4, {"SLURM_CPUS_PER_TASK": "8"})
    (3, 8)
    """
    if threads:
        return threads
    if env.get("SLURM_CPUS_PER_TASK", "").isdigit():
        return max(int(env["SLURM_CPUS_PER_TASK"]), 1)
    here = next((int(env[name]) for name in _LOCAL_RANKS if env.get(name, "").isdigit()), ranks)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    unbound = allowed == os.cpu_count()
    return max(allowed // here if unbound else allowed, 1)


class CodecThreads:
    """So many threads, the caller's among them; the others are started when they are first needed.

    Messages of different clients are independent, so consecutive shares of them go to the threads, each with a codec of its own scratch
    space. Sums over clients, whose order is part of the result, stay with one thread.
    """

    def __init__(self, threads: int = 1, least: int = _LEAST):
        self.threads, self.least = threads, least
        self._pool: ThreadPoolExecutor | None = None
        self._twins: dict[Codec, list[Codec | None]] = {}

    def encode(
        self, codec: Codec, V: np.ndarray | Difference | Sum, rows: np.ndarray, clients: np.ndarray, keys: Keys,
        buf: np.ndarray, pos: int, tally: np.ndarray,
    ) -> int:  # fmt: skip
        """`codec.encode`; `buf` has room for max_nbytes a message."""
        codecs = self._codecs(codec, len(rows))
        if len(codecs) == 1:
            return codec.encode(V, rows, clients, keys, buf, pos, tally)
        bounds, tallies = _shares(len(rows), len(codecs)), np.zeros((len(codecs), 2), np.int64)
        places = pos + bounds * codec.max_nbytes

        def share(t: int) -> int:
            own = slice(bounds[t], bounds[t + 1])
            return codecs[t].encode(V, rows[own], clients[own], keys, buf, int(places[t]), tallies[t])

        ends = self._run(share, len(codecs))
        tally += tallies.sum(axis=0)
        end = ends[0]
        for t in range(1, len(codecs)):  # close the gaps behind messages that are shorter than they might be
            nbytes = ends[t] - int(places[t])
            if end != places[t]:
                buf[end : end + nbytes] = buf[places[t] : ends[t]]
            end += nbytes
        return end

    def decode_add(
        self, codec: Codec, buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, keys: Keys,
        out: np.ndarray,
    ) -> None:  # fmt: skip
        """`codec.decode_add`; together only where each message has a row of its own and all have one length."""
        apart = codec.fixed and len(rows) > 1 and bool(np.all(rows[1:] > rows[:-1]))
        codecs = self._codecs(codec, len(rows)) if apart and end - pos == len(rows) * codec.max_nbytes else [codec]
        if len(codecs) == 1:
            codec.decode_add(buf, pos, end, rows, clients, weights, keys, out)
            return
        bounds = _shares(len(rows), len(codecs))
        places = pos + bounds * codec.max_nbytes

        def share(t: int) -> int:
            own = slice(bounds[t], bounds[t + 1])
            return codecs[t].decode_add(
                buf, int(places[t]), int(places[t + 1]), rows[own], clients[own], weights[own], keys, out
            )

        self._run(share, len(codecs))

    def _codecs(self, codec: Codec, messages: int) -> list[Codec]:
        """A codec for each share of so many messages: itself and its twins."""
        wanted = min(self.threads, messages)
        if wanted < 2 or messages * codec.dim < self.least:
            return [codec]
        if codec not in self._twins:
            self._twins[codec] = [codec.twin() for _ in range(self.threads - 1)]
        twins = [twin for twin in self._twins[codec][: wanted - 1] if twin is not None]
        return [codec, *twins]

    def _run(self, share: Callable[[int], int], shares: int) -> list[int]:
        """share(0), share(1), …: the first in this thread; all have ended when an error is raised."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="mpicomp")
        others = [self._pool.submit(share, t) for t in range(1, shares)]
        try:
            first = share(0)
        finally:
            for other in others:
                other.exception()
        return [first, *(other.result() for other in others)]


def _shares(count: int, parts: int) -> np.ndarray:
    """Bounds of so many consecutive shares, whose sizes differ by one at most."""
    return np.arange(parts + 1) * count // parts
