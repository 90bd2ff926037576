"""Packages that mpicomp can use and does not require: loaded when they are needed, or one error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import EnvironmentMismatch


def needed(module: str, purpose: str, install: str) -> ModuleType:
    """The module.

    Parameters
    ----------
    purpose : what needs it, the beginning of the message: "mpicomp.torch". install : the command that installs it.

    Raises
    ------
    EnvironmentMismatch : it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        reason = (
            f"the package {error.name!r} is not installed here" if missing else f"{module} cannot be imported: {error}"
        )
        raise EnvironmentMismatch(f"{purpose}: {reason}; install it by `{install}`") from error
