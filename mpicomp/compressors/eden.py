"""DRIVE and EDEN: a random rotation makes the entries nearly Gaussian, a few bits each and one scale say the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import njit
from ..kernels.bits import CHUNK, pack_all, packed_nbytes, padding_is_zero, unpack_all
from ..kernels.hadamard import rotate, rotate_back
from ..kernels.levels import no_scale
from ..kernels.random import client_key
from ..kernels.status import BAD_PADDING, BAD_VALUE, TRUNCATED
from .base import Compressor, compressors
from .codec import Codec
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


@compressors.register("eden")
class EDEN(Compressor):
    """C(x) = S Rᵀ Q(Rx √N/‖x‖): R = HD/√N rotates x, padded with zeros to N = 2^k, at random; Q is the nearest of 2^bits centroids.

    Parameters
    ----------
    bits : 1 to 4, for each of the N entries.
    rotation : "private", each client draws its own D, or "shared", all clients of a round have the same.
    scale : "unbiased", S with ⟨C(x), x⟩ = ‖x‖²; or "mse", S that is nearest to x.

    What is exact and what is not: ⟨C(x), x⟩ = ‖x‖² holds for every draw (to rounding), and with uniformly random rotations C would be
    unbiased (Vargaftik et al. 2021, 2022). The Hadamard rotation makes that so only approximately: the bias is orthogonal to x and
    fades as d grows. Hence `unbiased` is False here. ‖C(x) − x‖² is about 0.571, 0.133, 0.036, 0.0096 times ‖x‖² for 1 to 4 bits
    and large d = N (less for d < N); no bound holds for all x. With scale=mse C is contractive, E‖C(x) − x‖² ≤ (1−α)‖x‖² with
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
        wire, padded = self.wire_of(dim, wire_dtype), 1 << (dim - 1).bit_length()
        max_nbytes = wire.itemsize + packed_nbytes(padded, self.bits)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        positive = np.array(CENTROIDS[self.bits])
        centroids = np.concatenate([-positive[::-1], positive])
        bounds = (centroids[1:] + centroids[:-1]) / 2
        scratch = np.empty(padded), np.empty(padded, np.uint8), np.empty(CHUNK, np.uint8)
        args = self.bits, self.shared_randomness, self.scale == "mse", centroids, bounds, *scratch
        return Codec(self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=True)


@compressors.register("drive")
class DRIVE(EDEN):
    """EDEN with one bit: C(x) = S Rᵀ sign(Rx), S = ‖x‖²/‖Rx‖₁ (scale=unbiased) or ‖Rx‖₁/N (scale=mse).

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
    """Fill `codes` with the centroids nearest to the rotated vector's entries times √N/norm; returns the scale."""
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
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, bits: int, same: bool, nearest: bool, centroids: np.ndarray,
    bounds: np.ndarray, work: np.ndarray, codes: np.ndarray, top: np.ndarray,
) -> int:  # fmt: skip
    d, padded = V.shape[1], work.shape[0]
    nbytes = wire.itemsize + packed_nbytes(padded, bits)
    for j in range(rows.shape[0]):
        x, square = V[rows[j]], 0.0
        for c in range(d):
            work[c] = x[c]
            square += work[c] * work[c]
        work[d:] = 0.0
        scale = square
        codes[:] = bounds.shape[0] // 2 + 1
        if np.isfinite(square) and square > 0:
            rotate(work, shared if same else client_key(private, clients[j]))
            scale = quantize(work, np.sqrt(square), nearest, centroids, bounds, codes)
        sent = wire.dtype.type(scale)
        buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = sent if np.isfinite(sent) else wire.dtype.type(np.nan)
        pack_all(codes, padded, bits, buf, pos + wire.itemsize, top)
        pos += nbytes
    tally[0] += 8 * nbytes * rows.shape[0]
    tally[1] += (8 * wire.itemsize + padded * bits) * rows.shape[0]
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, bits: int, same: bool, nearest: bool, centroids: np.ndarray,
    bounds: np.ndarray, work: np.ndarray, codes: np.ndarray, top: np.ndarray,
) -> int:  # fmt: skip
    d, padded = out.shape[1], work.shape[0]
    for j in range(rows.shape[0]):
        packed = pos + wire.itemsize
        stop = packed + packed_nbytes(padded, bits)
        if stop > end:
            return TRUNCATED
        if not padding_is_zero(buf, 8 * packed + padded * bits):
            return BAD_PADDING
        scale = np.float64(buf[pos:packed].view(wire.dtype)[0])
        if no_scale(scale):
            return BAD_VALUE
        unpack_all(buf, packed, padded, bits, codes, top)
        for k in range(padded):
            work[k] = scale * centroids[codes[k]]
        rotate_back(work, shared if same else client_key(private, clients[j]))
        acc, weight = out[rows[j]], weights[j]
        for c in range(d):
            acc[c] += weight * out.dtype.type(work[c])
        pos = stop
    return pos
