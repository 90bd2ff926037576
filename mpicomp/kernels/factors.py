"""Matrix factorisation: squared errors at the entries that are known, and their gradients.

x holds U, a row of `rank` numbers for each row of the matrix, and then V, one for each column. Sums are taken in the order of the rows
and, in a row, of the columns, and none crosses clients, as in `sparse`.
"""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def _residual(u, v, rank, x, value):
    """uᵀv − a; u and v are where the factors begin in x."""
    total = x.dtype.type(0)
    for k in range(rank):
        total += x[u + k] * x[v + k]
    return total - value


@njit
def _add(u, v, rank, factor, x, out):
    for k in range(rank):
        out[u + k] += factor * x[v + k]
        out[v + k] += factor * x[u + k]


@njit
def losses(rows, firsts, height, rank, weight, W, out):
    """out[j] = mean over client j's entries of (u_rᵀv_c − a_rc)² + (weight/2)‖x‖² at x = W[j], or W[0] if W has one row, in float64.

    Parameters
    ----------
    rows : `ClientRows`. firsts : which row of U is client j's first; int64. height : rows of U.
    """
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        total = 0.0
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            u = (firsts[j] + r - rows.offsets[j]) * rank
            for e in range(rows.indptr[r], rows.indptr[r + 1]):
                v = (height + rows.indices[e]) * rank
                total += np.float64(_residual(u, v, rank, x, rows.values[e])) ** 2
        square = 0.0
        for c in range(x.shape[0]):
            square += np.float64(x[c]) ** 2
        entries = rows.indptr[rows.offsets[j + 1]] - rows.indptr[rows.offsets[j]]
        out[j] = total / entries + 0.5 * np.float64(weight) * square


@njit
def gradients(rows, firsts, height, rank, weight, W, out):
    """out[j] = ∇f_j(W[j]), or ∇f_j(W[0]); parameters as for `losses`."""
    for j in range(out.shape[0]):
        x, g = W[j if W.shape[0] > 1 else 0], out[j]
        for c in range(x.shape[0]):
            g[c] = weight * x[c]
        share = 2.0 / (rows.indptr[rows.offsets[j + 1]] - rows.indptr[rows.offsets[j]])
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            u = (firsts[j] + r - rows.offsets[j]) * rank
            for e in range(rows.indptr[r], rows.indptr[r + 1]):
                v = (height + rows.indices[e]) * rank
                _add(u, v, rank, share * _residual(u, v, rank, x, rows.values[e]), x, g)


@njit
def batch_gradients(rows, firsts, height, rank, weight, W, samples, out):
    """out[j] = mean over the entries samples[j, :] of client j, counted from its first, of their gradients."""
    share = 2.0 / samples.shape[1]
    for j in range(out.shape[0]):
        x, g = W[j if W.shape[0] > 1 else 0], out[j]
        for c in range(x.shape[0]):
            g[c] = weight * x[c]
        begin, end = rows.offsets[j], rows.offsets[j + 1]
        bounds = rows.indptr[begin : end + 1]
        for b in range(samples.shape[1]):
            e = bounds[0] + samples[j, b]
            u = (firsts[j] + np.searchsorted(bounds, e, side="right") - 1) * rank
            v = (height + rows.indices[e]) * rank
            _add(u, v, rank, share * _residual(u, v, rank, x, rows.values[e]), x, g)
