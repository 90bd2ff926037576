"""Linear autoencoders: f(D, E) = ½⟨R, R S⟩, R = DE − I, of a client whose data enter by a symmetric matrix S alone."""

from __future__ import annotations

from . import njit


@njit
def add_product(A, B, out):
    """out += A B."""
    for i in range(A.shape[0]):
        row = out[i]
        for k in range(A.shape[1]):
            factor = A[i, k]
            for j in range(B.shape[1]):
                row[j] += factor * B[k, j]


@njit
def add_transposed_product(A, B, out):
    """out += Aᵀ B."""
    for k in range(A.shape[0]):
        for i in range(A.shape[1]):
            factor, row = A[k, i], out[i]
            for j in range(B.shape[1]):
                row[j] += factor * B[k, j]


@njit
def residual(w, width, S, R, RS):
    """R = DE − I and RS = R S, of w = (D, E) row by row, D of shape (p, width), E of shape (width, p)."""
    p = S.shape[0]
    D, E = w[: p * width].reshape(p, width), w[p * width :].reshape(width, p)
    R[:] = 0
    RS[:] = 0
    add_product(D, E, R)
    for c in range(p):
        R[c, c] -= 1
    add_product(R, S, RS)


@njit
def losses(S, width, W, R, RS, out):
    """out[j] = f_j(W[j])."""
    for j in range(S.shape[0]):
        if j == 0 or W.shape[0] > 1:
            residual(W[min(j, W.shape[0] - 1)], width, S[j], R, RS)
        else:
            RS[:] = 0
            add_product(R, S[j], RS)
        total = 0.0
        for a in range(R.shape[0]):
            for b in range(R.shape[0]):
                total += R[a, b] * RS[a, b]
        out[j] = 0.5 * total


@njit
def gradients(S, width, W, R, RS, out):
    """out[j] = ∇f_j(W[j]) = (R S Eᵀ, Dᵀ R S)."""
    p = S.shape[1]
    for j in range(S.shape[0]):
        w = W[min(j, W.shape[0] - 1)]
        if j == 0 or W.shape[0] > 1:
            residual(w, width, S[j], R, RS)
        else:
            RS[:] = 0
            add_product(R, S[j], RS)
        D, E = w[: p * width].reshape(p, width), w[p * width :].reshape(width, p)
        of_D, of_E = out[j, : p * width].reshape(p, width), out[j, p * width :].reshape(width, p)
        for a in range(p):
            for k in range(width):
                total = R[a, 0] * 0
                for c in range(p):
                    total += RS[a, c] * E[k, c]
                of_D[a, k] = total
        of_E[:] = 0
        add_transposed_product(D, RS, of_E)
