"""Groups of tokens in a message: those of like size share a code.

The groups, of GROUP tokens each, are sorted by the sum of their magnitudes into up to CLASSES classes, each with an entropy code of its
own, so that parts of a vector that differ in size do not spoil each other's: `docs/reference/wire.md`, 53.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length
from .entropy import precision_of, read_below, states_for, write_counted, write_fields
from .entropy import scratch as entropy_scratch
from .intrinsics import load_word, store_word
from .status import BAD_MODE, BAD_VALUE, TRUNCATED
from .tokens import HEAD, LEVELS, TOKENS
from .uniform import GROUP

CLASSES = 16  # of a message, at most
_REST = 0x80  # a bit of the first byte: there are bits that no token holds
_BITS_OF_STATE = 20.0  # that say nothing, about


@lean
def clear_counts(counts, numbers):
    """Nothing has been counted. counts : int64, shape (LEVELS + 1, 2, TOKENS + 1); numbers : int64, shape (LEVELS,)."""
    counts[:] = 0
    numbers[:] = 0


@lean
def count_tokens(tokens, level, counts, numbers):
    """Add a group's tokens to the counts of its level, neighbours to different rows."""
    numbers[level] += 1
    if level == 0:
        counts[0, 0, 0] += tokens.shape[0]
        return
    even, odd, whole = counts[level, 0], counts[level, 1], tokens.shape[0] & ~1
    for j in range(0, whole, 2):
        even[tokens[j]] += 1
        odd[tokens[j + 1]] += 1
    if whole < tokens.shape[0]:
        even[tokens[whole]] += 1


@lean
def _cost(counts, groups, total):
    """Bits of a class with these counts, in `groups` of `total` groups: its labels, its code and the code's table."""
    size, logs, most, kinds, below = 0, 0.0, 0, 0, 1
    for s in range(TOKENS):
        if counts[s] > 0:
            count = np.float64(counts[s])
            size += counts[s]
            logs += count * np.log2(count)
            most, kinds, below = max(most, counts[s]), kinds + 1, s + 1
    bits = groups * np.log2(total / groups) + 8.0
    if kinds > 1 or below > 1:
        whole, log = 1 << precision_of(size, below), np.log2(np.float64(size))
        bits += size * log - logs + 8.0 + below
        for s in range(below):
            if counts[s] > 0:
                bits += 2.0 * np.floor(np.log2(1.0 + max(counts[s] * whole / size, 1.0)))
    return bits + _BITS_OF_STATE * states_for(size, size - most)


@lean
def ideal_bits(counts, numbers):
    """Bits of the labels and the tokens that are counted, each level with a perfect code of its own."""
    bits, total = 0.0, np.float64(numbers.sum())
    for level in range(LEVELS):
        if numbers[level] > 0:
            size = 0
            for s in range(TOKENS):
                count = counts[level, 0, s] + counts[level, 1, s]
                if count > 0:
                    size += count
                    bits -= count * np.log2(np.float64(count))
            bits += size * np.log2(np.float64(size)) + numbers[level] * np.log2(total / numbers[level])
    return bits


@lean
def join_levels(counts, numbers, most, labels, starts, costs):
    """Sort the levels into at most `most` classes of neighbouring ones, as few as take the fewest bits; returns (classes, bits).

    counts, numbers : of `count_tokens`; the row [c, 0] becomes the counts of class c. labels : int64, shape (LEVELS,): the class of each
    level. starts, costs : int64, shape (LEVELS + 1,), float64, shape (2, LEVELS): scratch.
    """
    classes, total = 0, np.float64(numbers.sum())
    for level in range(LEVELS):
        if numbers[level] > 0:
            for s in range(TOKENS):
                counts[classes, 0, s] = counts[level, 0, s] + counts[level, 1, s]
            numbers[classes], starts[classes] = numbers[level], level
            classes += 1
    spare = counts[LEVELS, 0]
    for c in range(classes):
        costs[0, c] = _cost(counts[c, 0], numbers[c], total)
    for c in range(classes - 1):
        costs[1, c] = _joint(counts, numbers, c, total, spare)
    while classes > 1:
        best = 0
        for c in range(classes - 1):
            if costs[0, c] + costs[0, c + 1] - costs[1, c] > costs[0, best] + costs[0, best + 1] - costs[1, best]:
                best = c
        if classes <= most and costs[1, best] >= costs[0, best] + costs[0, best + 1]:
            break
        for s in range(TOKENS):
            counts[best, 0, s] += counts[best + 1, 0, s]
        numbers[best] += numbers[best + 1]
        costs[0, best] = costs[1, best]
        classes -= 1
        for c in range(best + 1, classes):
            for s in range(TOKENS):
                counts[c, 0, s] = counts[c + 1, 0, s]
            numbers[c], starts[c] = numbers[c + 1], starts[c + 1]
            costs[0, c], costs[1, c] = costs[0, c + 1], costs[1, c + 1]
        for c in range(max(best - 1, 0), min(best + 1, classes - 1)):
            costs[1, c] = _joint(counts, numbers, c, total, spare)
    bits = 0.0
    for c in range(classes):
        bits += costs[0, c]
        labels[starts[c] : starts[c + 1] if c + 1 < classes else LEVELS] = c
    return classes, bits


@lean
def _joint(counts, numbers, c, total, spare):
    """`_cost` of class c and the next one as one."""
    for s in range(TOKENS):
        spare[s] = counts[c, 0, s] + counts[c + 1, 0, s]
    return _cost(spare, numbers[c] + numbers[c + 1], total)


@lean
def write_groups(tokens, levels, kept, top, buf, pos):
    """Write the tokens of all groups (uint8, shape (d,)) at `pos`, where `begin_rest` was called; returns the position after them.

    Parameters
    ----------
    levels : uint8, one for each group; they become its class. kept : see `scratch`.
    """
    coded, counts, numbers, labels, starts, costs, model, class_model, tail = kept
    d, groups = tokens.shape[0], levels.shape[0]
    classes, _ = join_levels(counts, numbers, class_limit(groups), labels, starts, costs)
    buf[pos] = classes - 1
    rest, after = np.int64(tail[2]) - (pos + HEAD), pos + 1
    if tail[1] > 0:
        buf[pos + HEAD + rest] = tail[0]
        rest += 1
    if rest > 0:
        buf[pos] |= _REST
        store_word(buf, pos + 1, np.uint64(rest))
        after += HEAD - 1 + rest
    for g in range(groups):
        levels[g] = labels[levels[g]]
    if classes > 1:
        after = write_fields(levels, bit_length(classes - 1), class_model, buf, after, top)
    for c in range(classes):
        size, below = 0, 1
        for s in range(TOKENS):
            model[0][0, s] = counts[c, 0, s]
            if counts[c, 0, s] > 0:
                size, below = size + counts[c, 0, s], s + 1
        buf[after] = below - 1
        after += 1
        if below > 1:
            at = 0
            for g in range(groups):
                if levels[g] == c:
                    part = tokens[GROUP * g : min(GROUP * (g + 1), d)]
                    place = coded[at : at + part.shape[0]]
                    for j in range(part.shape[0]):
                        place[j] = part[j]
                    at += part.shape[0]
            after = write_counted(coded[:size], bit_length(below - 1), model, below, buf, after, top)
    return after


@lean
def read_groups(buf, pos, end, d, levels, kept, top):
    """Read back what `write_groups` wrote: the tokens of class after class in `coded`, each group's class in `levels`, where each class
    begins in `starts`, and `tail` made ready for `read_tokens`.

    Returns (the position after it or a negative code, that after the bits that no token holds).
    """
    coded, _, _, _, starts, _, model, class_model, tail = kept
    groups = levels.shape[0]
    if pos >= end:
        return TRUNCATED, 0
    classes = np.int64(buf[pos] & ~np.uint8(_REST)) + 1
    if classes > class_limit(groups):
        return BAD_MODE, 0
    tail[0], tail[1], tail[2] = 0, 0, pos + 1
    after = stop = pos + 1
    if buf[pos] & _REST:
        if pos + HEAD > end:
            return TRUNCATED, 0
        rest = load_word(buf, pos + 1, np.uint64)
        if rest > np.uint64(end - (pos + HEAD)):
            return TRUNCATED, 0
        tail[2] = pos + HEAD
        after = stop = pos + HEAD + np.int64(rest)
    levels[:] = 0
    if classes > 1:
        after = read_below(buf, after, end, bit_length(classes - 1), class_model, CLASSES, levels, top)
        if after < 0:
            return after, 0
    starts[: classes + 1] = 0
    for g in range(groups):
        if levels[g] >= classes:
            return BAD_VALUE, 0
        starts[levels[g] + 1] += min(GROUP, d - GROUP * g)
    for c in range(classes):
        starts[c + 1] += starts[c]
        part = coded[starts[c] : starts[c + 1]]
        if after >= end:
            return TRUNCATED, 0
        below = np.int64(buf[after]) + 1
        after += 1
        if below > TOKENS or part.shape[0] == 0:
            return BAD_VALUE, 0
        if below == 1:
            part[:] = 0
        else:
            after = read_below(buf, after, end, bit_length(below - 1), model, below, part, top)
            if after < 0:
                return after, 0
    return after, stop


@lean
def class_limit(groups):
    """How many classes so many groups may have."""
    return max(min(groups >> 2, CLASSES), 1)


def scratch(d: int) -> tuple:
    """What `write_groups` and `read_groups` work in, for d entries."""
    return (
        np.empty(d, np.uint8), np.empty((LEVELS + 1, 2, TOKENS + 1), np.int64), np.empty(LEVELS, np.int64),
        np.empty(LEVELS, np.int64), np.empty(LEVELS + 1, np.int64), np.empty((2, LEVELS)),
        entropy_scratch(TOKENS), entropy_scratch(CLASSES), np.empty(3, np.uint64),
    )  # fmt: skip
