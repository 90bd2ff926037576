"""Arithmetic on the rows of a block, where NumPy would need a buffer."""

from __future__ import annotations

import numpy as np

from . import lean, njit


@njit
def add_to_all(rows, vector):
    """rows[j] += vector[0] for every j. NumPy's broadcasting addition allocates a buffer for that."""
    for j in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[j, c] += vector[0, c]


@njit
def add_scaled(state, V, factor):
    """state += factor · V, both of shape (m, d) and one dtype, in one pass; the product is rounded before it is added."""
    for j in range(state.shape[0]):
        acc, v, scale = state[j], V[j], state.dtype.type(factor)
        for c in range(acc.shape[0]):
            acc[c] += scale * v[c]


@njit
def finite_rows(V, rows):
    """No entry of V[rows[j]], for any j, is NaN or Inf."""
    bad = 0
    for j in range(rows.shape[0]):
        v = V[rows[j]]
        for c in range(v.shape[0]):
            bad |= not abs(v[c]) < np.inf
    return bad == 0


@lean
def copy_slice(x, start, stop, out, at):
    """out[at + j − start] = x_j for start <= j < stop, in out's dtype; assigning slices would check for overlaps first."""
    part, target = x[start:stop], out[at : at + stop - start]
    for i in range(part.shape[0]):
        target[i] = part[i]


@lean
def count_within(coordinates, lo, hi):
    """How many of the coordinates are in [lo, hi)."""
    inside = 0
    for c in coordinates:
        inside += lo <= c < hi
    return inside


@lean
def take_within(x, coordinates, lo, out):
    """The entries of those coordinates that lie in x, which begins with coordinate `lo`, to `out`; returns how many."""
    count, hi = 0, lo + x.shape[0]
    for c in coordinates:
        if lo <= c < hi:
            out[count] = x[c - lo]
            count += 1
    return count


@lean
def scaled_finite(x, factor, out):
    """out_j = factor · x_j, which may be x itself; whether all of them are finite."""
    scale, bad = x.dtype.type(factor), 0
    for i in range(x.shape[0]):
        value = scale * x[i]
        bad |= not abs(value) < np.inf
        out[i] = value
    return bad == 0
