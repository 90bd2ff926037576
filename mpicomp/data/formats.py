"""Which format a data file has: by its first bytes, whatever its name, and with the name of those that are not read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ..errors import DataError
from .text import BYTE_ORDER_MARK, blocks_of

LIBSVM = "libsvm"
NPZ, NPY, PARQUET, ARROW, HDF5 = BINARY = ("npz", "npy", "parquet", "arrow", "hdf5")
_SIGNATURES = {b"\x93NUMPY": NPY, b"PAR1": PARQUET, b"ARROW1": ARROW, b"\x89HDF\r\n\x1a\n": HDF5}
_FOREIGN = {
    b"MATLAB 5.0": "a MATLAB file; save it in MATLAB by -v7.3 (HDF5), or from scipy.io.loadmat by numpy.savez",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"Obj\x01": "an Avro file; convert it to Parquet",
    b"ORC": "an ORC file; convert it to Parquet",
    b"%%MatrixMarket": "a Matrix Market file; convert it by numpy.savez (scipy.io.mmread), with its labels",
    b"<": "HTML or XML, perhaps the page that leads to the file",
    b"{": "JSON; convert it to CSV",
    b"[": "JSON; convert it to CSV",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; fetch it by git lfs pull",
}
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ARFF = re.compile(rb"\s*(%[^\n]*\n\s*)*@relation", re.IGNORECASE)
_ENTRY = re.compile(rb"\d+:\s*[-+.0-9]\S*")  # of LIBSVM text
_NUMBERS = re.compile(rb"[-+.0-9eE]+([ \t]+[-+.0-9eE]+)+")
_LINES = 50  # that are looked at
DELIMITERS = (b"\t", b";", b",", b"|")


def binary_format(path: Path) -> str | None:
    """One of BINARY, or None for what may be text; only regular files are looked into, a pipe can be read once.

    Raises
    ------
    DataError : another format that is known, and not read.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    found = next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), None)
    if start.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return NPZ
        if "xl/workbook.xml" in names:
            raise DataError(f"{path} is an Excel workbook, which is not read; save the sheet as CSV")
    if _PICKLE.match(start):
        raise DataError(f"{path} is a pickle, which is not read, since it can run any code; save arrays by numpy.savez")
    return found


def text_format(path: Path) -> tuple[str, Iterator[bytes]]:
    """(LIBSVM, or the character between a table's cells; the text in pieces, decompressed).

    Raises
    ------
    DataError : as `blocks_of`, or another format that is known, and not read.
    """
    blocks = blocks_of(path)
    first = next(blocks, b"")
    return _kind(first, str(path)), chain([first] if first else [], blocks)


def _kind(block: bytes, source: str) -> str:
    start = block.removeprefix(BYTE_ORDER_MARK).lstrip()
    for signature, what in _FOREIGN.items():
        if start.startswith(signature):
            raise DataError(f"{source} looks like {what}")
    if _ARFF.match(start[:4096]):
        raise DataError(f"{source} looks like ARFF, Weka's format; save it as CSV")
    lines = _lines(start)
    if not lines or b"\0" in start[:4096] or any(_is_libsvm(line) for line in lines):
        return LIBSVM
    for delimiter in DELIMITERS:
        if delimiter in lines[0]:
            return delimiter.decode()
    if sum(_NUMBERS.fullmatch(line) is not None for line in lines) > len(lines) // 2:
        raise DataError(
            f"{source} looks like a table whose cells stand between spaces; put tabs or commas there (numpy.savetxt(..., delimiter=','))"
        )
    return LIBSVM


def _lines(text: bytes) -> list[bytes]:
    """The first lines that are neither empty nor comments."""
    lines = (line.strip(b" \r\n\v\f") for line in re.split(rb"\r\n|\r|\n", text[: 1 << 16]))
    return [line for line in lines if line and not line.startswith(b"#")][:_LINES]


def _is_libsvm(line: bytes) -> bool:
    words = line.split(b"#")[0].split()
    return any(_ENTRY.fullmatch(word) or word.startswith(b"qid:") for word in words)
