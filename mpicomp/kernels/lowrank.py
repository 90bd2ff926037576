"""Products of vectors read as matrices (rows × cols, row after row, zeros at the end) with thin matrices of r columns.

The order of every sum is fixed, so that all ranks get the same bits; BLAS promises no such thing.
"""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def times(V, cols, Q, out):
    """out[i] = M_i Q, where V_i is M_i; Q has shape (cols, r), out (m, rows · r)."""
    r = Q.shape[1]
    out[:] = 0
    for i in range(V.shape[0]):
        for k in range(V.shape[1]):
            a = k // cols
            c = k - a * cols
            for s in range(r):
                out[i, a * r + s] += V[i, k] * Q[c, s]


@njit
def transposed_times(V, cols, P, out):
    """out[i] = M_iᵀ P; P has shape (rows, r), out (m, cols · r)."""
    r = P.shape[1]
    out[:] = 0
    for i in range(V.shape[0]):
        for k in range(V.shape[1]):
            a = k // cols
            c = k - a * cols
            for s in range(r):
                out[i, c * r + s] += V[i, k] * P[a, s]


@njit
def add_product(weight, P, Q, cols, V):
    """M_i += weight · P Q_iᵀ; Q has shape (m, cols · r)."""
    r = P.shape[1]
    for i in range(V.shape[0]):
        for k in range(V.shape[1]):
            a = k // cols
            c = k - a * cols
            total = V.dtype.type(0)
            for s in range(r):
                total += P[a, s] * Q[i, c * r + s]
            V[i, k] += weight * total


@njit
def orthonormalize(P, tiny):
    """Gram and Schmidt on the columns of P, each one twice; a column that lies in the span of those before it becomes zero.

    Parameters
    ----------
    tiny : a remainder below this part of the column's norm counts as nothing.
    """
    for s in range(P.shape[1]):
        before = _column_norm(P, s)
        for _ in range(2):
            for u in range(s):
                dot = 0.0
                for a in range(P.shape[0]):
                    dot += np.float64(P[a, u]) * np.float64(P[a, s])
                for a in range(P.shape[0]):
                    P[a, s] -= dot * P[a, u]
        norm = _column_norm(P, s)
        factor = 1.0 / norm if norm > tiny * before else 0.0
        for a in range(P.shape[0]):
            P[a, s] *= factor


@njit
def _column_norm(P, s):
    total = 0.0
    for a in range(P.shape[0]):
        total += np.float64(P[a, s]) * np.float64(P[a, s])
    return np.sqrt(total)
