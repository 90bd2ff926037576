"""One step of the Lanczos iteration, without a BLAS whose sums would depend on its number of threads."""

from __future__ import annotations

import numpy as np

from . import njit


@njit
def orthogonalize(basis, count, w):
    """Make w orthogonal to the first `count` rows of `basis`, twice; returns the last row's coefficient, and ‖w‖."""
    coefficient = 0.0
    for sweep in range(2):
        for k in range(count):
            product = 0.0
            for c in range(w.shape[0]):
                product += basis[k, c] * w[c]
            for c in range(w.shape[0]):
                w[c] -= product * basis[k, c]
            if sweep == 0:
                coefficient = product
    square = 0.0
    for c in range(w.shape[0]):
        square += w[c] * w[c]
    return coefficient, np.sqrt(square)
