"""Quadratics whose matrices are multiples of T = tridiag(−1, 2, −1) plus a multiple of the identity.

f_j(x) = ½ xᵀA_j x − b_j x_0 with A_j = scale_j T + shift I. A client's result does not depend on the block it is in.
"""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def _product(scale, shift, x, c):
    """(A x)_c."""
    neighbours = x.dtype.type(0)
    if c > 0:
        neighbours += x[c - 1]
    if c < x.shape[0] - 1:
        neighbours += x[c + 1]
    return shift * x[c] + scale * (x[c] + x[c] - neighbours)


@njit
def losses(scales, shift, linear, W, out):
    """out[j] = f_j(W[j]), or f_j(W[0]) if W has one row; `linear` has the b_j. Summed in float64."""
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        total = 0.0
        for c in range(x.shape[0]):
            total += np.float64(x[c]) * np.float64(_product(scales[j], shift, x, c))
        out[j] = 0.5 * total - np.float64(linear[j]) * np.float64(x[0])


@njit
def gradients(scales, shift, linear, W, out):
    """out[j] = ∇f_j(W[j]), or ∇f_j(W[0])."""
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        for c in range(x.shape[0]):
            out[j, c] = _product(scales[j], shift, x, c)
        out[j, 0] -= linear[j]
