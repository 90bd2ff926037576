"""Arrays of small symbols in little more than their empirical entropy: asymmetric numeral systems with a table of frequencies.

Duda 2013, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic coding" (the
variant with ranges), and Giesen 2014, "Interleaved entropy coders". A symbol of frequency f out of 2^L turns the state x, 2¹⁶ ≤ x < 2³²,
into 2^L ⌊x/f⌋ + x mod f + (the sum of the frequencies of smaller symbols), after 16 bits have left x where the result would be too large.
Where much is to be said there are 4 or 32 states, which take turns, so that the processor works on several symbols at once: on sixteen
with one instruction, where it has vectors of 512 bits (`blocks.encode_groups`).

The code is the frequencies, the states, and the 16-bit words in the order in which the decoder takes them: `docs/reference/wire.md`.
The decoder needs no length: it reads the bytes that the encoder wrote, and ends with the states that the encoder began with.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .bits import bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from .blocks import decode_groups, encode_groups
from .frequencies import MAX_PRECISION, read_frequencies, share_out, write_frequencies
from .intrinsics import bits_of, load_word, store_word
from .levels import any_above
from .sizes import LANES
from .status import BAD_MODE, BAD_PADDING, BAD_VALUE, TRUNCATED
from .vectors import wanted

MAX_SYMBOLS = 1024
_PACKED, _CODED = 0, 2  # what a byte before the fields of a message says of them; 1 was a code with states of 64 bits
# Frequencies are out of 2 to the power of MAX_PRECISION at most, and with so many symbols or more out of half as much:
_MANY = 257  # a symbol, its frequency and a place among these have room in 32 bits
_ROWS = 4  # of counts
_FEW = 4  # states, where there are many symbols,
_RARE = 128  # of which one that is not the most frequent one counts as so many
_LONG, _LONGEST = 1 << 16, 1 << 21  # as much for _FEW states, and for LANES
_SMALL, _LARGE = 32, 64  # symbols whose tables fit into registers
_LEAST, _WORD = np.uint32(1 << 16), np.uint32(16)
_WIDE = wanted()


def scratch(symbols: int) -> tuple[np.ndarray, ...]:
    """What both coders work in, for so many different symbols: counts, (frequencies, first places), what a step takes of each symbol
    (frequency and first place, reciprocal, multiplier), what places stand for, states."""
    counts, spans, room = np.empty((_ROWS, symbols), np.int64), np.empty((2, symbols), np.uint32), max(symbols, _LARGE)
    steps, multipliers = np.zeros((2, room), np.uint32), np.zeros(room, np.uint64)
    return counts, spans, steps, multipliers, np.empty(1 << MAX_PRECISION, np.uint32), np.empty(LANES, np.uint32)


@lean
def write_fields(fields, width, model, buf, pos, top):
    """Write a byte, and `fields` (below model[0].shape[1]) in their code where that is shorter than a packed array; returns the position
    after them. `top` as for `bits.pack`."""
    count_symbols(fields, model[0])
    return write_counted(fields, width, model, model[0].shape[1], buf, pos, top)


@lean
def write_counted(fields, width, model, symbols, buf, pos, top):
    """`write_fields` of fields below `symbols` that are counted in model[0][0] already."""
    total = fields.shape[0]
    end = encode_counted(fields, model, symbols, buf, pos + 1, pos + 1 + packed_nbytes(total, width))
    buf[pos] = _CODED if end > 0 else _PACKED
    return end if end > 0 else pack_all(fields, total, width, buf, pos + 1, top)


@lean
def read_fields(buf, pos, end, width, model, fields, top):
    """Fill `fields` with what `write_fields` wrote; returns the position after it, or a negative code."""
    return read_below(buf, pos, end, width, model, model[0].shape[1], fields, top)


@lean
def read_below(buf, pos, end, width, model, symbols, fields, top):
    """`read_fields` of fields below `symbols`."""
    total, packed = fields.shape[0], pos + 1
    if packed > end:
        return TRUNCATED
    if buf[pos] == _CODED:
        return decode_below(buf, packed, end, model, symbols, fields)
    if buf[pos] != _PACKED:
        return BAD_MODE
    if packed + packed_nbytes(total, width) > end:
        return TRUNCATED
    if not padding_is_zero(buf, 8 * packed + total * width):
        return BAD_PADDING
    pos = unpack_all(buf, packed, total, width, fields, top)
    return BAD_VALUE if any_above(fields, symbols - 1) else pos


@lean
def encode_symbols(symbols, model, buf, pos, stop):
    """Write `symbols` (integers below model[0].shape[1]) at `pos`; returns the position after them, or −1 if they do not end before `stop`.

    model : `scratch`.
    """
    count_symbols(symbols, model[0])
    return encode_counted(symbols, model, model[0].shape[1], buf, pos, stop)


@lean
def decode_symbols(buf, pos, end, model, symbols):
    """Fill `symbols` from the bytes at `pos`; returns the position after them, or a negative code."""
    return decode_below(buf, pos, end, model, model[0].shape[1], symbols)


@lean
def count_symbols(symbols, counts):
    """counts[0, s]: how often s occurs. Neighbours are counted in different rows: a count that has just been written is slow to read."""
    counts[:] = 0
    for i in range(symbols.shape[0]):
        counts[i & (_ROWS - 1), symbols[i]] += 1
    for row in range(1, _ROWS):
        for s in range(counts.shape[1]):
            counts[0, s] += counts[row, s]


@lean
def precision_of(length, symbols):
    """L: enough for each symbol that occurs."""
    return min(bit_length(length), MAX_PRECISION - (symbols >= _MANY))


@lean
def _states(spans, length, precision):
    """How many states there are: each takes four bytes that say little. None where all symbols are equal."""
    total, most = np.int64(1) << precision, np.uint32(0)
    for f in spans[0]:
        most = max(most, f)
    return states_for(length, (total - np.int64(most)) * np.float64(length) / total)


@lean
def states_for(length, rare):
    """How many states code so many symbols, of which `rare` are not the most frequent one."""
    weight = length + _RARE * rare
    return 0 if rare == 0 else (LANES if weight >= _LONGEST else (_FEW if weight >= _LONG else 1))


@lean
def encode_counted(symbols, model, below, buf, pos, stop):
    """`encode_symbols` of symbols below `below` that are counted in model[0][0] already."""
    (counts, room, steps, multipliers, _, states), length = model, symbols.shape[0]
    spans, precision = room[:, :below], precision_of(length, below)
    share_out(counts[0, :below], length, 1 << precision, spans)
    lanes = _states(spans, length, precision)
    head = write_frequencies(spans, buf, pos, stop)
    first = head + 4 * lanes
    if first >= stop:
        return -1
    if lanes == 0:
        return first
    write_steps(spans, precision, steps, multipliers)
    states[:] = _LEAST
    tables = steps[:, : _SMALL if below <= _SMALL else (_LARGE if below <= _LARGE else steps.shape[1])]
    end = encode_backwards(symbols, tables, multipliers, precision, states, lanes, buf, first, stop)
    if end < 0:
        return -1
    for k in range(lanes):
        store_word(buf, head + 4 * k, states[k])
    low, high = first, end - 2
    while low < high:
        a, b = load_word(buf, low, np.uint16), load_word(buf, high, np.uint16)
        store_word(buf, low, b)
        store_word(buf, high, a)
        low, high = low + 2, high - 2
    return end


@lean
def decode_below(buf, pos, end, model, below, symbols):
    """`decode_symbols` of symbols below `below`."""
    (_, room, _, _, places, states), length = model, symbols.shape[0]
    spans, precision = room[:, :below], precision_of(length, below)
    pos = read_frequencies(buf, pos, end, spans, 1 << precision)
    if pos < 0:
        return pos
    lanes = _states(spans, length, precision)
    if pos + 4 * lanes > end:
        return TRUNCATED
    for k in range(lanes):
        states[k] = load_word(buf, pos, np.uint32)
        pos += 4
        if states[k] < _LEAST:
            return BAD_VALUE
    high, middle = np.uint32(2 * precision), np.uint32(precision)
    for symbol in range(below):
        f, first = spans[0, symbol], spans[1, symbol]
        if f > 0 and lanes == 0:
            symbols[:] = symbol
        entry = (np.uint32(symbol) << high) | np.uint32((f - np.uint32(1)) << middle)
        for place in range(f if lanes else 0):
            places[first + place] = entry | np.uint32(place)
    if lanes:
        pos = decode_forwards(buf, pos, end, places, precision, states, lanes, symbols)
    for k in range(lanes):
        if pos > 0 and states[k] != _LEAST:
            return BAD_VALUE
    return pos


@lean
def encode_backwards(symbols, steps, multipliers, precision, states, lanes, buf, pos, stop):
    """The words of the symbols, the last one first, from `pos` on; returns the position after them, or −1 if that is not before `stop`.

    Parameters
    ----------
    steps, multipliers : of each symbol, see `write_steps`. states : uint32; of them `lanes` take turns.
    """
    i = symbols.shape[0]
    while i > 0:
        safe = (stop - 1 - pos) >> 1  # so many words are sure to have room
        if _WIDE and lanes == LANES and i & (LANES - 1) == 0 and safe >= LANES:
            groups = min(i, safe) // LANES
            begin = i - groups * LANES
            pos = encode_groups(steps[0], steps[1], precision, states, symbols[begin:i], groups, buf, pos)
        else:
            count = i & (LANES - 1) if _WIDE and lanes == LANES and i & (LANES - 1) else i
            begin = i - max(min(count, safe), 1)
            pos = _encode_slowly(symbols, begin, i, steps[0], multipliers, precision, states, lanes, buf, pos, safe > 0)
            if pos < 0:
                return -1
        i = begin
    return pos


@lean
def _encode_slowly(symbols, begin, end, steps, multipliers, precision, states, lanes, buf, pos, room):
    """Symbols end − 1, …, begin; without room only one that needs none."""
    shift, excess, total = np.uint64(32 - precision), np.uint64(32 + precision), np.uint64(1 << precision)
    turn = np.uint64(lanes - 1)
    for j in range(end - begin):
        i = np.uint64(end - 1 - j)
        step, multiplier = steps[symbols[i]], multipliers[symbols[i]]
        f, first = np.uint64(step & np.uint32(0xFFFF)), np.uint64(step >> _WORD)
        x = np.uint64(states[i & turn])
        leaves = np.uint64(x >= f << shift)
        if room:
            store_word(buf, pos, np.uint16(x & np.uint64(0xFFFF)))
        elif leaves:
            return -1
        pos += np.int64(leaves) << 1
        x >>= leaves << np.uint64(4)
        states[i & turn] = np.uint32(x + first + ((x * multiplier) >> excess) * (total - f))
    return pos


@lean
def decode_forwards(buf, pos, end, places, precision, states, lanes, symbols):
    """Fill `symbols`; returns the position after their words, or TRUNCATED."""
    i, total = 0, symbols.shape[0]
    while i < total:
        safe = (end - pos) >> 1
        if _WIDE and lanes == LANES and min(total - i, safe) >= LANES:
            groups = min(total - i, safe) // LANES
            pos = decode_groups(places, precision, states, buf, pos, symbols, i, groups)
            i += groups * LANES
        else:
            count = max(min(total - i, safe), 1)
            if _WIDE and lanes == LANES:
                count = min(count, LANES)
            pos = _decode_slowly(buf, pos, places, precision, states, lanes, symbols, i, i + count, safe > 0)
            if pos < 0:
                return TRUNCATED
            i += count
    return pos


@lean
def _decode_slowly(buf, pos, places, precision, states, lanes, symbols, begin, end, room):
    """Symbols begin, …, end − 1; without room only one that needs no word."""
    middle, low, turn = np.uint64(precision), np.uint64((1 << precision) - 1), np.uint64(lanes - 1)
    for j in range(end - begin):
        i = np.uint64(begin + j)
        x = np.uint64(states[i & turn])
        place = np.uint64(places[x & low])
        symbols[i] = place >> (middle + middle)
        x = (((place >> middle) & low) + np.uint64(1)) * (x >> middle) + (place & low)
        lacks = np.uint64(x < np.uint64(_LEAST))
        if room:
            word = np.uint64(load_word(buf, pos, np.uint16))
            x = (x << (lacks << np.uint64(4))) | (word & (np.uint64(0) - lacks))
        elif lacks:
            return TRUNCATED
        pos += np.int64(lacks) << 1
        states[i & turn] = np.uint32(x)
    return pos


@lean
def write_steps(spans, precision, steps, multipliers):
    """steps[0] = f + 2¹⁶ · (first place), steps[1] = the bits of 1/f as float32, multipliers = ⌈2^(32 + L)/f⌉.

    A state x < f · 2^(32 − L) that is multiplied by the multiplier is below 2⁶⁴, and its digits from number 32 + L on are ⌊x/f⌋.
    """
    one = np.uint64(1) << np.uint64(32 + precision)
    for s in range(spans.shape[1]):
        f = spans[0, s]
        steps[0, s] = f | (spans[1, s] << _WORD)
        if f:
            steps[1, s] = bits_of(np.float32(1.0) / np.float32(f))
            multipliers[s] = (one + np.uint64(f) - np.uint64(1)) // np.uint64(f)
