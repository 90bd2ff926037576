"""PermK: the clients of a round share a random partition of the coordinates, and each sends its own part."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import lean, njit
from ..kernels.few_bits import EXACT, HALF, read_values, write_values
from ..kernels.random import below, bits64, client_key, permutation
from ..kernels.rows import copy_slice, count_within, take_within
from ..kernels.status import TRUNCATED
from .base import Compressor, compressors
from .codec import Codec, Cutting
from .few_bits import few_bits
from .identity import Identity

_LAYOUTS = ("blocks", "uniform")


@compressors.register("permk")
class PermK(Compressor):
    """Correlated sparsification: every coordinate is sent by exactly one client (d >= n), or every client sends one coordinate (n > d).

    d >= n: C_i(x) = n Σ x_j e_j over the part of client i, d/n coordinates; where n does not divide d the sizes differ by one, and
    who gets which part is random too, without which C_i would be biased. Every coordinate has one, uniformly random, owner;
    A = B = 1 with equality follows from that alone.

    n = qd + r > d: r random coordinates get q + 1 clients, the others q, assigned at random; C_i(x) = d x_j e_j. With
    κ = d²(q(q−1) + 2qr/d) / (n(n−1)), which is d² times the probability that two given clients send the same given coordinate,
    (A, B) = ((d − κ)/n, 1 − κ), with equality.

    Parameters
    ----------
    layout : "blocks" cuts [d] into consecutive parts and rotates their owners (d >= n; a message is a slice), or rotates the
        coordinates under a random permutation of the clients (n > d); "uniform" permutes the coordinates as the paper does. Both
        have the same law of single coordinates and of pairs of clients, on which alone the theory rests.
    values : "exact"; or 2, 4 or 8 bits for each value, "sign", one bit, or "bfloat16", all rounded at random, without bias, by each client
        for itself. With the ω_v of `FewBits.omega` for the values, ω is min(n, d)(1 + ω_v) − 1 and (A, B) = (1 + ω_v, 1) if d ≥ n.
    bucket : number of values that share scales, 64 by default: two values of the wire, for signs one.

    >>> PermK().ab(1000, 10), PermK().ab(10, 100)
    ((1.0, 1.0), (0.09090909090909091, 0.09090909090909094))
    """

    codec_id = 3
    carries_nan = True
    summary = "a random partition of the coordinates, one part for each client, without indices"
    formulas = "ω = min(n, d) − 1, (A, B) = (1, 1) if d ≥ n, θ = 0; values in few bits: ω = n(1 + ω_v) − 1, (1 + ω_v, 1) [derived]"
    paper = "Szlendak, Tyurin and Richtárik 2022, Permutation compressors, Definitions 3 and 4"
    unbiased = True
    shared_randomness = True

    def __init__(self, layout: str = "blocks", values: int | str = "exact", bucket: int | None = None):
        if layout not in _LAYOUTS:
            raise ConfigError(f"permk: layout={layout!r} is unknown; known: {', '.join(_LAYOUTS)}")
        self.layout, self.values, self.bucket = layout, values, bucket
        self.coding = few_bits("permk", values, bucket, "stochastic")
        self.homogeneous = self.coding.bits != HALF

    def _value_omega(self, d: int, n: int) -> float:
        """ω_v: of the values of a client's part; a single client, or coordinate, is sent as it is."""
        return self.coding.omega(-(-d // n)) if min(n, d) > 1 else 0.0

    def omega(self, d: int, n: int = 1) -> float:
        return min(n, d) * (1.0 + self._value_omega(d, n)) - 1.0

    def ab(self, d: int, n: int) -> tuple[float, float]:
        extra = self._value_omega(d, n)
        if d >= n:
            return 1.0 + extra, 1.0
        q, r = divmod(n, d)
        kappa = d * (d * q * (q - 1) + 2 * q * r) / (n * (n - 1))
        return (d * (1.0 + extra) - kappa) / n, 1 - kappa

    def density(self, d: int, n: int = 1) -> float:
        whole = -(-d // n)
        return max(1.0, d / n) * self.coding.nbytes(whole, np.dtype(np.float32)) / (4.0 * whole)

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        if n_clients == 1 or dim == 1:
            return Identity().bind(dim, n_clients, wire)
        uniform = self.layout == "uniform"
        one_owner = dim >= n_clients
        parts = np.empty(n_clients if uniform or not one_owner else 0, np.int64)
        coordinates = np.empty(dim if uniform else 0, np.int64)
        exact, most = self.coding.exact, -(-dim // n_clients)
        partition = n_clients, uniform, parts, coordinates, dim
        fixed = not one_owner or dim % n_clients == 0
        size = 2 if self.coding.bits == HALF else wire.itemsize
        cutting = Cutting(
            _cut, (size, *partition), lambda width: self.coding.nbytes(min(most, width), wire), offset=True, separable=exact
        )  # fmt: skip
        args = *partition, self.coding.scratch(most, wire), 0
        return Codec(
            self, self.codec_id, dim, n_clients, wire, self.coding.nbytes(most, wire), _encode, _decode, args, fixed=fixed,
            cutting=cutting if self.coding.bits in (EXACT, HALF) else None,
        )  # fmt: skip


@njit
def _shuffle(shared: np.uint64, parts: np.ndarray, coordinates: np.ndarray) -> np.uint64:
    """Draw the round's permutations, of the clients and of the coordinates, where the layout has them; returns the rotation's key."""
    permutation(bits64(shared, 1), parts)
    permutation(bits64(shared, 2), coordinates)
    return bits64(shared, 0)


@njit
def _part(client: int, n: int, d: int, rotation: np.uint64, parts: np.ndarray) -> tuple[int, int]:
    """The coordinates of a client: (first, count), positions in the round's order of the coordinates."""
    if d >= n:
        part = parts[client] if parts.shape[0] else (client + below(rotation, 0, n)) % n
        first = part * d // n
        return first, (part + 1) * d // n - first
    return (parts[client] + below(rotation, 0, d)) % d, 1


@njit
def _stretch(first: int, count: int, lo: int, hi: int) -> tuple[int, int]:
    """[first, first + count) ∩ [lo, hi), as (first, count)."""
    begin = min(max(first, lo), hi)
    return begin, max(min(first + count, hi) - begin, 0)


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, n: int, uniform: bool, parts: np.ndarray, coordinates: np.ndarray,
    d: int, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    begin, hi = pos, lo + V.shape[1]
    rotation = _shuffle(shared, parts, coordinates)
    for j in range(rows.shape[0]):
        first, count = _part(clients[j], n, d, rotation, parts)
        x, own = V[rows[j]], coordinates[first : first + count]
        if uniform:
            count = count_within(own, lo, hi)
        else:
            first, count = _stretch(first, count, lo, hi)
        if few is None:
            nbytes = count * wire.itemsize
            values = buf[pos : pos + nbytes].view(wire.dtype)
            if uniform:
                take_within(x, own, lo, values)
            else:
                copy_slice(x, first - lo, first - lo + count, values, 0)
            pos += nbytes
        else:
            if uniform:
                take_within(x, own, lo, few[1])
            else:
                copy_slice(x, first - lo, first - lo + count, few[1], 0)
            pos = write_values(few, count, client_key(private, clients[j]), buf, pos, wire)
    tally += 8 * (pos - begin)
    return pos


@lean
def _add(
    values: np.ndarray, uniform: bool, coordinates: np.ndarray, begin: int, inside: int, lo: int, factor: float,
    acc: np.ndarray,
) -> None:  # fmt: skip
    if uniform:
        i, hi = 0, lo + acc.shape[0]
        for c in coordinates:
            if lo <= c < hi:
                acc[c - lo] += factor * values[i]
                i += 1
    else:
        part = acc[begin - lo : begin - lo + inside]
        for i in range(inside):
            part[i] += factor * values[i]


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, n: int, uniform: bool, parts: np.ndarray,
    coordinates: np.ndarray, d: int, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    hi = lo + out.shape[1]
    rotation = _shuffle(shared, parts, coordinates)
    for j in range(rows.shape[0]):
        first, count = _part(clients[j], n, d, rotation, parts)
        begin, inside = _stretch(first, count, lo, hi)
        acc, own = out[rows[j]], coordinates[first : first + count]
        if uniform:
            inside = count_within(own, lo, hi)
        factor = weights[j] * out.dtype.type(min(n, d))
        if few is None:
            nbytes = inside * wire.itemsize
            if pos + nbytes > end:
                return TRUNCATED
            _add(buf[pos : pos + nbytes].view(wire.dtype), uniform, own, begin, inside, lo, factor, acc)
            pos += nbytes
        else:
            pos = read_values(few, inside, buf, pos, end, wire)
            if pos < 0:
                return pos
            _add(few[2], uniform, own, begin, inside, lo, factor, acc)
    return pos


@njit
def _cut(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, size: int, n: int, uniform: bool, parts: np.ndarray, coordinates: np.ndarray,
    d: int,
) -> int:  # fmt: skip
    """A client's block goes to one or two slices, a coordinate of the uniform layout to its own."""
    rotation = _shuffle(shared, parts, coordinates)
    for j in range(clients.shape[0]):
        first, count = _part(clients[j], n, d, rotation, parts)
        if uniform:
            for c in coordinates[first : first + count]:
                s = np.searchsorted(bounds, c, side="right") - 1
                out[places[s] : places[s] + size] = buf[pos : pos + size]
                places[s] += size
                pos += size
        else:
            for s in range(places.shape[0]):
                nbytes = _stretch(first, count, bounds[s], bounds[s + 1])[1] * size
                out[places[s] : places[s] + nbytes] = buf[pos : pos + nbytes]
                places[s] += nbytes
                pos += nbytes
    return pos
