"""`exchange="auto"`: the star or the slices, by size, ranks and direction; and why.

Over several processes it is p2p, or sharded where that moves less through the busiest link and the link has something to carry. The result
has the same bits with both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import ours
from ..cluster.recovery import OnFailure
from ..compressors import Compressor
from ..compressors.identity import Identity
from ..exchanges.base import Exchange, exchanges
from ..exchanges.kinds import AUTO, exchange_kind
from ..mechanisms.base import Downlink, Uplink
from ..problems import Problem
from .config import Config
from .session import Composition
from .warmup import refusal

STAR, SLICES = "p2p", "sharded"
LEAST_RANKS, LEAST_NBYTES = 3, 1 << 20
"""With fewer ranks, or fewer bytes a round through the server's link in one direction, slices have nothing to gain: 1 MiB takes 84 ms at
100 Mbit/s and 8 ms at 1 Gbit/s, about what a round costs besides its bytes."""


class Choice(NamedTuple):
    """An exchange, and why it was chosen; no reason where it was named, or there is one process."""

    kind: type[Exchange]
    why: str = ""


def choose(
    config: Config,
    problem: Problem,
    composition: Composition,
    step_size: float,
    ranks: int,
    own: type[Exchange] | None,
    holds_all: bool,
) -> Choice:
    """The exchange of a run; the same on all ranks, which have the same arguments.

    Parameters
    ----------
    own : a class in place of the configured exchange. holds_all : any rank can evaluate any client.
    """
    kind = exchange_kind(config.exchange, ranks, own)
    if own is not None or config.exchange != AUTO or ranks == 1:
        return Choice(kind)
    star = exchanges[STAR]
    if OnFailure.parse(config.on_failure).goes_on:
        return Choice(star, f"with on_failure={config.on_failure} others must not depend on dead ranks")
    if ranks < LEAST_RANKS:
        return Choice(star, f"with {ranks} ranks there is one worker, and slices have nothing to gain")
    if problem.n_clients < ranks:
        return Choice(star, f"{problem.n_clients} clients are too few for each of {ranks} ranks to host one")
    if not holds_all:
        return Choice(
            star, "the problem does not say that every rank holds all clients (holds_all), so rank 0 hosts none"
        )
    parts = composition.parts(step_size)
    foreign = [type(part).__name__ for part in (parts.uplink, parts.downlink, parts.optimizer) if not ours(part)]
    if foreign:
        return Choice(star, f"whether {foreign[0]} does the same with slices of its vectors is for its author to say")
    up, down = (_message_nbytes(part, config, problem) for part in (parts.uplink, parts.downlink))
    if up is None or down is None:
        return Choice(star, "the method's messages have no one length, which slices could be compared by")
    through_server = max(problem.n_clients * up, (ranks - 1) * down)
    through_busiest = (problem.n_clients * up + ranks * down) // ranks
    server, busiest = _text(through_server), _text(through_busiest)
    if through_server < LEAST_NBYTES:
        return Choice(star, f"the server's link carries {server} a round, and slices pay from {_text(LEAST_NBYTES)} on")
    if through_busiest >= through_server:
        return Choice(star, f"the server's link carries {server} a round, and the busiest with slices {busiest}")
    refused = refusal(config, problem, composition, step_size, exchanges[SLICES], ranks)
    if refused:
        return Choice(star, f"the server's link carries {server} a round, but {refused}")
    return Choice(
        exchanges[SLICES],
        f"a server's link would carry {server} a round, and the busiest with slices carries {busiest}",
    )


def may_host(config: Config, n_clients: int, ranks: int, rank: int, kind: type[Exchange]) -> np.ndarray:
    """The clients that a rank may come to host, int64, before the exchange is chosen; kind : what the configuration says so far."""
    clients = kind.place(n_clients, ranks).clients(rank)
    if config.exchange != AUTO or n_clients < ranks:
        return clients
    return np.union1d(clients, exchanges[SLICES].place(n_clients, ranks).clients(rank))


def _text(nbytes: int) -> str:
    return f"{nbytes / 1e6:.3g} MB"


def _message_nbytes(part: Uplink | Downlink, config: Config, problem: Problem) -> int | None:
    """The greatest length of a message: by the mechanism's compressor, a vector for a downlink without one; None where it is not known."""
    if isinstance(part, Downlink) and part.silent:
        return 0
    compressor: Compressor | None = vars(part).get("compressor")
    if compressor is None:
        if isinstance(part, Uplink):
            return None
        compressor = Identity()
    return compressor.bind(problem.dim, problem.n_clients, config.wire_dtype or config.dtype).max_nbytes
