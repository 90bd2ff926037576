"""Floating-point numbers from decimal text, correctly rounded: the bits that Python's `float` gives, at the speed of reading the bytes.

Few digits are exact as an integer times or over a power of ten not above 10²² (Clinger 1990, "How to read floating point numbers
accurately"). For the others the integer w of up to 19 digits is multiplied by 128 bits of a power of five (Lemire 2021, "Number parsing at
a gigabyte per second", arXiv 2101.11408; that no case is left over: Mushtak and Lemire 2023, arXiv 2212.06644). Where there are more than
19 digits, w and w + 1 enclose the number; where they round differently, the caller has to ask somebody else.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from . import lean
from .intrinsics import float_of, load_word

GOOD, NOT_A_NUMBER, TOO_LARGE, UNDECIDED = range(4)
LEAST, MOST = -342, 308  # powers of ten beyond which every w of 64 bits is zero or infinite
_EXACT = 22  # 10**22 is the largest power of ten that a float64 holds
_DIGITS = 19  # that a uint64 holds
_HALF = np.uint64(0xFFFFFFFF)
_ONE, _BITS = np.uint64(1), np.uint64(32)


class Powers(NamedTuple):
    """What the kernels look up.

    Attributes
    ----------
    tens : 10⁰ to 10²², float64. fives : uint64, two words for each 5^q, q from LEAST to MOST: its first 128 bits, the upper half first.
    """

    tens: np.ndarray
    fives: np.ndarray


@functools.cache
def powers() -> Powers:
    """The tables, made once."""
    fives = np.empty(2 * (MOST - LEAST + 1), np.uint64)
    for q in range(LEAST, MOST + 1):
        bits = _five(q)
        fives[2 * (q - LEAST)], fives[2 * (q - LEAST) + 1] = bits >> 64, bits & (2**64 - 1)
    return Powers(np.array([float(10**k) for k in range(_EXACT + 1)]), fives)


def _five(q: int) -> int:
    """The first 128 bits of 5^q: rounded down, and for negative q up.

    >>> hex(_five(0)), hex(_five(-1))
    ('0x80000000000000000000000000000000', '0xcccccccccccccccccccccccccccccccd')
    """
    power = 5 ** abs(q)
    if q >= 0:
        return power << 128 - power.bit_length() if power.bit_length() <= 128 else power >> power.bit_length() - 128
    length = (power - 1).bit_length()  # the least z with 2**z >= power
    quotient = (1 << (length + 127 if q >= -27 else 2 * length + 128)) // power + 1
    return quotient >> max(quotient.bit_length() - 128, 0)


@lean
def _product(a, b):
    """(upper, lower) 64 bits of the product of two uint64."""
    a0, a1, b0, b1 = a & _HALF, a >> _BITS, b & _HALF, b >> _BITS
    low, cross, other = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> _BITS) + (cross & _HALF) + (other & _HALF)
    return a1 * b1 + (cross >> _BITS) + (other >> _BITS) + (middle >> _BITS), (middle << _BITS) | (low & _HALF)


@lean
def _scaled(w, q, fives):
    """w · 10^q, correctly rounded; w is uint64. Infinite where it overflows."""
    if w == np.uint64(0) or q < LEAST:
        return 0.0
    if q > MOST:
        return np.inf
    zeros = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if w >> np.uint64(64 - shift) == np.uint64(0):
            w <<= np.uint64(shift)
            zeros += shift
    upper, lower = _product(w, fives[2 * (q - LEAST)])
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):  # the lower half of the power may carry into the bits that count
        carry, _ = _product(w, fives[2 * (q - LEAST) + 1])
        lower += carry
        if carry > lower:
            upper += _ONE
    top = np.int64(upper >> np.uint64(63))
    mantissa = upper >> np.uint64(top + 9)  # 53 bits and one more, to round by
    exponent = ((217706 * q) >> 16) + 63 + top - zeros + 1023
    if exponent <= 0:  # subnormal
        if exponent <= -63:
            return 0.0
        mantissa >>= np.uint64(1 - exponent)
        mantissa += mantissa & _ONE
        return float_of(mantissa >> _ONE)
    half = lower <= _ONE and -4 <= q <= 23 and mantissa & np.uint64(3) == _ONE
    if half and mantissa << np.uint64(top + 9) == upper:  # exactly between two numbers: to the even one
        mantissa &= ~_ONE
    mantissa += mantissa & _ONE
    mantissa >>= _ONE
    if mantissa >= np.uint64(1 << 53):
        mantissa = np.uint64(1 << 52)
        exponent += 1
    if exponent >= 0x7FF:
        return np.inf
    return float_of((mantissa & np.uint64((1 << 52) - 1)) | (np.uint64(exponent) << np.uint64(52)))


@lean
def _leading(data, first, last):
    """(w, digits left out, whether one of these is not zero): the first 19 significant digits of data[first:last], a point among them."""
    w, taken, dropped, lost = np.uint64(0), 0, 0, np.uint64(0)
    for k in range(first, last):
        if data[k] == 46:
            continue
        digit = np.uint64(data[k]) - np.uint64(48)
        if taken < _DIGITS:
            w = w * np.uint64(10) + digit
            taken += 1 if taken > 0 or digit > np.uint64(0) else 0
        else:
            dropped += 1
            lost |= digit
    return w, dropped, lost > np.uint64(0)


@lean
def _are_digits(eight):
    """Whether eight bytes, the first one lowest, are all digits."""
    tens = np.uint64(0xF0F0F0F0F0F0F0F0)
    return (eight & tens) | (((eight + np.uint64(0x0606060606060606)) & tens) >> np.uint64(4)) == np.uint64(
        0x3333333333333333
    )


@lean
def _number_of(eight):
    """The number that eight digits are: pairs, fours and all of them by three products."""
    pairs = eight - np.uint64(0x3030303030303030)
    pairs = pairs * np.uint64(10) + (pairs >> np.uint64(8))
    every_other = np.uint64(0x000000FF000000FF)
    upper = (pairs & every_other) * np.uint64(0x000F424000000064)
    return (upper + ((pairs >> np.uint64(16)) & every_other) * np.uint64(0x0000271000000001)) >> _BITS


@lean
def decimal(data, start, powers):
    """(value, where it ends, status) of the number that begins at data[start].

    [+-] digits [. digits] [e [+-] digits], at least one digit before the e; the byte after the number stops it, so data must not end with
    a digit, sign, point or e.

    Parameters
    ----------
    data : uint8. powers : `powers()`.
    """
    pos = start
    negative = data[pos] == 45
    if negative or data[pos] == 43:
        pos += 1
    w, first = np.uint64(0), pos
    digit = np.uint64(data[pos]) - np.uint64(48)
    while digit <= np.uint64(9):
        w = w * np.uint64(10) + digit
        pos += 1
        digit = np.uint64(data[pos]) - np.uint64(48)
    digits, exponent = pos - first, 0
    if data[pos] == 46:
        pos += 1
        point = pos
        while pos + 8 <= data.shape[0]:
            eight = load_word(data, pos, np.uint64)
            if not _are_digits(eight):
                break
            w = w * np.uint64(100_000_000) + _number_of(eight)
            pos += 8
        digit = np.uint64(data[pos]) - np.uint64(48)
        while digit <= np.uint64(9):
            w = w * np.uint64(10) + digit
            pos += 1
            digit = np.uint64(data[pos]) - np.uint64(48)
        exponent = point - pos
        digits -= exponent
    if digits == 0:
        return 0.0, pos, NOT_A_NUMBER
    last = pos
    if data[pos] == 101 or data[pos] == 69:
        pos += 1
        below = data[pos] == 45
        if below or data[pos] == 43:
            pos += 1
        begin, size = pos, 0
        while 48 <= data[pos] <= 57:
            size = min(size * 10 + int(data[pos]) - 48, 1 << 40)
            pos += 1
        if pos == begin:
            return 0.0, pos, NOT_A_NUMBER
        exponent += -size if below else size
    status, rest = GOOD, False
    if digits > _DIGITS:
        w, dropped, rest = _leading(data, first, last)
        exponent += dropped
    if not rest and w <= np.uint64(1 << 53) and -_EXACT <= exponent <= _EXACT:
        value = np.float64(w)
        value = value / powers.tens[-exponent] if exponent < 0 else value * powers.tens[exponent]
    else:
        value = _scaled(w, exponent, powers.fives)
        if rest and value != _scaled(w + _ONE, exponent, powers.fives):
            status = UNDECIDED
        elif value == np.inf:
            status = TOO_LARGE
    return (-value if negative else value), pos, status
