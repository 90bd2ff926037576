"""Where compiled kernels are kept, and how processes that start at once share them.

Numba's own cache is not safe then: two processes that compile different signatures of one function may both number their machine code
1, and an index that names the other's code is wrong for ever. Here only the holder of a lock on the directory compiles and saves; a process
that misses a kernel waits for the lock, asleep, looks again, and finds what another has compiled meanwhile. Loading needs no lock.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.core.compiler_lock import global_compiler_lock

from . import forms


def cache_directory() -> Path:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR where the user has set it, else a directory of ours.

    That is one for each host, each version of Numba, each form of the kernels (`forms`) and each state of their sources. Two hosts
    with different processors never write the same index. And Numba looks only at the file of the function that it loads: where a kernel
    changes, those that call it in other files would go on with its old machine code. The nodes of a network lab have host names of
    their own, but are one machine, which MPICOMP_CACHE_HOST names.
    """
    users = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    if users:
        return Path(users)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    host = os.environ.get("MPICOMP_CACHE_HOST") or platform.node() or "host"
    return base / "mpicomp" / "numba" / host / digest()


def digest() -> str:
    """Of what a kernel's machine code depends on beside its own file and what Numba looks at."""
    return _digest(forms.form, _bounds_checked())


@functools.cache
def _digest(form: str, checked: bool) -> str:
    package, code = Path(__file__).parent.parent, hashlib.sha256()
    for part in (numba.__version__, form, str(checked)):
        code.update(part.encode() + b"\0")
    for path in sorted([*package.glob("kernels/*.py"), *package.glob("compressors/*.py")]):
        code.update(path.read_bytes())
    return code.hexdigest()[:16]


def _bounds_checked() -> bool:
    """NUMBA_BOUNDSCHECK: with array bounds checked it is other code, which Numba's own index does not tell apart."""
    return bool(numba.config.BOUNDSCHECK)  # type: ignore[attr-defined]


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
            directory = cache_directory()
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


@contextmanager
def compiling() -> Iterator[None]:
    """Alone among the processes that use the cache."""
    with global_compiler_lock:
        depth = _lock.depth
        _lock.acquire()
        try:
            yield
        finally:
            _lock.release_to(depth)


_kernels: list[Any] = []


class _Locator(_CacheLocator):
    """A kernel's files in `cache_directory`. Numba's own locators would look at settings that are for everybody's kernels."""

    def __init__(self, py_func: Any, py_file: str):
        self._py_file, self._line = py_file, py_func.__code__.co_firstlineno
        self._path = cache_directory() / self.get_suitable_cache_subpath(py_file)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        """None where the kernel has no source file, or the directory cannot be written."""
        locator = cls(py_func, py_file)
        return locator if os.path.exists(py_file) and _can_be_written(locator._path) else None

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return _stamp(self._py_file, os.stat(self._py_file).st_mtime_ns)

    def get_disambiguator(self) -> str:
        return str(self._line)


@functools.cache
def _can_be_written(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


@functools.cache
def _stamp(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - Numba's name for it


class _SharedCache(FunctionCache):
    """Numba's cache, which takes the lock before it says that a kernel is not there. `shared` gives it back."""

    _impl_class = _Implementation

    def load_overload(self, sig, target_context):
        found = super().load_overload(sig, target_context)
        if found is None:
            _lock.acquire()
            found = super().load_overload(sig, target_context)
        return found

    def _index_key(self, sig, codegen):  # for a directory of the user's, whose name says nothing of these
        return (*super()._index_key(sig, codegen), digest())


def _cache_of(py_func: Any) -> Any:
    try:
        return _SharedCache(py_func)
    except RuntimeError:  # no place for it
        return NullCache()


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
                    kernel._cache = _cache_of(kernel.py_func)
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
