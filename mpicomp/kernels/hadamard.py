"""The fast Walsh–Hadamard transform, and the random rotation that is made of it: x → H D x/√N with D random signs.

H has N = 2^k rows. A vector of another length d is rotated in two windows that cover it, one after the other: its first N entries, N the
largest power of two below d, and then its last M ≥ d − N. Nothing is padded, and the map of the whole is orthogonal.
"""

from __future__ import annotations

import numpy as np

from . import njit
from .bits import bit_length
from .random import bits64

_SECOND = -1  # of the second window's key: signs of the first have word numbers from 0 on
BLOCK = 2048  # entries that stay in the first-level cache while all their small strides are done


@njit
def _radix2(x, h):
    """One stage: (a, b) → (a + b, a − b) over pairs at distance h."""
    for start in range(0, x.shape[0], 2 * h):
        a, b = x[start : start + h], x[start + h : start + 2 * h]
        for i in range(h):
            u, v = a[i], b[i]
            a[i], b[i] = u + v, u - v


@njit
def _radix4(x, h):
    """Two stages, at distances h and 2h, in one pass over memory."""
    for start in range(0, x.shape[0], 4 * h):
        a, b = x[start : start + h], x[start + h : start + 2 * h]
        c, d = x[start + 2 * h : start + 3 * h], x[start + 3 * h : start + 4 * h]
        for i in range(h):
            p, q, r, s = a[i] + b[i], a[i] - b[i], c[i] + d[i], c[i] - d[i]
            a[i], b[i], c[i], d[i] = p + r, q + s, p - r, q - s


@njit
def _stages(x, h):
    """All stages at distances h, 2h, ... below the length of x."""
    while 4 * h <= x.shape[0]:
        _radix4(x, h)
        h *= 4
    if 2 * h <= x.shape[0]:
        _radix2(x, h)


@njit
def transform(x):
    """x ← H x in place, unnormalised: twice in a row multiplies by N. N = len(x) is a power of two. O(N log N)."""
    n = x.shape[0]
    block = min(n, BLOCK)
    for start in range(0, n, block):
        _stages(x[start : start + block], 1)
    _stages(x, block)


@njit
def _flip(x, key):
    """Multiply x_j by a random sign."""
    for start in range(0, x.shape[0], 64):
        word = bits64(key, start >> 6)
        part = x[start : start + 64]
        for i in range(part.shape[0]):
            if (word >> np.uint64(i)) & np.uint64(1):
                part[i] = -part[i]


@njit
def rotate(x, key):
    """x ← H D x/√N in place, an orthogonal map; the signs D follow from the key."""
    _flip(x, key)
    transform(x)
    x *= x.dtype.type(1.0 / np.sqrt(x.shape[0]))


@njit
def rotate_back(x, key):
    """The inverse of `rotate`: x ← D H x/√N."""
    transform(x)
    x *= x.dtype.type(1.0 / np.sqrt(x.shape[0]))
    _flip(x, key)


@njit
def first_window(d):
    """N: the largest power of two that is at most d."""
    return 1 << (bit_length(d) - 1)


@njit
def turn(x, last, key):
    """`rotate` the first N entries of x and then the last `last`, a power of two, at least d − N; 0 where d = N."""
    rotate(x[: first_window(x.shape[0])], key)
    if last > 0:
        rotate(x[x.shape[0] - last :], bits64(key, _SECOND))


@njit
def turn_back(x, last, key):
    """The inverse of `turn`."""
    if last > 0:
        rotate_back(x[x.shape[0] - last :], bits64(key, _SECOND))
    rotate_back(x[: first_window(x.shape[0])], key)
