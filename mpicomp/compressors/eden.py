"""DRIVE and EDEN: a random rotation makes the entries nearly Gaussian, a few bits each and one scale say the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import njit
from ..kernels.bits import CHUNK, pack_all, packed_nbytes, padding_is_zero, unpack_all
from ..kernels.hadamard import first_window, turn, turn_back
from ..kernels.levels import no_scale
from ..kernels.random import client_key
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .base import Compressor, compressors
from .codec import TWO_WINDOWS, Codec
from .identity import Identity

# The positive centroids of the Lloyd–Max quantizers of N(0, 1).
CENTROIDS = {
    1: (0.7978845608028654,),
    2: (0.4527800346364918, 1.5104176084990946),
    3: (0.24509417894422228, 0.7560052812058782, 1.3439092785050015, 2.1519457045369865),
    4: (
        0.12839502985114726, 0.3880482994902921, 0.6567591185324658, 0.9423404564869643,
        1.2562311973471816, 1.618046386021884, 2.069017226531389, 2.732589570995166,
    ),
}  # fmt: skip
ALPHA = {1: 0.5, 2: 0.69, 3: 0.90, 4: 0.97}  # proved in docs/methods/eden.md
_ROTATIONS = ("private", "shared")
_SCALES = ("unbiased", "mse")
_LEAST = 4096  # entries of the second window, where the first has as many: its rotation is to be as good as one of a long vector


@compressors.register("eden")
class EDEN(Compressor):
    """C(x) = S Rᵀ Q(Rx √d/‖x‖): R = HD/√d rotates x at random, d = 2^k; Q is the nearest of 2^bits centroids.

    Where d is not a power of two, the first N entries are rotated and then the last M: N is the largest power of two below d, M the
    smallest that is at least d − N and min{N, 4096}. The d − M entries of the first window alone have a scale, and the last M another.

    Parameters
    ----------
    bits : 1 to 4, for each of the d entries.
    rotation : "private", each client draws its own D, or "shared", all clients of a round have the same.
    scale : "unbiased", S with ⟨C(x), x⟩ = ‖x‖²; or "mse", S that is nearest to x.

    What is exact and what is not: ⟨C(x), x⟩ = ‖x‖² holds for every draw (to rounding), and with uniformly random rotations C would be
    unbiased (Vargaftik et al. 2021, 2022). The Hadamard rotation makes that so only approximately: the bias is orthogonal to x and
    fades as d grows. Hence `unbiased` is False here. ‖C(x) − x‖² is about 0.571, 0.133, 0.036, 0.0096 times ‖x‖² for 1 to 4 bits
    and large d; no bound holds for all x. With scale=mse C is contractive, E‖C(x) − x‖² ≤ (1−α)‖x‖² with
    α = 1/2, 0.69, 0.90, 0.97 for every x and d, because the entries of Rx are Rademacher sums (docs/methods/eden.md).

    A vector that is not finite, or whose squared norm overflows, arrives as NaN.

    >>> EDEN(bits=2, scale="mse").alpha(1000)
    0.69
    """

    codec_id = 49
    carries_nan = True
    homogeneous = True
    summary = "random Hadamard rotation, then 1 to 4 bits an entry and a scale"
    formulas = (
        "‖C(x) − x‖² ≈ 0.571, 0.133, 0.036, 0.0096 ‖x‖² (bits = 1 … 4, large d); scale=mse: α = 1/2, 0.69, 0.90, 0.97"
    )
    paper = "Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak and Mitzenmacher 2022, EDEN"

    def __init__(self, bits: int = 1, rotation: str = "private", scale: str = "unbiased"):
        if bits not in CENTROIDS:
            raise ConfigError(f"{self.name}: bits={bits} must be an integer from 1 to 4")
        if rotation not in _ROTATIONS:
            raise ConfigError(f"{self.name}: rotation={rotation!r} is unknown; known: {', '.join(_ROTATIONS)}")
        if scale not in _SCALES:
            raise ConfigError(f"{self.name}: scale={scale!r} is unknown; known: {', '.join(_SCALES)}")
        self.bits, self.rotation, self.scale = bits, rotation, scale
        self.shared_randomness = rotation == "shared"
        self.contractive = self.nonexpansive = scale == "mse"

    @property
    def same_for_all(self) -> bool:
        return self.shared_randomness

    def omega(self, d: int, n: int = 1) -> float:
        raise TheoryError(
            f"{self!r} has no ω: the Hadamard rotation leaves it slightly biased, and its error has no bound that holds for all vectors; "
            f"{self.name}:scale=mse with a method for contractive compressors, such as ef21, has a theory"
        )

    def alpha(self, d: int, n: int = 1) -> float:
        if self.scale != "mse":
            raise TheoryError(
                f"{self!r} has no α that holds for all vectors; {self.name}:scale=mse has α = {ALPHA[self.bits]}"
            )
        return ALPHA[self.bits]

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire, first = self.wire_of(dim, wire_dtype), first_window(dim)
        last = min(first, max(1 << (dim - first - 1).bit_length(), _LEAST)) if dim > first else 0
        max_nbytes = (1 + (last > 0)) * wire.itemsize + packed_nbytes(dim, self.bits)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        positive = np.array(CENTROIDS[self.bits])
        centroids = np.concatenate([-positive[::-1], positive])
        bounds = (centroids[1:] + centroids[:-1]) / 2
        scratch = np.empty(dim), np.empty(dim, np.uint8), np.empty(CHUNK, np.uint8)
        args = self.bits, self.shared_randomness, self.scale == "mse", last, centroids, bounds, *scratch
        codec_id = self.codec_id | (TWO_WINDOWS if last else 0)
        return Codec(self, codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True)


@compressors.register("drive")
class DRIVE(EDEN):
    """EDEN with one bit: C(x) = S Rᵀ sign(Rx), S = ‖x‖²/‖Rx‖₁ (scale=unbiased) or ‖Rx‖₁/d (scale=mse).

    Parameters
    ----------
    rotation, scale : as for EDEN.

    >>> DRIVE(scale="mse").alpha(1000)
    0.5
    """

    codec_id = 50
    homogeneous = True
    summary = "random Hadamard rotation, then signs and a scale"
    formulas = "‖C(x) − x‖² ≈ 0.571 ‖x‖² (large d); scale=mse: α = 1/2"
    paper = "Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak and Mitzenmacher 2021, DRIVE"

    def __init__(self, rotation: str = "private", scale: str = "unbiased"):
        super().__init__(1, rotation, scale)


@njit
def quantize(
    work: np.ndarray, norm: float, nearest: bool, centroids: np.ndarray, bounds: np.ndarray, codes: np.ndarray,
) -> float:  # fmt: skip
    """Fill `codes` with the centroids nearest to the rotated vector's entries times √d/norm; returns the scale."""
    n = work.shape[0]
    factor = np.sqrt(np.float64(n)) / norm
    dot, square = 0.0, 0.0
    for k in range(n):
        z, code = work[k] * factor, 0
        for b in range(bounds.shape[0]):
            code += z >= bounds[b]
        codes[k] = code
        dot += work[k] * centroids[code]
        square += centroids[code] * centroids[code]
    return dot / square if nearest else norm * norm / dot


@njit
def _add_squares(x: np.ndarray, total: float) -> float:
    for value in x:
        total += np.float64(value) * np.float64(value)
    return total


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, bits: int, same: bool, nearest: bool, last: int,
    centroids: np.ndarray, bounds: np.ndarray, work: np.ndarray, codes: np.ndarray, top: np.ndarray,
) -> int:  # fmt: skip
    d, scales_nbytes = V.shape[1], wire.itemsize * (1 + (last > 0))
    first, split = first_window(d), d - last
    nbytes = scales_nbytes + packed_nbytes(d, bits)
    for j in range(rows.shape[0]):
        x = V[rows[j]]
        head = _add_squares(x[:first], 0.0)
        square = _add_squares(x[first:], head)
        work[:] = x
        codes[:] = bounds.shape[0] // 2 + 1
        scales = buf[pos : pos + scales_nbytes].view(wire.dtype)
        scales[:] = wire.dtype.type(square if square == 0 else np.nan)
        if np.isfinite(square) and square > 0:
            turn(work, last, shared if same else client_key(private, clients[j]))
            for part in range(scales.shape[0]):
                z, numbers = (work[:split], codes[:split]) if part == 0 else (work[split:], codes[split:])
                # for scale=mse what the first window's entries have in the mean, for which α is proved
                size = _add_squares(z, 0.0)
                if last == 0:
                    size = square
                elif nearest and part == 0:
                    size = head * split / first
                scale = quantize(z, np.sqrt(size), nearest, centroids, bounds, numbers) if size > 0 else 0.0
                sent = wire.dtype.type(scale)
                scales[part] = sent if np.isfinite(sent) else wire.dtype.type(np.nan)
        pack_all(codes, d, bits, buf, pos + scales_nbytes, top)
        pos += nbytes
    tally[0] += 8 * nbytes * rows.shape[0]
    tally[1] += (8 * scales_nbytes + d * bits) * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, bits: int, same: bool, nearest: bool, last: int,
    centroids: np.ndarray, bounds: np.ndarray, work: np.ndarray, codes: np.ndarray, top: np.ndarray,
) -> int:  # fmt: skip
    d, scales_nbytes = out.shape[1], wire.itemsize * (1 + (last > 0))
    split = d - last
    for j in range(rows.shape[0]):
        packed = pos + scales_nbytes
        stop = packed + packed_nbytes(d, bits)
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * packed + d * bits):
            return BAD_PADDING
        scales = buf[pos:packed].view(wire.dtype)
        unpack_all(buf, packed, d, bits, codes, top)
        for part in range(scales.shape[0]):
            scale = np.float64(scales[part])
            if no_scale(scale):
                return BAD_VALUE
            for k in range(0 if part == 0 else split, split if part == 0 else d):
                work[k] = scale * centroids[codes[k]]
        turn_back(work, last, shared if same else client_key(private, clients[j]))
        acc, weight = out[rows[j]], weights[j]
        for c in range(d):
            acc[c] += weight * out.dtype.type(work[c])
        pos = stop
    return pos
