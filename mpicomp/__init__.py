"""mpicomp: distributed optimisation with compressed communication over MPI, with honest bytes and honest seconds.

The names below are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from .version import __version__

_WHERE = {
    "run": "runtime.loop",
    "Config": "runtime.config",
    "Result": "runtime.results",
    "Compressor": "compressors",
    "MessageKey": "compressors",
    "Method": "methods",
    "Parts": "methods",
    "Setting": "methods",
    "Uplink": "mechanisms.base",
    "Downlink": "mechanisms.base",
    "Problem": "problems",
    "Block": "problems",
    "FunctionProblem": "problems",
    "Smoothness": "problems",
    "Optimizer": "optimizers",
    "MpicompError": "errors",
    "UserError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "TheoryError": "errors",
    "WireError": "errors",
    "register_compressor": "api",
    "register_method": "api",
    "register_problem": "api",
    "compressor": "api",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mpicomp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
