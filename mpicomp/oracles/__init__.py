"""Oracles: how a client evaluates its gradient."""

from .base import NoClients, Oracle, StandIn
from .full import Full, RandomFull
from .minibatch import Minibatch
from .momentum import DoubleMomentum, Momentum
from .page import Page
from .weighted import Weighted

__all__ = [
    "DoubleMomentum",
    "Full",
    "Minibatch",
    "Momentum",
    "NoClients",
    "Oracle",
    "Page",
    "RandomFull",
    "StandIn",
    "Weighted",
]
