"""PermK: the clients of a round share a random partition of the coordinates, and each sends its own part."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.random import below, bits64, permutation
from ..kernels.rows import copy_slice
from ..kernels.status import TRUNCATED
from .base import Compressor, compressors
from .codec import Codec, Cutting
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

    >>> PermK().ab(1000, 10), PermK().ab(10, 100)
    ((1.0, 1.0), (0.09090909090909091, 0.09090909090909094))
    """

    codec_id = 3
    carries_nan = True
    homogeneous = True
    summary = "a random partition of the coordinates, one part for each client, without indices"
    formulas = "ω = min(n, d) − 1, (A, B) = (1, 1) if d ≥ n, θ = 0"
    paper = "Szlendak, Tyurin and Richtárik 2022, Permutation compressors, Definitions 3 and 4"
    unbiased = True
    shared_randomness = True

    def __init__(self, layout: str = "blocks"):
        if layout not in _LAYOUTS:
            raise ConfigError(f"permk: layout={layout!r} is unknown; known: {', '.join(_LAYOUTS)}")
        self.layout = layout

    def omega(self, d: int, n: int = 1) -> float:
        return min(n, d) - 1.0

    def ab(self, d: int, n: int) -> tuple[float, float]:
        if d >= n:
            return 1.0, 1.0
        q, r = divmod(n, d)
        kappa = d * (d * q * (q - 1) + 2 * q * r) / (n * (n - 1))
        return (d - kappa) / n, 1 - kappa

    def density(self, d: int, n: int = 1) -> float:
        return max(1.0, d / n)

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire = self.wire_of(dim, wire_dtype)
        if n_clients == 1 or dim == 1:
            return Identity().bind(dim, n_clients, wire)
        uniform = self.layout == "uniform"
        one_owner = dim >= n_clients
        parts = np.empty(n_clients if uniform or not one_owner else 0, np.int64)
        coordinates = np.empty(dim if uniform else 0, np.int64)
        max_nbytes = -(-dim // n_clients) * wire.itemsize
        partition = n_clients, uniform, parts, coordinates, dim
        fixed = not one_owner or dim % n_clients == 0
        cutting = Cutting(
            _cut, (wire.itemsize, *partition), lambda width: min(max_nbytes, width * wire.itemsize), offset=True, separable=True
        )  # fmt: skip
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode, _decode, (*partition, 0), fixed=fixed, cutting=cutting
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
def _within(coordinates: np.ndarray, first: int, count: int, lo: int, hi: int) -> int:
    """How many of coordinates[first : first + count] are in [lo, hi)."""
    inside = 0
    for c in coordinates[first : first + count]:
        inside += lo <= c < hi
    return inside


@njit
def _encode(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, n: int, uniform: bool, parts: np.ndarray, coordinates: np.ndarray,
    d: int, lo: int,
) -> int:  # fmt: skip
    begin, hi = pos, lo + V.shape[1]
    rotation = _shuffle(shared, parts, coordinates)
    for j in range(rows.shape[0]):
        first, count = _part(clients[j], n, d, rotation, parts)
        x = V[rows[j]]
        if uniform:
            nbytes = _within(coordinates, first, count, lo, hi) * wire.itemsize
            values, i = buf[pos : pos + nbytes].view(wire.dtype), 0
            for c in coordinates[first : first + count]:
                if lo <= c < hi:
                    values[i] = x[c - lo]
                    i += 1
        else:
            first, count = _stretch(first, count, lo, hi)
            nbytes = count * wire.itemsize
            copy_slice(x, first - lo, first - lo + count, buf[pos : pos + nbytes].view(wire.dtype), 0)
        pos += nbytes
    tally += 8 * (pos - begin)
    return pos


@njit
def _decode(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, n: int, uniform: bool, parts: np.ndarray,
    coordinates: np.ndarray, d: int, lo: int,
) -> int:  # fmt: skip
    hi = lo + out.shape[1]
    rotation = _shuffle(shared, parts, coordinates)
    for j in range(rows.shape[0]):
        first, count = _part(clients[j], n, d, rotation, parts)
        begin, inside = _stretch(first, count, lo, hi)
        if uniform:
            inside = _within(coordinates, first, count, lo, hi)
        nbytes = inside * wire.itemsize
        if pos + nbytes > end:
            return TRUNCATED
        values = buf[pos : pos + nbytes].view(wire.dtype)
        factor = weights[j] * out.dtype.type(min(n, d))
        acc, i = out[rows[j]], 0
        if uniform:
            for c in coordinates[first : first + count]:
                if lo <= c < hi:
                    acc[c - lo] += factor * values[i]
                    i += 1
        else:
            part = acc[begin - lo : begin - lo + inside]
            for i in range(inside):
                part[i] += factor * values[i]
        pos += nbytes
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
