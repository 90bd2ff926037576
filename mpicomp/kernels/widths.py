"""How many bits a message of dynamic quantization gets."""

from __future__ import annotations

import numpy as np

from . import njit
from .bits import packed_nbytes
from .quantize import norm
from .select import argmax_magnitude

LEAST, MOST = 2, 16
_POINTS = 32  # future rounds that stand for all
_BISECTIONS = 50


@njit
def row_norms(V, bucket, use_max, partial_sums, out):
    """out[j]: N with N² = (1/d) Σ_b d_b‖V[j, bucket b]‖_p², so that the noise of all buckets is d N²/(6s²); ‖V[j]‖_p for one bucket."""
    d = V.shape[1]
    for j in range(V.shape[0]):
        total = 0.0
        for start in range(0, d, bucket):
            x = V[j, start : start + bucket]
            size = np.float64(abs(x[argmax_magnitude(x)])) if use_max else norm(x, 2, partial_sums)
            total += x.shape[0] * size * size
        out[j] = np.sqrt(total / d)


@njit
def message_bits(overhead, dim, width):
    """Bits of a message with so many bytes beside its entries."""
    return 8 * (overhead + packed_nbytes(dim, width))


@njit
def width_of(log_levels):
    """B = log2(s + 1) + 1 for s = 2^log_levels."""
    return max(log_levels, 0.0) + np.log2(1.0 + 2.0 ** -abs(log_levels)) + 1.0


@njit
def clip_width(width):
    """The width as an integer from LEAST to MOST; LEAST for NaN."""
    return min(max(np.int64(np.rint(width)), LEAST), MOST) if np.isfinite(width) else LEAST


@njit
def mean_width(log_k, log_c):
    """Mean over j of B(k c_j), kept within LEAST and MOST."""
    total = 0.0
    for j in range(log_c.shape[0]):
        total += min(max(width_of(log_k + log_c[j]), np.float64(LEAST)), np.float64(MOST))
    return total / log_c.shape[0]


@njit
def solve_scale(log_c, target):
    """log2 k such that the mean of B(k c_j) is `target`, by bisection (the mean grows with k)."""
    low, high = -log_c.max() - 4.0, MOST - log_c.min() + 4.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if mean_width(middle, log_c) < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@njit
def remember(norm, round, history):
    """Add (log2(1 + round), log2 norm) to the sums [count, Σx, Σy, Σx², Σxy] that a line is fitted to."""
    x, y = np.log2(1.0 + round), np.log2(norm)
    history[0] += 1.0
    history[1] += x
    history[2] += y
    history[3] += x * x
    history[4] += x * y


@njit
def _line(history):
    """(mean x, mean y, slope): the line of least squares, its slope damped by one unit of Σ(x − mean x)²."""
    count, x, y = history[0], history[1] / history[0], history[2] / history[0]
    slope = (history[4] - count * x * y) / (history[3] - count * x * x + 1.0)
    return x, y, min(max(slope, -4.0), 0.5)


@njit
def _scale_for(target, round, rounds, log_a, history, log_c):
    """log2 k with which the rounds from `round` on have the mean width `target`, if the norms keep to the line fitted to the past ones."""
    x, y, slope = _line(history)
    left = max(rounds - round, 1)
    points = min(_POINTS, left)
    for i in range(points):
        when = round + (i + 0.5) * left / points - 0.5
        log_c[i] = 0.5 * (rounds - when) * log_a + y + slope * (np.log2(1.0 + when) - x)
    return solve_scale(log_c[:points], target)


@njit
def _affordable(width, left, later, overhead, dim, use_up):
    """The width, changed so that what is left pays for the least width in `later` rounds and, with `use_up`, is not more than these
    can use at the largest."""
    least, most = message_bits(overhead, dim, LEAST), message_bits(overhead, dim, MOST)
    while width > LEAST and left - message_bits(overhead, dim, width) < later * least:
        width -= 1
    while use_up and width < MOST and left - message_bits(overhead, dim, width + 1) >= later * most:
        width += 1
    return width


@njit
def budget_widths(norms, clients, round, rounds, log_a, log_k, budget, overhead, dim, spent, history, log_c, widths):
    """Rule of a total budget: B_n = log2(k a^{(N−n)/2} N(g_n) + 1) + 1 for every row, rounded, within what the budget allows.

    Where log_k is NaN, k is solved for, and the budget is used up. A vector of zeros, or one that is not finite, gets the least width.

    Parameters
    ----------
    budget : bits for one client's whole run. overhead : bytes of a message beside its entries.
    spent, history : state of the clients, added to. log_c : scratch, float64, shape (64,). widths : shape (n,).
    """
    later, solved = max(rounds - round, 1) - 1, np.isnan(log_k)
    for j in range(norms.shape[0]):
        left, width = budget - spent[j, 0], LEAST
        if norms[j] > 0 and np.isfinite(norms[j]):
            remember(norms[j], round, history[j])
            scale = log_k
            if solved:
                target = (left / (later + 1) - 8 * overhead) / dim
                scale = _scale_for(target, round, rounds, log_a, history[j], log_c)
            width = clip_width(width_of(scale + 0.5 * (rounds - round) * log_a + np.log2(norms[j])))
            width = _affordable(width, left, later, overhead, dim, solved)
        spent[j, 0] += message_bits(overhead, dim, width)
        widths[clients[j]] = width


@njit
def error_widths(norms, clients, levels_per_norm, widths):
    """s = levels_per_norm · N(g), rounded up: no more error than asked for, up to 16 bits."""
    for j in range(norms.shape[0]):
        width = np.ceil(np.log2(levels_per_norm * norms[j] + 1.0) - 1e-9) + 1.0
        widths[clients[j]] = clip_width(width)


@njit
def ratio_widths(V, clients, bits, keep, ratios, widths):
    """B = bits + log2(r_0/r), rounded: r is a running mean of |mean|/std of the entries, ratios[j] = [r, r_0]."""
    d = V.shape[1]
    for j in range(V.shape[0]):
        mean = V[j].sum() / d
        variance = 0.0
        for c in range(d):
            variance += (V[j, c] - mean) ** 2
        ratio = abs(mean) / np.sqrt(variance / d) if variance > 0 else 0.0
        first = ratios[j, 1] == 0.0
        if first:
            ratios[j, 1] = ratio
        ratios[j, 0] = ratio if first else keep * ratios[j, 0] + (1.0 - keep) * ratio
        width = np.float64(bits)
        if ratios[j, 0] > 0:
            width += np.log2(ratios[j, 1] / ratios[j, 0])
        widths[clients[j]] = clip_width(width)
