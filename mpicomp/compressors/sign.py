"""Scaled sign: one bit a coordinate, really packed, and one scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import lean
from ..kernels.bits import CHUNK, packed_nbytes, padding_is_zero, unpack_top
from ..kernels.levels import no_scale
from ..kernels.quantize import write_signs
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .agreement import Norm
from .base import UNLIMITED, Compressor, compressors
from .codec import Codec, cut_by_fields
from .identity import Identity

_ORDERS = {"l1": 1, "l2": 2, "unit": 0}


@compressors.register("sign")
class Sign(Compressor):
    """C(x) = (‖x‖₁/d) sign(x), with sign(0) = +1. A NaN anywhere makes the scale, and so every entry, NaN.

    Parameters
    ----------
    norm : "l1", the scale ‖x‖₁/d, which is the best one; or "l2", the scale ‖x‖₂/√d of 1-bit Adam (Tang et al. 2021), which
        keeps the norm but is not contractive: ‖C(x) − x‖² = 2‖x‖²(1 − ‖x‖₁/(√d ‖x‖₂)); or "unit", sign(x) alone, d bits and no
        scale (signSGD, Bernstein et al. 2018), where a NaN counts as +1.

    ‖C(x) − x‖² = (1 − ‖x‖₁²/(d‖x‖₂²))‖x‖² with the l1 scale, so that α = 1/d is the worst case, of a vector with one entry.

    >>> Sign().alpha(100)
    0.01
    """

    codec_id = 4
    largest_dim = UNLIMITED
    summary = "one bit a coordinate and a scale"
    formulas = "α = ‖x‖₁²/(d‖x‖₂²) ≥ 1/d"
    paper = "Karimireddy, Rebjock, Stich and Jaggi 2019, Error feedback fixes SignSGD"
    deterministic = True

    def __init__(self, norm: str = "l1"):
        if norm not in _ORDERS:
            raise ConfigError(f"sign: norm={norm!r} is unknown; known: {', '.join(_ORDERS)}")
        self.norm = norm
        self.contractive = norm == "l1"
        self.homogeneous = self.nonexpansive = self.carries_nan = norm != "unit"

    def alpha(self, d: int, n: int = 1) -> float:
        if not self.contractive:
            raise TheoryError(f"{self!r} is not contractive; sign:norm=l1 is, with α = 1/d")
        return 1 / d

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        head = _scale_nbytes(_ORDERS[self.norm], wire.itemsize)
        max_nbytes = head + packed_nbytes(dim, 1)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        order, given = _ORDERS[self.norm], np.empty(0)
        args = order, np.empty(PARTIAL_SUMS), np.empty(CHUNK, np.uint8), given
        cutting = cut_by_fields(head, width=1).encoded_on(8, Norm(order, dim) if order else None, 8 * head)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True,
            difference_kernel=_encode_difference, sum_kernel=_encode_sum, cutting=cutting, given=given,
        )  # fmt: skip


@lean
def _scale_nbytes(order: int, itemsize: int) -> int:
    return itemsize if order > 0 else 0


@lean
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, order: int, partial_sums: np.ndarray, negative: np.ndarray,
    given: np.ndarray,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        pos = _write(V[rows[j]], None, None, buf, pos, tally, wire, order, partial_sums, given, rows[j])
    return pos


@lean
def _encode_difference(
    V: np.ndarray, state: np.ndarray, work: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64,
    private: np.uint64, buf: np.ndarray, pos: int, tally: np.ndarray, wire: np.ndarray, order: int,
    partial_sums: np.ndarray, negative: np.ndarray, given: np.ndarray,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        pos = _write(V[rows[j]], state[rows[j]], None, buf, pos, tally, wire, order, partial_sums, given, rows[j])
    return pos


@lean
def _encode_sum(
    state: np.ndarray, V: np.ndarray, factor: float, rows: np.ndarray, clients: np.ndarray, shared: np.uint64,
    private: np.uint64, buf: np.ndarray, pos: int, tally: np.ndarray, wire: np.ndarray, order: int,
    partial_sums: np.ndarray, negative: np.ndarray, given: np.ndarray,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        pos = _write(
            state[rows[j]],
            V[rows[j]],
            state.dtype.type(factor),
            buf,
            pos,
            tally,
            wire,
            order,
            partial_sums,
            given,
            rows[j],
        )
    return pos


@lean
def _write(
    x: np.ndarray, other: np.ndarray | None, factor: float | None, buf: np.ndarray, pos: int, tally: np.ndarray,
    wire: np.ndarray, order: int, partial_sums: np.ndarray, given: np.ndarray, row: int,
) -> int:  # fmt: skip
    """The message of x, of x − other or of x + factor · other, which is left in x: see `write_signs`. Returns the position after it."""
    d, head = x.shape[0], _scale_nbytes(order, wire.itemsize)
    nbytes = head + packed_nbytes(d, 1)
    summed = 0 if given.shape[0] else order
    scale = write_signs(x, other, factor, summed, partial_sums, buf, pos + head) / d
    if order > 0:
        if order == 2:
            scale = np.sqrt(scale)
        if given.shape[0]:  # that of the whole vector, of which x is a slice
            scale = given[row]
        sent = wire.dtype.type(scale)
        buf[pos : pos + head].view(wire.dtype)[0] = sent if np.isfinite(sent) else wire.dtype.type(np.nan)
    tally[0] += 8 * nbytes
    tally[1] += 8 * head + d
    return pos + nbytes


@lean
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, order: int, partial_sums: np.ndarray, negative: np.ndarray,
    given: np.ndarray,
) -> int:  # fmt: skip
    d, head = out.shape[1], _scale_nbytes(order, wire.itemsize)
    for j in range(rows.shape[0]):
        bits = pos + head
        stop = bits + packed_nbytes(d, 1)
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * bits + d):
            return BAD_PADDING
        plus = weights[j]
        if order > 0:
            scale = buf[pos:bits].view(wire.dtype)[0]
            if no_scale(scale):
                return BAD_VALUE
            plus *= scale
        acc = out[rows[j]]
        for first in range(0, d, CHUNK):
            chunk = acc[first : first + CHUNK]
            unpack_top(buf, bits, first, chunk.shape[0], d, 1, negative)
            for i in range(chunk.shape[0]):
                chunk[i] += -plus if negative[i] else plus
        pos = stop
    return pos
