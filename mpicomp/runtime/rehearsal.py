"""Before the first timed round: compile every kernel that the run will need, safely, on every rank.

Numba's cache on disk is not safe when processes compile different signatures of one function at once: an index may then name the
wrong machine code, for ever. So one rank of each node compiles, under a lock that other jobs on the host respect too; the others
wait at a barrier and then find everything in the cache. Each host has a cache of its own (see `mpicomp.kernels`).
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import numba

from ..cluster.comm import Comm
from ..cluster.exchange import Exchange
from ..mechanisms.base import Link
from ..problems import Problem
from .config import Config
from .session import Composition, Session

ROUNDS = 3
T = TypeVar("T")


def rehearse(config: Config, problem: Problem, composition: Composition, step_size: float, exchange: Exchange) -> None:
    """Run a few rounds in this process, with states of their own, so that every kernel is compiled and loaded.

    Coins are not tossed but alternate, and so do stages, so that both branches of a mechanism are seen.
    """
    session = Session(config, problem, composition.parts(step_size), exchange, step_size)
    for mechanism in (session.uplink, session.downlink):
        mechanism.link.__class__ = _RehearsalLink
    for t in range(ROUNDS):
        session.round(t)
    session.evaluate()


class _RehearsalLink(Link):
    def coin(self, p, round):
        return round % 2 == 0

    def reached(self, round, start):
        return round % 2 == 1


def leaders_first(comm: Comm | None, action: Callable[[], T]) -> T:
    """`action()` on one rank of each node, under the lock of the kernel cache, and then on the others, which find its kernels there.

    An exception of the first rank is raised after the others had their turn, so that all see it alike.
    """
    if comm is None:
        with compiling():
            return action()
    node = comm.node()
    leads = node.Get_rank() == 0
    node.Free()
    outcome: T | None = None
    error: Exception | None = None
    if leads:
        try:
            with compiling():
                outcome = action()
        except Exception as raised:
            error = raised
    comm.barrier()
    if error is not None:
        raise error
    return cast(T, outcome) if leads else action()


@contextmanager
def compiling() -> Iterator[None]:
    """Hold the lock of this host's kernel cache; where the directory cannot be written there is no cache to protect."""
    try:
        directory = Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / "compiling.lock", "w")  # noqa: SIM115 - closed below, after the yield
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
