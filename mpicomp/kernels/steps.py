"""Which step a uniform quantizer takes: for an error, or for a number of bits."""

from __future__ import annotations

import numpy as np

from . import lean
from .groups import clear_counts, count_tokens, ideal_bits
from .tokens import begin_rest, rest_bits, write_tokens
from .uniform import GROUP, add_errors, error_of, round_dithered, round_nearest, scales_of, step_below, write_dither

ROUNDING = (
    0.4  # ρ: entries are rounded up from Δ(k + 1 − ρ) on; a little below ½ saves more bits than it costs in error
)
FINEST = 2.0**-27  # of ‖x‖: no step is smaller, so that integers stay below LARGEST
_SAMPLE = 2048  # groups that are looked at first
_TRIES = 14
_LEAST = 0.97  # of the error that is allowed: so much is used, or more
_FLAT, _STEEP = (
    0.3,
    2.0,
)  # what the squared error's exponent as a power of the step is taken to be, at least and at most


@lean
def stride_of(d):
    """Every how many groups one is looked at first."""
    return max(d // (GROUP * _SAMPLE), 1)


@lean
def error_share(x, step, allowed, stride, rounding, sums, shifts):
    """(‖C(x) − x‖/allowed)² of rounding to the nearest with the best shifts; with a stride, estimated from every stride-th group."""
    scales, seen, d = scales_of(x, step), 0, x.shape[0]
    sums[:] = 0.0
    for start in range(0, d, GROUP * stride):
        part = x[start : min(start + GROUP, d)]
        add_errors(part, scales, rounding, sums)
        seen += part.shape[0]
    return error_of(sums, shifts) * (np.float64(step) / allowed) ** 2 * (np.float64(d) / seen)


@lean
def safe_step(allowed, d, wire):
    """With this step an error of ‖C(x) − x‖ ≤ `allowed` is certain: each entry's is (1 − ρ)Δ at most, shifts make none larger."""
    return step_below(allowed / ((1.0 - ROUNDING) * np.sqrt(np.float64(d))), wire)


@lean
def too_small(allowed, d, wire):
    """Whether fractions of a step would be lost among the wire dtype's subnormal numbers."""
    return allowed / np.sqrt(np.float64(d)) < (2.0**-110 if wire.itemsize == 4 else 2.0**-990)


@lean
def step_for_error(x, allowed, wire, sums, shifts):
    """(step, rounding) of rounding to the nearest with ‖C(x) − x‖ ≤ `allowed`, and hardly less; fills `shifts`."""
    d = x.shape[0]
    step = safe_step(allowed, d, wire)
    if too_small(allowed, d, wire):
        shifts[:] = 0
        return step, 0.5
    stride, guess = stride_of(d), step_below(allowed * np.sqrt(12.0 / d), wire)
    if stride > 1:
        guess = _search(x, guess, step, allowed, stride, wire, sums, shifts)
    return _search(x, guess, step, allowed, 1, wire, sums, shifts), ROUNDING


@lean
def _search(x, guess, safe, allowed, stride, wire, sums, shifts):
    """A step whose error is close below `allowed`: `safe`, or a larger one; `shifts` are those of the step."""
    low, high, power, before, error_before = np.float64(safe), np.inf, 1.5, 0.0, 0.0
    step = max(guess, safe)
    for _ in range(_TRIES):
        error = error_share(x, step, allowed, stride, ROUNDING, sums, shifts)
        if error <= 1.0:
            low = max(low, np.float64(step))
            if error >= _LEAST:
                break
        else:
            high = min(high, np.float64(step))
        if high <= low * 1.001:
            break
        if before > 0 and error > 0 and step != before and error_before > 0:
            power = min(max(np.log(error / error_before) / np.log(step / before), _FLAT), _STEEP)
        before, error_before = np.float64(step), error
        aim = before * (0.5 * (1.0 + _LEAST) / max(error, 1e-3)) ** (1.0 / power)
        if not low < aim < high:
            aim = np.sqrt(low * high) if high < np.inf else 2.0 * low
        step = step_below(aim, wire)
    if np.float64(step) != low:
        step = step_below(low, wire)
        error_share(x, step, allowed, stride, ROUNDING, sums, shifts)
    return step


@lean
def estimated_bits(x, step, dithered, key, stride, u, q, tokens, counts, numbers, small, tail):
    """Bits of a message, its tables left out, estimated from every stride-th group. small : uint8, scratch, for a group's rest bits."""
    scales, seen, rest, d = scales_of(x, step), 0, 0, x.shape[0]
    clear_counts(counts, numbers)
    for start in range(0, d, GROUP * stride):
        part = x[start : min(start + GROUP, d)]
        count = part.shape[0]
        if dithered:
            write_dither(key, start, u)
            round_dithered(part, scales, u, q)
        else:
            round_nearest(part, scales, ROUNDING, q)
        begin_rest(0, tail)
        level = write_tokens(q, count, tokens, 0, small, tail)
        rest += rest_bits(0, tail)
        count_tokens(tokens[:count], level, counts, numbers)
        seen += count
    return (ideal_bits(counts, numbers) + rest) * (np.float64(d) / seen)


@lean
def step_for_bits(x, first, low, high, target, dithered, key, u, q, tokens, counts, numbers, small, tail, wire):
    """(step between low and high, bits that a doubling of it saves): one whose estimated bits are `target`, nearly."""
    d, stride = x.shape[0], stride_of(x.shape[0])
    step, slope, before, bits_before = min(max(first, low), high), np.float64(d), 0.0, 0.0
    for _ in range(_TRIES):
        bits = estimated_bits(
            x, step_below(step, wire), dithered, key, stride, u, q, tokens, counts, numbers, small, tail
        )
        if before > 0 and step != before and bits != bits_before:
            slope = max((bits_before - bits) / np.log2(step / before), 0.02 * target)
        if abs(bits - target) < 0.005 * target:
            break
        before, bits_before = step, bits
        step = min(max(step * 2.0 ** min(max((bits - target) / slope, -6.0), 6.0), low), high)
        if step == before:
            break
    return step, slope
