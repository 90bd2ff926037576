"""The greedy search of the partition `heterogeneous`: rows are dealt out so that the clients' smoothness constants differ much.

Everything is plain arithmetic in a fixed order, without LAPACK, so that all ranks find the same partition on any processor.
"""

from __future__ import annotations

import numpy as np

from . import njit

SWEEPS = 30
TIE = 1e-9  # variances that differ by less, relatively, are equal, and the first client has the row


@njit
def deal_rows(indptr, indices, values, order, clients, share, dim, rank, owner):
    """owner[r] = the client of row r, or −1 where all clients are full.

    A client's constant is λ_max(A_iᵀA_i)/(number of its rows), A_i the rows that it has so far; the largest `rank` eigenvalues and their
    vectors are kept (all of them where share ≤ rank).

    Parameters
    ----------
    indptr, indices, values : the rows. order : in which they are dealt out. share : rows of a client. dim : number of columns.
    """
    n_rows, kept = order.shape[0], min(rank, share)
    vectors, eigenvalues = np.zeros((clients, dim, kept)), np.zeros((clients, kept))
    sizes, constants = np.zeros(clients, np.int64), np.zeros(clients)
    row, p, small, basis = np.zeros(dim), np.zeros(kept), np.zeros((kept + 1, kept + 1)), np.zeros((kept + 1, kept + 1))
    owner[:] = -1
    for i in range(clients):
        r = order[((2 * i + 1) * n_rows) // (2 * clients)]
        norm = project(indptr, indices, values, r, vectors[i], p)
        owner[r] = i
        add_row(indptr, indices, values, r, norm, p, vectors[i], eigenvalues[i], row, small, basis)
        sizes[i], constants[i] = 1, eigenvalues[i, 0]
    total, squares = constants.sum(), (constants * constants).sum()
    for r in order:
        if owner[r] >= 0:
            continue
        best, largest, constant = -1, -1.0, 0.0
        for i in range(clients):
            if sizes[i] < share:
                old, more = constants[i], sizes[i] + 1
                norm = project(indptr, indices, values, r, vectors[i], p)
                new = updated(eigenvalues[i], p, norm) / more
                variance = (squares - old * old + new * new) / clients - ((total - old + new) / clients) ** 2
                if variance > largest * (1.0 + TIE):
                    best, largest, constant = i, variance, new
        if best < 0:
            break
        norm = project(indptr, indices, values, r, vectors[best], p)
        add_row(indptr, indices, values, r, norm, p, vectors[best], eigenvalues[best], row, small, basis)
        total += constant - constants[best]
        squares += constant**2 - constants[best] ** 2
        owner[r], constants[best] = best, constant
        sizes[best] += 1


@njit
def project(indptr, indices, values, r, vectors, p):
    """p = Uᵀa for row a = a_r; returns ‖a‖²."""
    p[:] = 0.0
    norm = 0.0
    for k in range(indptr[r], indptr[r + 1]):
        value, u = values[k], vectors[indices[k]]
        norm += value * value
        for j in range(p.shape[0]):
            p[j] += value * u[j]
    return norm


@njit
def updated(eigenvalues, p, norm):
    """λ_max(Σ_j λ_j u_j u_jᵀ + aaᵀ) with p_j = u_jᵀa and ‖a‖² = norm, λ_1 ≥ λ_2 ≥ ... ≥ 0.

    The largest root μ of 1 = Σ p_j²/(μ − λ_j) + ρ²/μ, ρ² = ‖a‖² − ‖p‖² (Golub 1973), or λ_1 where that is more. Newton's method
    rises to the root from a lower bound: λ_1, any λ_j + p_j², or the root for λ_2 = λ_3 = ... = 0, that of a quadratic equation.
    """
    if norm == 0.0:
        return eigenvalues[0]
    first = eigenvalues[0]
    half = 0.5 * (first + norm)
    mu = half + np.sqrt(max(half * half - max(norm - p[0] * p[0], 0.0) * first, 0.0))
    rho = norm
    for j in range(p.shape[0]):
        mu = max(mu, eigenvalues[j] + p[j] * p[j])
        rho -= p[j] * p[j]
    mu, rho = max(mu, first * (1.0 + 1e-15)), max(rho, 0.0)
    for _ in range(50):
        value, slope = 1.0 - rho / mu, rho / (mu * mu)
        for j in range(p.shape[0]):
            share = p[j] / (mu - eigenvalues[j])
            value -= p[j] * share
            slope += share * share
        if not value < -1e-13:
            break
        mu -= value / slope
    return mu


@njit
def add_row(indptr, indices, values, r, norm, p, vectors, eigenvalues, row, small, basis):
    """Replace eigenvalues and vectors by the largest ones after the row is added; p and norm are from `project`."""
    kept = p.shape[0]
    row[:] = 0.0
    for k in range(indptr[r], indptr[r + 1]):
        row[indices[k]] = values[k]
    for c in range(row.shape[0]):
        for j in range(kept):
            row[c] -= p[j] * vectors[c, j]
    rho = np.sqrt((row * row).sum())
    if rho > 1e-7 * np.sqrt(norm):
        row /= rho
    else:
        rho = 0.0
        row[:] = 0.0
    for a in range(kept + 1):
        left = p[a] if a < kept else rho
        for b in range(kept + 1):
            small[a, b] = left * (p[b] if b < kept else rho)
        if a < kept:
            small[a, a] += eigenvalues[a]
    jacobi(small, basis)
    largest = np.argsort(-np.diag(small), kind="mergesort")
    for c in range(row.shape[0]):
        for j in range(kept):
            total = row[c] * basis[kept, largest[j]]
            for k in range(kept):
                total += vectors[c, k] * basis[k, largest[j]]
            p[j] = total
        vectors[c] = p
    for j in range(kept):
        eigenvalues[j] = max(small[largest[j], largest[j]], 0.0)


@njit
def jacobi(matrix, basis):
    """Make a symmetric matrix diagonal by rotations; the columns of `basis` become its eigenvectors (Golub and Van Loan, §8.5)."""
    size = matrix.shape[0]
    basis[:] = 0.0
    for a in range(size):
        basis[a, a] = 1.0
    for _ in range(SWEEPS):
        outside, inside = 0.0, 0.0
        for a in range(size):
            inside += matrix[a, a] ** 2
            for b in range(a):
                outside += matrix[a, b] ** 2
        if outside <= 1e-28 * inside:
            return
        for a in range(size):
            for b in range(a + 1, size):
                if matrix[a, b] == 0.0:
                    continue
                tau = (matrix[b, b] - matrix[a, a]) / (2.0 * matrix[a, b])
                t = (1.0 if tau >= 0 else -1.0) / (abs(tau) + np.sqrt(1.0 + tau * tau))
                cos = 1.0 / np.sqrt(1.0 + t * t)
                sin = t * cos
                for k in range(size):
                    x, y = matrix[k, a], matrix[k, b]
                    matrix[k, a], matrix[k, b] = cos * x - sin * y, sin * x + cos * y
                for k in range(size):
                    x, y = matrix[a, k], matrix[b, k]
                    matrix[a, k], matrix[b, k] = cos * x - sin * y, sin * x + cos * y
                for k in range(size):
                    x, y = basis[k, a], basis[k, b]
                    basis[k, a], basis[k, b] = cos * x - sin * y, sin * x + cos * y
