"""Numba kernels: pure functions of arrays and scalars. Nothing here knows of objects, MPI or compressors.

Every kernel is compiled by `njit` below: cached on disk, without the GIL, without fast-math (sums keep their order, so that a
run is the same bit for bit for any number of ranks), and with errors as NumPy has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from .cache import cache_directory, numba, shared


def _widen_vectors() -> None:
    """Vectors of 512 bits where the processor has them and does not slow down for them (Intel since Ice Lake).

    LLVM takes 256 bits for all of Intel's; the kernels are then up to 1.5 times slower. A user's own choice of features wins.
    """
    from numba.core.codegen import get_host_cpu_features  # Numba is to be imported after the cache's directory is named

    config: Any = numba.config
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        features = get_host_cpu_features()
        if "+avx512vbmi2" in features.split(","):
            config.CPU_FEATURES = f"{features},-prefer-256-bit"


_widen_vectors()

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile `function` when it is first called."""
    return cast(F, shared(numba.njit(function, nogil=True, error_model="numpy")))


def lean(function: F) -> F:
    """`njit` without reference counting, for kernels that neither allocate nor return arrays.

    Counting costs two atomic additions for nearly every slice and every array that is passed on: as much as packing a hundred
    numbers, where a bucket has five hundred. A lean kernel may call others and be called by them.
    """
    without: dict[str, Any] = {"_nrt": False}  # the option has no public name
    return cast(F, shared(numba.njit(function, nogil=True, error_model="numpy", **without)))


__all__ = ["cache_directory", "lean", "njit"]
