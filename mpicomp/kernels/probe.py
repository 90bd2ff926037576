"""Whether LLVM's forms of the kernels compile with this Numba, for this processor."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from . import llvm_blocks as blocks
from . import llvm_entropy as entropy
from . import llvm_words as words
from .vectors import OPTIONS


def _every_form(x, sums, octets, codes, key, states):
    """A use of each form."""
    a, b, one = np.uint32(key), np.uint32(7), x.dtype.type(1)
    single, key = np.float32(1), key + words.load_word(octets, 0, np.uint64)
    a = words.add32(words.sub32(a, words.mul32(a, b)), words.xorshift32(words.exchanged32(a), b))
    words.store_word(octets, 0, a)
    words.fetch_byte(x, 0)
    x[0] = words.next_above(words.float_of(words.bits_of(x[0])))
    blocks.signs_of_blocks(x, None, None, 0, sums, octets, 0)
    blocks.add_absolute_blocks(x, x, None, 0, sums, None, 0)
    blocks.add_square_blocks(x, x, one, 0, sums, octets, 0)
    blocks.ends_of_blocks(x, 0, 0, b, a, single, single, single, key, key, octets, 0, octets)
    blocks.lattice_of_blocks(x, 0, 0, 0, b, a, single, single, single, single, single, key, key, key, codes, 0, octets)
    blocks.powers_of_blocks(x, 0, 0, key, octets, 0, 0)
    blocks.wide_powers_of_blocks(x, 0, 0, key, octets, 0, octets)
    blocks.levels_of_blocks(x, 0, 0, one, None, key, 24, 1, octets, 0)
    blocks.levels_of_blocks(x, 0, 0, one, one, key, 16, 1, codes, 0)
    blocks.nibbles_of_blocks(octets, 0, octets)
    entropy.encode_groups(states, states, 12, states, octets, 0, octets, 0)
    entropy.encode_groups(states, states, 12, states, codes, 0, octets, 0)
    entropy.decode_groups(states, 12, states, octets, 0, octets, 0, 0)
    entropy.decode_groups(states, 12, states, octets, 0, codes, 0, 0)
    return words.trailing_zeros(words.nonzero_bytes(octets, 0)) + words.ones(key)


def compile_all() -> None:
    """Compile every form, for float32 and float64, without keeping the machine code.

    Raises
    ------
    Exception : of whatever kind Numba or llvmlite raises where it does not.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False, **OPTIONS}
    form = numba.njit(_every_form, **options)
    arrays = numba.float64[::1], numba.uint8[::1], numba.uint16[::1], numba.uint64, numba.uint32[::1]
    for dtype in (numba.float32, numba.float64):
        form.compile((dtype[::1], *arrays))
