"""An adaptive range coder for arrays of small symbols: within a few bytes of their empirical entropy.

Martin 1979, "Range encoding"; carries propagate as in LZMA.

The model is a count for each symbol, 1 at first and 2 more each time it was seen; counts are halved once their sum
reaches 2¹⁶. The decoder reads exactly the bytes that the encoder wrote, so a message needs no length.
"""

from __future__ import annotations

from . import njit
from .status import BAD_VALUE, TRUNCATED

MAX_SYMBOLS = 1024
_TOP, _FULL, _LIMIT = 1 << 24, (1 << 32) - 1, 1 << 16


@njit
def _learn(counts, symbol, total):
    """Count a symbol; returns the new sum."""
    counts[symbol] += 2
    total += 2
    if total >= _LIMIT:
        total = 0
        for s in range(counts.shape[0]):
            counts[s] = (counts[s] + 1) >> 1
            total += counts[s]
    return total


@njit
def _carry_out(low, cache, pending, started, buf, pos, stop):
    """The top byte of `low` leaves, once no later carry can change it; returns (low, cache, pending, started, pos)."""
    if low < 0xFF000000 or low > _FULL:
        carry = low >> 32
        if started and pos < stop:
            buf[pos] = (cache + carry) & 255
        pos += started
        for _ in range(pending):
            if pos < stop:
                buf[pos] = (255 + carry) & 255
            pos += 1
        cache, pending, started = (low >> 24) & 255, 0, 1
    else:
        pending += 1
    return (low & 0x00FFFFFF) << 8, cache, pending, started, pos


@njit
def encode_symbols(symbols, counts, buf, pos, stop):
    """Write `symbols` (integers below len(counts)) at `pos`; returns the position after them, or −1 if they do not end
    before `stop`.

    counts : scratch, int64, shape (number of different symbols,).
    """
    counts[:] = 1
    total = counts.shape[0]
    low, width, cache, pending, started = 0, _FULL, 0, 0, 0
    for i in range(symbols.shape[0]):
        symbol, below = symbols[i], 0
        for s in range(symbol):
            below += counts[s]
        unit = width // total
        low += unit * below
        width = unit * counts[symbol]
        while width < _TOP:
            low, cache, pending, started, pos = _carry_out(low, cache, pending, started, buf, pos, stop)
            width <<= 8
        if pos + pending >= stop:
            return -1
        total = _learn(counts, symbol, total)
    for _ in range(5):
        low, cache, pending, started, pos = _carry_out(low, cache, pending, started, buf, pos, stop)
    return pos if pos < stop else -1


@njit
def decode_symbols(buf, pos, end, counts, symbols):
    """Fill `symbols` from the bytes at `pos`; returns the position after them, or a negative code."""
    counts[:] = 1
    total = counts.shape[0]
    if pos + 4 > end:
        return TRUNCATED
    code, width = 0, _FULL
    for _ in range(4):
        code = (code << 8) | buf[pos]
        pos += 1
    for i in range(symbols.shape[0]):
        unit = width // total
        target, below, symbol = code // unit, 0, 0
        if target >= total:
            return BAD_VALUE
        while below + counts[symbol] <= target:
            below += counts[symbol]
            symbol += 1
        symbols[i] = symbol
        code -= unit * below
        width = unit * counts[symbol]
        while width < _TOP:
            if pos >= end:
                return TRUNCATED
            code = (code << 8) | buf[pos]
            pos += 1
            width <<= 8
        total = _learn(counts, symbol, total)
    return pos
