"""Oracles: how a client evaluates its gradient."""

from .full import Full
from .minibatch import Minibatch

__all__ = ["Full", "Minibatch"]
