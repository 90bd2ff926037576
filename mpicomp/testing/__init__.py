"""Checks for parts of one's own: each runs what the built-in parts are tested with, and raises an AssertionError that says what is wrong.

They need neither pytest nor MPI (but for `check_exchange`).
"""

from .compressors import check_compressor
from .exchanges import check_exchange
from .gradient import check_gradient
from .methods import check_method
from .problems import check_problem

__all__ = ["check_compressor", "check_exchange", "check_gradient", "check_method", "check_problem"]
