"""Frequencies of symbols out of a power of two, and how a message says them: `docs/reference/wire.md`, Entropy code."""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length
from .intrinsics import trailing_zeros
from .status import BAD_PADDING, BAD_VALUE, TRUNCATED

MAX_PRECISION = 12  # the power of two


@lean
def share_out(counts, length, total, spans):
    """spans: frequencies out of `total`, ⌊total · counts/length⌋ but at least 1 for what occurs, and the sums of those before.

    What is then left of `total`, or is missing, is handed out, or taken back, one by one from the first symbol on.
    """
    freq, left = spans[0], total
    for s in range(counts.shape[0]):
        share = max(counts[s] * total // length, 1) if counts[s] else 0
        freq[s] = share
        left -= share
    while left != 0:
        for s in range(counts.shape[0]):
            if left > 0 and freq[s] > 0:
                freq[s] += np.uint32(1)
                left -= 1
            elif left < 0 and freq[s] > 1:
                freq[s] -= np.uint32(1)
                left += 1
    _add_up(spans)


@lean
def _add_up(spans):
    total = np.uint32(0)
    for s in range(spans.shape[1]):
        spans[1, s] = total
        total += spans[0, s]
    return total


@lean
def write_frequencies(spans, buf, pos, stop):
    """f + 1 for each symbol in Elias's γ code: as many zeros as follow the highest bit, that bit, the others; ends at a whole byte.
    Returns the position after it, or `stop`."""
    held, have = np.uint64(0), 0
    for s in range(spans.shape[1]):
        value = np.uint64(spans[0, s]) + np.uint64(1)
        zeros = bit_length(value) - 1
        rest = value & ((np.uint64(1) << np.uint64(zeros)) - np.uint64(1))
        held |= ((rest << np.uint64(1)) | np.uint64(1)) << np.uint64(have + zeros)
        have += 2 * zeros + 1
        while have >= 8 or (have > 0 and s == spans.shape[1] - 1):
            if pos >= stop:
                return stop
            buf[pos] = held & np.uint64(255)
            held >>= np.uint64(8)
            have, pos = have - 8, pos + 1
    return pos


@lean
def read_frequencies(buf, pos, end, spans, total):
    """The inverse of `write_frequencies`; refuses what does not add up to `total`."""
    held, have = np.uint64(0), 0
    for s in range(spans.shape[1]):
        while have <= 2 * MAX_PRECISION and pos < end:
            held |= np.uint64(buf[pos]) << np.uint64(have)
            have, pos = have + 8, pos + 1
        zeros = trailing_zeros(held)
        if 2 * zeros + 1 > have:
            return BAD_VALUE if have > 2 * MAX_PRECISION else TRUNCATED
        one = np.uint64(zeros + 1)
        rest = (held >> one) & ((np.uint64(1) << np.uint64(zeros)) - np.uint64(1))
        spans[0, s] = (np.uint64(1) << np.uint64(zeros)) + rest - np.uint64(1)
        held >>= np.uint64(2 * zeros + 1)
        have -= 2 * zeros + 1
    if _add_up(spans) != total:
        return BAD_VALUE
    if held & ((np.uint64(1) << np.uint64(have & 7)) - np.uint64(1)):
        return BAD_PADDING
    return pos - (have >> 3)
