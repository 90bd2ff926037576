"""Random compressors from the papers' definitions, for many replicas at once, in NumPy with NumPy's own random numbers.

Nothing of the package is imported here, and none of its draws are used.
A vector of shape (R, k, d) holds what k clients compress in each of R replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Random = np.random.Generator
Map = Callable[[Random, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Message:
    """A compressor: C(v) for all replicas and clients, and its ω where it is unbiased (its contractive form is C/(1+ω))."""

    compress: Map
    omega: float = 0.0

    def contractive(self) -> Message:
        """C/(1+ω)."""
        return Message(lambda rng, v: self.compress(rng, v) / (1.0 + self.omega), 0.0)


def random_subset(rng: Random, shape: tuple[int, ...], k: int) -> np.ndarray:
    """Boolean masks with k of the last axis' entries, uniformly."""
    return np.argsort(np.argsort(rng.random(shape), axis=-1), axis=-1) < k


def rand_k(k: int, same: bool = False, scale: float = 1.0) -> Map:
    """(d/k) times k random coordinates, for each client its own or for all clients the same; `scale` for wrong versions."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        clients = 1 if same else v.shape[1]
        return v * random_subset(rng, (v.shape[0], clients, v.shape[2]), k) * (v.shape[2] / k * scale)

    return compress


def window_k(k: int) -> Map:
    """(d/k) times k coordinates that follow each other cyclically from a uniform start."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        start = rng.integers(0, v.shape[2], v.shape[:2])[..., None]
        return v * ((np.arange(v.shape[2]) - start) % v.shape[2] < k) * (v.shape[2] / k)

    return compress


def perm_k(rng: Random, v: np.ndarray) -> np.ndarray:
    """d ≥ n: n times the coordinates of a random block; blocks differ by one coordinate at most, and get a random client."""
    replicas, n, d = v.shape
    place = np.argsort(rng.random((replicas, d)), axis=1)  # position of each coordinate in the permuted order
    block = np.repeat(np.arange(n), np.diff(np.linspace(0, d, n + 1).astype(int)))[place]
    client = np.argsort(rng.random((replicas, n)), axis=1)
    owner = np.take_along_axis(client, block, axis=1)
    return n * v * (owner[:, None, :] == np.arange(n)[None, :, None])


def qsgd(levels: int, norm: Callable[[np.ndarray], np.ndarray] | None = None, floor: bool = False) -> Map:
    """‖v‖ sign(v_j) ζ_j/s, ζ_j = s|v_j|/‖v‖ rounded at random without bias; `floor` for a wrong version that rounds down."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        size = (norm or euclidean)(v)
        u = levels * np.abs(v) / np.where(size > 0, size, 1.0)
        low = np.floor(u)
        up = 0 if floor else rng.random(v.shape) < u - low
        return size * np.sign(v) * (low + up) / levels

    return compress


def euclidean(v: np.ndarray) -> np.ndarray:
    """‖v‖₂ along the last axis, which stays."""
    return np.linalg.norm(v, axis=-1, keepdims=True)


def largest(v: np.ndarray) -> np.ndarray:
    """max_j |v_j| along the last axis, which stays."""
    return np.max(np.abs(v), axis=-1, keepdims=True)


def natural(rng: Random, v: np.ndarray) -> np.ndarray:
    """Each entry to one of the two powers of two around it, without bias (Horváth et al. 2022, Definition 1)."""
    size = np.abs(v)
    low = 2.0 ** np.floor(np.log2(np.where(size > 0, size, 1.0)))
    up = rng.random(v.shape) < size / low - 1.0
    return np.where(size > 0, np.sign(v) * low * np.where(up, 2.0, 1.0), 0.0)


def natural_dithering(levels: int) -> Map:
    """‖v‖₂ sign(v_j) ξ_j, ξ_j = |v_j|/‖v‖₂ rounded without bias to a neighbour among 0, 2^{1−s}, …, 1/2, 1."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        size = euclidean(v)
        y = np.abs(v) / np.where(size > 0, size, 1.0)
        grid = np.array([0.0, *(2.0 ** np.arange(1 - levels, 1))])
        at = np.clip(np.searchsorted(grid, y, side="right") - 1, 0, len(grid) - 2)
        low, high = grid[at], grid[at + 1]
        return size * np.sign(v) * np.where(rng.random(v.shape) < (y - low) / (high - low), high, low)

    return compress


def ternary(rng: Random, v: np.ndarray) -> np.ndarray:
    """s sign(v_j) with probability |v_j|/s, else 0; s = max_j |v_j| of each client (TernGrad without a shared scale)."""
    s = largest(v)
    return s * np.sign(v) * (rng.random(v.shape) * s < np.abs(v))


def one_bit(correlated: bool) -> Map:
    """±r, r = ‖v‖₂ of each client: up where U < (v_j + r)/(2r), U = (π_i + γ_i)/n with a permutation π for each coordinate, or uniform
    (Suresh, Sun, Ro and Yu 2022, Algorithm 1; Suresh et al. 2017)."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        n, r = v.shape[1], euclidean(v)
        threshold = rng.random(v.shape)
        if correlated:
            threshold = (np.argsort(rng.random(v.shape), axis=1) + threshold) / n
        return np.where(threshold < (v + r) / (2 * np.where(r > 0, r, 1.0)), r, -r)

    return compress


def sign_magnitude(correlated: bool) -> Map:
    """−r, 0 or r, r = ‖v‖₂: the lower neighbour of v_j, or the upper one where U < its distance from the lower one in units of r.

    U as in `one_bit`. The rounding is monotone over zero, so clients of different signs are correlated as those of one sign are.
    """

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        n, r = v.shape[1], euclidean(v)
        threshold = rng.random(v.shape)
        if correlated:
            threshold = (np.argsort(rng.random(v.shape), axis=1) + threshold) / n
        y = v / np.where(r > 0, r, 1.0)
        return r * (np.floor(y) + (threshold < y - np.floor(y)))

    return compress


def top_k(k: int) -> Map:
    """The k entries of largest magnitude."""

    def compress(rng: Random, v: np.ndarray) -> np.ndarray:
        return np.where(np.argsort(np.argsort(-np.abs(v), axis=-1, kind="stable"), axis=-1) < k, v, 0.0)

    return compress


def scaled_sign(rng: Random, v: np.ndarray) -> np.ndarray:
    """(‖v‖₂/√d) sign(v), sign(0) = 1 (1-bit Adam)."""
    return euclidean(v) / np.sqrt(v.shape[-1]) * np.where(v < 0, -1.0, 1.0)
