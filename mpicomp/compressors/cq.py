"""Correlated quantization: few levels, with rounding thresholds that are spread evenly over the clients."""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError, TheoryError
from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, packed_nbytes
from ..kernels.entropy import MAX_SYMBOLS, read_fields, scratch, write_fields
from ..kernels.hadamard import first_window, turn, turn_back
from ..kernels.lattice import PERMUTATION, SIGNS, add_packed, add_points, round_to_lattice, write_rounded
from ..kernels.levels import no_scale
from ..kernels.random import Keys, bits64, client_key, permutation
from ..kernels.sizes import PAIR, PARTIAL_SUMS
from ..kernels.status import BAD_VALUE, TRUNCATED
from .agreement import Norm
from .base import Compressor, compressors
from .codec import TWO_WINDOWS, Codec, cut_by_fields
from .cq_bits import decode_bits, encode_bits, radius_of
from .identity import Identity
from .lattice import INTERVAL, Lattice, largest_square

_NORMS, _RADII = ("l2", "max"), ("own", "common")


@compressors.register("cq")
class CQ(Compressor):
    """Q(x)_j is one of the two neighbours of x_j in a lattice on [−r, r], drawn without bias, correlated over clients.

    In each coordinate client i rounds up where U_i < frac(z_j), U_i = (π_i + γ_i)/n, with π a random permutation of
    0..n−1 shared by the clients and γ_i its own uniform number (Algorithm 1). Errors of two clients are never
    positively correlated, so the variance is never above that of independent rounding, and with equal inputs it falls
    as 1/n². π is one permutation of the clients for all coordinates plus a shift modulo n for each, which in every
    coordinate has the law of a fresh permutation.

    Parameters
    ----------
    levels : number of points of the lattice, 2 for one bit {−r, r} (Algorithm 1), k ≥ 3 with a shared random offset
        (Algorithm 2).
    variant : "interval", or "sign-magnitude": magnitudes 0, r/s, ..., r with a sign, s = levels − 1 (levels=2: {−r, 0,
        r}).
    radius : "own", r of each client's vector, sent in its message; "common", the largest of all clients' in the round,
        found by an exchange of one value up and one down before the vectors are encoded (Link.gather does it).
    norm : r = ‖x‖₂ ("l2"), or max_j |x_j| ("max"): l2 by default, max with rotate.
    rotate : quantize H D x/√N instead, N a power of two, D random signs that the clients share (Walsh–Hadamard); where
        d is none, the first N entries are rotated and then the last N, N the largest power of two below d. Unbiased.
    clip : with rotate, r = ‖x‖₂ min{1, √(8 ln(dn)/N)}, and what is above is clipped (Algorithm 3). Slightly biased,
        see `bias_variance`.
    entropy : indices are entropy coded wherever that is shorter.

    Constants, derived and tested, with δ = 1 for two levels, (k+1)/(k(k−1)) for k and 1/(2s) for sign-magnitude, and
    ρ² = d, with rotation a bound on d E r²/‖x‖² = O(ln d): ω as in `Lattice`, for two levels d − 1. Own radius: (A, B)
    = (ω/n, 0). Common radius: (1 + 2δ²ρ²/n, 1). θ = min(ω/n, δ²ρ²/n²). Two levels and sign-magnitude are different
    quantizers: d/(4n²) for equal inputs belongs to the second, whose entries cost log2 3 bits, not one.

    >>> CQ().omega(100), CQ().ab(100, 10), CQ().theta(100, 10)
    (99.0, (9.9, 0.0), 1.0)
    >>> CQ(variant="sign-magnitude").omega(100), CQ(radius="common").ab(100, 10)
    (9.0, (21.0, 1.0))
    """

    codec_id = 16
    carries_nan = True
    homogeneous = True
    summary = "correlated quantization: 1 bit or few levels, thresholds spread over the clients"
    formulas = "1 bit: ω = d − 1, (A, B) = (ω/n, 0), θ = d/n²; radius=common: (1 + 2d/n, 1)"
    paper = "Suresh, Sun, Ro and Yu 2022, Correlated quantization; Panferov, Demidovich, Rammal and Richtárik 2024"
    unbiased = True
    shared_randomness = True

    def __init__(
        self,
        levels: int = 2,
        variant: str = INTERVAL,
        radius: str = "own",
        norm: str | None = None,
        rotate: bool = False,
        clip: bool = False,
        entropy: bool = False,
    ):
        self.lattice = Lattice(variant, levels)
        if norm is not None and norm not in _NORMS:
            raise ConfigError(f"{self.name}: norm={norm!r} is unknown; known: {', '.join(_NORMS)}")
        if radius not in _RADII:
            raise ConfigError(f"{self.name}: radius={radius!r} is unknown; known: {', '.join(_RADII)}")
        if clip and (not rotate or norm == "max"):
            raise ConfigError(f"{self.name}: clip=true is Algorithm 3, which needs rotate=true and the l2 norm")
        if entropy and self.lattice.symbols > MAX_SYMBOLS:
            raise ConfigError(
                f"{self.name}: entropy=true takes at most {MAX_SYMBOLS} lattice points, here are {self.lattice.symbols}"
            )
        self.levels, self.variant, self.radius, self.norm = levels, variant, radius, norm
        self.rotate, self.clip, self.entropy = rotate, clip, entropy
        self.unbiased = not clip

    @property
    def use_max(self) -> bool:
        """r = max_j |x_j|."""
        return self.norm == "max" or (self.norm is None and self.rotate and not self.clip)

    # ---- theory -------------------------------------------------------------------------------------------------
    def _size(self, d: int, n: int, vectors: int = 1) -> float:
        """ρ²: a bound on d E r²/‖x‖², r the largest radius of so many vectors and ‖x‖ their largest norm."""
        if self.clip:
            return min(8.0 * log(max(d * n, 2)) * (d / first_window(d)), float(d))
        return largest_square(vectors, d) if self.rotate and self.use_max else float(d)

    def omega(self, d: int, n: int = 1) -> float:
        if self.clip:
            return super().omega(d, n)
        if self.radius == "common" and n > 1:
            raise TheoryError(
                f"{self.spec} has no ω: its variance depends on the largest vector of all {n} clients; use radius=own, or method marina"
            )
        return self.lattice.omega(self._size(d, n), d, self.use_max)

    def _common_gap(self, d: int, n: int) -> float:
        """A − B of the common radius: 2δ²ρ²/n, since R² ≤ Σ‖a_i‖²."""
        return 2.0 * self.lattice.spacing**2 * self._size(d, n) / n

    def ab(self, d: int, n: int) -> tuple[float, float]:
        if self.radius == "common" and n > 1 and not self.clip:
            return 1.0 + self._common_gap(d, n), 1.0
        return super().ab(d, n)

    def theta(self, d: int, n: int) -> float:
        if self.clip:
            return super().theta(d, n)
        own = self.lattice.omega(self._size(d, n), d, self.use_max) / n
        return min(own, self.lattice.spacing**2 * self._size(d, n) / n**2)

    def gradient_variance(self, d: int, n: int, constants: Any) -> float:
        """With a common radius R ≤ L_max‖x − y‖: L±² + 2δ²ρ²L_max²/n², or as for independent rounding δ²ρ²L_max²/n,
        where that is less.
        """
        if self.radius == "own" or n == 1 or self.clip:
            return super().gradient_variance(d, n, constants)
        spread = self.lattice.spacing**2 * self._size(d, n, vectors=n) * constants.L_max**2
        together = constants.L_pm**2 + 2.0 * spread / n**2
        equal = spread / n**2 if constants.L_pm == 0 else np.inf
        return float(min(together, spread / n, equal))

    def bias_variance(self, d: int, n: int) -> tuple[float, float]:
        """Clipped: a rotated entry is above r with probability 2(dn)⁻⁴, hence bias ≤ 2(ρ² + 2d/N)(dn)⁻⁴; and
        independent errors at most.
        """
        if not self.clip:
            return super().bias_variance(d, n)
        size = self._size(d, n)
        bias = 2.0 * (size + 2.0 * d / first_window(d)) / float(max(d * n, 2)) ** 4
        rounding = self.lattice.spacing**2 * size
        return bias, (rounding / n if self.radius == "own" else rounding) + bias

    def bits_per_entry(self) -> int:
        """Width of a packed index."""
        return bit_length(self.lattice.symbols - 1)

    # ---- messages -----------------------------------------------------------------------------------------------
    def _correlated(self) -> bool:
        return True

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire, width = self.wire_of(dim, wire_dtype), self.bits_per_entry()
        own = self.radius == "own"
        max_nbytes = own * wire.itemsize + self.entropy + packed_nbytes(dim, width)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        factor = sqrt(self._size(dim, n_clients) / dim) if self.clip else 1.0
        common_radius = np.full(0 if own else 1, np.nan)
        order = np.empty(n_clients if self._correlated() else 0, np.int64)
        work, partial_sums, top = (
            np.empty(dim if self.rotate else 0),
            np.empty(PARTIAL_SUMS),
            np.empty(CHUNK, np.uint8),
        )
        sizing = self.rotate, self.use_max, factor, work, partial_sums

        given = np.empty(0)

        def measure(
            V: np.ndarray, rows: np.ndarray, clients: np.ndarray, keys: Keys, sizes: np.ndarray = given
        ) -> np.ndarray:
            radii = np.empty(len(rows))
            _radii(V, rows, clients, keys.shared, keys.private, radii, np.empty(0, wire), sizing, order, sizes)
            return radii

        if self._correlated() and self.lattice.symbols == 2 and not self.rotate and not self.entropy:
            encode: Callable[..., int] = encode_bits
            decode: Callable[..., int] = decode_bits
            args: tuple = (self.use_max, partial_sums, common_radius, order, top, np.empty(CHUNK, np.uint8), given, 0)
        else:
            lattice = self.lattice.slope, *self.lattice.offset, self.lattice.symbols
            model, at_once = scratch(self.lattice.symbols if self.entropy else 0), dim if self.entropy else CHUNK
            coding = width, np.empty(at_once, np.uint16), np.empty((at_once + 7) >> 3, np.uint8), top, model
            encode, decode = _encode, _decode
            args = sizing, lattice, common_radius, order, coding, given, 0
        head = own * wire.itemsize
        grid, norm = PAIR if encode is encode_bits else 8, Norm(0 if self.use_max else 2)
        cutting = cut_by_fields(head, width=width).encoded_on(grid, norm, 8 * head)._replace(offset=True)
        windows = self.rotate and dim != first_window(dim)
        codec_id = self.codec_id | (TWO_WINDOWS if windows else 0)
        return Codec(
            self, codec_id, dim, n_clients, wire, max_nbytes, encode, decode, args, fixed=not self.entropy,
            round_maximum=None if own else common_radius, measure=None if own else measure,
            cutting=None if self.rotate or self.entropy else cutting, given=given,
        )  # fmt: skip


@njit
def _turn(x: np.ndarray, key: np.uint64, sizing: tuple) -> None:
    """work ← x in float64, rotated."""
    work = sizing[3]
    work[:] = x
    turn(work, _last(work), bits64(key, SIGNS))


@njit
def _last(work: np.ndarray) -> int:
    """Length of the second window: that of the first, so that no rotated entry is larger than need be."""
    d = work.shape[0]
    return first_window(d) if d > first_window(d) else 0


@njit
def _common_key(shared: np.uint64, key: np.uint64, order: np.ndarray) -> np.uint64:
    """Offsets and signs: from the shared key, or for independent quantizers from the client's own."""
    return shared if order.shape[0] else key


@njit
def _radius(x: np.ndarray, sizing: tuple, wire: np.ndarray, given: np.ndarray, row: int) -> float:
    _, use_max, factor, _, partial_sums = sizing
    return radius_of(x, use_max, factor, partial_sums, wire, given, row)


@njit
def _radii(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, radii: np.ndarray,
    wire: np.ndarray, sizing: tuple, order: np.ndarray, given: np.ndarray,
) -> None:  # fmt: skip
    for j in range(rows.shape[0]):
        if sizing[0]:
            _turn(V[rows[j]], _common_key(shared, client_key(private, clients[j]), order), sizing)
            radii[j] = _radius(sizing[3], sizing, wire, given, rows[j])
        else:
            radii[j] = _radius(V[rows[j]], sizing, wire, given, rows[j])


@njit
def _coded(model: tuple) -> bool:
    """With entropy=true."""
    return model[0].shape[1] > 0


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, sizing: tuple, lattice: tuple, common_radius: np.ndarray,
    order: np.ndarray, coding: tuple, given: np.ndarray, first: int,
) -> int:  # fmt: skip
    strata = max(order.shape[0], 1)
    permutation(bits64(shared, PERMUTATION), order)
    for j in range(rows.shape[0]):
        begin, x, key = pos, V[rows[j]], client_key(private, clients[j])
        common = _common_key(shared, key, order)
        draws, part = (
            (common, key, order[clients[j] % strata] if order.shape[0] else 0, strata),
            (given, rows[j], first),
        )
        if sizing[0]:
            _turn(x, common, sizing)
            pos = _write(sizing[3], buf, pos, tally, wire, sizing, lattice, draws, common_radius, coding, part)
        else:
            pos = _write(x, buf, pos, tally, wire, sizing, lattice, draws, common_radius, coding, part)
        tally[0] += 8 * (pos - begin)
    return pos


@njit
def _write(
    x: np.ndarray, buf: np.ndarray, pos: int, tally: np.ndarray, wire: np.ndarray, sizing: tuple, lattice: tuple,
    draws: tuple, common_radius: np.ndarray, coding: tuple, part: tuple,
) -> int:  # fmt: skip
    (width, codes, doubts, top, model), (given, row, first) = coding, part
    begin = pos
    if common_radius.shape[0]:
        r = common_radius[0]
    else:
        r = _radius(x, sizing, wire, given, row)
        buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = r
        pos += wire.itemsize
    if _coded(model):
        if np.isfinite(r):
            round_to_lattice(x, r, lattice, draws, 0, codes, doubts)
        else:
            codes[:] = 0
        pos = write_fields(codes, width, model, buf, pos, top)
        tally[1] += 8 * (pos - begin)
    else:
        tally[1] += x.shape[0] * width + 8 * (pos - begin)
        pos = write_rounded(x, r, lattice, draws, first, width, codes, doubts, top, buf, pos)
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, sizing: tuple, lattice: tuple, common_radius: np.ndarray,
    order: np.ndarray, coding: tuple, given: np.ndarray, first: int,
) -> int:  # fmt: skip
    turn, work, one = sizing[0], sizing[3], 1.0
    for j in range(rows.shape[0]):
        acc, weight = out[rows[j]], weights[j]
        common = _common_key(shared, client_key(private, clients[j]), order)
        if turn:
            work[:] = 0.0
            pos = _read(buf, pos, end, wire, lattice, common, common_radius, coding, first, one, work)
        else:
            pos = _read(buf, pos, end, wire, lattice, common, common_radius, coding, first, weight, acc)
        if pos < 0:
            return pos
        if turn:
            turn_back(work, _last(work), bits64(common, SIGNS))
            for c in range(acc.shape[0]):
                acc[c] += weight * out.dtype.type(work[c])
    return pos


@njit
def _read(
    buf: np.ndarray, pos: int, end: int, wire: np.ndarray, lattice: tuple, common: np.uint64, common_radius: np.ndarray,
    coding: tuple, first: int, weight: float, out: np.ndarray,
) -> int:  # fmt: skip
    """out += weight · (the points of the message at `pos`); returns the position after it, or a negative code."""
    width, codes, _, top, model = coding
    if common_radius.shape[0]:
        r = common_radius[0]
    else:
        if pos + wire.itemsize > end:
            return TRUNCATED
        r = np.float64(buf[pos : pos + wire.itemsize].view(wire.dtype)[0])
        if no_scale(r):
            return BAD_VALUE
        pos += wire.itemsize
    if not _coded(model):
        return add_packed(buf, pos, end, r, lattice, common, first, width, codes, top, weight, out)
    pos = read_fields(buf, pos, end, width, model, codes, top)
    if pos > 0:
        add_points(codes, r, lattice, common, first, weight, out)
    return pos
