"""Before the first timed round: load every kernel that the run will need, or compile it, on every rank.

All ranks do so at once; what the cache does not hold is compiled by one rank of each host, for which the others wait (see
`mpicomp.kernels.cache`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..errors import ConfigError
from ..exchanges.base import Exchange
from ..mechanisms.base import Link
from ..problems import Problem
from .config import FULL, NOTHING, Config
from .exchanges import warmup_exchange
from .session import Composition, Session

ROUNDS = 3


class WarmUpLink(Link):
    """A link whose coins are not tossed but alternate, and whose stages do, so that both branches of a mechanism are seen."""

    def coin(self, p: float, round: int) -> bool:
        return round % 2 == 0

    def reached(self, round: int, start: int) -> bool:
        return round % 2 == 1


def warm_up(
    config: Config,
    problem: Problem,
    composition: Composition,
    step_size: float,
    kind: type[Exchange],
    ranks: int,
    hosted: np.ndarray,
    leads: bool,
) -> None:
    """Run a few rounds in this process, with states of their own, so that every kernel is compiled and loaded.

    Parameters
    ----------
    kind, ranks : the run's exchange, and over how many ranks.
    hosted : the clients of this rank. Only they are asked for gradients; a rank that hosts nobody takes fixed numbers.
    leads : this rank is the one that will ask the problem for its measures.
    """
    stand_in = len(hosted) == 0
    clients = np.arange(problem.n_clients) if stand_in else hosted
    session = _session(config, problem, composition, step_size, kind, ranks, clients, stand_in)
    with _noted(session):
        session.end_rounds()  # an evaluation needs as much memory again
        if config.evaluate == FULL and not stand_in:
            session.evaluate()
        elif config.evaluate != NOTHING:
            problem.begin_evaluation({})
            session.evaluated = np.zeros((1, problem.dim), config.dtype)
        if leads and config.evaluate != NOTHING:
            session.measure()


def refusal(
    config: Config,
    problem: Problem,
    composition: Composition,
    step_size: float,
    kind: type[Exchange],
    ranks: int,
) -> str:
    """Why an exchange of this kind cannot carry the method's messages, or its server's step, in its own words; empty where it can.

    The problem is asked for no gradients, so that the answer is the same on all ranks; one client is enough, for the memory's sake.
    """
    try:
        _session(config, problem, composition, step_size, kind, ranks, np.arange(1), True)
        parts = composition.parts(step_size)
        if kind.serves_everywhere and not parts.replicated:
            # that session's server has all of x, a rank's will have a slice
            parts.optimizer.rounds_of_run = config.rounds
            parts.optimizer.start(np.zeros((1, max(1, problem.dim // ranks)), config.dtype), step_size)
    except ConfigError as error:
        return str(error)
    return ""


def _session(
    config: Config,
    problem: Problem,
    composition: Composition,
    step_size: float,
    kind: type[Exchange],
    ranks: int,
    clients: np.ndarray,
    stand_in: bool,
) -> Session:
    """A session of this process alone, after a few rounds."""
    exchange = warmup_exchange(kind, config, problem, composition, ranks, clients)
    session = Session(
        config, problem, composition.parts(step_size), exchange, step_size, link=WarmUpLink, stand_in=stand_in
    )
    with _noted(session):
        for t in range(ROUNDS):
            session.advance(t)
    return session


@contextmanager
def _noted(session: Session) -> Iterator[None]:
    """An exception in here says that it comes from the warm-up."""
    try:
        yield
    except BaseException as error:
        session.note(error, "in the warm-up")
        raise
