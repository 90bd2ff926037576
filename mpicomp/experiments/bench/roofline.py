"""What bounds the encoders that compute much: the instructions of their innermost loops, from the machine code, beside their cycles."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
import numpy as np

from ..runtime import (
    PAIR,
    ConfigError,
    ends_of_blocks,
    lean,
    max_magnitude,
    njit,
    powers_of_blocks,
    round_to_grid,
    uplink_keys,
)
from .compressors import message
from .operations import scatter

RESIDENT, SHORT = 1 << 16, 1 << 12  # entries: both in the second-level cache with all that is written
# Instructions that take more than one of the slots in which a processor starts its vector instructions (Intel since Skylake, 512 bits;
# Abel and Reineke 2019, uops.info). Stores have slots of their own.
_SLOTS = {"vpmulld": 2, "vdivps": 3, "vrndscaleps": 2, "vpmovdb": 2, "vpmovdw": 2}
LONG, _PER_LINE = 1 << 22, 16  # float32 numbers: of a vector that no second-level cache holds, and of a cache line
_BITS = {"zmm": 512, "ymm": 256, "xmm": 128}


class Loop(NamedTuple):
    """An innermost loop: what it does, entries and instructions of one pass, slots of the vector instructions, bits of a register."""

    name: str
    entries: int
    instructions: int
    slots: int
    bits: int


def roofline(repeats: int = 20) -> dict[str, Any]:
    """The innermost loops of the encoders that memory does not bound, and the cycles that they take with everything in the nearer caches.

    Returns
    -------
    clock : Hz, from a chain of instructions that wait for each other. rows : for each encoder spec; loops, as dicts; bound, the cycles an
    entry at two vector instructions a cycle (three where they have 256 bits or less); cycles, those measured, without what a call takes:
    the least of `repeats`, divided among the entries by which a long vector is longer than a short one. memory: what bounds adding
    to 1 % of 2²² float32 numbers, in order: latency, the seconds until a line of a vector of that size comes that is asked for by
    itself; additions, the seconds for each line that these additions touch; and hence how many lines are on their way at once.
    """
    x = np.random.default_rng(0).standard_normal((1, RESIDENT)).astype(np.float32)
    rows, clock = [], _clock(repeats)
    for spec, loops in _loops(x[0]).items():
        took = [_least(message(spec, v, np.zeros_like(v))[0], repeats) for v in (x, x[:, :SHORT].copy())]
        ports = 2 if loops[-1].bits == 512 else 3
        rows.append(
            {
                "spec": spec,
                "loops": [loop._asdict() for loop in loops],
                "bound": sum(loop.slots / loop.entries for loop in loops) / ports,
                "cycles": (took[0] - took[1]) * clock / (RESIDENT - SHORT),
            }
        )
    return {"clock": clock, "rows": rows, "memory": _memory(repeats)}


def _loops(x: np.ndarray) -> dict[str, list[Loop]]:
    """The innermost loops of each encoder, that of its random numbers last."""
    key, buf, codes = uplink_keys(0, 0).private, np.zeros(8 * len(x), np.uint8), np.zeros(len(x), np.uint8)
    largest = _innermost("largest magnitude", max_magnitude, "vpmax", x)
    return {
        "natural": [_innermost("powers of two", _powers, "vpmulld", x, key, buf)],
        "qsgd:bits=4,norm=max,bucket=512": [largest, _innermost("levels", _levels, "vpmulld", x, key, codes)],
        "cq:norm=max": [largest, _innermost("ends", _ends, "vpmulld", x, key, buf, codes)],
    }


@lean
def _powers(x: np.ndarray, key: np.uint64, buf: np.ndarray) -> None:
    powers_of_blocks(x, 0, x.shape[0] // PAIR, key, buf, 0, x.shape[0])


@lean
def _levels(x: np.ndarray, key: np.uint64, codes: np.ndarray) -> None:
    round_to_grid(x, 0, x.shape[0], np.float32(1.0), 7, key, codes, 0, False)


@lean
def _ends(x: np.ndarray, key: np.uint64, buf: np.ndarray, codes: np.ndarray) -> None:
    half, margin = np.float32(50.0), np.float32(2.0**-14)
    ends_of_blocks(
        x, 0, x.shape[0] // PAIR, np.uint32(100), np.uint32(1), np.float32(10.0), half, margin, key, key, buf, 0, codes
    )


def _innermost(name: str, kernel: Any, mnemonic: str, *args: Any) -> Loop:
    """The shortest loop with such an instruction in a kernel's machine code for these arguments, of those in the widest registers."""
    without: dict[str, Any] = {"_nrt": False}
    fresh = numba.njit(
        kernel.py_func, nogil=True, error_model="numpy", **without
    )  # one from the cache does not show its code
    fresh(*args)
    (text,) = fresh.inspect_asm().values()
    loops = [Loop(name, *found) for found in _innermost_loops(text, mnemonic, args[0].itemsize)]
    if not loops:
        raise ConfigError(
            f"bench roofline reads the machine code of x86 processors with AVX; there is no {mnemonic} in {name!r} here"
        )
    return min(loops, key=lambda loop: (-loop.bits, loop.slots / loop.entries))


def _innermost_loops(text: str, mnemonic: str, itemsize: int) -> Iterator[tuple[int, int, int, int]]:
    """(entries, instructions, slots, bits) of the vectorised loops in an assembler's text (AT&T syntax), from a label to a jump to it."""
    label, body = "", list[str]()
    for line in text.splitlines():
        start = re.match(r"(\.?\w+):", line)
        if start:
            label, body = start[1], []
            continue
        body += re.findall(r"^\s+([a-z].*)", line)
        jump = re.match(r"\s+j\w+\s+(\.?\w+)", line)
        vector = [instruction for instruction in body if re.search(r"%[xyz]mm|%k\d", instruction)]
        if jump and jump[1] == label and any(instruction.startswith(mnemonic) for instruction in vector):
            bits = max(bits for register, bits in _BITS.items() if any(register in v for v in vector))
            loads = [v for v in vector if re.search(r"\(%r(?!sp|ip)[^)]*\),", v)]
            moves = [
                v for v in vector if v.startswith(("vmov", "kmov")) and "(" in v
            ]  # loads and stores have slots of their own
            slots = sum(_SLOTS.get(v.split()[0], 1) for v in vector if v not in moves)
            if loads:
                yield len(loads) * bits // (8 * itemsize), len(body), slots, bits


@njit
def _follow(following: np.ndarray, at: int, steps: int) -> int:
    for _ in range(steps):
        at = following[at]
    return at


def _memory(repeats: int) -> dict[str, float]:
    """The parts of `roofline` on additions to few entries of a long vector."""
    random, lines = np.random.default_rng(0), LONG // _PER_LINE
    order = random.permutation(lines) * 8  # a number of 64 bits in each line of 64 bytes
    following = np.zeros(8 * lines, np.int64)
    following[order] = np.roll(order, -1)
    acc, indices = np.zeros(LONG, np.float32), np.sort(random.choice(LONG, LONG // 100, replace=False))
    values = np.ones(len(indices), np.float32)
    latency = _least(lambda: _follow(following, 0, lines), repeats) / lines
    additions = _least(lambda: scatter(acc, indices, values), repeats) / len(np.unique(indices // _PER_LINE))
    return {"latency": latency, "additions": additions, "lines_at_once": latency / additions}


@njit
def _chain(x: np.uint64, odd: np.uint64, steps: int) -> np.uint64:
    """Three instructions a step, each of which needs the result of the one before and takes one cycle."""
    for _ in range(steps):
        x = (x ^ (x >> np.uint64(7))) + odd
    return x


def _clock(repeats: int) -> float:
    steps = 1 << 18
    return 3.0 * steps / _least(lambda: _chain(np.uint64(1), np.uint64(0x9E3779B97F4A7C15), steps), repeats)


def _least(work: Callable[[], Any], repeats: int) -> float:
    """The least of the seconds for which the processor did this work, after one call that does not count; each time four calls."""
    work()
    took = []
    for _ in range(repeats):
        start = time.thread_time()
        for _ in range(4):
            work()
        took.append((time.thread_time() - start) / 4)
    return min(took)
