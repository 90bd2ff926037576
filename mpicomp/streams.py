"""stdout and stderr of the command line: what becomes of the output never decides about the work.

Text is written in any encoding: characters that it lacks are spelt (`||grad f||^2`) or escaped. Where a stream cannot be written, because
it is closed, full, or a pipe that nobody reads, what is printed there is dropped from then on, and stderr says so once.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import sys
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

STDOUT, STDERR = 1, 2
_SPELT = {
    "‖": "||", "∇": "grad ", "∞": "inf", "Σ": "sum ", "√": "sqrt ", "∈": " in ", "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "±":
    "+-", "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "...", "’": "'", "“": '"', "”": '"', "²": "^2", "⁰": "^0", "ᵀ":
    "^T", "½": "1/2", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps", "η": "eta", "θ": "theta", "λ": "lambda",
    "μ": "u", "µ": "u", "ρ": "rho", "σ": "sigma", "τ": "tau", "χ": "chi", "ν": "nu", "π": "pi", "φ": "phi", "κ": "kappa", "ξ":
    "xi", "ζ": "zeta", "Λ": "Lambda", "Φ": "Phi", "ℓ": "l", "ω": "omega", "Δ": "Delta",
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[-+]?(\d[\d.,]*(e[-+]?\d+)?|\.\d+|inf|nan)( ?[\w%/]+)?", re.IGNORECASE)
_noticed: set[str] = set()
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """The error handler `mpicomp.spelt` of encodings."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _SPELT.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("mpicomp.spelt", _spell)


class _Output(io.FileIO):
    """A file descriptor that can always be written to."""

    def __init__(self, number: int):
        super().__init__(number, "w", closefd=False)
        self.number, self.lost = number, False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        if self.number in _missing and not self.lost and len(data):
            self._lose("closed")
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                self._lose("a pipe that nobody reads" if error.errno == errno.EPIPE else error.strerror or str(error))
                return len(data)
            if written is not None:
                return written
            select.select([], [self.number], [])  # it does not wait by itself, and its buffer is full

    def _lose(self, why: str) -> None:
        """From now on the descriptor is the null device's; so what C code and child processes print is dropped, too."""
        self.lost = True
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.number)
            os.close(null)
        if self.number == STDOUT and _speaks:
            with suppress(OSError):
                os.write(
                    STDERR, f"mpicomp: stdout cannot be written ({why}); what is printed there is dropped\n".encode()
                )


_speaks = True
_missing: set[int] = set()  # those of 0, 1 and 2 that were closed when the process started


def harden(speaks: bool = True) -> None:
    """Make the process's stdout and stderr such streams, for good. Streams that a program has put in their place are left alone.

    Parameters
    ----------
    speaks : say so where stdout is lost.
    """
    global _speaks
    _speaks = speaks
    _open_missing()
    for number, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        stream = getattr(sys, name)
        if stream is None or (isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__")):
            setattr(sys, name, _hardened(stream, number))


def _open_missing() -> None:
    """Put the null device where stdin, stdout or stderr is closed: else the next file to be opened, or a connection of MPI, would get
    what is printed."""
    for number in (0, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            _missing.add(number)
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)


def _hardened(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None:
        with suppress(OSError):
            stream.flush()
    encoding = stream.encoding if stream is not None else "utf-8"
    at_once = isinstance(stream, io.TextIOWrapper) and (stream.line_buffering or stream.write_through)
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number)),
        encoding,
        "mpicomp.spelt",
        line_buffering=at_once or number == STDERR,
    )


def shown(text: str) -> str:
    """Text of somebody else's for a screen: what would move the cursor, colour or clear it is written as an escape.

    >>> shown("a\\x1b[2J.svm")
    'a\\\\x1b[2J.svm'
    """
    return "".join(c if c == "\n" or not _steers(c) else repr(c)[1:-1] for c in text)


def _steers(character: str) -> bool:
    """It is a control character, one that ends a line, or one that turns the direction of writing."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in _TURNING


def spelt(text: str) -> str:
    """The text as stdout will show it, so that the columns of a table can be measured."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "mpicomp.spelt").decode(encoding, "replace")


def csv_cell(value: object) -> object:
    """A cell of a table for spreadsheets, which take a text that begins with =, +, - or @ for a formula: such a text gets an apostrophe.
    Numbers, also with a unit, stay what they are.

    >>> csv_cell("=1+1"), csv_cell("-1.5"), csv_cell(-1.5)
    ("'=1+1", '-1.5', -1.5)
    """
    if not isinstance(value, str) or not value.lstrip().startswith(_FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def notice(kind: str, text: str) -> None:
    """Say on stderr what a person who waits should know: once for each kind in a process, by the one that speaks for the job.

    MPICOMP_QUIET, set to anything, keeps it to itself.
    """
    if _speaks and kind not in _noticed and not os.environ.get("MPICOMP_QUIET"):
        _noticed.add(kind)
        if sys.stderr is not None:
            print(f"mpicomp: {text}", file=sys.stderr, flush=True)


def be_silent() -> None:
    """Another process of the job speaks for this one."""
    global _speaks
    _speaks = False


def live(stream: TextIO | None) -> bool:
    """The stream is a terminal on which a line can be written over, and text may be coloured.

    Open MPI gives ranks terminals of their own, whatever the job's output is; TERM=dumb and NO_COLOR ask for plain text.
    """
    plain = os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR") or "OMPI_COMM_WORLD_RANK" in os.environ
    with suppress(ValueError):  # it is closed
        return stream is not None and stream.isatty() and not plain
    return False


def rich_console(stream: TextIO | None) -> Console:
    """rich's console, which colours and draws over only where the stream is `live`."""
    from rich.console import Console

    plain = not live(stream)
    return Console(file=stream, highlight=False, force_terminal=not plain, no_color=plain)


def lost_output() -> bool:
    """Something that was to be printed on stdout has been dropped."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Output) and raw.lost


def pass_on(source: int, number: int) -> None:
    """Copy what comes from a descriptor to stdout (1) or stderr (2), until its end. What cannot be written there is read all the same."""
    output = _Output(number)
    while data := os.read(source, 65536):
        while data:
            data = data[output.write(data) :]
    os.close(source)
