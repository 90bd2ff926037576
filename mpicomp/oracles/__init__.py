"""Oracles: how a client evaluates its gradient."""

from .full import Full
from .minibatch import Minibatch
from .weighted import Weighted

__all__ = ["Full", "Minibatch", "Weighted"]
