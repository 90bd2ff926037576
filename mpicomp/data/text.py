"""The text of a data file: read and decompressed in pieces, cut at line ends. Archives are recognised by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError

BLOCK = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
REFUSED = {
    b"\x28\xb5\x2f\xfd": "is compressed by zstd, which is not read; decompress it, or use gzip, xz or bzip2",
    b"PK\x03\x04": "is a ZIP archive, which is not read; unpack it, or use gzip, xz or bzip2",
    b"\xff\xfe": "is text in UTF-16, which is not read; save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16, which is not read; save it as UTF-8",
}


def blocks_of(path: Path) -> Iterator[bytes]:
    """The text of a file, decompressed, in pieces."""
    try:
        with open(path, "rb") as file:
            start = file.peek(6)[:6]
            for signature, refusal in REFUSED.items():
                if start.startswith(signature):
                    raise DataError(f"{path} {refusal}")
            opener = next((opener for signature, opener in OPENERS.items() if start.startswith(signature)), None)
            with opener(file) if opener else file as text:
                while block := text.read(BLOCK):
                    yield block
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def lines_of(blocks: Iterable[bytes], source: str) -> Iterator[bytes]:
    """The text in pieces of whole lines, each of which ends with a line end."""
    rest, first = b"", True
    for block in blocks:
        if first and b"\0" in block[:4096]:
            raise DataError(
                f"{source}, line 1: this is binary data, not LIBSVM text 'label index:value index:value ...'"
            )
        text = rest + (block.removeprefix(BYTE_ORDER_MARK) if first else block)
        end = text.rfind(b"\n") + 1 or text.rfind(b"\r", 0, -1) + 1  # the CR at the very end may be half of a CRLF
        if end:
            yield text[:end]
        rest, first = text[end:], False
    if rest:
        yield rest + b"\n"
