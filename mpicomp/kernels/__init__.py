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
    where a kernel changes, those that call it in other files would go on with its old machine code.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    checked = os.environ.get("NUMBA_BOUNDSCHECK", "")  # with array bounds checked it is other code
    package, digest = Path(__file__).parent.parent, hashlib.sha256(checked.encode())
    for path in sorted([*package.glob("kernels/*.py"), *package.glob("compressors/*.py")]):
        digest.update(path.read_bytes())
    return base / "mpicomp" / "numba" / (platform.node() or "host") / digest.hexdigest()[:16]


# Numba reads the variable when it is first imported. A user's own setting wins.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_directory()))

import numba  # noqa: E402
from numba.core.codegen import get_host_cpu_features  # noqa: E402

if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]


def _widen_vectors() -> None:
    """Vectors of 512 bits where the processor has them and does not slow down for them (Intel since Ice Lake).

    LLVM takes 256 bits for all of Intel's; the kernels are then up to 1.5 times slower. A user's own choice of features wins.
    """
    config: Any = numba.config
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        features = get_host_cpu_features()
        if "+avx512vbmi2" in features.split(","):
            config.CPU_FEATURES = f"{features},-prefer-256-bit"


_widen_vectors()

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
