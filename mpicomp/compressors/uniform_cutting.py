"""Messages of the uniform quantizer cut into parts for slices of the coordinates: tokens are read, and written anew for each slice."""

from __future__ import annotations

import numpy as np

from ..kernels import lean
from ..kernels.groups import clear_counts, count_tokens, read_groups, write_groups
from ..kernels.tokens import begin_rest, read_tokens, write_tokens
from ..kernels.uniform import GROUP


def cut_messages(
    buf: np.ndarray, pos: int, clients: np.ndarray, shared: np.uint64, private: np.uint64, bounds: np.ndarray,
    out: np.ndarray, places: np.ndarray, wire: np.ndarray, shifts: int, q: np.ndarray, tokens: np.ndarray,
    levels: tuple, kept: tuple, own: tuple,
) -> int:  # fmt: skip
    """Cut such messages, with so many bytes of shifts; see `Cutting`. All bounds but the last are multiples of GROUP.

    levels : (of the message, of a slice, scratch of `bits.pack`). kept, own : `groups.scratch`, of the message and of a slice.
    """
    whole, part, top = levels
    for _ in range(len(clients)):
        step = buf[pos : pos + wire.itemsize].view(wire.dtype)[0]
        head, after, stop = wire.itemsize, pos + wire.itemsize, pos
        if step > 0:
            head += shifts
            after, stop = read_groups(buf, pos + head, len(buf), int(bounds[-1]), whole, kept, top)
        for s in range(len(places)):
            lo, hi = int(bounds[s]), int(bounds[s + 1])
            if lo < hi:
                at = int(places[s])
                out[at : at + head] = buf[pos : pos + head]
                at += head
                if step > 0:
                    level = part[: -(-(hi - lo) // GROUP)]
                    _retell(buf, stop, lo, hi, q, tokens, whole, level, kept, own, out, at)
                    at = write_groups(tokens[: hi - lo], level, own, top, out, at)
                places[s] = at
        pos = after
    return pos


@lean
def _retell(
    buf: np.ndarray, stop: int, lo: int, hi: int, q: np.ndarray, tokens: np.ndarray, whole: np.ndarray, level: np.ndarray,
    kept: tuple, own: tuple, out: np.ndarray, at: int,
) -> None:  # fmt: skip
    """Make the tokens of entries lo, …, hi − 1 ready for `write_groups` at `at`; slices come in order."""
    coded, starts, tail, counts, numbers, own_tail = kept[0], kept[4], kept[8], own[1], own[2], own[8]
    begin_rest(at, own_tail)
    clear_counts(counts, numbers)
    for start in range(lo, hi, GROUP):
        c, count, g = whole[start // GROUP], min(GROUP, hi - start), (start - lo) // GROUP
        read_tokens(coded[starts[c] : starts[c] + count], buf, stop, tail, q)
        for j in range(count, GROUP):
            q[j] = 0
        starts[c] += count
        level[g] = write_tokens(q, count, tokens, start - lo, out, own_tail)
        count_tokens(tokens[start - lo : start - lo + count], level[g], counts, numbers)
