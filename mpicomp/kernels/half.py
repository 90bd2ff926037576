"""Numbers of 16 bits: IEEE 754 half precision and bfloat16, from and to the bits of float32, rounded to the nearest (ties to even).

Without branches, so that loops over them are vectorised; all bits are uint32. Half precision as in Giesen's float_to_half_fast3_rtne and
half_to_float: what is subnormal there is rounded, or made normal, by one addition of floating-point numbers.
"""

from __future__ import annotations

import numpy as np

from . import lean
from .intrinsics import add32, bits_of, float_of, sub32

_SIGN, _MAGNITUDE, _INFINITY = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(255 << 23)
_REBASE = np.uint32(112 << 23)  # between the exponents of float32 and half precision
_LEAST, _BEYOND = np.uint32(113 << 23), np.uint32(143 << 23)  # 2^−14, the smallest normal half; 2^16, above all halves
_ROUNDS = np.uint32(126 << 23)  # ½, next to which float32 has the spacing of subnormal halves


@lean
def to_bfloat16(u):
    """The upper half of a float32 after rounding; NaN stays NaN."""
    odd = np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(1))
    rounded = add32(add32(u, np.uint32(0x7FFF)), odd)
    quiet = np.uint32(u | np.uint32(0x400000))
    return np.uint32((quiet if np.uint32(u & _MAGNITUDE) > _INFINITY else rounded) >> np.uint32(16))


@lean
def to_float16(u):
    """The half-precision number nearest to a float32. Too large becomes infinity, NaN stays NaN."""
    magnitude = np.uint32(u & _MAGNITUDE)
    odd = np.uint32(np.uint32(magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(add32(sub32(magnitude, _REBASE), add32(np.uint32(0xFFF), odd)) >> np.uint32(13))
    subnormal = sub32(bits_of(float_of(magnitude) + float_of(_ROUNDS)), _ROUNDS)
    beyond = np.uint32(0x7E00) if magnitude > _INFINITY else np.uint32(0x7C00)
    rounded = subnormal if magnitude < _LEAST else normal
    return np.uint32((beyond if magnitude >= _BEYOND else rounded) | np.uint32(np.uint32(u & _SIGN) >> np.uint32(16)))


@lean
def from_float16(h):
    """The bits of the float32 that equals a half-precision number."""
    magnitude = np.uint32(np.uint32(h & np.uint32(0x7FFF)) << np.uint32(13))
    exponent = np.uint32(magnitude & np.uint32(31 << 23))
    normal = add32(magnitude, _REBASE)
    subnormal = bits_of(float_of(add32(magnitude, _LEAST)) - float_of(_LEAST))
    finite = subnormal if exponent == np.uint32(0) else normal
    bits = add32(normal, _REBASE) if exponent == np.uint32(31 << 23) else finite
    return np.uint32(bits | np.uint32(np.uint32(h & np.uint32(0x8000)) << np.uint32(16)))
