"""From the configuration to the exchange of a run, and to the one that its warm-up takes."""

from __future__ import annotations

import time

import numpy as np

from ..cluster.clock import Clock
from ..cluster.comm import Comm
from ..compressors import Codec
from ..exchanges.base import Exchange, ExchangeSetting
from ..exchanges.local import LocalExchange
from ..problems import Problem
from .config import Config
from .session import Composition


def exchange_setting(config: Config, problem: Problem, composition: Composition, comm: Comm | None) -> ExchangeSetting:
    """What the exchange may know of the run."""
    clock = Clock(time.perf_counter if comm is None else comm.now, config.rounds)

    def codecs(both: bool) -> list[Codec]:
        wire, parts = config.wire_dtype or config.dtype, composition.parts(1.0)
        chosen = [composition.downlink_compressor, vars(parts.downlink).get("compressor")]
        chosen += [composition.compressor, vars(parts.uplink).get("compressor")] if both else []
        return [c.bind(problem.dim, problem.n_clients, wire) for c in chosen if c is not None]

    n = problem.n_clients
    return ExchangeSetting(
        comm, n, problem.dim, np.dtype(config.dtype), np.full(n, 1.0 / n), clock, lambda: codecs(True), lambda: codecs(False)
    )  # fmt: skip


def warmup_exchange(
    kind: type[Exchange], config: Config, problem: Problem, composition: Composition, ranks: int, clients: np.ndarray
) -> Exchange:
    """An exchange of this process alone, with at most two of `clients`, that calls the kernels which one of this kind will call on so many
    ranks."""
    setting, some = exchange_setting(config, problem, composition, None), clients[:2]
    own = kind.create_for_warmup(setting, some, ranks) if ranks > 1 else None
    return own or LocalExchange(setting.n_clients, setting.dim, setting.dtype, clients=some)
