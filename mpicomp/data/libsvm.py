"""Reader of LIBSVM's sparse text: one row a line, `label index:value index:value ...`, indices from 1 and increasing.

Comments (`#` to the end of the line), blank lines, LF and CRLF are accepted; `qid:` of ranking data is refused.
A compiled scanner reads the bytes. A decimal number of up to 15 digits is exact as integer times or over a power of ten
not above 10²² (Clinger 1990, "How to read floating point numbers accurately"); the rare others are left to Python's
`float`. So every value has the bits that `float(text)` has.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..kernels import njit

OPENERS: dict[str, Callable] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
SNIPPET = 40

OK, BAD_LABEL, NO_LABEL, BAD_INDEX, LOW_INDEX, BAD_ORDER, BAD_VALUE, TOO_WIDE = range(8)
WRONG = {
    BAD_LABEL: "the label {token} is not a finite number",
    NO_LABEL: "the line has no label, it starts with {token}",
    BAD_INDEX: "{token} is not of the form index:value with a whole index",
    LOW_INDEX: "the index of {token} is below 1; indices count from 1",
    BAD_ORDER: "the index of {token} is not above the one before it; indices must increase along a line",
    BAD_VALUE: "the value of {token} is not a finite number",
    TOO_WIDE: "the index of {token} is above the number of features, {features}",
}


class SparseRows(NamedTuple):
    """Rows of features in compressed sparse row form, and their labels.

    Row r has `values[indptr[r]:indptr[r+1]]` (float64) in the columns `indices[...]` (int32, from 0); `indptr` is
    int64, shape (N + 1,), `labels` float64, shape (N,), and `features` is d.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    features: int


def read_libsvm(path: str | Path, features: int | None = None) -> SparseRows:
    """Read a file, also compressed (.gz, .xz, .bz2).

    Parameters
    ----------
    features : number of columns; by default the largest index in the file.

    Raises
    ------
    DataError : the file is missing, damaged, empty or not LIBSVM text; the message names file, line and token.
    """
    return parse_libsvm(_read_bytes(Path(path)), str(path), features)


def parse_libsvm(text: bytes, source: str, features: int | None = None) -> SparseRows:
    """Read text that is already in memory; `source` is its name in messages."""
    if features is not None and not 1 <= features < 2**31:
        raise DataError(f"{source}: features must be a number from 1 to 2147483647, got {features}")
    data = np.frombuffer(text, np.uint8)
    most_rows, most_entries = int(np.count_nonzero(data == ord("\n"))) + 1, int(np.count_nonzero(data == ord(":")))
    indptr, labels = np.zeros(most_rows + 1, np.int64), np.empty(most_rows)
    indices, values = np.empty(most_entries, np.int32), np.empty(most_entries)
    inexact = np.empty((most_rows + most_entries, 4), np.int64)
    limit = 2**31 - 1 if features is None else features
    code, where, n_rows, n_inexact = _scan(data, limit, indptr, indices, values, labels, inexact)
    _convert_inexact(text, source, inexact[:n_inexact], values, labels, limit)
    if code != OK:
        raise _error(text, source, code, where, limit)
    if n_rows == 0:
        raise DataError(f"{source} is empty: it has no row of data")
    entries = int(indptr[n_rows])
    width = features or int(indices[:entries].max(initial=-1)) + 1
    if width == 0:
        raise DataError(f"{source} has labels but no features; is it LIBSVM text, 'label index:value index:value ...'?")
    return SparseRows(
        indptr[: n_rows + 1].copy(), indices[:entries].copy(), values[:entries].copy(), labels[:n_rows].copy(), width
    )


def _read_bytes(path: Path) -> bytes:
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _error(text: bytes, source: str, code: int, where: int, limit: int) -> DataError:
    """The error for the token that starts at byte `where`."""
    line = text.count(b"\n", 0, where) + 1
    if b"\0" in text[:4096]:
        return DataError(
            f"{source}, line {line}: this is binary data, not LIBSVM text 'label index:value index:value ...'"
        )
    token = (text[where : where + 4096].split(None, 1) or [b""])[0].decode("utf-8", "replace")
    if token.startswith("qid:"):
        return DataError(
            f"{source}, line {line}: {token!r}: ranking data (qid) is not supported; remove the qid column"
        )
    shown = repr(token if len(token) <= SNIPPET else token[:SNIPPET] + "…")
    return DataError(f"{source}, line {line}: {WRONG[code].format(token=shown, features=limit)}")


def _convert_inexact(
    text: bytes, source: str, spans: np.ndarray, values: np.ndarray, labels: np.ndarray, limit: int
) -> None:
    """Convert the numbers that the scanner left over; a row of `spans` is (token, start, stop, entry or -1 - row)."""
    for token, start, stop, slot in spans.tolist():
        number = np.nan
        with contextlib.suppress(ValueError):
            number = float(text[start:stop].replace(b"_", b"?"))
        if not np.isfinite(number):
            raise _error(text, source, BAD_LABEL if slot < 0 else BAD_VALUE, token, limit)
        if slot < 0:
            labels[-1 - slot] = number
        else:
            values[slot] = number


@njit
def _is_space(byte: int) -> bool:
    return byte == 32 or byte == 9 or byte == 13 or byte == 11 or byte == 12


@njit
def _number(data: np.ndarray, start: int, stop: int) -> tuple[float, bool]:
    """(number, whether it is exact) of the decimal text data[start:stop]."""
    pos = start
    negative = pos < stop and data[pos] == 45
    if pos < stop and (data[pos] == 45 or data[pos] == 43):
        pos += 1
    mantissa, digits, scale, seen_point = np.int64(0), 0, 0, False
    while pos < stop:
        byte = data[pos]
        if 48 <= byte <= 57:
            mantissa = mantissa * 10 + np.int64(byte - 48)
            digits += 1
            scale -= seen_point
        elif byte == 46 and not seen_point:
            seen_point = True
        else:
            return 0.0, False
        if digits > 15:
            return 0.0, False
        pos += 1
    power = 1.0
    for _ in range(-scale):
        power *= 10.0
    number = np.float64(mantissa) / power
    return (-number if negative else number), digits > 0


@njit
def _scan(
    data: np.ndarray, limit: int, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, labels: np.ndarray,
    inexact: np.ndarray,
) -> tuple[int, int, int, int]:  # fmt: skip
    """One pass over the bytes. Returns (code, where it went wrong, rows, numbers left in `inexact`)."""
    size = data.shape[0]
    pos = row = entry = left = 0
    while pos < size:
        at_label, previous = True, 0
        while pos < size and data[pos] != 10:
            if _is_space(data[pos]):
                pos += 1
                continue
            if data[pos] == 35:  # a comment
                while pos < size and data[pos] != 10:
                    pos += 1
                break
            start, colon = pos, -1
            while pos < size and data[pos] != 10 and data[pos] != 35 and not _is_space(data[pos]):
                if data[pos] == 58 and colon < 0:
                    colon = pos
                pos += 1
            if at_label:
                if colon >= 0:
                    return NO_LABEL, start, row, left
                labels[row], exact = _number(data, start, pos)
                if not exact:
                    inexact[left] = start, start, pos, -1 - row
                    left += 1
                at_label = False
                continue
            index, negative = 0, data[start] == 45
            if colon < 0 or colon == start + negative:
                return BAD_INDEX, start, row, left
            for k in range(start + negative, colon):
                if not 48 <= data[k] <= 57:
                    return BAD_INDEX, start, row, left
                index = min(index * 10 + (data[k] - 48), 2**40)
            if negative or index < 1:
                return LOW_INDEX, start, row, left
            if index <= previous:
                return BAD_ORDER, start, row, left
            if index > limit:
                return TOO_WIDE, start, row, left
            if pos == colon + 1:
                return BAD_VALUE, start, row, left
            values[entry], exact = _number(data, colon + 1, pos)
            if not exact:
                inexact[left] = start, colon + 1, pos, entry
                left += 1
            indices[entry] = index - 1
            previous = index
            entry += 1
        pos += 1
        if not at_label:
            row += 1
            indptr[row] = entry
    return OK, 0, row, left
