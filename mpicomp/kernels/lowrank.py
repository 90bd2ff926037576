"""Products of vectors read as matrices (rows × cols, row after row, zeros at the end) with thin matrices of r columns.

The order of every sum is fixed, so that all ranks get the same bits; BLAS promises no such thing.
"""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def times(V, cols, Q, out):
    """out[i] = M_i Q, where V_i is M_i; Q has shape (cols, r), out (m, rows · r)."""
    r, rows = Q.shape[1], -(-V.shape[1] // cols)
    together = V.shape[1] // cols // 4 * 4  # rows whose sums, each in the order of its columns, are formed four at once
    for i in range(V.shape[0]):
        v = V[i]
        for s in range(r):
            q = Q[:, s]
            for a in range(0, together, 4):
                at = a * cols
                t0 = t1 = t2 = t3 = out.dtype.type(0)
                for c in range(cols):
                    t0 += v[at + c] * q[c]
                    t1 += v[at + cols + c] * q[c]
                    t2 += v[at + 2 * cols + c] * q[c]
                    t3 += v[at + 3 * cols + c] * q[c]
                out[i, a * r + s] = t0
                out[i, (a + 1) * r + s] = t1
                out[i, (a + 2) * r + s] = t2
                out[i, (a + 3) * r + s] = t3
            for a in range(together, rows):
                total = out.dtype.type(0)
                for k in range(a * cols, min((a + 1) * cols, v.shape[0])):
                    total += v[k] * q[k - a * cols]
                out[i, a * r + s] = total


@njit
def transposed_times(V, cols, P, out):
    """out[i] = M_iᵀ P; P has shape (rows, r), out (m, cols · r)."""
    r = P.shape[1]
    out[:] = 0
    for i in range(V.shape[0]):
        for a in range(P.shape[0]):
            row = V[i, a * cols : min((a + 1) * cols, V.shape[1])]
            for s in range(r):
                factor = P[a, s]
                for c in range(row.shape[0]):
                    out[i, c * r + s] += row[c] * factor


@njit
def add_product(weight, P, Q, cols, V):
    """M_i += weight · P Q_iᵀ; Q has shape (m, cols · r)."""
    r = P.shape[1]
    for i in range(V.shape[0]):
        for a in range(P.shape[0]):
            row = V[i, a * cols : min((a + 1) * cols, V.shape[1])]
            for c in range(row.shape[0]):
                total = V.dtype.type(0)
                for s in range(r):
                    total += P[a, s] * Q[i, c * r + s]
                row[c] += weight * total


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
