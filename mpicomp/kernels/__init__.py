"""Numba kernels: pure functions of arrays and scalars. Nothing here knows of objects, MPI or compressors.

Every kernel is compiled by `njit` below: cached on disk, without the GIL, without fast-math (sums keep their order, so that a
run is the same bit for bit for any number of ranks), and with errors as NumPy has them.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast


def cache_directory() -> Path:
    """Where compiled kernels are kept: a directory for each host and each state of the kernels' sources.

    Two hosts with different processors never write the same index. And Numba looks only at the file of the function that it loads:
    where a kernel changes, those that call it in other files would go on with its old machine code. The nodes of a network lab have
    host names of their own, but are one machine, which MPICOMP_CACHE_HOST names.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    checked = os.environ.get("NUMBA_BOUNDSCHECK", "")  # with array bounds checked it is other code
    package, digest = Path(__file__).parent.parent, hashlib.sha256(checked.encode())
    for path in sorted([*package.glob("kernels/*.py"), *package.glob("compressors/*.py")]):
        digest.update(path.read_bytes())
    host = os.environ.get("MPICOMP_CACHE_HOST") or platform.node() or "host"
    return base / "mpicomp" / "numba" / host / digest.hexdigest()[:16]


# Numba reads the variable when it is first imported. A user's own setting wins.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_directory()))

import numba  # noqa: E402

if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile `function` when it is first called."""
    return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy"))


def lean(function: F) -> F:
    """`njit` without reference counting, for kernels that neither allocate nor return arrays.

    Counting costs two atomic additions for nearly every slice and every array that is passed on: as much as packing a hundred
    numbers, where a bucket has five hundred. A lean kernel may call others and be called by them.
    """
    without: dict[str, Any] = {"_nrt": False}  # the option has no public name
    return cast(F, numba.njit(function, cache=True, nogil=True, error_model="numpy", **without))


__all__ = ["cache_directory", "lean", "njit"]
