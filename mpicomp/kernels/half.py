"""Numbers of 16 bits: IEEE 754 half precision and bfloat16, from and to the bits of float32, rounded to the nearest (ties to even)."""

from __future__ import annotations

from . import njit


@njit
def to_bfloat16(u):
    """The upper half of a float32 after rounding; u : its bits, int64. NaN stays NaN."""
    if u & 0x7FFFFFFF > 0x7F800000:
        return (u >> 16) | 0x40
    return (u + 0x7FFF + ((u >> 16) & 1)) >> 16


@njit
def to_float16(u):
    """The half-precision number nearest to a float32; u : its bits, int64. Too large becomes infinity, NaN stays NaN."""
    sign, magnitude = (u >> 16) & 0x8000, u & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return sign | 0x7E00
    if magnitude >= 0x477FF000:  # 65520, halfway from the largest to the next power of two
        return sign | 0x7C00
    if magnitude >= 0x38800000:  # 2^−14, the smallest normal number
        rebased = magnitude - 0x38000000
        return sign | ((rebased + 0xFFF + ((rebased >> 13) & 1)) >> 13)
    exponent = magnitude >> 23
    if exponent < 102:  # below half of the smallest number, 2^−24
        return sign
    mantissa, shift = (magnitude & 0x7FFFFF) | 0x800000, 126 - exponent
    q, rest, half = mantissa >> shift, mantissa & ((1 << shift) - 1), 1 << (shift - 1)
    return sign | (q + (rest > half or (rest == half and q & 1 == 1)))


@njit
def from_float16(h):
    """The bits of the float32 that equals a half-precision number; h : its bits, int64."""
    sign, exponent, mantissa = (h & 0x8000) << 16, (h >> 10) & 31, h & 0x3FF
    if exponent == 31:
        return sign | 0x7F800000 | (mantissa << 13)
    if exponent:
        return sign | ((exponent + 112) << 23) | (mantissa << 13)
    if mantissa == 0:
        return sign
    exponent = 113
    while mantissa & 0x400 == 0:
        mantissa <<= 1
        exponent -= 1
    return sign | (exponent << 23) | ((mantissa & 0x3FF) << 13)
