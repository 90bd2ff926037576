"""RandK: k random coordinates, scaled to be unbiased. Which ones follows from the key: no indices on the wire."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ConfigError
from ..kernels import lean, njit
from ..kernels.few_bits import EXACT, HALF, read_values, write_values
from ..kernels.random import below, bits64, client_key
from ..kernels.rows import copy_slice, count_within, take_within
from ..kernels.status import TRUNCATED
from .base import Compressor, compressors, count_of
from .codec import Codec, Cutting
from .few_bits import few_bits
from .identity import Identity

_MASKS = ("independent", "shared")
_SAMPLINGS = ("window", "stratified", "uniform")
_ROUNDING = -1  # of the key with which values are rounded: the mask has numbers from 0 on


@compressors.register("randk")
class RandK(Compressor):
    """C(x) = (d/k) Σ x_j e_j over k random coordinates.

    The variance depends on the inclusion probabilities alone, P(j kept) = k/d, so ω = d/k − 1 with equality for each sampling.

    Parameters
    ----------
    k : number of coordinates kept, or
    fraction : part of the coordinates kept, in (0, 1].
    mask : "independent", each client draws its own coordinates, or "shared", all clients of a round keep the same.
    sampling : "window", k consecutive coordinates, cyclically, from a uniform start (two slices, the fastest);
        "stratified", one coordinate of each of k consecutive strata of ⌊d/k⌋ or ⌈d/k⌉, scaled by the size of its stratum, so that
        ω = ⌈d/k⌉ − 1; or "uniform", a uniformly random subset.
    values : "exact"; or 2, 4 or 8 bits for each kept value, "sign", one bit, or "bfloat16", all rounded at random, without bias, with
        the mask's key. With the ω_v of `FewBits.omega` for the values, ω is (d/k)(1 + ω_v) − 1.
    bucket : number of kept values that share scales, 64 by default: two values of the wire, for signs one.

    >>> RandK(k=5).omega(100), RandK(k=5).ab(100, n=19)
    (19.0, (1.0, 0.0))
    """

    codec_id = 2
    carries_nan = True
    summary = "k random coordinates, scaled by d/k, without indices"
    formulas = "ω = d/k − 1, α = k/d, (A, B) = (ω/n, 0); shared mask (ω, 0), θ = ω; values in few bits: ω = (d/k)(1 + ω_v) − 1 [derived]"
    paper = "Stich, Cordonnier and Jaggi 2018; Gorbunov, Burlachenko, Li and Richtárik 2021 (MARINA)"
    unbiased = True

    def __init__(
        self,
        k: int | None = None,
        fraction: float | None = None,
        mask: str = "independent",
        sampling: str = "window",
        values: int | str = "exact",
        bucket: int | None = None,
    ):
        if mask not in _MASKS:
            raise ConfigError(f"randk: mask={mask!r} is unknown; known: {', '.join(_MASKS)}")
        if sampling not in _SAMPLINGS:
            raise ConfigError(f"randk: sampling={sampling!r} is unknown; known: {', '.join(_SAMPLINGS)}")
        self.k, self.fraction, self.mask, self.sampling = k, fraction, mask, sampling
        self.values, self.bucket = values, bucket
        self.coding = few_bits("randk", values, bucket, "stochastic")
        self.homogeneous = self.coding.bits != HALF
        self.shared_randomness = mask == "shared"

    @property
    def same_for_all(self) -> bool:
        return self.shared_randomness

    def count(self, d: int) -> int:
        """k for dimension d."""
        return count_of(self, self.k, self.fraction, d)

    def omega(self, d: int, n: int = 1) -> float:
        k = self.count(d)
        if self.coding.exact:
            return float(-(-d // k) - 1) if self.sampling == "stratified" else d / k - 1
        largest = -(-d // k) if self.sampling == "stratified" else d / k
        return largest * (1.0 + self.coding.omega(k)) - 1.0

    def ab(self, d: int, n: int) -> tuple[float, float]:
        """(ω/n, 0). For a shared mask and exact values the variance is exactly ω‖mean a_i‖²; (ω, 0) bounds it for every step size rule."""
        omega = self.omega(d, n)
        return (omega, 0.0) if self.shared_randomness else (omega / n, 0.0)

    def density(self, d: int, n: int = 1) -> float:
        return self.coding.nbytes(self.count(d), np.dtype(np.float32)) / 4.0

    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        wire, k = self.wire_of(dim, wire_dtype), self.count(dim)
        exact, max_nbytes = self.coding.exact, self.coding.nbytes(k, wire)
        if max_nbytes >= dim * wire.itemsize:
            return Identity().bind(dim, n_clients, wire)
        few = self.coding.scratch(k, wire)
        size = 2 if self.coding.bits == HALF else wire.itemsize

        def part_nbytes(width: int) -> int:
            return self.coding.nbytes(min(k, width), wire)

        if self.sampling == "window":
            mask = self.shared_randomness, k, dim
            cutting = Cutting(_cut_window, (size, *mask), part_nbytes, offset=True, separable=exact)
            encode: Callable[..., int] = _encode_window
            decode: Callable[..., int] = _decode_window
            args: tuple = (*mask, few, 0)
        else:
            number, (whole, rest) = np.arange(k + 1), divmod(dim, k)
            bounds = (
                number * whole + number * rest // k
            )  # number · dim // k, whose product may be more than 64 bits hold
            stratified = self.sampling == "stratified"
            scales = np.diff(bounds).astype(np.float64) if stratified else np.full(k, dim / k)
            marks = np.zeros(0 if stratified else dim, np.bool_)
            draw = self.shared_randomness, stratified, bounds, marks, np.empty(k, np.int64)
            cutting = Cutting(_cut_picks, (size, *draw), part_nbytes, offset=True, separable=exact)
            encode, decode = _encode_picks, _decode_picks
            args = (*draw, scales, few, 0)
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, encode, decode, args, fixed=True,
            cutting=cutting if self.coding.bits in (EXACT, HALF) else None,
        )  # fmt: skip


@njit
def _message_key(same: bool, shared: np.uint64, private: np.uint64, client: int) -> np.uint64:
    """The key of the mask: the same for all clients, or the client's own."""
    return shared if same else client_key(private, client)


@njit
def _window(key: np.uint64, k: int, d: int, lo: int, hi: int) -> tuple[int, int, int, int]:
    """The window's intersection with [lo, hi): its first stretch, from `start` on, and the one after the turn, as (first, count) each."""
    start = below(key, 0, d)
    first, second = max(start, lo), min(start + k - d, hi)
    return start, first, max(min(start + k, hi) - first, 0), max(second - lo, 0)


@njit
def _encode_window(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, same: bool, k: int, d: int, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    begin = pos
    for j in range(rows.shape[0]):
        key = _message_key(same, shared, private, clients[j])
        _, first, head, tail = _window(key, k, d, lo, lo + V.shape[1])
        x = V[rows[j]]
        if few is None:
            nbytes = (head + tail) * wire.itemsize
            values = buf[pos : pos + nbytes].view(wire.dtype)
            copy_slice(x, first - lo, first - lo + head, values, 0)
            copy_slice(x, 0, tail, values, head)
            pos += nbytes
        else:
            copy_slice(x, first - lo, first - lo + head, few[1], 0)
            copy_slice(x, 0, tail, few[1], head)
            pos = write_values(few, head + tail, bits64(key, _ROUNDING), buf, pos, wire)
    tally += 8 * (pos - begin)
    return pos


@lean
def _add_window(values: np.ndarray, head: int, tail: int, factor: float, first: np.ndarray, second: np.ndarray) -> None:
    for i in range(head):
        first[i] += factor * values[i]
    for i in range(tail):
        second[i] += factor * values[head + i]


@njit
def _decode_window(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, same: bool, k: int, d: int, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    for j in range(rows.shape[0]):
        key = _message_key(same, shared, private, clients[j])
        _, start, head, tail = _window(key, k, d, lo, lo + out.shape[1])
        factor = weights[j] * out.dtype.type(d / k)
        first, second = out[rows[j], start - lo : start - lo + head], out[rows[j], :tail]
        if few is None:
            nbytes = (head + tail) * wire.itemsize
            if pos + nbytes > end:
                return TRUNCATED
            _add_window(buf[pos : pos + nbytes].view(wire.dtype), head, tail, factor, first, second)
            pos += nbytes
        else:
            pos = read_values(few, head + tail, buf, pos, end, wire)
            if pos < 0:
                return pos
            _add_window(few[2], head, tail, factor, first, second)
    return pos


@njit
def _cut_window(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, size: int, same: bool, k: int, d: int,
) -> int:  # fmt: skip
    for j in range(clients.shape[0]):
        key = _message_key(same, shared, private, clients[j])
        for s in range(places.shape[0]):
            start, first, head, tail = _window(key, k, d, bounds[s], bounds[s + 1])
            at, source = places[s], pos + (first - start) * size
            if head:
                out[at : at + head * size] = buf[source : source + head * size]
            if tail:
                source = pos + (d - start + bounds[s]) * size
                out[at + head * size : at + (head + tail) * size] = buf[source : source + tail * size]
            places[s] = at + (head + tail) * size
        pos += k * size
    return pos


@njit
def _pick(key: np.uint64, stratified: bool, bounds: np.ndarray, marks: np.ndarray, picks: np.ndarray) -> None:
    """Fill `picks` with the kept coordinates: one of each stratum, or a uniform subset (Floyd's algorithm, marks for membership)."""
    k = picks.shape[0]
    if stratified:
        for s in range(k):
            picks[s] = bounds[s] + below(key, s, bounds[s + 1] - bounds[s])
        return
    d = marks.shape[0]
    for s in range(k):
        last = d - k + s
        pick = below(key, s, last + 1)
        if marks[pick]:
            pick = last
        marks[pick] = True
        picks[s] = pick
    for s in range(k):
        marks[picks[s]] = False


@njit
def _add_picks(
    values: np.ndarray, picks: np.ndarray, lo: int, weight: float, scales: np.ndarray, acc: np.ndarray
) -> None:
    i, hi = 0, lo + acc.shape[0]
    for s in range(picks.shape[0]):
        if lo <= picks[s] < hi:
            acc[picks[s] - lo] += weight * acc.dtype.type(scales[s]) * values[i]
            i += 1


@njit
def _encode_picks(
    V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: np.uint64, private: np.uint64, buf: np.ndarray,
    pos: int, tally: np.ndarray, wire: np.ndarray, same: bool, stratified: bool, bounds: np.ndarray, marks: np.ndarray,
    picks: np.ndarray, scales: np.ndarray, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    begin = pos
    for j in range(rows.shape[0]):
        key = _message_key(same, shared, private, clients[j])
        if j == 0 or not same:
            _pick(key, stratified, bounds, marks, picks)
        x = V[rows[j]]
        if few is None:
            room = min(picks.shape[0], x.shape[0]) * wire.itemsize
            pos += take_within(x, picks, lo, buf[pos : pos + room].view(wire.dtype)) * wire.itemsize
        else:
            count = take_within(x, picks, lo, few[1])
            pos = write_values(few, count, bits64(key, _ROUNDING), buf, pos, wire)
    tally += 8 * (pos - begin)
    return pos


@njit
def _decode_picks(
    buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: np.uint64,
    private: np.uint64, out: np.ndarray, wire: np.ndarray, same: bool, stratified: bool, bounds: np.ndarray,
    marks: np.ndarray, picks: np.ndarray, scales: np.ndarray, few: tuple | None, lo: int,
) -> int:  # fmt: skip
    hi = lo + out.shape[1]
    for j in range(rows.shape[0]):
        if j == 0 or not same:
            _pick(_message_key(same, shared, private, clients[j]), stratified, bounds, marks, picks)
        count, acc, weight = count_within(picks, lo, hi), out[rows[j]], weights[j]
        if few is None:
            nbytes = count * wire.itemsize
            if pos + nbytes > end:
                return TRUNCATED
            _add_picks(buf[pos : pos + nbytes].view(wire.dtype), picks, lo, weight, scales, acc)
            pos += nbytes
        else:
            pos = read_values(few, count, buf, pos, end, wire)
            if pos < 0:
                return pos
            _add_picks(few[2], picks, lo, weight, scales, acc)
    return pos


@njit
def _cut_picks(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, size: int, same: bool, stratified: bool, strata: np.ndarray, marks: np.ndarray,
    picks: np.ndarray,
) -> int:  # fmt: skip
    for j in range(clients.shape[0]):
        if j == 0 or not same:
            _pick(_message_key(same, shared, private, clients[j]), stratified, strata, marks, picks)
        for pick in picks:
            s = np.searchsorted(bounds, pick, side="right") - 1
            out[places[s] : places[s] + size] = buf[pos : pos + size]
            places[s] += size
            pos += size
    return pos
