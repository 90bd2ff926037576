"""Curves as text: Braille patterns, eight dots a character, or ASCII where the screen's encoding has none."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from .curves import Curve

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of a character
_COLOURS = ("34", "31", "32", "35", "33", "36")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARGIN = 10  # characters for the numbers on the left


@dataclass(frozen=True)
class Look:
    """Braille patterns, or letters alone; and colours, or none."""

    braille: bool = True
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Look:
        """What a stream can show: Braille where its encoding has it, colours on a terminal unless NO_COLOR or TERM=dumb says no."""
        try:
            "⣿".encode(getattr(stream, "encoding", None) or "ascii")
            braille = True
        except (UnicodeEncodeError, LookupError):
            braille = False
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(braille, stream.isatty() and not plain)


def draw_text(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    size: tuple[int, int],
    logarithmic: tuple[bool, bool],
    look: Look,
) -> str:
    """The curves with axes and a legend, no line longer than the width.

    Each curve has a letter, which stands on it in a few places.

    Parameters
    ----------
    size : width and height in characters. logarithmic : x and y axis.
    """
    columns, rows = max(size[0] - _MARGIN - 1, 10), max(size[1], 4)
    scaled = [(_scaled(c.x, logarithmic[0]), _scaled(c.y, logarithmic[1])) for c in curves]
    x_range, y_range = (_range([part[k] for part in scaled]) for k in (0, 1))
    canvas = _Canvas(columns, rows, look)
    for k, (x, y) in enumerate(scaled):
        canvas.line(k, _at(x, x_range, 2 * columns), _at(y, y_range, 4 * rows))
    for k, (x, y) in enumerate(scaled):
        canvas.letters(k, _at(x, x_range, 2 * columns), _at(y, y_range, 4 * rows))
    ticks = {0: y_range[1], rows // 2: sum(y_range) / 2, rows - 1: y_range[0]}
    body = [
        f"{_number(ticks[r], logarithmic[1]) if r in ticks else '':>{_MARGIN}}{'┤' if look.braille else '|'}{line}".rstrip()
        for r, line in enumerate(canvas.lines())
    ]
    corner, dash = ("└", "─") if look.braille else ("+", "-")
    left, right = (_number(v, logarithmic[0]) for v in x_range)
    middle = x_label.center(columns - len(left) - len(right))[: max(columns - len(left) - len(right), 0)]
    legend = [f"{' ' * _MARGIN} {canvas.painted(k, _letter(k))}  {c.label}" for k, c in enumerate(curves)]
    axis = [f"{' ' * _MARGIN}{corner}{dash * columns}", f"{' ' * (_MARGIN + 1)}{left}{middle}{right}".rstrip()]
    return "\n".join([f"{' ' * (_MARGIN + 1)}{y_label}", *body, *axis, *legend])


class _Canvas:
    """Dots, two by four for each character, and letters on top."""

    def __init__(self, columns: int, rows: int, look: Look):
        self.columns, self.rows, self.look = columns, rows, look
        self._dots = np.zeros((rows, columns), np.int64)
        self._owner = np.full((rows, columns), -1)
        self._letters: dict[tuple[int, int], int] = {}

    def line(self, k: int, x: np.ndarray, y: np.ndarray) -> None:
        """Join points by dots; x to the right, y upwards, both in dots."""
        for a, b, c, d in zip(x, y, np.append(x[1:], x[-1]), np.append(y[1:], y[-1]), strict=True):
            steps = int(max(abs(c - a), abs(d - b), 1))
            for s in range(steps + 1):
                self._dot(k, round(a + (c - a) * s / steps), round(b + (d - b) * s / steps))

    def _dot(self, k: int, x: int, y: int) -> None:
        row, column = (4 * self.rows - 1 - y) // 4, x // 2
        self._dots[row, column] |= _DOTS[(4 * self.rows - 1 - y) % 4][x % 2]
        self._owner[row, column] = k

    def letters(self, k: int, x: np.ndarray, y: np.ndarray) -> None:
        """Put the curve's letter at its end and at some points before, where no other letter is."""
        wanted = np.linspace(len(x) - 1, 0, 8 if self.look.braille else 4 * self.columns)
        places = list(dict.fromkeys(int(i) for i in np.round(wanted[: 5 if self.look.braille else None])))
        for i in places:
            at = (int(4 * self.rows - 1 - y[i]) // 4, int(x[i]) // 2)
            self._letters.setdefault(at, k)

    def painted(self, k: int, text: str) -> str:
        """The text in the curve's colour."""
        return f"\x1b[{_COLOURS[k % len(_COLOURS)]}m{text}\x1b[0m" if self.look.colour and k >= 0 else text

    def lines(self) -> list[str]:
        """The rows as text, from the top."""
        return ["".join(self._character(r, c) for c in range(self.columns)) for r in range(self.rows)]

    def _character(self, row: int, column: int) -> str:
        if (row, column) in self._letters:
            k = self._letters[row, column]
            return self.painted(k, _letter(k))
        if not self._dots[row, column]:
            return " "
        owner = int(self._owner[row, column])
        return self.painted(owner, chr(0x2800 + int(self._dots[row, column])) if self.look.braille else _letter(owner))


def _letter(k: int) -> str:
    return _LETTERS[k % len(_LETTERS)]


def _scaled(values: np.ndarray, logarithmic: bool) -> np.ndarray:
    return np.log10(values) if logarithmic else np.asarray(values, np.float64)


def _range(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    everything = np.concatenate(parts)
    low, high = float(everything.min()), float(everything.max())
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def _at(values: np.ndarray, limits: tuple[float, float], dots: int) -> np.ndarray:
    """Places in dots, 0 to dots − 1."""
    low, high = limits
    return np.clip(np.round((values - low) / (high - low) * (dots - 1)), 0, dots - 1)


def _number(value: float, logarithmic: bool) -> str:
    """A tick's number.

    >>> _number(-3.0, True), _number(12345678.0, False)
    ('0.001', '1.23e+07')
    """
    shown = 10**value if logarithmic and value < 300 else value
    return "0" if math.isclose(shown, 0.0, abs_tol=1e-300) else f"{shown:.3g}"
