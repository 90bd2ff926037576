"""mpicomp: distributed optimisation with compressed communication over MPI, with honest bytes and honest seconds.

The names below are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys

# `python -m mpicomp`: Python has put the working directory first, where a random.py or numpy.py would hide the module that is meant.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # noqa: SIM102 - together they are too long
    if any(word.removeprefix("-m").partition(".")[0] == "mpicomp" for word in sys.orig_argv):
        del sys.path[0]

from typing import TYPE_CHECKING

from ._lazy import attach
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .aggregator import Aggregator as Aggregator
    from .api import compressor as compressor
    from .api import hosted_clients as hosted_clients
    from .api import huber as huber
    from .api import least_squares as least_squares
    from .api import logistic as logistic
    from .api import matrix_factorization as matrix_factorization
    from .api import multinomial as multinomial
    from .api import register_compressor as register_compressor
    from .api import register_downlink as register_downlink
    from .api import register_exchange as register_exchange
    from .api import register_method as register_method
    from .api import register_optimizer as register_optimizer
    from .api import register_problem as register_problem
    from .api import register_uplink as register_uplink
    from .api import smoothed_hinge as smoothed_hinge
    from .compressors import Compressor as Compressor
    from .compressors import MessageKey as MessageKey
    from .errors import AggregationError as AggregationError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import MpicompError as MpicompError
    from .errors import ProblemError as ProblemError
    from .errors import RankFailure as RankFailure
    from .errors import TheoryError as TheoryError
    from .errors import UserError as UserError
    from .errors import WireError as WireError
    from .exchanges.base import Exchange as Exchange
    from .mechanisms.base import Downlink as Downlink
    from .mechanisms.base import Uplink as Uplink
    from .methods import Method as Method
    from .methods import Parts as Parts
    from .methods import Setting as Setting
    from .optimizers import Optimizer as Optimizer
    from .problems import Block as Block
    from .problems import FunctionProblem as FunctionProblem
    from .problems import Problem as Problem
    from .problems import Smoothness as Smoothness
    from .runtime.config import Config as Config
    from .runtime.loop import run as run
    from .runtime.results import Result as Result
    from .testing import check_gradient as check_gradient
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "aggregator": ("Aggregator",),
            "api": (
                "compressor",
                "hosted_clients",
                "huber",
                "least_squares",
                "logistic",
                "matrix_factorization",
                "multinomial",
                "register_compressor",
                "register_downlink",
                "register_exchange",
                "register_method",
                "register_optimizer",
                "register_problem",
                "register_uplink",
                "smoothed_hinge",
            ),
            "compressors": ("Compressor", "MessageKey"),
            "errors": (
                "AggregationError",
                "CheckpointError",
                "ConfigError",
                "DataError",
                "MpicompError",
                "ProblemError",
                "RankFailure",
                "TheoryError",
                "UserError",
                "WireError",
            ),
            "exchanges.base": ("Exchange",),
            "mechanisms.base": ("Downlink", "Uplink"),
            "methods": ("Method", "Parts", "Setting"),
            "optimizers": ("Optimizer",),
            "problems": ("Block", "FunctionProblem", "Problem", "Smoothness"),
            "runtime.config": ("Config",),
            "runtime.loop": ("run",),
            "runtime.results": ("Result",),
            "testing": ("check_gradient",),
        },
        also=("__version__",),
    )
