"""Words of 32 and 64 bits: arithmetic modulo 2³², the bits of floating-point numbers, and words at any byte of an array.

What follows is the plain form. Where a kernel's form is `fast` (see `forms`), the function of the same name in `llvm_words` takes its
place.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from . import lean
from .sizes import CACHE_LINE
from .twins import twin, twin_of_types


@twin
def add32(a, b):
    """a + b modulo 2**32, of two uint32."""
    return np.uint32(np.uint64(a) + np.uint64(b))


@twin
def sub32(a, b):
    """a − b modulo 2**32, of two uint32."""
    return np.uint32(np.uint64(a) - np.uint64(b))


@twin
def mul32(a, b):
    """a · b modulo 2**32, of two uint32."""
    return np.uint32(np.uint64(a) * np.uint64(b))


@twin
def xorshift32(x, shift):
    """x ^ (x >> shift), of two uint32."""
    return np.uint32(x ^ (x >> shift))


@twin
def exchanged32(x):
    """A uint32 with its halves exchanged."""
    return np.uint32((np.uint64(x) << np.uint64(16)) | (np.uint64(x) >> np.uint64(16)))


def _bits_by_type(value):
    if value == types.float32:
        return lambda value: np.float32(value).view(np.uint32)
    return lambda value: np.float64(value).view(np.uint64)


@twin_of_types(_bits_by_type)
def bits_of(value):
    """The bits of a float32 or float64 as a uint32 or uint64."""
    return value.view(np.uint32 if value.dtype == np.float32 else np.uint64)


def _float_by_type(word):
    if word == types.uint32:
        return lambda word: np.uint32(word).view(np.float32)
    return lambda word: np.uint64(word).view(np.float64)


@twin_of_types(_float_by_type)
def float_of(word):
    """The inverse of `bits_of`."""
    return word.view(np.float32 if word.dtype == np.uint32 else np.float64)


@twin
def next_above(value):
    """The next larger number of the same type, of a positive finite one or zero."""
    return np.nextafter(value, np.float32(np.inf))


@twin
def trailing_zeros(word):
    """The number of the lowest bit that is set in a uint64 (64 if none is), as an int64."""
    number = 0
    while number < 64 and (word >> np.uint64(number)) & np.uint64(1) == 0:
        number += 1
    return number


@twin
def ones(word):
    """How many bits of a uint64 are set, as an int64."""
    count = np.int64(0)
    for number in range(64):
        count += np.int64((word >> np.uint64(number)) & np.uint64(1))
    return count


def size_of(word: np.generic) -> int:
    """The bytes of a number."""
    return word.itemsize


@overload(size_of)
def _size_by_type(word):
    size = word.bitwidth // 8
    return lambda word: size


@twin
def load_word(array, byte, word):
    """The number of type `word` (np.uint8 to np.uint64) in the bytes of a contiguous array from `byte` on, lowest first. The caller has
    checked that they are there."""
    octets, value = array.view(np.uint8), np.uint64(0)
    for i in range(size_of(word(0))):
        value |= np.uint64(octets[byte + i]) << np.uint64(8 * i)
    return word(value)


@twin
def store_word(array, byte, word):
    """Write the number `word` into the bytes of a contiguous array from `byte` on, lowest first. The caller has checked that they are
    there."""
    octets = array.view(np.uint8)
    for i in range(size_of(word)):
        octets[byte + i] = np.uint8((np.uint64(word) >> np.uint64(8 * i)) & np.uint64(255))


@twin
def nonzero_bytes(array, byte):
    """A uint64: bit b says whether byte number `byte` + b of a contiguous array is not zero. The caller has checked that all are there."""
    octets, word = array.view(np.uint8), np.uint64(0)
    for b in range(64):
        word |= np.uint64(octets[byte + b] != 0) << np.uint64(b)
    return word


@twin
def fetch_byte(array, byte):
    """Have the cache line with that byte of a contiguous array brought from memory, if there is one; returns at once. In the plain form
    nothing is done: the processor fetches what is read next by itself, if later."""


@lean
def fetch(x, start, stop):
    """Have x[start:stop] brought from memory while other work is done; what lies behind the array's end does no harm."""
    for byte in range(start * x.itemsize, stop * x.itemsize, CACHE_LINE):
        fetch_byte(x, byte)


@lean
def fetch_entry(x, index):
    """Have the cache line with x[index] brought from memory."""
    fetch_byte(x, index * x.itemsize)
