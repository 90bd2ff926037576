"""Sparse rows grouped by client: losses and gradients of generalised linear models, products with Gram matrices.

Client j of a block has the rows offsets[j] .. offsets[j+1]; N_j is their number, A_j the matrix of its rows, and its
function is

    f_j(x) = (1/N_j) Σ_r φ(a_rᵀx, y_r) + λ Σ_c ψ(x_c)

with a link φ and a penalty ψ from the lists below; `knee` > 0 is where some links bend. Every sum is taken
in the order of the rows and, in a row, of the columns, and none crosses clients: what a kernel computes for a client is
the same bit for bit whatever block the client is in, and whether its point is shared or its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import njit

LOGISTIC, SQUARES = 0, 1  # φ(z, y) = log(1 + exp(−yz)), (z − y)²
HUBER = 2  # (z − y)²/2 where |z − y| ≤ knee, knee(|z − y| − knee/2) beyond
HINGE = 3  # with m = 1 − yz: 0 where m ≤ 0, m²/(2 knee) where m ≤ knee, m − knee/2 beyond
RIDGE, NONCONVEX = 0, 1  # ψ(x) = x²/2, x²/(1 + x²)


class ClientRows(NamedTuple):
    """The rows of m clients, one client after another.

    Attributes
    ----------
    indptr, indices, values : the rows in compressed sparse row form; int64, int32, float.
    labels : of each row; float.
    offsets : int64, shape (m + 1,).
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray


@njit
def _dot(rows, r, x):
    total = rows.values.dtype.type(0)
    for k in range(rows.indptr[r], rows.indptr[r + 1]):
        total += rows.values[k] * x[rows.indices[k]]
    return total


@njit
def _add(rows, r, coefficient, out):
    for k in range(rows.indptr[r], rows.indptr[r + 1]):
        out[rows.indices[k]] += coefficient * rows.values[k]


@njit
def _slope(link, knee, z, y):
    """∂φ/∂z; exp may overflow to infinity, and the quotient is then the right zero. A NaN goes through."""
    if link == LOGISTIC:
        return -y / (1.0 + np.exp(y * z))
    if link == SQUARES:
        return 2.0 * (z - y)
    if link == HUBER:
        residual = np.float64(z) - y
        if residual > knee:
            return knee
        return -knee if residual < -knee else residual
    excess = 1.0 - np.float64(y) * z
    if excess <= 0.0:
        return 0.0
    return np.float64(-y) if excess >= knee else -y * (excess / knee)


@njit
def _penalty_gradient(penalty, weight, x, out):
    for c in range(x.shape[0]):
        if penalty == NONCONVEX:
            scale = 1.0 / (1.0 + x[c] * x[c])
            out[c] = 2.0 * weight * x[c] * (scale * scale)
        else:
            out[c] = weight * x[c]


@njit
def _value(link, knee, z, y):
    """φ(z, y) of the links that bend."""
    if link == HUBER:
        size = abs(z - y)
        return 0.5 * size * size if size <= knee else knee * (size - 0.5 * knee)
    excess = 1.0 - y * z
    if excess <= 0.0:
        return 0.0
    return excess - 0.5 * knee if excess >= knee else 0.5 * excess * excess / knee


@njit
def losses(rows, link, knee, penalty, weight, W, out):
    """out[j] = f_j(W[j]), or f_j(W[0]) if W has one row. Summed in float64."""
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        total = 0.0
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            z, y = np.float64(_dot(rows, r, x)), np.float64(rows.labels[r])
            if link == LOGISTIC:
                total += max(-y * z, 0.0) + np.log1p(np.exp(-abs(z)))
            elif link == SQUARES:
                total += (z - y) ** 2
            else:
                total += _value(link, knee, z, y)
        regularizer = 0.0
        for c in range(x.shape[0]):
            square = np.float64(x[c]) ** 2
            regularizer += square / (1.0 + square) if penalty == NONCONVEX else 0.5 * square
        out[j] = total / (rows.offsets[j + 1] - rows.offsets[j]) + np.float64(weight) * regularizer


@njit
def gradients(rows, link, knee, penalty, weight, W, slopes, regularizer, out):
    """out[j] = ∇f_j(W[j]), or ∇f_j(W[0]); `slopes` (number of rows) and `regularizer` (d) are scratch.

    Three passes: as one they keep the processor waiting for each row's exponential.
    """
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            slopes[r] = _dot(rows, r, x)
    for j in range(out.shape[0]):
        share = 1.0 / (rows.offsets[j + 1] - rows.offsets[j])
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            slopes[r] = share * _slope(link, knee, slopes[r], rows.labels[r])
    for j in range(out.shape[0]):
        if j == 0 or W.shape[0] > 1:
            _penalty_gradient(penalty, weight, W[j], regularizer)
        out[j] = regularizer
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            _add(rows, r, slopes[r], out[j])


@njit
def batch_gradients(rows, link, knee, penalty, weight, W, samples, regularizer, out):
    """out[j] = mean of ∇f_jr(W[j]) over the rows r = offsets[j] + samples[j, :]; `regularizer` (d) is scratch."""
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        if j == 0 or W.shape[0] > 1:
            _penalty_gradient(penalty, weight, x, regularizer)
        out[j] = regularizer
        share = 1.0 / samples.shape[1]
        for b in range(samples.shape[1]):
            r = rows.offsets[j] + samples[j, b]
            _add(rows, r, share * _slope(link, knee, _dot(rows, r, x), rows.labels[r]), out[j])


@njit
def take_rows(order, indptr, indices, values, new_indptr, new_indices, new_values):
    """Copy the rows `order` to where new_indptr says."""
    for r in range(order.shape[0]):
        first, size = indptr[order[r]], new_indptr[r + 1] - new_indptr[r]
        for k in range(size):
            new_indices[new_indptr[r] + k] = indices[first + k]
            new_values[new_indptr[r] + k] = values[first + k]


@njit
def squared_norms(indptr, values):
    """‖a_r‖² of every row, float64."""
    out = np.zeros(indptr.shape[0] - 1)
    for r in range(out.shape[0]):
        for k in range(indptr[r], indptr[r + 1]):
            out[r] += np.float64(values[k]) ** 2
    return out


@njit
def gram_sum(rows, first, last, weights, v, out):
    """out = Σ_j weights[j] A_jᵀA_j v over the clients first ≤ j < last."""
    out[:] = 0.0
    for j in range(first, last):
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            _add(rows, r, weights[j] * _dot(rows, r, v), out)


@njit
def gram_variance(rows, v, mean, deviation, out):
    """out = (1/m) Σ_j (G_j − Ḡ)² v with G_j = A_jᵀA_j / N_j, from mean = Ḡv; `deviation` (d) is scratch.

    As (1/m) Σ_j G_j (G_j v − Ḡv), which loses no digits where the G_j are nearly equal.
    """
    out[:] = 0.0
    m = rows.offsets.shape[0] - 1
    for j in range(m):
        share = 1.0 / (rows.offsets[j + 1] - rows.offsets[j])
        deviation[:] = -mean
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            _add(rows, r, share * _dot(rows, r, v), deviation)
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            _add(rows, r, share / m * _dot(rows, r, deviation), out)
