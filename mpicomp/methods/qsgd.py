"""QSGD: stochastic rounding with the same number of bits throughout."""

from __future__ import annotations

from .base import methods
from .dcgd import DCGD


@methods.register("qsgd")
class QSGD(DCGD):
    """QSGD (Alistarh et al. 2017): compressed gradients without memory, quantized to s levels in buckets that share a norm.

    The same as dcgd with the compressor qsgd, and with dcgd's step; the paper's own steps (Theorems 3.4 and 3.5) need the variance of
    the stochastic gradients and the distance to the solution.
    """

    summary = "gradients quantized to a fixed number of bits, no memory"
    paper = "Alistarh, Grubic, Li, Tomioka and Vojnovic 2017, QSGD"
    default_compressor = "qsgd:bits=4,bucket=512"
