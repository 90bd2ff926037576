"""Optimizers: how the gradient estimate becomes a step."""

from .base import Optimizer, optimizers
from .gd import GradientDescent, HeavyBall

__all__ = ["GradientDescent", "HeavyBall", "Optimizer", "optimizers"]
