"""Every error that mpicomp raises on purpose.

All of them derive from `MpicompError`. A `UserError` is something the person who started the run can put right: the command
line prints it as one message, without a traceback, once for all ranks.

A message names the arguments of `mpicomp.run` as Python writes them, between marks: «rounds», «step=0.05», «exchange='p2p'». Python's
users read them without the marks; within `option_wording`, where the command line runs, they read as its options.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shlex
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_MARKED = re.compile(r"«([a-z_]+)(?:=(.*?))?»", re.DOTALL)
# Options of parts that the command line has under names of their own, besides --set TABLE.NAME=VALUE.
FLAGS = {
    "method": ("uplink", "downlink", "smoothing"),
    "problem": ("reg", "features", "label", "zero_based", "scale", "positive", "test"),
}
_speaks_options = False


@contextmanager
def option_wording() -> Iterator[None]:
    """Within it, messages name options (`--step 0.05`) in place of arguments (`step=0.05`), in all threads of the process."""
    global _speaks_options
    outer, _speaks_options = _speaks_options, True
    try:
        yield
    finally:
        _speaks_options = outer


def worded(text: str) -> str:
    """The text with its marked arguments in the words of the one who reads it.

    >>> text = "use «exchange='p2p'», «allow_unsafe=True» or «method_options={'p': 0.1, 'warm': False}», not «out=DIR»; see «rounds»"
    >>> worded(text)
    "use exchange='p2p', allow_unsafe=True or method_options={'p': 0.1, 'warm': False}, not out=DIR; see rounds"
    >>> with option_wording():
    ...     worded(text)
    'use --exchange p2p, --allow-unsafe or --set method.p=0.1 --set method.warm=false, not --out DIR; see --rounds'
    """
    return _MARKED.sub(_option if _speaks_options else lambda found: found[0][1:-1], text)


def _option(found: re.Match[str]) -> str:
    """An argument, as the command line writes it."""
    name, text = found[1], found[2]
    flag = f"--{name.replace('_', '-')}"
    if text is None:
        return flag
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a placeholder, such as DIR
        return f"{flag} {text}"
    if value is True:
        return flag
    if isinstance(value, dict):
        table = name.removesuffix("_options")
        return " ".join(_setting(table, key, value[key]) for key in value)
    return f"{flag} {shlex.quote(value) if isinstance(value, str) else text}"


def _setting(table: str, key: str, value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))
    return (
        f"--{key} {text}"
        if key in FLAGS.get(table, ()) and not isinstance(value, bool)
        else f"--set {table}.{key}={text}"
    )


class MpicompError(Exception):
    """Base class of every error raised on purpose. Its text is `worded`."""

    def __str__(self) -> str:
        return worded(super().__str__())


class UserError(MpicompError):
    """Wrong input from outside: the message names the value got, what is allowed and the remedy."""


class ConfigError(UserError, ValueError):
    """An option or a combination of options that cannot work."""


class ImportedPartError(ConfigError):
    """A file or module that the imports name cannot be imported on this rank; other ranks may not see this error."""


class DataError(UserError, ValueError):
    """A data file that cannot be read; the message names file and line."""


class EnvironmentMismatch(UserError, RuntimeError):
    """The MPI world is not the one that the launcher meant to start."""


class NoMpiError(EnvironmentMismatch):
    """mpi4py loads no MPI library on this rank; usually on none, but other ranks may not see this error."""


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


class AggregationError(MpicompError):
    """The ranks' vectors cannot be averaged: the message names each rank that says so, the tensor, and what is wrong with it. All ranks
    raise it in the same call, with the same message."""


class RankFailure(MpicompError):
    """MPI reports that a rank has died, or that another one has met that."""


class PartFailure(MpicompError):
    """In the command line's own process: something that a part of one's own has raised, such as EOFError, SystemExit or StopIteration,
    under a name that no library between the part and the end of the process takes for its own. The exception itself is its cause.

    Attributes
    ----------
    code : the process's exit code.
    """

    def __init__(self, code: int):
        super().__init__("a part of the run failed")
        self.code = code


class StopNow(KeyboardInterrupt):
    """A signal ends the process now, for example Ctrl-C once more.

    Attributes
    ----------
    code : the process's exit code.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


class StopEarly(SystemExit):
    """A signal or the time limit ends the process in the set-up of a run, with the exit code that it holds."""


class TheoryError(UserError, ValueError):
    """No theorem covers the combination; the message proposes a safe choice."""


class CacheWarning(RuntimeWarning):
    """The kernel cache cannot be used, or not fully; what that costs."""


def number_of(variable: str, default: float, most: float, unit: str) -> float:
    """A number from 0 to `most` from the environment, or the default where the variable is not set or empty.

    Raises
    ------
    ConfigError : it is something else.
    """
    text = os.environ.get(variable, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise ConfigError(
            f"{variable}={text[:80]!r} is no number of {unit} from 0 to {most:.0f}; unset it for {default:g}"
        )
    return value


def full_text(error: BaseException) -> str:
    """The error's message and its notes, which say where it happened."""
    return "\n  ".join([str(error), *map(worded, getattr(error, "__notes__", []))])


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "", brief: bool = False) -> ConfigError:
    """The error for a name that is not registered: says what is known and the nearest name; a brief one only that, where there is one.

    >>> str(unknown("compressor", "topkk", ["topk", "sign"]))
    "unknown compressor 'topkk'; known: sign, topk; did you mean 'topk'?"
    >>> str(unknown("option", "rouns", ["seed", "rounds"], brief=True))
    "unknown option 'rouns'; did you mean 'rounds'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = "" if brief and near else f"; known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}{where}{listed}{hint}")
