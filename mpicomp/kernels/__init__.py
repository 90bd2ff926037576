"""Numba kernels: pure functions of arrays and scalars. Nothing here knows of objects, MPI or compressors.

Every kernel is compiled by `njit` below: cached on disk, without the GIL, without fast-math (sums keep their order, so that a
run is the same bit for bit for any number of ranks), and with errors as NumPy has them. The kernels of `intrinsics` and `blocks` have
two forms: see `forms`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from ..errors import EnvironmentMismatch
from .cache import cache_directory, shared
from .vectors import OPTIONS

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise EnvironmentMismatch(
        "NUMBA_DISABLE_JIT switches off Numba's compiler, without which mpicomp's kernels do not run; unset it. To debug a kernel of your "
        "own, call the Python function below it, kernel.py_func"
    )

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile `function` when it is first called."""
    return cast(F, shared(numba.njit(function, nogil=True, error_model="numpy", **OPTIONS)))


def lean(function: F) -> F:
    """`njit` without reference counting, for kernels that neither allocate nor return arrays.

    Counting costs two atomic additions for nearly every slice and every array that is passed on: as much as packing a hundred
    numbers, where a bucket has five hundred. A lean kernel may call others and be called by them.
    """
    without: dict[str, Any] = {"_nrt": False}  # the option has no public name
    return cast(F, shared(numba.njit(function, nogil=True, error_model="numpy", **without, **OPTIONS)))


__all__ = ["cache_directory", "lean", "njit"]
