"""Numba kernels: pure functions of arrays and scalars. Nothing here knows of objects, MPI or compressors.

Every kernel is compiled by `njit` below: cached on disk, without the GIL, without fast-math (sums keep their order, so that a
run is the same bit for bit for any number of ranks), and with errors as NumPy has them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast


def _cache_directory() -> Path:
    """One cache for each host: two hosts with different processors never write the same index file."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mpicomp" / "numba" / (platform.node() or "host")


# Numba reads this when it is first imported. A user's own setting wins.
os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_directory()))

import numba  # noqa: E402

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile `function` when it is first called."""
    return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy"))


__all__ = ["njit"]
