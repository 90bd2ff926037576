"""From the configuration to the exchange of a run, and to the one that its warm-up takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from ..cluster.clock import Clock
from ..cluster.comm import Comm
from ..cluster.ledger import Ledger
from ..errors import ConfigError
from ..exchanges.allreduce import AllreduceExchange
from ..exchanges.base import Exchange
from ..exchanges.collective import CollectiveExchange
from ..exchanges.hierarchical import HierarchicalExchange, LocalSummingExchange
from ..exchanges.local import LocalExchange
from ..exchanges.p2p import P2PExchange
from ..exchanges.sharded import LocalShardedExchange, ShardedExchange, alignment_of
from ..problems import Problem
from .config import Config
from .session import Composition

_OVER_MPI: dict[str, Callable[..., Exchange]] = {
    "auto": P2PExchange,
    "p2p": P2PExchange,
    "collective": CollectiveExchange,
    "allreduce": AllreduceExchange,
    "hierarchical": HierarchicalExchange,
    "hierarchical:sum": partial(HierarchicalExchange, summed=True),
}


def make_exchange(config: Config, problem: Problem, composition: Composition, comm: Comm | None) -> Exchange:
    """The configured exchange.

    Raises
    ------
    ConfigError : `local` over several processes, or more workers than clients.
    """
    n, d, dtype = problem.n_clients, problem.dim, np.dtype(config.dtype)
    weights = np.full(n, 1.0 / n)
    if comm is None:
        return LocalExchange(n, d, dtype, weights, Ledger(), Clock(time.perf_counter, config.rounds))
    if config.exchange == "local":
        raise ConfigError(
            f"--exchange local runs in one process, but {comm.size} were started; use p2p or collective, or start one"
        )
    clock = Clock(comm.now, config.rounds)
    if config.exchange == "sharded":
        return ShardedExchange(comm, n, d, dtype, weights, clock, _alignment(config, problem, composition))
    return _OVER_MPI[config.exchange](comm, n, d, dtype, weights, clock)


def warmup_exchange(config: Config, problem: Problem, composition: Composition, ranks: int) -> Exchange:
    """An exchange of this process alone, with two clients, that calls the kernels which the configured one will call on so many ranks."""
    n, d, dtype, clients = problem.n_clients, problem.dim, np.dtype(config.dtype), np.arange(min(2, problem.n_clients))
    if ranks > 1 and config.exchange == "sharded":
        alignment = _alignment(config, problem, composition)
        return LocalShardedExchange(n, d, dtype, clients=clients, servers=ranks, alignment=alignment)
    kind = LocalSummingExchange if ranks > 1 and config.exchange == "hierarchical:sum" else LocalExchange
    return kind(n, d, dtype, clients=clients)


def _alignment(config: Config, problem: Problem, composition: Composition) -> int:
    wire, parts = config.wire_dtype or config.dtype, composition.parts(1.0)
    chosen = [composition.compressor, composition.downlink_compressor]
    chosen += [
        link.compressor for link in (parts.uplink, parts.downlink) if getattr(link, "compressor", None) is not None
    ]
    return alignment_of([compressor.bind(problem.dim, problem.n_clients, wire) for compressor in chosen])
