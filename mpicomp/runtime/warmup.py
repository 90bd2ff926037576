"""Before the first timed round: load every kernel that the run will need, or compile it, on every rank.

All ranks do so at once; what the cache does not hold is compiled by one rank of each host, for which the others wait (see
`mpicomp.kernels.cache`).
"""

from __future__ import annotations

from ..exchanges.base import Exchange
from ..mechanisms.base import Link
from ..problems import Problem
from .config import Config
from .session import Composition, Session

ROUNDS = 3


def warm_up(config: Config, problem: Problem, composition: Composition, step_size: float, exchange: Exchange) -> None:
    """Run a few rounds in this process, with states of their own, so that every kernel is compiled and loaded.

    Coins are not tossed but alternate, and so do stages, so that both branches of a mechanism are seen.
    """
    session = Session(config, problem, composition.parts(step_size), exchange, step_size)
    for mechanism in (session.uplink, session.downlink):
        mechanism.link.__class__ = _WarmUpLink
    for t in range(ROUNDS):
        session.round(t)
    session.evaluate()
    session.measure()


class _WarmUpLink(Link):
    def coin(self, p, round):
        return round % 2 == 0

    def reached(self, round, start):
        return round % 2 == 1
