"""Where compiled kernels are kept, and how processes that start at once share them.

Numba's own cache is not safe then: two processes that compile different signatures of one function may both number their machine code
1, and an index that names the other's code is wrong for ever. Here only the holder of a lock on the directory compiles and saves; a process
that misses a kernel waits for the lock, asleep, looks again, and finds what another has compiled meanwhile. Loading needs no lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple


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
from numba.core.caching import FunctionCache  # noqa: E402
from numba.core.compiler_lock import global_compiler_lock  # noqa: E402

if not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]


class _Lock:
    """One lock for all processes that use the directory; taken several times by one. Threads are kept apart by Numba's own lock."""

    def __init__(self) -> None:
        self.depth = 0
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Wait for the lock. Where the directory cannot be written there is no cache to protect."""
        self.depth += 1
        if self.depth > 1:
            return
        try:
            directory = Path(numba.config.CACHE_DIR)  # type: ignore[attr-defined]
            directory.mkdir(parents=True, exist_ok=True)
            self._file = open(directory / "compiling.lock", "w")  # noqa: SIM115 - closed in release
        except OSError:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release_to(self, depth: int) -> None:
        """Give back what was taken since the depth was this."""
        self.depth = depth
        if depth == 0 and self._file is not None:
            self._file.close()
            self._file = None


_lock = _Lock()
_kernels: list[Any] = []


class _SharedCache(FunctionCache):
    """Numba's cache, which takes the lock before it says that a kernel is not there. `shared` gives it back."""

    def load_overload(self, sig, target_context):
        found = super().load_overload(sig, target_context)
        if found is None:
            _lock.acquire()
            found = super().load_overload(sig, target_context)
        return found


def shared(kernel: Any) -> Any:
    """The kernel (a Numba dispatcher), cached; the cache's files are looked for when it is first called."""
    plain: Callable[[Any], Any] = kernel.compile
    cached = False

    def compile(sig: Any) -> Any:
        nonlocal cached
        with global_compiler_lock:
            depth = _lock.depth
            try:
                if not cached:
                    cached = True
                    kernel._cache = _SharedCache(kernel.py_func)
                return plain(sig)
            finally:
                _lock.release_to(depth)

    kernel.compile = compile
    _kernels.append(kernel)
    return kernel


class Use(NamedTuple):
    """How often this process loaded and compiled a kernel, each signature by itself."""

    module: str
    kernel: str
    loaded: int
    compiled: int


def cache_use() -> list[Use]:
    """The kernels that this process has called so far."""
    uses = []
    for kernel in _kernels:
        hits, misses = (sum(counts.values()) for counts in kernel.stats[1:])
        if hits or misses:
            uses.append(Use(kernel.py_func.__module__, kernel.py_func.__name__, hits, misses))
    return uses
