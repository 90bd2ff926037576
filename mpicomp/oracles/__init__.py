"""Oracles: how a client evaluates its gradient."""

from .full import Full
from .minibatch import Minibatch
from .momentum import DoubleMomentum, Momentum
from .page import Page
from .weighted import Weighted

__all__ = ["DoubleMomentum", "Full", "Minibatch", "Momentum", "Page", "Weighted"]
