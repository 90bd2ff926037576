"""Cast: every entry as a floating-point number of 16 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import lean
from ..kernels.half import from_float16, to_bfloat16, to_float16
from ..kernels.intrinsics import bits_of, fetch, float_of
from ..kernels.sizes import AHEAD, PIECE
from ..kernels.status import TRUNCATED
from .base import UNLIMITED, Compressor, compressors
from .codec import Codec, cut_by_fields

_FORMATS = ("float16", "bfloat16")


@compressors.register("cast")
class Cast(Compressor):
    """C(x)_j = the number of 16 bits nearest to x_j (to its float32; ties to even).

    Parameters
    ----------
    to : "float16" (IEEE half: 11 significant bits, up to 65504) or "bfloat16" (8 significant bits, the range of float32).

    bfloat16 is contractive for entries in float32's normal range, ‖C(x) − x‖² ≤ 2^−17‖x‖². float16 is not: below 2^−14 its spacing
    is fixed, numbers below 2^−25 vanish, and from 65520 on they arrive as infinity.

    >>> Cast(to="bfloat16").apply(np.array([1.0, 1.001, 1.01]))
    array([1.       , 1.       , 1.0078125])
    """

    codec_id = 51
    largest_dim = UNLIMITED
    carries_nan = True
    summary = "every entry as a float16 or bfloat16"
    formulas = "bfloat16: α = 1 − 2⁻¹⁷ in float32's normal range"
    paper = "Micikevicius et al. 2018, Mixed precision training; IEEE 754"
    deterministic = True
    homogeneous = False

    def __init__(self, to: str = "float16"):
        if to not in _FORMATS:
            raise ConfigError(f"cast: to={to!r} is unknown; known: {', '.join(_FORMATS)}")
        self.to = to
        self.contractive = to == "bfloat16"

    def alpha(self, d: int, n: int = 1) -> float:
        if not self.contractive:
            raise TheoryError(f"{self!r} has no α: numbers below 2^−25 vanish; cast:to=bfloat16 has one")
        return 1.0 - 2.0**-17

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, 2 * dim, _encode, _decode, (self.to == "float16",), fixed=True,
            cutting=cut_by_fields(unit=2, separable=True),
        )  # fmt: skip


@lean
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, half: bool,
) -> int:  # fmt: skip
    d = V.shape[1]
    for j in range(rows.shape[0]):
        x, halves = V[rows[j]], buf[pos : pos + 2 * d].view(np.uint16)
        for first in range(0, d, PIECE):
            fetch(x, first + AHEAD, first + AHEAD + PIECE)
            chunk, out = x[first : first + PIECE], halves[first : first + PIECE]
            for i in range(chunk.shape[0]):
                bits = bits_of(np.float32(chunk[i]))
                out[i] = to_float16(bits) if half else to_bfloat16(bits)
        pos += 2 * d
    tally[0] += 16 * d * rows.shape[0]
    tally[1] += 16 * d * rows.shape[0]
    return pos


@lean
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, half: bool,
) -> int:  # fmt: skip
    d = out.shape[1]
    for j in range(rows.shape[0]):
        if pos + 2 * d > end:
            return TRUNCATED
        target, halves, weight = out[rows[j]], buf[pos : pos + 2 * d].view(np.uint16), weights[j]
        for i in range(d):
            h = np.uint32(halves[i])
            target[i] += weight * float_of(from_float16(h) if half else np.uint32(h << np.uint32(16)))
        pos += 2 * d
    return pos
