"""Exact selection of the entries of largest magnitude, in O(d).

Magnitudes are compared as integers: the bits of a floating-point number without the sign grow with |x|, infinity is above all
numbers and NaN above infinity. So NaN needs no case of its own, and is always sent.
"""

from __future__ import annotations

import numpy as np

from . import lean, njit
from .bits import bit_length, unsigned
from .intrinsics import bits_of, fetch, float_of, load_word, nonzero_bytes, store_word, trailing_zeros
from .sizes import AHEAD, PIECE

_BLOCK = 64  # entries that `_collect` looks at together
_PEAK = 512  # entries whose maximum is taken at once by `argmax_magnitude`


@njit
def _sample_size(dim):
    """How many entries are looked at to guess a threshold."""
    return min(max(dim >> 6, 256), 16384)


def candidate_capacity(dim: int, k: int) -> int:
    """Room for the candidates of a selection of k among dim: more than a well-guessed threshold ever lets through."""
    sample = _sample_size(dim)
    return max(min(dim, 2 * k + 16 * (dim // sample) + 64), sample) + _BLOCK


@njit
def largest(x, k, indices, keys, bins, reached):
    """The indices, in increasing order, of the k entries of largest magnitude; of equal ones the lower index first.

    Entries that are exactly zero are never selected, so there may be fewer than k. A threshold is guessed from a sample, one pass
    collects the candidates above it, and the selection among them is exact; where the guess was bad, all of x is searched.

    Parameters
    ----------
    x : float32 or float64, shape (d,).
    indices : int64, keys : uint64, both of shape (candidate_capacity(d, k),); they receive the result and the bits of its entries.
    bins : scratch, int64, shape (256,); reached : scratch, uint8, shape (2048,).

    Returns
    -------
    The number of selected entries.
    """
    bits = unsigned(x)
    mask = np.uint64(bits.dtype.type(-1) >> bits.dtype.type(1))
    if k == 1:
        indices[0] = argmax_magnitude(x)
        keys[0] = bits[indices[0]]
        return 1 if np.uint64(bits[indices[0]]) & mask else 0
    d = x.shape[0]
    if d > 1024 and 2 * k < d:
        for i in range(_sample_size(d)):
            keys[i] = np.uint64(bits[_sampled(i, d)]) & mask
        threshold = _guess(d, k, mask, keys, bins)
        found = _collect(bits, threshold, mask, indices, keys, bins, reached)
        if found >= k or (found >= 0 and threshold == 1):
            return _keep_largest(found, k, mask, indices, keys, bins)
    return _search_all(bits, k, mask, indices, keys, bins)


@njit
def largest_difference(x, minus, work, k, indices, keys, bins, reached):
    """`largest` of x − minus, of which a chunk at a time is formed; `work` (as x) is scratch, needed in full where the guess was bad."""
    d = x.shape[0]
    if k > 1 and d > 1024 and 2 * k < d:
        bits = unsigned(work)
        mask = np.uint64(bits.dtype.type(-1) >> bits.dtype.type(1))
        sample = _sample_size(d)
        for i in range(sample):
            work[i] = x[_sampled(i, d)] - minus[_sampled(i, d)]
        for i in range(sample):
            keys[i] = np.uint64(bits[i]) & mask
        threshold = _guess(d, k, mask, keys, bins)
        found = 0
        for first in range(0, d, reached.shape[0]):
            stop = min(first + reached.shape[0], d)
            subtract(x, minus, first, stop, work, 0)
            found = _collect_chunk(bits[: stop - first], first, threshold, mask, found, indices, keys, bins, reached)
            if found < 0:
                break
        if found >= k or (found >= 0 and threshold == 1):
            return _keep_largest(found, k, mask, indices, keys, bins)
    subtract(x, minus, 0, d, work, 0)
    return largest(work, k, indices, keys, bins, reached)


@njit
def largest_by(x, threshold, ties, indices, keys, bins, reached):
    """The entries of x whose magnitudes, as integers, are above the threshold (at least 1), and the first `ties` of those equal to it.

    The parameters and the result are those of `largest`, for at most as many entries.
    """
    bits = unsigned(x)
    mask = np.uint64(bits.dtype.type(-1) >> bits.dtype.type(1))
    found = _collect(bits, threshold, mask, indices, keys, bins, reached)
    if found >= 0:
        return _keep(found, threshold, ties, mask, indices, keys)
    return _pick(bits, threshold, ties, mask, indices, keys)


@lean
def subtract(x, minus, start, stop, out, at):
    """out[at + j − start] = x_j − minus_j for start <= j < stop."""
    for first in range(start, stop, PIECE):
        last = min(first + PIECE, stop)
        fetch(x, first + AHEAD, last + AHEAD)
        fetch(minus, first + AHEAD, last + AHEAD)
        a, b, c = x[first:last], minus[first:last], out[at + first - start : at + last - start]
        for i in range(a.shape[0]):
            c[i] = a[i] - b[i]


@njit
def argmax_magnitude(x):
    """The index of the entry of largest magnitude, the first of several; NaN counts as the largest."""
    bits = unsigned(x)
    mask = bits.dtype.type(bits.dtype.type(-1) >> bits.dtype.type(1))
    best, index = bits.dtype.type(0), 0
    for start in range(0, x.shape[0], _PEAK):
        block = bits[start : start + _PEAK]
        fetch(bits, start + AHEAD, start + AHEAD + _PEAK)
        peak = bits.dtype.type(0)
        for i in range(block.shape[0]):
            peak = max(peak, bits.dtype.type(block[i] & mask))
        if peak > best:
            best = peak
            index = start
            while bits.dtype.type(bits[index] & mask) != best:
                index += 1
    return index


@lean
def max_magnitude(x):
    """The largest |x_j|; NaN counts as the largest."""
    peak = bits_of(abs(x[0]))
    for i in range(x.shape[0]):
        peak = max(peak, bits_of(abs(x[i])))
    return float_of(peak)


@njit
def _kth_largest(bits, count, k, mask, bins):
    """(t, ties) such that the entries above t and `ties` of those equal to t are the k largest of the first `count`.

    Radix selection, eight bits at a time, of what the magnitudes are above the least one: beginning with the first bit in which they
    differ at all.
    """
    least, most = np.uint64(bits[0]) & mask, np.uint64(0)
    for i in range(count):
        key = np.uint64(bits[i]) & mask
        least, most = min(least, key), max(most, key)
    prefix, known, byte = np.uint64(0), np.uint64(0), np.uint64(255)
    shift = bit_length(most - least)
    while shift > 0:
        shift = max(shift - 8, 0)
        bins[:] = 0
        for i in range(count):
            key = (np.uint64(bits[i]) & mask) - least
            if key & known == prefix:
                bins[np.int64((key >> np.uint64(shift)) & byte)] += 1
        digit = 255
        while bins[digit] < k:
            k -= bins[digit]
            digit -= 1
        prefix |= np.uint64(digit) << np.uint64(shift)
        known |= byte << np.uint64(shift)
        if bins[digit] == k:
            break  # all that begin like this are taken, and t is not above any of them
    return least + prefix, k


@njit
def _sampled(i, d):
    """The index of entry number i of the sample among d."""
    return np.int64(np.uint64(i * 0x9E3779B9 & 0xFFFFFFFF) * np.uint64(d) >> np.uint64(32))


@njit
def _guess(d, k, mask, keys, bins):
    """A threshold that somewhat more than k of d entries reach, three standard deviations of the sample's count above it; at least 1.

    `keys` begins with the sample.
    """
    sample = _sample_size(d)
    expected = k * sample / d
    rank = min(sample, np.int64(expected + 3.0 * np.sqrt(expected)) + 2)
    return max(_kth_largest(keys, sample, rank, mask, bins)[0], np.uint64(1))


@njit
def _collect(bits, threshold, mask, indices, keys, listed, reached):
    """Store the entries that reach the threshold, in order; returns how many, or -1 where there is no room for them."""
    found, size = 0, reached.shape[0]
    for first in range(0, bits.shape[0], size):
        fetch(bits, first + size, first + 2 * size)
        chunk = bits[first : first + size]
        found = _collect_chunk(chunk, first, threshold, mask, found, indices, keys, listed, reached)
        if found < 0:
            break
    return found


@njit
def _collect_chunk(chunk, first, threshold, mask, found, indices, keys, listed, reached):
    """`_collect` for the chunk of entries that begins with number `first`, after `found` others.

    It is compared at once, then the blocks of 64 with such an entry are listed without a branch, which the processor would often guess
    wrong, and then their entries. `listed` (int64) and `reached` (uint8, shape (2048,)) are scratch.
    """
    low, bound = chunk.dtype.type(mask), chunk.dtype.type(threshold)
    limit = indices.shape[0] - _BLOCK
    for i in range(chunk.shape[0]):
        reached[i] = chunk.dtype.type(chunk[i] & low) >= bound
    for i in range(chunk.shape[0], reached.shape[0]):
        reached[i] = 0
    blocks = 0
    for start in range(0, reached.shape[0], _BLOCK):
        listed[blocks] = start
        blocks += nonzero_bytes(reached, start) != 0
    for block in range(blocks):
        if found > limit:
            return -1
        start = listed[block]
        word = nonzero_bytes(reached, start)
        while word != 0:
            index = start + trailing_zeros(word)
            store_word(indices, 8 * found, first + index)  # as an array's item it would be checked for a negative index
            store_word(keys, 8 * found, np.uint64(load_word(chunk, index * chunk.itemsize, chunk.dtype.type)))
            found += 1
            word &= word - np.uint64(1)  # without its lowest one
    return found


@njit
def _keep_largest(found, k, mask, indices, keys, bins):
    """Reduce `found` candidates to the k largest."""
    if found <= k:
        return found
    threshold, ties = _kth_largest(keys, found, k, mask, bins)
    return _keep(found, threshold, ties, mask, indices, keys)


@njit
def _keep(found, threshold, ties, mask, indices, keys):
    """Reduce `found` candidates to those above the threshold and the first `ties` of those equal to it; returns how many."""
    kept = 0
    for i in range(found):
        index, key = indices[i], keys[i]
        equal = (key & mask) == threshold
        indices[kept], keys[kept] = index, key
        kept += (key & mask) > threshold or (equal and ties > 0)
        ties -= equal
    return kept


@njit
def _search_all(bits, k, mask, indices, keys, bins):
    """Select without candidates: radix selection over all entries, then one pass that stores the result."""
    threshold, ties = _kth_largest(bits, bits.shape[0], k, mask, bins)
    return _pick(bits, threshold, ties, mask, indices, keys)


@njit
def _pick(bits, threshold, ties, mask, indices, keys):
    """Store the entries above the threshold and the first `ties` of those equal to it, but for zeros; returns how many."""
    if threshold == 0:
        ties = 0
    kept = 0
    for i in range(bits.shape[0]):
        key = np.uint64(bits[i]) & mask
        equal = key == threshold
        if key > threshold or (equal and ties > 0):
            ties -= equal
            indices[kept], keys[kept] = i, bits[i]
            kept += 1
    return kept
