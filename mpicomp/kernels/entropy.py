"""Arrays of small symbols in little more than their empirical entropy: asymmetric numeral systems with a table of frequencies.

Duda 2013, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic coding" (the
variant with ranges), and Giesen 2014, "Interleaved entropy coders". A symbol of frequency f out of 2^L turns the state x, 2³² ≤ x < 2⁶⁴,
into 2^L ⌊x/f⌋ + x mod f + (the sum of the frequencies of smaller symbols), after 32 bits have left x where the result would be too large.
Where much is to be said there are four states, which take turns, so that the processor works on several symbols at once.

The code is the frequencies, the states, and the 32-bit words in the order in which the decoder takes them: `docs/reference/wire.md`.
The decoder needs no length: it reads the bytes that the encoder wrote, and ends with the states that the encoder began with.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from .intrinsics import load_word, store_word, trailing_zeros
from .levels import any_above
from .status import BAD_MODE, BAD_PADDING, BAD_VALUE, TRUNCATED

MAX_SYMBOLS = 1024
_PACKED, _CODED = 0, 1  # what a byte before the fields of a message says of them
_MAX_PRECISION = 12  # frequencies are out of 2 to this power at most
_INTERLEAVED = 4  # states, where there are many symbols, of which one that is not the most frequent one counts as _RARE
_LONG, _RARE = 1 << 16, 128
_FIRST, _WORD = np.uint64(1 << 32), np.uint64(32)


def scratch(symbols: int) -> tuple[np.ndarray, ...]:
    """What both coders work in, for so many different symbols: counts, (frequencies, first places), symbols of the places, states."""
    counts, spans = np.empty((_INTERLEAVED, symbols), np.int64), np.empty((2, symbols), np.uint64)
    return counts, spans, np.empty(1 << _MAX_PRECISION, np.uint16), np.empty(_INTERLEAVED, np.uint64)


@lean
def write_fields(fields, width, model, buf, pos, top):
    """Write a byte, and `fields` (below model[0].shape[1]) in their code where that is shorter than a packed array; returns the position
    after them. `top` as for `bits.pack`."""
    total = fields.shape[0]
    end = encode_symbols(fields, model, buf, pos + 1, pos + 1 + packed_nbytes(total, width))
    buf[pos] = _CODED if end > 0 else _PACKED
    return end if end > 0 else pack_all(fields, total, width, buf, pos + 1, top)


@lean
def read_fields(buf, pos, end, width, model, fields, top):
    """Fill `fields` with what `write_fields` wrote; returns the position after it, or a negative code."""
    total, packed = fields.shape[0], pos + 1
    if packed > end:
        return TRUNCATED
    if buf[pos] == _CODED:
        return decode_symbols(buf, packed, end, model, fields)
    if buf[pos] != _PACKED:
        return BAD_MODE
    if packed + packed_nbytes(total, width) > end:
        return TRUNCATED
    if not padding_is_zero(buf, 8 * packed + total * width):
        return BAD_PADDING
    pos = unpack_all(buf, packed, total, width, fields, top)
    return BAD_VALUE if any_above(fields, model[0].shape[1] - 1) else pos


@lean
def _precision(length):
    """L: enough for each symbol that occurs."""
    return min(bit_length(length), _MAX_PRECISION)


@lean
def _states(freq, length):
    """How many states there are: each takes four bytes that say nothing, and four take half the time of one."""
    total, most = 1 << _precision(length), np.uint64(0)
    for f in freq:
        most = max(most, f)
    return _INTERLEAVED if length * (total + _RARE * (total - np.int64(most))) >= total * _LONG else 1


@lean
def encode_symbols(symbols, model, buf, pos, stop):
    """Write `symbols` (integers below model[0].shape[1]) at `pos`; returns the position after them, or −1 if they do not end before `stop`.

    model : `scratch`.
    """
    (counts, spans, _, states), length = model, symbols.shape[0]
    precision = np.uint64(_precision(length))
    _count(symbols, counts)
    _share_out(counts[0], length, 1 << _precision(length), spans)
    mask = _states(spans[0], length) - 1
    head = _write_frequencies(spans, buf, pos, stop)
    first = head + 8 * (mask + 1)
    if first >= stop:
        return -1
    freq, begin, room, last = spans[0], spans[1], np.uint64(64) - precision, stop
    states[:] = _FIRST
    for i in range(length - 1, -1, -1):
        f, x = freq[symbols[i]], states[i & mask]
        if x >> room >= f:
            last -= 4
            if last <= first:
                return -1
            store_word(buf, last, np.uint32(x & np.uint64(0xFFFFFFFF)))
            x >>= _WORD
        share = x // f
        states[i & mask] = (share << precision) + (x - share * f) + begin[symbols[i]]
    for k in range(mask + 1):
        store_word(buf, head + 8 * k, states[k])
    for at in range(0, stop - last, 4):
        store_word(buf, first + at, load_word(buf, last + at, np.uint32))
    return first + stop - last


@lean
def decode_symbols(buf, pos, end, model, symbols):
    """Fill `symbols` from the bytes at `pos`; returns the position after them, or a negative code."""
    (_, spans, places, states), length = model, symbols.shape[0]
    precision = np.uint64(_precision(length))
    pos = _read_frequencies(buf, pos, end, spans, 1 << _precision(length))
    if pos < 0:
        return pos
    mask = _states(spans[0], length) - 1
    if pos + 8 * (mask + 1) > end:
        return TRUNCATED
    for k in range(mask + 1):
        states[k] = load_word(buf, pos, np.uint64)
        pos += 8
        if states[k] < _FIRST:
            return BAD_VALUE
    freq, begin, low = spans[0], spans[1], (np.uint64(1) << precision) - np.uint64(1)
    for symbol in range(freq.shape[0]):
        places[begin[symbol] : begin[symbol] + freq[symbol]] = symbol
    for i in range(length):
        x = states[i & mask]
        place = x & low
        symbol = places[place]
        symbols[i] = symbol
        x = freq[symbol] * (x >> precision) + (place - begin[symbol])
        if x < _FIRST:
            if pos + 4 > end:
                return TRUNCATED
            x = (x << _WORD) | np.uint64(load_word(buf, pos, np.uint32))
            pos += 4
        states[i & mask] = x
    for k in range(mask + 1):
        if states[k] != _FIRST:
            return BAD_VALUE
    return pos


@lean
def _count(symbols, counts):
    """counts[0, s]: how often s occurs. Neighbours are counted in different rows: a count that has just been written is slow to read."""
    counts[:] = 0
    for i in range(symbols.shape[0]):
        counts[i & (_INTERLEAVED - 1), symbols[i]] += 1
    for row in range(1, _INTERLEAVED):
        for s in range(counts.shape[1]):
            counts[0, s] += counts[row, s]


@lean
def _share_out(counts, length, total, spans):
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
                freq[s] += np.uint64(1)
                left -= 1
            elif left < 0 and freq[s] > 1:
                freq[s] -= np.uint64(1)
                left += 1
    _add_up(spans)


@lean
def _add_up(spans):
    total = np.uint64(0)
    for s in range(spans.shape[1]):
        spans[1, s] = total
        total += spans[0, s]
    return total


@lean
def _write_frequencies(spans, buf, pos, stop):
    """f + 1 for each symbol in Elias's γ code: as many zeros as follow the highest bit, that bit, the others; ends at a whole byte.
    Returns the position after it, or `stop`."""
    held, have = np.uint64(0), 0
    for s in range(spans.shape[1]):
        value = spans[0, s] + np.uint64(1)
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
def _read_frequencies(buf, pos, end, spans, total):
    """The inverse of `_write_frequencies`; refuses what does not add up to `total`."""
    held, have = np.uint64(0), 0
    for s in range(spans.shape[1]):
        while have <= 2 * _MAX_PRECISION and pos < end:
            held |= np.uint64(buf[pos]) << np.uint64(have)
            have, pos = have + 8, pos + 1
        zeros = trailing_zeros(held)
        if 2 * zeros + 1 > have:
            return BAD_VALUE if have > 2 * _MAX_PRECISION else TRUNCATED
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
