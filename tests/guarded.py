"""Encodes and decodes every row of the conformance suite with arrays that end where the process's memory ends.

Kernels that read or write words at once are not seen by Numba's bounds checks. Here each array (vectors, messages, results)
lies right before a page that may not be touched, so that one byte too far ends this process. Run by `test_guard_pages.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np

from mpicomp.errors import WireError
from mpicomp.kernels.random import uplink_keys

sys.path.insert(0, str(Path(__file__).parent))
from compressor_table import ROWS, compressors

LIBC = ctypes.CDLL(None, use_errno=True)
KEPT: list = []  # the maps live as long as the process


def guarded(count: int, dtype) -> np.ndarray:
    """Zeros of which the byte behind the last one is out of bounds."""
    nbytes, page = count * np.dtype(dtype).itemsize, mmap.PAGESIZE
    size = -(-max(nbytes, 1) // page) * page
    block = mmap.mmap(-1, size + page)
    array = np.frombuffer(block, np.uint8)
    address = array.ctypes.data + size
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    KEPT.append((block, array))
    return array[size - nbytes : size].view(dtype)


def check(row, dtype, wire) -> int:
    """Encode and decode one row's messages between guards: whole, cut short and altered; returns how many decodes were tried."""
    codec = compressors.create(row.spec).bind(row.d, row.n, wire)
    if codec.round_maximum is not None:
        codec.round_maximum[0] = 10.0
    clients = np.arange(row.n)
    V = guarded(row.n * row.d, dtype).reshape(row.n, row.d)
    V[:] = np.random.default_rng(1).normal(size=V.shape)
    keys, tally = uplink_keys(5, 3), np.zeros(2, np.int64)
    room = guarded(row.n * codec.max_nbytes, np.uint8)
    end = codec.encode(V, clients, clients, keys, room, 0, tally)
    out, weights = guarded(row.n * row.d, dtype).reshape(row.n, row.d), np.ones(row.n, dtype)
    tried, rng = 0, np.random.default_rng(2)
    for _ in range(25):
        message = guarded(end, np.uint8)
        message[:] = room[:end]
        for place in rng.integers(0, max(end, 1), size=3) if end else ():
            message[place] = rng.integers(256)
        tried += 1
        with contextlib.suppress(WireError):
            codec.decode_add(message, 0, end, clients, clients, weights, keys, out)
    for nbytes in {end, *range(0, end, max(1, end // 40)), *range(max(end - 9, 0), end)}:
        message = guarded(nbytes, np.uint8)
        message[:] = room[:nbytes]
        tried += 1
        try:
            codec.decode_add(message, 0, nbytes, clients, clients, weights, keys, out)
        except WireError:
            assert nbytes < end, f"{row}: its own message is refused"
    return tried


if __name__ == "__main__":
    if sys.argv[1:] == ["overstep"]:  # what a kernel that reads too far would meet
        ctypes.string_at(guarded(8, np.uint8).ctypes.data, 9)
    tried = 0
    for row in ROWS:
        for dtype, wire in ((np.float64, np.float64), (np.float64, np.float32), (np.float32, np.float32)):
            print(f"{row} {np.dtype(dtype)} {np.dtype(wire)}", flush=True)
            tried += check(row, dtype, wire)
            KEPT.clear()
    print(f"{tried} messages stayed within their bounds")
