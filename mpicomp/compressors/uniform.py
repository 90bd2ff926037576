"""A uniform quantizer with entropy coding: its step is chosen for an error or for a number of bits, message by message."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError, unknown
from ..kernels import lean
from ..kernels.bits import CHUNK, packed_nbytes
from ..kernels.groups import class_limit, clear_counts, count_tokens, read_groups, scratch, write_groups
from ..kernels.random import client_key
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from ..kernels.steps import FINEST, ROUNDING, error_share, step_for_bits, step_for_error
from ..kernels.tokens import begin_rest, read_tokens, rest_is_read, write_tokens
from ..kernels.uniform import (
    GROUP,
    LANES,
    SHIFT_UNITS,
    SHIFTS,
    add_dithered,
    add_nearest,
    length_of,
    round_dithered,
    round_nearest,
    scales_of,
    step_below,
    write_dither,
)
from .base import Compressor, compressors
from .codec import Codec, Cutting
from .identity import Identity
from .uniform_cutting import cut_messages

_ROUNDINGS = ("dither", "nearest")
_ERRORS, _BITS = (2.0**-16, 16.0), (0.05, 16.0)
_GAUSSIAN = (
    math.pi * math.e / 6.0
)  # γ: a Gaussian variable has ½ log2(12γ · variance) bits more than one uniform on (−½, ½)
_REFINED = 6  # with bits=b no message has a smaller relative error than 2^-(b + 6), about
_BUDGET = 0.99  # of the bits that are asked for: so many are aimed at
_ATTEMPTS = 3  # at a message of so many bits


@compressors.register("uniform")
class Uniform(Compressor):
    """C(x)_j = Δ(q_j − u_j), q_j = ⌊x_j/Δ + u_j⌉ with shared dither u_j, or x_j rounded to the nearest of about kΔ; entropy coded.

    Parameters
    ----------
    error : ‖C(x) − x‖ relative to ‖x‖, 2⁻¹⁶ to 16 (below 1 with rounding=nearest); in the mean square with dither, for each vector without.
        0.2 where bits is not given either.
    bits : of a message, an entry, 0.05 to 16. The step is the one that needs so many, and never larger than the bounds below allow.
    rounding : "dither", unbiased, or "nearest", contractive.

    With dither the error is uniform on ±Δ/2 in each entry and independent of x: E‖C(x) − x‖² = dΔ²/12. So ω = error², reached by
    every vector. With nearest rounding 1 − α = error², which the encoder makes sure of. With bits=b, ω ≤ γ/(4^b − 4γ) and
    1 − α ≤ γ/(4^b − γ), γ = πe/6, which docs/derivations/uniform.md derives from the entropy of a vector of given norm.

    A vector that is not finite, or whose norm or step overflows, arrives as NaN.

    >>> Uniform(error=0.5).omega(100), Uniform(error=0.5, rounding="nearest").alpha(100)
    (0.25, 0.75)
    """

    codec_id = 53
    carries_nan = True
    homogeneous = True
    summary = (
        "uniform quantizer with shared dither or to the nearest, entropy coded, for a given error or number of bits"
    )
    formulas = "ω = error², α = 1 − error² (nearest); bits=b: ω = γ/(4^b − 4γ), α = 1 − γ/(4^b − γ), γ = πe/6 [derived]"
    paper = "Schuchman 1964, Dither signals and their effect on quantization noise; Ziv 1985, On universal quantization"

    def __init__(self, error: float | None = None, bits: float | None = None, rounding: str = "dither"):
        if error is not None and bits is not None:
            raise ConfigError("uniform takes either error or bits, for example uniform:error=0.2 or uniform:bits=2")
        if rounding not in _ROUNDINGS:
            raise unknown("rounding of compressor 'uniform':", rounding, _ROUNDINGS)
        for name, value, (least, most) in (("error", error, _ERRORS), ("bits", bits, _BITS)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and least <= value <= most):
                raise ConfigError(f"uniform: {name}={value} must be a number from {least:g} to {most:g}")
        if rounding == "nearest" and error is not None and error >= 1:
            raise ConfigError(
                f"uniform: error={error} must be below 1 with rounding=nearest; rounding=dither takes up to 16"
            )
        self.error, self.bits, self.rounding = error, bits, rounding
        self.unbiased = rounding == "dither"
        self.deterministic = not self.unbiased
        self.contractive = not self.unbiased and self._square < 1

    @property
    def _square(self) -> float:
        """A bound on E‖C(x) − x‖²/‖x‖², infinite where there is none."""
        if self.bits is None:
            return float(0.2 if self.error is None else self.error) ** 2
        power, taken = 4.0**self.bits, (4.0 if self.unbiased else 1.0) * _GAUSSIAN
        return _GAUSSIAN / (power - taken) if power > 1.05 * taken else math.inf

    def omega(self, d: int, n: int = 1) -> float:
        if not self.unbiased:
            return super().omega(d, n)
        if not math.isfinite(self._square):
            raise TheoryError(
                f"{self.spec} has no ω: so few bits an entry bound the error of no vector; use bits=1.5 or more, or error=2"
            )
        return self._square

    def alpha(self, d: int, n: int = 1) -> float:
        if self.unbiased or self.contractive:
            return super().alpha(d, n) if self.unbiased else 1.0 - self._square
        raise TheoryError(
            f"{self.spec} has no α: so few bits an entry bound the error of no vector; use bits=0.8 or more, or error=0.9"
        )

    def density(self, d: int, n: int = 1) -> float:
        bits = 0.5 * math.log2(2 * math.pi * math.e * (1 + 1 / self._square) / 12) if self.bits is None else self.bits
        return min(max(bits * d / 32.0, 1.0), float(d))

    def _spread(self) -> float:
        """A bound on the root mean square of x_j/Δ."""
        if self.bits is not None:
            return 2.0 ** (self.bits + _REFINED)
        return (math.sqrt(1 / 12) if self.unbiased else 1.0 - ROUNDING) / math.sqrt(self._square)

    def _max_nbytes(self, d: int, wire: np.dtype, whole: int | None = None) -> int:
        """Of a message of d entries; with `whole`, of the part for d entries of a message for so many."""
        groups = -(-d // GROUP)
        classes = int(class_limit(groups))
        labels = 1 + packed_nbytes(groups, (classes - 1).bit_length()) if classes > 1 else 0
        square = (1.04 * self._spread()) ** 2
        rest = (
            3 * square / 1024 if square <= 1024 else 0.5 * math.log2(square) - 2
        )  # the concave hull of ⌊log2 |q|⌋ − 2, |q| ≥ 32
        head = wire.itemsize + SHIFTS * (not self.unbiased) + 1 + 8
        return int(head + labels + 2 * classes + d + math.ceil((whole or d) * rest / 8))

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        max_nbytes = self._max_nbytes(dim, wire)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        if self.bits is None and math.sqrt(self._square / dim) < FINEST / (1.0 - ROUNDING):
            raise ConfigError(
                f"uniform: error={self.error} is too small for {dim} entries; take {FINEST * 2 * math.sqrt(dim):.2g}"
            )
        budget = math.inf if self.bits is None else self.bits * dim
        goal = self.unbiased, math.sqrt(self._square), 4.0 * float(np.finfo(wire).eps), budget, self._spread()
        largest = np.full(1, np.finfo(wire).max, wire)
        pieces = np.empty(GROUP, np.float32), np.empty(GROUP, np.int32), np.empty(dim, np.uint8)
        levels = np.empty(-(-dim // GROUP), np.uint8), np.empty(CHUNK, np.uint8), np.empty(8 * GROUP, np.uint8)
        sums = np.empty(PARTIAL_SUMS), np.empty((1 + 2 * SHIFTS, LANES)), np.empty(SHIFTS, np.int64)
        kept, shifts = scratch(dim), SHIFTS * (not self.unbiased)
        for_cutting = (
            np.empty(0, wire),
            shifts,
            *pieces[1:],
            (levels[0], levels[0].copy(), levels[1]),
            kept,
            scratch(dim),
        )
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (goal, largest, pieces, levels, sums, kept, 0),
            cutting=Cutting(cut_messages, for_cutting, partial(self._max_nbytes, wire=wire, whole=dim), GROUP, offset=True),
        )  # fmt: skip


def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, goal: tuple, largest: np.ndarray, pieces: tuple, levels: tuple,
    sums: tuple, kept: tuple, first: int,
) -> int:  # fmt: skip
    """The encode kernel. It calls kernels and is none, so that what knows the dtypes is compiled apart from what does not."""
    begin, (level, top, _), budget = pos, levels, goal[3]
    for row, client in zip(rows, clients, strict=True):
        x, aim, end = V[row], np.nan, pos
        for _ in range(1 if budget == math.inf else _ATTEMPTS):
            plan = _plan(x, private, client, goal, aim, wire, largest, pieces, levels, sums, kept)
            step, rounding, aim, slope, low, high = plan
            end = _write(x, private, client, step, rounding, goal[0], wire, pieces, level, sums[2], kept, buf, pos)
            if not step > 0:
                break
            end = write_groups(pieces[2], level, kept, top, buf, end)
            excess = 8.0 * (end - pos) - _BUDGET * budget
            if not abs(excess) > (1.0 - _BUDGET) * budget:
                break
            before, aim = aim, min(max(aim * 2.0 ** min(max(excess / slope, -3.0), 3.0), low), high)
            if aim == before:
                break
        pos = end
    tally += 8 * (pos - begin)
    return pos


@lean
def _plan(
    x: np.ndarray, private: np.uint64, client: int, goal: tuple, aim: float, wire: np.ndarray, largest: np.ndarray,
    pieces: tuple, levels: tuple, sums: tuple, kept: tuple,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """(step to be sent, rounding, step that was aimed at, bits that a doubling of it saves, its bounds), where `aim` is NaN at first.

    A step of zero stands for a vector of zeros, NaN for one that is not finite. Fills the shifts.
    """
    (dithered, relative, margin, budget, spread), (u, q, tokens) = goal, pieces
    (partial_sums, errors, shifts), small, d = sums, levels[2], x.shape[0]
    size, nothing = length_of(x, partial_sums), wire.dtype.type(0)
    unit, allowed = size * np.sqrt(12.0 / d), size * (relative - margin)
    low, high, slope = max(unit / np.sqrt(12.0) / spread, FINEST * size), relative * unit, np.float64(d)
    if not np.isfinite(size) or (wire.itemsize < x.itemsize and size > largest[0]):
        return nothing + wire.dtype.type(np.nan), ROUNDING, aim, slope, low, high
    if size == 0:
        return nothing, ROUNDING, aim, slope, low, high
    if budget == np.inf:
        if dithered:
            return step_below(high * (1.0 - 2.0**-20), wire), ROUNDING, aim, slope, low, high
        step, rounding = step_for_error(x, allowed, wire, errors, shifts)
        return step, rounding, aim, slope, low, high
    high = high if high < np.inf else 4.0 * size
    if np.isnan(aim):
        key, target = client_key(private, client), _BUDGET * budget
        aim, slope = step_for_bits(
            x, unit / 3.0, low, high, target, dithered, key, u, q, tokens, kept[1], kept[2], small, kept[8], wire
        )
    step, rounding = step_below(aim, wire), ROUNDING
    if not dithered and error_share(x, step, allowed, 1, rounding, errors, shifts) > 1.0:
        step, rounding = step_for_error(x, allowed, wire, errors, shifts)
    return step, rounding, aim, slope, low, high


@lean
def _write(
    x: np.ndarray, private: np.uint64, client: int, step: float, rounding: float, dithered: bool, wire: np.ndarray,
    pieces: tuple, level: np.ndarray, shifts: np.ndarray, kept: tuple, buf: np.ndarray, pos: int,
) -> int:  # fmt: skip
    """The message with this step up to where `write_groups` goes on; returns that position."""
    (u, q, tokens), counts, numbers, tail, d = pieces, kept[1], kept[2], kept[8], x.shape[0]
    buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = step
    pos += wire.itemsize
    if not step > 0:
        return pos
    for g in range(0 if dithered else SHIFTS):
        buf[pos] = np.uint8(shifts[g] & 255)
        pos += 1
    key, scales = client_key(private, client), scales_of(x, step)
    begin_rest(pos, tail)
    clear_counts(counts, numbers)
    for start in range(0, d, GROUP):
        part = x[start : min(start + GROUP, d)]
        if dithered:
            write_dither(key, start, u)
            round_dithered(part, scales, u, q)
        else:
            round_nearest(part, scales, rounding, q)
        g, count = start // GROUP, part.shape[0]
        level[g] = write_tokens(q, count, tokens, start, buf, tail)
        count_tokens(tokens[start : start + count], level[g], counts, numbers)
    return pos


def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, goal: tuple, largest: np.ndarray, pieces: tuple, levels: tuple,
    sums: tuple, kept: tuple, first: int,
) -> int:  # fmt: skip
    """The decode kernel; see `_encode`."""
    head, top = wire.itemsize, levels[1]
    level = levels[0][: -(-out.shape[1] // GROUP)]
    for row, client, weight in zip(rows, clients, weights, strict=True):
        if pos + head > end:
            return TRUNCATED
        step = buf[pos : pos + head].view(wire.dtype)[0]
        if step < 0 or np.isinf(step):
            return BAD_VALUE
        pos += head
        after = stop = pos
        if step > 0:
            pos += 0 if goal[0] else SHIFTS
            after, stop = read_groups(buf, pos, end, out.shape[1], level, kept, top)
            if after < 0:
                return after
        if step != 0:
            code = _add(
                buf, pos, stop, step, private, client, weight, goal[0], largest, pieces, level, kept, out[row], first
            )
            if code < 0:
                return code
        pos = after
    return pos


@lean
def _add(
    buf: np.ndarray, pos: int, stop: int, step: float, private: np.uint64, client: int, weight: float, dithered: bool,
    largest: np.ndarray, pieces: tuple, level: np.ndarray, kept: tuple, acc: np.ndarray, first: int,
) -> int:  # fmt: skip
    """acc += weight · (the vector whose tokens have been read); `pos` is behind the shifts. Returns 0, or a negative code."""
    (u, q, _), coded, starts, tail, d = pieces, kept[0], kept[4], kept[8], acc.shape[0]
    if np.isnan(step):
        for j in range(d):
            acc[j] += weight * step
        return 0
    key, one, more = client_key(private, client), 0.0, 0.0
    if not dithered:
        one, more = np.int8(buf[pos - 2]) / SHIFT_UNITS, np.int8(buf[pos - 1]) / SHIFT_UNITS
    for start in range(0, d, GROUP):
        part, c = acc[start : min(start + GROUP, d)], level[start // GROUP]
        code = read_tokens(coded[starts[c] : starts[c] + part.shape[0]], buf, stop, tail, q)
        if code < 0:
            return code
        starts[c] += part.shape[0]
        if dithered:
            write_dither(key, first + start, u)
            add_dithered(q, u, step, largest, weight, part)
        else:
            add_nearest(q, one, more, step, largest, weight, part)
    return 0 if rest_is_read(tail, stop) else BAD_PADDING
