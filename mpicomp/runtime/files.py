"""Files that are whole or not there, and files that are read only where they are plain ones."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_whole(path: Path, write: Callable[[IO[bytes]], object], contended: bool = False) -> None:
    """Write a file under another name first, flush it to the disk, then rename it.

    Parameters
    ----------
    contended : other processes may write it at the same time; the last one's content stays.

    Raises
    ------
    OSError : it cannot be written; what was there before is untouched, and nothing half written stays.
    """
    part = path.with_suffix(f".{uuid.uuid4().hex}.part" if contended else ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def write_text(path: Path, text: str, contended: bool = False) -> None:
    """The same for text, as UTF-8 in any locale; bytes of file names that are none are written as escapes."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")), contended)


def flush_directory(folder: Path) -> None:
    """The names in a directory reach the disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_plain(path: Path, links: bool = False) -> IO[bytes]:
    """Open a file for reading, without waiting for a writer.

    Parameters
    ----------
    links : follow a symbolic link, which is refused otherwise.

    Raises
    ------
    OSError : it cannot be read, or is no plain file; `strerror` says what it is.
    """
    mode = os.stat(path, follow_symlinks=links).st_mode
    _require_plain(path, mode)  # before it is opened, which may have effects on a device
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _require_plain(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _require_plain(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(0, f"this is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a plain file", str(path))


def read_plain(path: Path, links: bool = False) -> bytes:
    """The content of a plain file; parameters and errors as for `open_plain`."""
    with open_plain(path, links) as file:
        return file.read()
