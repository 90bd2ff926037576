"""Where compiled kernels are kept, and how processes that start at once share them.

What is kept there is run as code, so the folder is this user's alone (`mpicomp.folders`). Each compiled signature of a kernel is a file of
its own, which is written as a whole and begins with a digest: whatever becomes of one, it is at worst compiled again. (Numba's own cache
has an index and numbers its files; processes that compile different signatures of one function at once may both take the same number.)

A process that misses a kernel waits for that kernel's lock, asleep, looks again, and finds what another has compiled meanwhile. Kernels
call no kernels that call them, so that two processes never wait for each other. A lock saves work and protects nothing: where there is
none, or somebody keeps it too long, kernels are compiled without. Where the folder cannot be used, each process compiles in its own memory.
Either costs one warning.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core.caching import FunctionCache, NullCache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from .. import folders
from ..errors import CacheWarning, number_of
from ..streams import notice
from . import forms

LOCK_SECONDS = 60.0  # that one process may keep the lock without computing
_LOCK, _SUFFIX, _MAGIC = "compiling.lock", ".nbc", b"mpicomp kernel 1\n"


def cache_directory() -> Path:
    """Where compiled kernels are kept: a folder of ours below NUMBA_CACHE_DIR where the user has set it, else below the user's caches.

    That is one for each host, each version of Numba, each form of the kernels (`forms`) and each state of their sources. Two hosts
    with different processors never write the same files. And a kernel's file says nothing of those that it calls in other files: where
    these change, it would go on with their old machine code. The nodes of a network lab have host names of their own, but are one machine,
    which MPICOMP_CACHE_HOST names.

    Raises
    ------
    OSError : there is no home directory.
    """
    users = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    if users:
        return Path(users).absolute() / f"mpicomp-{os.geteuid()}-{digest()}"
    host = os.environ.get("MPICOMP_CACHE_HOST") or platform.node() or "host"
    return folders.user_cache() / "mpicomp" / "numba" / host / digest()


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


def usable_directory() -> tuple[Path | None, str]:
    """`cache_directory`, made and checked; None where it cannot be used, and why."""
    try:
        directory = cache_directory()
    except OSError as error:
        return None, str(error)
    return _usable(directory)


@functools.cache
def _usable(directory: Path) -> tuple[Path | None, str]:
    try:
        folders.make_private(directory)
    except OSError as error:
        return None, str(error)
    return directory, ""


def kept_where() -> str:
    """In words, for messages."""
    directory, _ = usable_directory()
    return "this process alone" if directory is None else str(directory)


_warned: set[str] = set()


def _warn(trouble: str, what: str) -> None:
    """Once for each kind of trouble in a process."""
    if trouble not in _warned:
        _warned.add(trouble)
        warnings.warn(f"mpicomp: {what}", CacheWarning, stacklevel=2)


def _directory() -> Path | None:
    """The folder, or one warning that there is none."""
    directory, reason = usable_directory()
    if directory is None:
        _warn("folder", f"the kernel cache cannot be used ({reason}); this process compiles its kernels in memory")
    return directory


class _Locks:
    """Those that this process holds, the last taken last; each by the name of its file. Threads are kept apart by Numba's own lock."""

    def __init__(self) -> None:
        self._held: list[tuple[str, int | None]] = []
        self._given_up = False

    @property
    def depth(self) -> int:
        """How many are held, or would be where there are locks."""
        return len(self._held)

    def acquire(self, name: str) -> None:
        """Wait for a lock. Where there is none, or somebody keeps it, or this process has it, go on."""
        mine = any(name == held for held, _ in self._held)
        self._held.append((name, None if mine or self._given_up else self._wait(name)))

    def _wait(self, name: str) -> int | None:
        directory = _directory()
        if directory is None:
            return None
        seconds = number_of("MPICOMP_LOCK_SECONDS", LOCK_SECONDS, 1e6, "seconds")
        try:
            return folders.lock_private(directory, name, seconds)
        except TimeoutError as error:
            _warn("lock", f"{error}, perhaps it is stopped; kernels are compiled without it (MPICOMP_LOCK_SECONDS)")
        except PermissionError:  # a folder that is only read
            pass
        except OSError as error:
            _warn(
                "lock",
                f"the file system of the kernel cache {directory} gives no lock ({error.strerror or error}); processes that start at once "
                "compile the same kernels, each for itself",
            )
        self._given_up = True
        return None

    def release_to(self, depth: int) -> None:
        """Give back what was taken since the depth was this."""
        while len(self._held) > depth:
            name, file = self._held.pop()
            if file is not None:
                with suppress(OSError):  # those who wait for it look for the kernel, and those who come later, too
                    (cache_directory() / name).unlink()
                os.close(file)


_locks = _Locks()


@contextmanager
def compiling() -> Iterator[None]:
    """Alone among the processes that use the cache."""
    with global_compiler_lock:
        depth = _locks.depth
        try:
            _locks.acquire(_LOCK)
            yield
        finally:
            _locks.release_to(depth)


def read_note(name: str) -> str:
    """A text that a process has left in the cache; empty where there is none."""
    directory = _directory()
    if directory is not None:
        with suppress(OSError):
            return folders.read_private(directory, name).decode(errors="replace")
    return ""


def write_note(name: str, text: str) -> None:
    """Leave a text in the cache, where it can be written."""
    directory = _directory()
    if directory is not None:
        with suppress(OSError):
            folders.write_private(directory, name, text.encode())


_kernels: list[Any] = []


class _SharedCache(FunctionCache):
    """A file for each signature, in place of Numba's index and data files.

    It takes the kernel's lock before it says that it is not there. `shared` gives it back.
    """

    def __init__(self, py_func: Any):
        self._py_func, self._name = py_func, repr(py_func)
        source, code = Path(py_func.__code__.co_filename), py_func.__code__
        self._stamp = hashlib.sha256(source.read_bytes()).hexdigest()
        where = hashlib.sha256(str(source.parent).encode()).hexdigest()[:8]
        self._base = re.sub(r"[<>/]", "", f"{source.stem}.{py_func.__qualname__}-{code.co_firstlineno}-{where}")
        self.enable()

    @property
    def cache_path(self) -> str:
        return str(cache_directory())

    def flush(self) -> None:
        directory = _directory()
        for path in directory.glob(f"{self._base}-*{_SUFFIX}") if directory is not None else ():
            path.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        found = self._look(sig, target_context)
        if found is None:
            notice("compiling", f"compiling kernels, once on this host, for {kept_where()}")
            _locks.acquire(f"{self._base}.lock")
            found = self._look(sig, target_context)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        directory = _directory()
        if directory is None or any(not part.can_cache for part in data.lifted) or data.library.has_dynamic_globals:
            return
        key = self._key(sig, data.codegen)
        body = dumps((key, data._reduce()))
        try:
            folders.write_private(directory, self._file(key), _MAGIC + hashlib.sha256(body).digest() + body)
        except OSError as error:
            _warn(
                "write",
                f"compiled kernels cannot be kept in {directory} ({error.strerror or error}); the next process compiles them again",
            )

    def _look(self, sig: Any, target_context: Any) -> Any:
        """The kernel from its file; None where that is missing, of something else, damaged or not to be trusted."""
        directory = _directory()
        if directory is None:
            return None
        key = self._key(sig, target_context.codegen())
        name = self._file(key)
        try:
            text = folders.read_private(directory, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn("read", f"a kernel of the cache is not used ({error}); it is compiled again")
            return None
        start = len(_MAGIC) + hashlib.sha256().digest_size
        body = text[start:]
        try:
            if text[:start] != _MAGIC + hashlib.sha256(body).digest():
                raise ValueError("it is truncated or altered")
            kept, payload = pickle.loads(body)
            return CompileResult._rebuild(target_context, *payload) if kept == key else None
        except Exception as error:  # whatever the unpickling of a damaged file comes to
            _warn("read", f"the kernel {directory / name} is damaged ({error}); it is compiled again")
            return None

    def _key(self, sig: Any, codegen: Any) -> Any:
        return (numba.__version__, self._stamp, *self._index_key(sig, codegen))

    def _file(self, key: Any) -> str:
        """The name of the file; keys that differ only in the addresses of objects share one."""
        text = re.sub(r"0x[0-9a-f]+", "", repr(key))
        return f"{self._base}-{hashlib.sha256(text.encode()).hexdigest()[:16]}{_SUFFIX}"


def _cache_of(py_func: Any) -> Any:
    """The cache of a kernel; none of one that was typed at a prompt."""
    return _SharedCache(py_func) if os.path.exists(py_func.__code__.co_filename) else NullCache()


def shared(kernel: Any) -> Any:
    """The kernel (a Numba dispatcher), cached; the cache's files are looked for when it is first called."""
    plain: Callable[[Any], Any] = kernel.compile
    cached = False

    def compile(sig: Any) -> Any:
        nonlocal cached
        with global_compiler_lock:
            depth = _locks.depth
            try:
                if not cached:
                    cached = True
                    kernel._cache = _cache_of(kernel.py_func)
                return plain(sig)
            finally:
                _locks.release_to(depth)

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
