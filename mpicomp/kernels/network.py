"""Multi-layer perceptrons on sparse rows: softmax cross-entropy, its gradients, and how many rows are classified rightly.

The weights of all layers lie in one vector. Layer l maps widths[l-1] units to widths[l]: its matrix, one row for each unit that it
reads, begins at starts[l-1], and its biases follow. Sums are taken sample by sample in the order of the rows, and none crosses
clients, as in `sparse`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import njit
from .sparse import ClientRows

TANH, RELU = 0, 1


class Network(NamedTuple):
    """Shape of a network.

    Attributes
    ----------
    widths : units of each layer, the features first and the classes last; int64, shape (layers + 1,).
    starts : where the layer's weights begin in x; int64, shape (layers,).
    activation : TANH or RELU, of every layer but the last.
    """

    widths: np.ndarray
    starts: np.ndarray
    activation: int


@njit
def _add(factor, x, out):
    """out += factor · x. On slices, since loops over parts of an array, whose indices might be negative, are not vectorised."""
    for c in range(out.shape[0]):
        out[c] += factor * x[c]


@njit
def _forward(rows: ClientRows, r, network, x, units):
    """The outputs of all layers for row r, one layer after the other in `units`; the last are the logits. Returns where they begin."""
    widths, layers = network.widths, network.starts.shape[0]
    here = before = 0
    for l in range(layers):
        reads, n = widths[l], widths[l + 1]
        first, made = network.starts[l], units[here : here + n]
        made[:] = x[first + reads * n : first + reads * n + n]
        if l == 0:
            for k in range(rows.indptr[r], rows.indptr[r + 1]):
                at = first + rows.indices[k] * n
                _add(rows.values[k], x[at : at + n], made)
        else:
            for i in range(reads):
                at = first + i * n
                _add(units[before + i], x[at : at + n], made)
        if l == layers - 1:
            break
        for c in range(n):
            if network.activation == TANH:
                made[c] = np.tanh(made[c])
            elif made[c] < 0:
                made[c] = 0
        before, here = here, here + n
    return here


@njit
def _log_partition(logits):
    """log Σ exp, in float64; a NaN or infinity goes through."""
    largest = np.float64(logits[0])
    for c in range(1, logits.shape[0]):
        largest = max(largest, np.float64(logits[c]))
    total = 0.0
    for c in range(logits.shape[0]):
        total += np.exp(logits[c] - largest)
    return largest + np.log(total)


@njit
def _add_gradient(rows, r, share, network, x, units, slopes, out):
    """out += share · ∇(cross-entropy of row r); `units` and `slopes` (the derivatives by them) are scratch."""
    widths, layers = network.widths, network.starts.shape[0]
    here = _forward(rows, r, network, x, units)
    logits = units[here : here + widths[layers]]
    partition = _log_partition(logits)
    for c in range(widths[layers]):
        slopes[here + c] = share * (np.exp(logits[c] - partition) - (c == rows.labels[r]))
    for l in range(layers - 1, -1, -1):
        reads, n, first = widths[l], widths[l + 1], network.starts[l]
        made = slopes[here : here + n]
        biases = first + reads * n
        _add(slopes.dtype.type(1), made, out[biases : biases + n])
        if l == 0:
            for k in range(rows.indptr[r], rows.indptr[r + 1]):
                at = first + rows.indices[k] * n
                _add(rows.values[k], made, out[at : at + n])
            break
        before = here - reads
        for i in range(reads):
            value, at = units[before + i], first + i * n
            slope = slopes.dtype.type(0)
            for c in range(n):
                slope += x[at + c] * made[c]
            _add(value, made, out[at : at + n])
            if network.activation == TANH:
                slope *= 1 - value * value
            elif value <= 0:
                slope = slopes.dtype.type(0)
            slopes[before + i] = slope
        here = before


@njit
def _penalty(weight, x):
    square = 0.0
    for c in range(x.shape[0]):
        square += np.float64(x[c]) ** 2
    return 0.5 * np.float64(weight) * square


@njit
def losses(rows, network, weight, W, units, out):
    """out[j] = mean cross-entropy over client j's rows + (weight/2)‖x‖² at x = W[j], or at W[0] if W has one row. Summed in float64."""
    classes = network.widths[-1]
    for j in range(out.shape[0]):
        x = W[j if W.shape[0] > 1 else 0]
        total = 0.0
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            here = _forward(rows, r, network, x, units)
            logits = units[here : here + classes]
            total += _log_partition(logits) - np.float64(logits[np.int64(rows.labels[r])])
        out[j] = total / (rows.offsets[j + 1] - rows.offsets[j]) + _penalty(weight, x)


@njit
def gradients(rows, network, weight, W, units, slopes, out):
    """out[j] = ∇f_j(W[j]), or ∇f_j(W[0]); `units` and `slopes` (as many as there are units) are scratch."""
    for j in range(out.shape[0]):
        x, g = W[j if W.shape[0] > 1 else 0], out[j]
        for c in range(x.shape[0]):
            g[c] = weight * x[c]
        share = 1.0 / (rows.offsets[j + 1] - rows.offsets[j])
        for r in range(rows.offsets[j], rows.offsets[j + 1]):
            _add_gradient(rows, r, share, network, x, units, slopes, g)


@njit
def batch_gradients(rows, network, weight, W, samples, units, slopes, out):
    """out[j] = mean of ∇f_jr(W[j]) over the rows r = offsets[j] + samples[j, :]."""
    share = 1.0 / samples.shape[1]
    for j in range(out.shape[0]):
        x, g = W[j if W.shape[0] > 1 else 0], out[j]
        for c in range(x.shape[0]):
            g[c] = weight * x[c]
        for b in range(samples.shape[1]):
            _add_gradient(rows, rows.offsets[j] + samples[j, b], share, network, x, units, slopes, g)


@njit
def right(rows, network, x, units):
    """Of how many rows the largest logit (the first of equal ones) is that of their class."""
    classes, count = network.widths[-1], 0
    for r in range(rows.labels.shape[0]):
        here = _forward(rows, r, network, x, units)
        count += np.argmax(units[here : here + classes]) == rows.labels[r]
    return count
