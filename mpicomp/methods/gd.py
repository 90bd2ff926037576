"""Gradient descent: every message dense. The yardstick."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError
from ..mechanisms.direct import DirectUplink
from .base import Method, Parts, Setting, methods


@methods.register("gd")
class GD(Method):
    """x^{t+1} = x^t − γ (1/n) Σ ∇f_i(x^t).

    Theorem (L-smooth f): γ ≤ 1/L gives min_t ‖∇f(x^t)‖² ≤ 2δ⁰/(γT). Nesterov 2004, §1.2.3.
    """

    summary = "uncompressed gradient descent"
    formulas = "γ = 1/L"
    paper = "Nesterov 2004, Introductory Lectures on Convex Optimization"

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(f"method 'gd' sends dense vectors; with compressor {compressor.spec!r} it is method dcgd")

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DirectUplink())

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / setting.smoothness.L
