"""Kernels with a twin: a plain form, which says what is computed, and LLVM's instructions, which do the same faster, bit for bit.

The plain forms are in `intrinsics` and `blocks`, under `@twin`; their twins have the same names in `llvm_words`, `llvm_blocks` and
`llvm_entropy`. `forms` says which one runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding
import numba

from . import forms, lean
from .cache import compiling, digest, read_note, write_note

NOTE = "fast-forms.txt"
F = TypeVar("F", bound=Callable[..., Any])
plain: dict[str, Callable[..., Any]] = {}  # the plain forms by name, before they are compiled


def twin(function: F) -> F:
    """The kernel in the form that `forms` says; `function` is the plain one."""
    plain[function.__name__] = function
    return cast(F, fast[function.__name__] if fast else lean(function))


def twin_of_types(chosen: Callable[..., Any]) -> Callable[[F], F]:
    """`twin` for a function whose plain form Numba gives by the types of its arguments: `chosen`, as for `numba.extending.overload`."""

    def decorate(function: F) -> F:
        plain[function.__name__] = function
        numba.extending.overload(function)(chosen)
        return cast(F, fast[function.__name__] if fast else function)

    return decorate


def _fast_forms() -> dict[str, Any]:
    """The fast forms by name; none where they are not wanted, or do not compile."""
    if forms.form == "plain":
        return {}
    reason = _verdict()
    if reason:
        if forms.VARIABLE in os.environ:
            raise RuntimeError(f"{forms.VARIABLE}=fast, but the kernels' fast forms do not compile: {reason}")
        forms.fall_back()
        warnings.warn(
            f"the kernels' fast forms do not compile here ({reason}); the plain ones compute the same bits, several times as slowly. "
            f"{forms.VARIABLE}=plain says so without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}
    from . import llvm_blocks, llvm_entropy, llvm_words

    return {**vars(llvm_words), **vars(llvm_blocks), **vars(llvm_entropy)}


def _verdict() -> str:
    """Why the fast forms do not compile; empty where they do. Tried once for each state of the cache directory, which keeps the result."""
    state = f"{digest()} {llvmlite.__version__} {llvmlite.binding.get_host_cpu_name()}"
    known = _read(state)
    if known is not None:
        return known
    with compiling():  # of processes that start at once one tries
        known = _read(state)
        if known is None:
            known = _tried()
            write_note(NOTE, f"{state}\n{known}\n")  # where it cannot be written, the next process tries again
    return known


def _read(state: str) -> str | None:
    stated, _, reason = read_note(NOTE).partition("\n")
    return reason.removesuffix("\n") if stated == state else None


def _tried() -> str:
    try:
        from . import probe

        probe.compile_all()
    except Exception as error:  # whatever another Numba, llvmlite or processor makes of it
        return f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return ""


fast = _fast_forms()
