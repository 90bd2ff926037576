"""Reader of LIBSVM's sparse text: one row a line, `label index:value index:value ...`, indices from 1 (or 0) and increasing.

Comments (`#` to the end of the line), blank lines, spaces after a colon, a byte order mark, and LF, CRLF and CR line ends are accepted.
`qid:NUMBER` after the label, which groups the rows of ranking data, is read over. Archives are recognised by their first bytes, whatever
the file's name.

The text is read block by block and parsed by a compiled scanner, so that the rows are all the memory: twelve bytes an entry. Values have
the bits that Python's `float` gives (`mpicomp.kernels.decimals`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..kernels import njit
from ..kernels.decimals import NOT_A_NUMBER, TOO_LARGE, UNDECIDED, Powers, decimal, powers
from .tables import SparseRows
from .text import BLOCK, blocks_of, lines_of

SNIPPET = 40
OK, BAD_LABEL, BAD_INDEX, LOW_INDEX, BAD_ORDER, BAD_VALUE, TOO_WIDE, LARGE_LABEL, LARGE_VALUE, ASK = range(10)
WRONG = {
    BAD_LABEL: "the label {token} is not a finite number",
    BAD_INDEX: "{token} is not of the form index:value with a whole index",
    LOW_INDEX: "the index of {token} is below {least}; indices count from {least}{remedy}",
    BAD_ORDER: "the index of {token} is not above the one before it; indices must increase along a line",
    BAD_VALUE: "the value of {token} is not a finite number",
    TOO_WIDE: "the index of {token} is above the number of features, {features}",
    LARGE_LABEL: "the label {token} overflows: float64 ends at 1.8e308",
    LARGE_VALUE: "the value of {token} overflows: float64 ends at 1.8e308",
}


def read_libsvm(path: str | Path, features: int | None = None, zero_based: bool = False) -> SparseRows:
    """Read a file, also one that is compressed by gzip, xz or bzip2.

    Parameters
    ----------
    features : number of columns; by default that of the largest index in the file. zero_based : indices count from 0, not from 1.

    Raises
    ------
    DataError : the file is missing, damaged, empty or not LIBSVM text; the message names file, line and token.
    """
    return Reader(blocks_of(Path(path)), str(path), features, zero_based).rows()


def parse_libsvm(text: bytes, source: str, features: int | None = None, zero_based: bool = False) -> SparseRows:
    """Read text that is already in memory; `source` is its name in messages."""
    return Reader((text[at : at + BLOCK] for at in range(0, len(text), BLOCK)), source, features, zero_based).rows()


class Reader:
    """Reads text block by block.

    Parameters
    ----------
    blocks : the text. source : its name in messages. features : number of columns; None for the largest index. zero_based : indices count
        from 0.
    """

    def __init__(self, blocks: Iterable[bytes], source: str, features: int | None, zero_based: bool = False):
        if features is not None and not 1 <= features < 2**31:
            raise DataError(f"{source}: features must be a number from 1 to 2147483647, got {features}")
        self._blocks, self._source, self._features, self._shift = blocks, source, features, int(zero_based)
        self._into = _Rows(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0), np.empty(0))
        self._state = np.zeros(len(_State._fields), np.int64)
        self._forgotten = 0  # rows

    def rows(self) -> SparseRows:
        """All rows."""
        for _ in self.pieces(None):
            pass
        found = self._at
        return SparseRows(*_sized(self._into, found.row, found.entry), self.width())

    def pieces(self, most: int | None) -> Iterator[SparseRows]:
        """Read to the end. Once there are more than `most` entries, what has been read is handed out and forgotten, time and again; each
        piece is good until the next one. Where there never are so many, `rows` has them."""
        limit = 2**31 - 1 if self._features is None else self._features
        for text in lines_of(self._blocks, self._source):
            self._into = _with_room(self._into, self._at, len(text))
            _scan_all(text, self._source, limit, self._shift, self._state, self._into)
            if most is not None and (self._forgotten or self._at.entry > most):
                yield self._piece()
                if not self._forgotten:
                    _sized(self._into, 0, 0)
                self._forgotten += self._at.row
                self._state[:_WIDEST] = 0

    @property
    def _at(self) -> _State:
        return _State(*self._state.tolist())

    def _piece(self) -> SparseRows:
        into, at = self._into, self._at
        return SparseRows(
            into.indptr[: at.row + 1],
            into.indices[: at.entry],
            into.values[: at.entry],
            into.labels[: at.row],
            at.widest,
        )

    def width(self) -> int:
        """The number of columns, once all is read."""
        found, source = self._at, self._source
        if found.row + self._forgotten == 0:
            raise DataError(f"{source} is empty: it has no row of data")
        width = self._features or found.widest
        if width == 0:
            raise DataError(
                f"{source} has labels but no features; is it LIBSVM text, 'label index:value index:value ...'?"
            )
        return width


class _Rows(NamedTuple):
    """Arrays that grow as rows are read; see SparseRows."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    labels: np.ndarray


class _State(NamedTuple):
    """Where the scanner is: the fields of an int64 array."""

    row: int  # rows that are complete
    entry: int  # entries so far
    widest: int  # the largest index so far; what stands before it begins anew after each piece
    pos: int  # in this piece of text
    labelled: int  # 1: the line has its label; 2: its qid, too
    previous: int  # the index before
    line: int  # line ends so far
    start: int  # of the token that is wrong, or of the number that is left to Python
    stop: int


_POS, _WIDEST = _State._fields.index("pos"), _State._fields.index("widest")


def _with_room(into: _Rows, at: _State, nbytes: int) -> _Rows:
    """Room for what so many bytes of text can hold; an entry takes four, a row two. It grows by an eighth."""
    rows, entries = at.row + nbytes // 2 + 1, at.entry + nbytes // 4 + 1
    n_rows, n_entries = len(into.labels), len(into.values)
    return _sized(
        into,
        rows + rows // 8 if rows > n_rows else n_rows,
        entries + entries // 8 if entries > n_entries else n_entries,
    )


def _sized(into: _Rows, rows: int, entries: int) -> _Rows:
    """The arrays with other lengths; where they are large, the system moves their pages without copying them."""
    for array, size in zip(into, (rows + 1, entries, entries, rows), strict=True):
        if len(array) != size:
            array.resize(size, refcheck=False)
    return into


def _scan_all(text: bytes, source: str, limit: int, shift: int, state: np.ndarray, into: _Rows) -> None:
    """Scan whole lines; a number that the scanner cannot round is Python's to convert."""
    data, state[_POS] = np.frombuffer(text, np.uint8), 0
    while (code := _scan(data, limit, shift, state, *into, powers())) != OK:
        at = _State(*state.tolist())
        if code != ASK:
            raise _error(text, source, code, at, limit, 1 - shift)
        number = float(text[at.start : at.stop])
        if at.previous == 0:
            into.labels[at.row] = number
        else:
            into.values[at.entry - 1] = number


def _error(text: bytes, source: str, code: int, state: _State, limit: int, least: int) -> DataError:
    """The error for the token that starts at byte `state.start`."""
    at = f"{source}, line {state.line + 1}"
    tokens = text[state.start : state.start + 4096].replace(b"\r", b"\n").split(b"\n")[0].split(b"#")[0].split(None, 2)
    token = tokens[0].decode("utf-8", "replace")
    if token.startswith("qid:"):
        return DataError(
            f"{at}: {token[:SNIPPET]!r}: a qid is a whole number, once, between the label and the first entry"
        )
    if code in (BAD_VALUE, LARGE_VALUE) and token.endswith(":") and len(tokens) > 1:
        token += f" {tokens[1].decode('utf-8', 'replace')}"
    shown = repr(token if len(token) <= SNIPPET else token[:SNIPPET] + "…")
    if code == BAD_LABEL and ":" in token:
        return DataError(f"{at}: the line has no label, it starts with {shown}")
    remedy = "; where they count from 0 give «problem_options={'zero_based': True}»" if token.startswith("0:") else ""
    return DataError(f"{at}: {WRONG[code].format(token=shown, features=limit, least=least, remedy=remedy)}")


@njit
def _ends_token(byte: int) -> bool:
    """A space, a line end or the beginning of a comment."""
    return byte == 32 or 9 <= byte <= 13 or byte == 35


@njit
def _after_qid(data: np.ndarray, pos: int) -> int:
    """Where `qid:NUMBER`, whose q is at data[pos], ends; 0 where it is something else."""
    for letter in (113, 105, 100, 58):
        if data[pos] != letter:
            return 0
        pos += 1
    first = pos
    while 48 <= data[pos] <= 57:
        pos += 1
    return pos if pos > first and _ends_token(data[pos]) else 0


@njit
def _scan(
    data: np.ndarray, limit: int, shift: int, state: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray,
    labels: np.ndarray, powers: Powers,
) -> int:  # fmt: skip
    """Go on through whole lines from where `state` (see `_State`) is, to their end or to what is wrong; returns the code. `shift` is added
    to indices, which then count from 1."""
    row, entry, widest, pos, labelled, previous, line = (
        state[0],
        state[1],
        state[2],
        state[3],
        state[4],
        state[5],
        state[6],
    )
    size, code, start = data.shape[0], OK, state[3]
    while pos < size:
        byte = data[pos]
        if byte == 10 or byte == 13:
            line += byte == 13 or pos == 0 or data[pos - 1] != 13  # CRLF is one line end
            if labelled:
                row += 1
                indptr[row] = entry
                labelled, previous = 0, 0
            pos += 1
            continue
        if byte == 32 or byte == 9 or byte == 11 or byte == 12:
            pos += 1
            continue
        if byte == 35:  # a comment
            while data[pos] != 10 and data[pos] != 13:
                pos += 1
            continue
        start, entering, index = pos, labelled, 0
        if entering:
            if byte == 113 and previous == 0 and entry == indptr[row] and labelled == 1:  # qid:
                after = _after_qid(data, pos)
                if after > 0:
                    labelled, pos = 2, after
                    continue
            negative = byte == 45
            pos += negative
            first = pos
            while 48 <= data[pos] <= 57:
                index = min(index * 10 + (data[pos] - 48), 1 << 40)
                pos += 1
            if pos == first or data[pos] != 58:
                code = BAD_INDEX
            elif negative or index + shift < 1:
                code = LOW_INDEX
            elif index + shift <= previous:
                code = BAD_ORDER
            elif index + shift > limit:
                code = TOO_WIDE
            index += shift
            if code != OK:
                break
            pos += 1
            while data[pos] == 32 or data[pos] == 9:
                pos += 1
        number = pos
        value, pos, status = decimal(data, pos, powers)
        if status == NOT_A_NUMBER or not _ends_token(data[pos]):
            code = BAD_VALUE if entering else BAD_LABEL
            break
        if status == TOO_LARGE:
            code = LARGE_VALUE if entering else LARGE_LABEL
            break
        if entering:
            values[entry], indices[entry] = value, index - 1
            entry += 1
            previous = index
            widest = max(widest, index)
        else:
            labels[row] = value
            labelled = 1
        if status == UNDECIDED:
            code, start = ASK, number
            break
    state[0], state[1], state[2], state[3], state[4], state[5] = row, entry, widest, pos, labelled, previous
    state[6], state[7], state[8] = line, start, pos
    return code
