"""The largest eigenvalue of a symmetric positive semidefinite operator of which only products are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..kernels.lanczos import orthogonalize
from ..kernels.random import Stream, derive, fill_normal

TOLERANCE = 1e-11
SUBSPACE, KEPT, CHECK_EVERY, RESTARTS = 40, 16, 8, 200


def largest_eigenvalue(product: Callable[[np.ndarray, np.ndarray], object], dim: int, floor: float = 0.0) -> float:
    """λ_max, plus an estimate of the error that is left (relative 1e-11), so that it can serve as a bound.

    Lanczos with full reorthogonalisation from a fixed start, restarted with the best `KEPT` Ritz vectors (Wu and Simon
    2000, "Thick-restart Lanczos method"), so that `SUBSPACE` vectors are all the memory. The error of a Ritz value θ is
    at most its residual ρ, and about ρ²/gap (Parlett 1998, "The Symmetric Eigenvalue Problem", 11.7).

    Parameters
    ----------
    product : (v, out) writes the operator's product with v into out; float64, shape (dim,).
    floor : an error below 1e-11 times this is small enough; for operators that may be zero to rounding.

    >>> diagonal = np.arange(1000.0)
    >>> round(largest_eigenvalue(lambda v, out: np.multiply(diagonal, v, out=out), 1000), 6)
    999.0
    """
    size = min(dim, SUBSPACE)
    basis, w, T = np.empty((size, dim)), np.empty(dim), np.zeros((size, size))
    fill_normal(derive(0, Stream.PROBLEM), w)
    norm = orthogonalize(basis, 0, w, T[0])
    first = 0
    for _ in range(RESTARTS):
        for k in range(first, size):
            np.divide(w, norm, out=basis[k])
            product(basis[k], w)
            norm = orthogonalize(basis, k + 1, w, T[k])  # row k of the lower triangle, all that eigh reads
            if k + 1 == size or (k + 1) % CHECK_EVERY == 0 or norm <= TOLERANCE * T[0, 0]:
                ritz, vectors = np.linalg.eigh(T[: k + 1, : k + 1])
                theta, residual = float(ritz[-1]), norm * abs(float(vectors[-1, -1]))
                gap = theta - float(ritz[-2]) if k else 0.0
                error = min(residual, residual**2 / gap if gap > 0 else np.inf)
                if error <= TOLERANCE * max(theta, floor):
                    return theta + error
        first = min(KEPT, size - 1)
        basis[:first] = np.einsum("kj,kc->jc", vectors[:, -first:], basis)
        T[:first, :first] = np.diag(ritz[-first:])
    return theta + error
