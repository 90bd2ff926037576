"""Every error that mpicomp raises on purpose.

All of them derive from `MpicompError`. A `UserError` is something the person who started the run can put right: the command
line prints it as one message, without a traceback, once for all ranks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MpicompError(Exception):
    """Base class of every error raised on purpose."""


class UserError(MpicompError):
    """Wrong input from outside: the message names the value got, what is allowed and the remedy."""


class ConfigError(UserError, ValueError):
    """An option or a combination of options that cannot work."""


class DataError(UserError, ValueError):
    """A data file that cannot be read; the message names file and line."""


class EnvironmentMismatch(UserError, RuntimeError):
    """The MPI world is not the one that the launcher meant to start."""


class LabError(UserError, RuntimeError):
    """A network lab that this machine or user cannot have, or that is not there; the message has the remedy."""


class SlurmError(UserError, RuntimeError):
    """SLURM is not here, or refuses; in its own words."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read; the message names file and remedy."""


class ProblemError(UserError, ValueError):
    """A user's problem returned or wrote something of a wrong shape or type; the message names the client."""


class WireError(MpicompError, ValueError):
    """A message that is truncated, corrupted, or of another version, codec, round or length."""


class RankFailure(MpicompError):
    """MPI reports that a rank has died, or that another one has met that."""


class TheoryError(UserError, ValueError):
    """No theorem covers the combination; the message proposes a safe choice."""


def full_text(error: BaseException) -> str:
    """The error's message and its notes, which say where it happened."""
    return "\n  ".join([str(error), *getattr(error, "__notes__", [])])


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not registered: says what is known and the nearest name.

    >>> str(unknown("compressor", "topkk", ["topk", "sign"]))
    "unknown compressor 'topkk'; known: sign, topk; did you mean 'topk'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}; known: {', '.join(names)}{hint}")
