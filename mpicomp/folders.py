"""Folders whose files are run as code: compiled kernels and libraries, in the user's cache.

Whoever can write such a file can do what its user can. So a folder is made for its user alone, whatever the umask, and what lies there is
taken only where it belongs to this user or root, and nobody else may write to it: neither to the folder nor to the file. Folders and files
are checked by their descriptors, so that nothing is exchanged between the look and the use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # what is opened may be a pipe, before it is looked at
_LOOK = 0.02  # seconds between two looks at a lock


class Unsafe(OSError):
    """A folder or file that somebody else may have written; the message has the remedy."""


def user_cache() -> Path:
    """The user's folder of caches: XDG_CACHE_HOME, or ~/.cache.

    Raises
    ------
    OSError : the user has no home directory.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named).absolute()
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise OSError("this user has no home directory; set XDG_CACHE_HOME") from None


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone; one that is there is checked.

    Raises
    ------
    Unsafe : somebody else owns it or may write to it. OSError : it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # the umask may have taken more away
    with _opened(folder):
        pass


def read_private(folder: Path, name: str) -> bytes:
    """What a file of the folder holds.

    Raises
    ------
    Unsafe : somebody else may have written it, or it is no file. OSError : it cannot be read, or is not there.
    """
    with _opened(folder) as at:
        file = os.open(name, _FILE, dir_fd=at)
        try:
            _check(file, folder / name, stat.S_ISREG)
            os.set_blocking(file, True)
        except BaseException:
            os.close(file)
            raise
        with open(file, "rb") as text:
            return text.read()


def write_private(folder: Path, name: str, data: bytes) -> None:
    """Write a file of the folder, as a whole or not at all.

    Raises
    ------
    Unsafe : the folder is not this user's own. OSError : it cannot be written; no half of it stays.
    """
    with _opened(folder) as at:
        part = f"{name}.{uuid.uuid4().hex[:12]}.part"
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
        try:
            with open(file, "wb") as whole:
                whole.write(data)
            os.chmod(part, 0o600, dir_fd=at)
            os.replace(part, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(OSError):
                os.unlink(part, dir_fd=at)
            raise


def lock_private(folder: Path, name: str, seconds: float) -> int:
    """Wait for the lock on a file of the folder, asleep, so that signals are heard; returns a descriptor, which keeps it till it is closed.

    Raises
    ------
    TimeoutError : one process has kept it for so many seconds and not computed in them; names it. OSError : the file system has no locks,
    or the folder cannot be written.
    """
    with _opened(folder) as at:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=at)
    try:
        _check(file, folder / name, stat.S_ISREG)
        with suppress(OSError):  # the umask may have taken it away; a file of root's is not ours to change
            os.fchmod(file, 0o600)
        life, since = (0, ""), time.monotonic()
        while not _locked(file):
            now, holder = time.monotonic(), os.pread(file, 32, 0).decode(errors="replace").strip()
            seen = os.fstat(file).st_mtime_ns, _computed(holder)
            if seen != life:  # another process has it now, or it is at work
                life, since = seen, now
            elif now - since > seconds:
                raise TimeoutError(f"process {holder or '?'} has kept the lock {folder / name} for {seconds:g} s")
            time.sleep(_LOOK)
        os.utime(file)
        with suppress(OSError):  # on a full disk
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _computed(pid: str) -> str:
    """The processor time of a process, in the kernel's words; empty where that cannot be read."""
    with suppress(OSError):
        if pid.isdecimal():
            return " ".join(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[11:13])
    return ""


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    at = os.open(folder, _FOLDER)
    try:
        _check(at, folder, stat.S_ISDIR)
        yield at
    finally:
        os.close(at)


def _check(descriptor: int, path: Path, is_kind: Callable[[int], bool]) -> None:
    status = os.fstat(descriptor)
    if not is_kind(status.st_mode):
        raise Unsafe(f"{path} is not a plain file")
    if status.st_uid not in (os.geteuid(), 0):
        raise Unsafe(f"{path} belongs to user {status.st_uid}, not to this one ({os.geteuid()})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe(f"others may write to {path}; empty it and take that right away: chmod go-w {path}")
