"""RandK: k random coordinates, scaled to be unbiased. Which ones follows from the key: no indices on the wire."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..kernels import njit
from ..kernels.random import below, client_key
from ..kernels.rows import copy_slice
from ..kernels.status import TRUNCATED
from .base import Codec, Compressor, compressors, count_of
from .identity import Identity

_MASKS = ("independent", "shared")
_SAMPLINGS = ("window", "stratified", "uniform")


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

    >>> RandK(k=5).omega(100), RandK(k=5).ab(100, n=19)
    (19.0, (1.0, 0.0))
    """

    codec_id = 2
    summary = "k random coordinates, scaled by d/k, without indices"
    formulas = "ω = d/k − 1, α = k/d, (A, B) = (ω/n, 0); shared mask (ω, 0), θ = ω"
    paper = "Stich, Cordonnier and Jaggi 2018; Gorbunov, Burlachenko, Li and Richtárik 2021 (MARINA)"
    unbiased = True

    def __init__(
        self, k: int | None = None, fraction: float | None = None, mask: str = "independent", sampling: str = "window"
    ):
        if mask not in _MASKS:
            raise ConfigError(f"randk: mask={mask!r} is unknown; known: {', '.join(_MASKS)}")
        if sampling not in _SAMPLINGS:
            raise ConfigError(f"randk: sampling={sampling!r} is unknown; known: {', '.join(_SAMPLINGS)}")
        self.k, self.fraction, self.mask, self.sampling = k, fraction, mask, sampling
        self.shared_randomness = mask == "shared"

    @property
    def same_for_all(self) -> bool:
        return self.shared_randomness

    def count(self, d: int) -> int:
        """k for dimension d."""
        return count_of(self, self.k, self.fraction, d)

    def omega(self, d: int, n: int = 1) -> float:
        k = self.count(d)
        return float(-(-d // k) - 1) if self.sampling == "stratified" else d / k - 1

    def ab(self, d: int, n: int) -> tuple[float, float]:
        """(ω/n, 0). For a shared mask the variance is exactly ω‖mean a_i‖²; (ω, 0) bounds it for every step size rule."""
        omega = self.omega(d, n)
        return (omega, 0.0) if self.shared_randomness else (omega / n, 0.0)

    def density(self, d: int, n: int = 1) -> float:
        return float(self.count(d))

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        wire, k = np.dtype(wire_dtype), self.count(dim)
        if k == dim:
            return Identity().bind(dim, n_clients, wire)
        max_nbytes = k * wire.itemsize
        if self.sampling == "window":
            window = self.shared_randomness, k
            return Codec(
                self,
                self.codec_id,
                dim,
                n_clients,
                wire,
                max_nbytes,
                _encode_window,
                _decode_window,
                window,
                fixed=True,
            )
        bounds = np.arange(k + 1) * dim // k
        stratified = self.sampling == "stratified"
        scales = np.diff(bounds).astype(np.float64) if stratified else np.full(k, dim / k)
        marks = np.zeros(0 if stratified else dim, np.bool_)
        picks = np.empty(k, np.int64)
        args = self.shared_randomness, stratified, bounds, scales, marks, picks
        return Codec(
            self, self.codec_id, dim, n_clients, wire, max_nbytes, _encode_picks, _decode_picks, args, fixed=True
        )


@njit
def _message_key(same, shared, private, client):
    """The key of the mask: the same for all clients, or the client's own."""
    return shared if same else client_key(private, client)


@njit
def _encode_window(V, rows, clients, shared, private, buf, pos, tally, wire, same, k):
    d = V.shape[1]
    nbytes = k * wire.itemsize
    for j in range(rows.shape[0]):
        start = below(_message_key(same, shared, private, clients[j]), 0, d)
        head = min(k, d - start)
        x = V[rows[j]]
        values = buf[pos : pos + nbytes].view(wire.dtype)
        copy_slice(x, start, start + head, values, 0)
        copy_slice(x, 0, k - head, values, head)
        pos += nbytes
    tally += 8 * nbytes * rows.shape[0]
    return pos


@njit
def _decode_window(buf, pos, end, rows, clients, weights, shared, private, out, wire, same, k):
    d = out.shape[1]
    nbytes = k * wire.itemsize
    for j in range(rows.shape[0]):
        if pos + nbytes > end:
            return TRUNCATED
        start = below(_message_key(same, shared, private, clients[j]), 0, d)
        head = min(k, d - start)
        values = buf[pos : pos + nbytes].view(wire.dtype)
        factor = weights[j] * out.dtype.type(d / k)
        first, second = out[rows[j], start : start + head], out[rows[j], : k - head]
        for i in range(head):
            first[i] += factor * values[i]
        for i in range(k - head):
            second[i] += factor * values[head + i]
        pos += nbytes
    return pos


@njit
def _pick(key, stratified, bounds, marks, picks):
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
def _encode_picks(
    V, rows, clients, shared, private, buf, pos, tally, wire, same, stratified, bounds, scales, marks, picks
):  # fmt: skip
    k = picks.shape[0]
    nbytes = k * wire.itemsize
    for j in range(rows.shape[0]):
        if j == 0 or not same:
            _pick(_message_key(same, shared, private, clients[j]), stratified, bounds, marks, picks)
        x = V[rows[j]]
        values = buf[pos : pos + nbytes].view(wire.dtype)
        for s in range(k):
            values[s] = x[picks[s]]
        pos += nbytes
    tally += 8 * nbytes * rows.shape[0]
    return pos


@njit
def _decode_picks(
    buf, pos, end, rows, clients, weights, shared, private, out, wire, same, stratified, bounds, scales, marks, picks
):  # fmt: skip
    k = picks.shape[0]
    nbytes = k * wire.itemsize
    for j in range(rows.shape[0]):
        if pos + nbytes > end:
            return TRUNCATED
        if j == 0 or not same:
            _pick(_message_key(same, shared, private, clients[j]), stratified, bounds, marks, picks)
        values = buf[pos : pos + nbytes].view(wire.dtype)
        acc, weight = out[rows[j]], weights[j]
        for s in range(k):
            acc[picks[s]] += weight * out.dtype.type(scales[s]) * values[s]
        pos += nbytes
    return pos
