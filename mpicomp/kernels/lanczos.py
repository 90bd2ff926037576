"""One step of the Lanczos iteration, without a BLAS whose sums would depend on its number of threads."""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def orthogonalize(basis, count, w, coefficients):
    """Make w orthogonal to the first `count` rows of `basis`, twice; writes their coefficients, returns ‖w‖."""
    coefficients[:count] = 0.0
    for _ in range(2):
        for k in range(count):
            product = 0.0
            for c in range(w.shape[0]):
                product += basis[k, c] * w[c]
            for c in range(w.shape[0]):
                w[c] -= product * basis[k, c]
            coefficients[k] += product
    square = 0.0
    for c in range(w.shape[0]):
        square += w[c] * w[c]
    return np.sqrt(square)
