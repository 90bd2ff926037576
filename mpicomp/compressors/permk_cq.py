"""PermK with correlated quantization: a random partition of the coordinates, few levels for the values of a part."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.bits import CHUNK, bit_length, packed_nbytes
from ..kernels.lattice import PERMUTATION, SHIFTS, add_packed, write_rounded
from ..kernels.levels import no_scale
from ..kernels.random import below, bits64, client_key, permutation
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.status import BAD_VALUE, TRUNCATED
from .base import Compressor, compressors
from .codec import Codec
from .cq_bits import radius_of
from .identity import Identity
from .lattice import INTERVAL, Lattice
from .permk import PermK

_ROTATION = SHIFTS + 8


@compressors.register("permk-cq")
class PermKCQ(Compressor):
    """C_i(x) = m Q(x restricted to the part of client i).

    [d] is cut into m parts, each held by n/m clients with correlated thresholds. The combination is named in
    Panferov, Demidovich, Rammal and Richtárik 2024; this definition of it is the project's own. Client i holds part
    (σ(i) + r) mod m with a random permutation σ of the clients and a uniform rotation r; the h clients of a part have
    thresholds in different strata of [0, 1), as in CQ. The radius is that of the client's part.

    Constants derived here (docs/methods/correlated-quantization.md), n = qm + s, b = ⌈d/m⌉, ω_b those of the
    quantizer for b coordinates: sparsification alone is PermK's with m in place of min(d, n), κ = m(mq(q−1) +
    2qs)/(n(n−1)): (A, B) = ((m−κ)/n + (m/n) ω_b, 1 − κ), ω = m(1 + ω_b) − 1.

    Parameters
    ----------
    levels, variant, norm : of the quantizer, as for CQ.
    parts : m, at most min(d, n), which is the default: with d ≥ n every coordinate then has one holder, whose
        thresholds have nothing to be correlated with; with n > d a part is one coordinate, which is sent as it is (a
        radius and a bit would be longer than the value): plain PermK.

    >>> PermKCQ().ab(1000, 10), PermKCQ(parts=5).omega(1000, 10)
    ((100.0, 1.0), 999.0)
    """

    codec_id = 18
    carries_nan = True
    homogeneous = True
    summary = "PermK's partition, its values quantized with correlated thresholds"
    formulas = "(A, B) = (1 + ω_b, 1), ω = n(1 + ω_b) − 1, ω_b = ⌈d/n⌉ − 1 for one bit [derived]"
    paper = "the name: Panferov, Demidovich, Rammal and Richtárik 2024"
    unbiased = True
    shared_randomness = True

    def __init__(self, levels: int = 2, variant: str = INTERVAL, norm: str = "l2", parts: int | None = None):
        self.lattice = Lattice(variant, levels)
        if norm not in ("l2", "max"):
            raise ConfigError(f"permk-cq: norm={norm!r} is unknown; known: l2, max")
        if parts is not None and (not isinstance(parts, int) or parts < 1):
            raise ConfigError(f"permk-cq: parts={parts} must be a positive integer")
        self.levels, self.variant, self.norm, self.parts = levels, variant, norm, parts

    def _cut(self, d: int, n: int) -> tuple[int, int]:
        """(m, b): number of parts, and size of the largest."""
        m = min(self.parts or n, n, d)
        return m, -(-d // m)

    def _block_omega(self, d: int, n: int) -> float:
        _, b = self._cut(d, n)
        return self.lattice.omega(float(b), b, self.norm == "max") if b > 1 else 0.0

    def omega(self, d: int, n: int = 1) -> float:
        return self._cut(d, n)[0] * (1.0 + self._block_omega(d, n)) - 1.0

    def ab(self, d: int, n: int) -> tuple[float, float]:
        m, _ = self._cut(d, n)
        if n == 1:
            return self.omega(d, n), 0.0
        q, s = divmod(n, m)
        kappa = m * (m * q * (q - 1) + 2 * q * s) / (n * (n - 1))
        return (m - kappa + m * self._block_omega(d, n)) / n, 1.0 - kappa

    def theta(self, d: int, n: int) -> float:
        """A − B, or where it is less PermK's part and mδ²b·m/n² for the rounding: holders of equal values round
        together.
        """
        m, b = self._cut(d, n)
        A, B = self.ab(d, n)
        rounding = m * self._block_omega(d, n) / n
        together = b * (m * self.lattice.spacing / n) ** 2
        return max(A - B - rounding + min(rounding, together), 0.0)

    def density(self, d: int, n: int = 1) -> float:
        return d / self._cut(d, n)[0]

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        m, b = self._cut(dim, n_clients)
        if b == 1:
            return PermK().bind(dim, n_clients, wire)
        width = bit_length(self.lattice.symbols - 1)
        max_nbytes = wire.itemsize + packed_nbytes(b, width)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        lattice = self.lattice.slope, *self.lattice.offset, self.lattice.symbols
        partial_sums, order = np.empty(PARTIAL_SUMS), np.empty(n_clients, np.int64)
        coding = width, np.empty(CHUNK, np.uint16), np.empty(CHUNK >> 3, np.uint8), np.empty(CHUNK, np.uint8)
        args = m, self.norm == "max", lattice, partial_sums, order, coding
        fixed = packed_nbytes(dim // m, width) == packed_nbytes(b, width)
        return Codec(self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, args, fixed=fixed)


@njit
def _place(client: int, m: int, d: int, rotation: int, order: np.ndarray) -> tuple[int, int, int, int]:
    """(first coordinate, their number, stratum, strata) of a client."""
    n = order.shape[0]
    place = order[client % n]
    part = (place + rotation) % m
    first = part * d // m
    return first, (part + 1) * d // m - first, place // m, (n - place % m + m - 1) // m


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, m: int, use_max: bool, lattice: tuple, partial_sums: np.ndarray,
    order: np.ndarray, coding: tuple,
) -> int:  # fmt: skip
    width, codes, doubts, top = coding
    permutation(bits64(shared, PERMUTATION), order)
    rotation = below(bits64(shared, _ROTATION), 0, m)
    for j in range(rows.shape[0]):
        begin = pos
        first, count, stratum, strata = _place(clients[j], m, V.shape[1], rotation, order)
        x, draws = V[rows[j], first : first + count], (shared, client_key(private, clients[j]), stratum, strata)
        r = radius_of(x, use_max, 1.0, partial_sums, wire, partial_sums[:0], 0)
        buf[pos : pos + wire.itemsize].view(wire.dtype)[0] = r
        pos = write_rounded(x, r, lattice, draws, first, width, codes, doubts, top, buf, pos + wire.itemsize)
        tally[0] += 8 * (pos - begin)
        tally[1] += 8 * wire.itemsize + count * width
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, m: int, use_max: bool, lattice: tuple,
    partial_sums: np.ndarray, order: np.ndarray, coding: tuple,
) -> int:  # fmt: skip
    width, codes, _, top = coding
    permutation(bits64(shared, PERMUTATION), order)
    rotation = below(bits64(shared, _ROTATION), 0, m)
    for j in range(rows.shape[0]):
        first, count, _, _ = _place(clients[j], m, out.shape[1], rotation, order)
        packed = pos + wire.itemsize
        if packed > end:
            return TRUNCATED
        r = np.float64(buf[pos:packed].view(wire.dtype)[0])
        if no_scale(r):
            return BAD_VALUE
        acc, weight = out[rows[j], first : first + count], weights[j] * out.dtype.type(m)
        pos = add_packed(buf, packed, end, r, lattice, shared, first, width, codes, top, weight, acc)
        if pos < 0:
            return pos
    return pos
