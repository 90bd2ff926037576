"""Small C programs and libraries that are built when they are first needed, and kept in the user's cache."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path


def cached(kind: str, name: str) -> Path:
    """Where a built file is kept: by kind and host, since hosts may share a home directory but not an architecture."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mpicomp" / kind / host() / name


def host() -> str:
    """The name of the machine. The nodes of a network lab have names of their own, but are one machine with one cache."""
    return os.environ.get("MPICOMP_CACHE_HOST") or platform.node() or "host"


def compile_first(target: Path, commands: Iterable[Sequence[str]]) -> list[str] | None:
    """Build `target` by the first command that succeeds, unless it is there; processes take turns.

    Parameters
    ----------
    commands : compiler calls without `-o`, which is put behind the compiler's name.

    Returns
    -------
    None when the file is there; else why each command failed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with open(target.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return None
        part = target.with_suffix(".part")
        for compiler, *arguments in commands:
            done = subprocess.run([compiler, "-o", str(part), *arguments], capture_output=True, text=True)
            if done.returncode == 0:
                os.replace(part, target)
                return None
            said = [
                line for line in done.stderr.splitlines() if line.strip(" -")
            ]  # Open MPI's wrapper begins with a rule of dashes
            reasons.append(f"{compiler}: {(said or ['failed'])[0]}")
    return reasons
