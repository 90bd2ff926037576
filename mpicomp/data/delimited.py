"""Tables as text: CSV, TSV and their relatives, with or without a line of names."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError
from .tables import MISSING, SparseRows, check_names, coded, from_dense, label_column, listed
from .text import blocks_of


def read_delimited(
    blocks: Iterable[bytes], source: str, delimiter: str, label: str | int | None = None, path: Path | None = None
) -> SparseRows:
    """The rows of a table; numbers have the bits that Python's `float` gives.

    The first line holds names where none of its cells is a number, or one that is none stands above a number. Lines that are empty or begin
    with # are passed over. A column of labels may be text.

    Parameters
    ----------
    blocks : the text. source : its name in messages. delimiter : between cells. label : see `label_column`.
    path : where the text can be read a second time, to say in which line something is wrong.

    Raises
    ------
    DataError : a cell that is empty or no number, a line with more or fewer cells, no such label; names line and column.
    """
    lines = _text_lines(blocks, source)
    head = list(itertools.islice(lines, 2))
    if not head:
        raise DataError(f"{source} is empty: it has no row of data")
    names = _header([_cells(line, delimiter) for line in head])
    count = len(_cells(head[0], delimiter))
    if names:
        if not names[0] and count > 1:
            raise DataError(
                f"{source}: the first column has no name, as where pandas writes the index; write it by to_csv(..., index=False), or name "
                "the column"
            )
        check_names(names, source)
        head = head[1:]
        if not head:
            raise DataError(f"{source} is empty: it has names of columns, {listed(names)}, and no row of data")
    at = label_column(names, count, label, source)
    codes: dict[str, int] = {}
    try:
        table = np.loadtxt(
            itertools.chain(head, lines),
            delimiter=delimiter,
            comments=None,
            quotechar='"',
            converters={at: lambda cell: codes.setdefault(cell.strip(), len(codes))},
            encoding=None,
            ndmin=2,
        )
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise _located(path, delimiter, at, names, count, source, bool(names)) or DataError(
            f"{source}: {error}"
        ) from None
    if table.shape[1] != count or not np.isfinite(table).all():
        raise _located(path, delimiter, at, names, count, source, bool(names)) or DataError(
            f"{source}: a cell is not a finite number, or a row has not {count} cells"
        )
    column = repr(names[at]) if names else f"{at}"
    order = table[:, at].astype(np.int64)
    missing = next((code for text, code in codes.items() if text.lower() in MISSING), None)
    if missing is not None:
        raise _located(path, delimiter, at, names, count, source, bool(names)) or DataError(
            f"{source}: a label in column {column} is missing"
        )
    values, classes = coded(np.array(list(codes)), f"column {column}", lambda r: source)
    columns = tuple(name for c, name in enumerate(names) if c != at)
    features = np.delete(table, at, axis=1)
    return from_dense(features, values[order], lambda r, c: f"{source}, row {r + 1}", classes, columns)


def _text_lines(blocks: Iterable[bytes], source: str) -> Iterator[str]:
    """The lines that hold cells."""
    text = io.TextIOWrapper(io.BufferedReader(_Stream(blocks)), encoding="utf-8-sig", newline=None)
    try:
        for line in text:
            if not line.isspace() and not line.startswith("#"):
                yield line
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8 text ({error.reason}: {error.object[error.start : error.start + 1]!r}); convert it, for example by "
            "iconv -f latin1 -t utf-8"
        ) from None


class _Stream(io.RawIOBase):
    """Pieces of text as a file."""

    def __init__(self, blocks: Iterable[bytes]):
        self._blocks, self._rest = iter(blocks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _header(head: list[list[str]]) -> list[str]:
    """The names in the first line; none where it is a row already."""
    first = head[0]
    named = [bool(cell) and not _is_number(cell) and cell.lower() not in MISSING for cell in first]
    if not any(_is_number(cell) for cell in first):
        return first if any(named) else []
    below = head[1] if len(head) > 1 else []
    return first if any(name and _is_number(cell) for name, cell in zip(named, below, strict=False)) else []


def _located(
    path: Path | None, delimiter: str, label: int, names: list[str], count: int, source: str, header: bool
) -> DataError | None:
    """The error for the first line that is wrong, from reading the text again; None where it cannot be, or nothing is."""
    if path is None or not path.is_file():
        return None
    text = io.TextIOWrapper(io.BufferedReader(_Stream(blocks_of(path))), encoding="utf-8-sig", newline=None)
    shown = 0
    for number, line in enumerate(text, 1):
        if line.isspace() or line.startswith("#"):
            continue
        shown += 1
        if header and shown == 1:
            continue
        cells, where = _cells(line, delimiter), f"{source}, line {number}"
        if len(cells) != count:
            return DataError(f"{where}: the line has {len(cells)} cells, the first one has {count}")
        for c, cell in enumerate(cells):
            column = f"column {names[c]!r}" if names else f"column {c} (from 0)"
            if cell.lower() in MISSING:
                what = "label" if c == label else "value"
                return DataError(
                    f"{where}, {column}: the {what} is missing ({cell!r}); fill it in, or leave the row out"
                )
            if c != label and not _is_number(cell):
                hint = "code text as numbers, for example one column for each value, or leave the column out"
                if delimiter != "," and _is_number(cell.replace(",", ".", 1)):
                    hint = "write decimal points in place of commas"
                return DataError(f"{where}, {column}: {cell[:40]!r} is not a number; {hint}")
            if c != label and not np.isfinite(float(cell)):
                return DataError(f"{where}, {column}: {cell[:40]!r} is not a finite number")
    return None
