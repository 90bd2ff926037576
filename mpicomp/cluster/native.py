"""Small C programs and libraries that are built when they are first needed, and kept in the user's cache."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from .. import folders
from ..errors import EnvironmentMismatch

LOCK_SECONDS = 120.0  # that another process may take to build


def cached(kind: str, name: str) -> Path:
    """Where a built file is kept: by kind and host, since hosts may share a home directory but not an architecture.

    Raises
    ------
    EnvironmentMismatch : there is no home directory.
    """
    try:
        return folders.user_cache() / "mpicomp" / kind / host() / name
    except OSError as error:
        raise EnvironmentMismatch(str(error)) from None


def host() -> str:
    """The name of the machine. The nodes of a network lab have names of their own, but are one machine with one cache."""
    return os.environ.get("MPICOMP_CACHE_HOST") or platform.node() or "host"


def compile_first(target: Path, commands: Iterable[Sequence[str]]) -> list[str] | None:
    """Build `target` by the first command that succeeds, unless it is there; processes take turns where the file system has locks.

    Parameters
    ----------
    commands : compiler calls without `-o`, which is put behind the compiler's name.

    Returns
    -------
    None when the file is there; else why each command failed.

    Raises
    ------
    EnvironmentMismatch : its folder is not this user's alone, or cannot be written.
    """
    folder, lock = target.parent, None
    try:
        folders.make_private(folder)
        with suppress(OSError):  # building twice does no harm: the file is written as a whole
            lock = folders.lock_private(folder, "lock", LOCK_SECONDS)
        with suppress(FileNotFoundError):
            folders.read_private(folder, target.name)
            return None
        return _build(target, commands)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{folder} cannot keep what is built: {error}; set XDG_CACHE_HOME to another folder"
        ) from error
    finally:
        if lock is not None:
            os.close(lock)


def _build(target: Path, commands: Iterable[Sequence[str]]) -> list[str] | None:
    reasons, part = [], target.with_suffix(f".{os.getpid()}.part")
    for compiler, *arguments in commands:
        done = subprocess.run([compiler, "-o", str(part), *arguments], capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            part.chmod(0o700)
            os.replace(part, target)
            return None
        said = [
            line for line in done.stderr.splitlines() if line.strip(" -")
        ]  # Open MPI's wrapper begins with a rule of dashes
        reasons.append(f"{compiler}: {(said or ['failed'])[0]}")
    return reasons
