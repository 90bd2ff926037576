"""From calls to what a simulator plays: messages between two ranks, and pauses. Collectives become the messages that MPICH makes of them.

SimGrid has algorithms of its own for collectives; they are not used, so that what is replayed does not depend on its version, and is what
the library here does: bcast by a binomial tree, from 12 KiB and 8 ranks on by a scatter and an allgather; gather by a binomial tree;
gatherv and scatterv directly; allreduce by recursive doubling, from 2 KiB on by halving and doubling (Thakur, Rabenseifner and Gropp 2005).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from ..runtime import Call

LONG_BCAST, RING_BCAST, LEAST_RANKS, LONG_SUM = 12288, 524288, 8, 2048
_COLLECTIVE = 99  # the tag of messages that stand for a collective
_ORDERS = 1 << 20  # so many messages of a pair and tag have numbers of their own


class Lowering:
    """The time-independent trace of one rank, in SimGrid's words.

    Parameters
    ----------
    overhead : processor seconds of each message of a collective; those of other messages are in the calls.

    Attributes
    ----------
    lines : of the trace. open : messages that it sends, less those that it receives: 0 over all ranks, unless a run ends before some
        are received.
    """

    def __init__(self, rank: int, size: int, overhead: float = 0.0):
        self.rank, self.size, self._overhead = rank, size, overhead
        self.lines = [f"{rank} init"]
        self.open = 0
        self._sent: dict[tuple[int, int], int] = defaultdict(int)
        self._received: dict[tuple[int, int], int] = defaultdict(int)

    def play(self, calls: Iterable[Call]) -> Lowering:
        """Write the rounds among these calls, and the end. A receive that is never waited for is left out."""
        own = [call for call in calls if call.purpose == "round"]
        came = {call.request: call.nbytes for call in own if call.function == "Wait"}
        open_: dict[int, str] = {}
        for call in own:
            self._busy(call.seconds)
            if call.function == "Isend":
                open_[call.request] = self._isend(call.peer, call.tag, call.nbytes)
            elif call.function == "Irecv":
                if call.request in came:
                    open_[call.request] = self._irecv(call.peer, call.tag, came[call.request])
            elif call.function == "Wait":
                if name := open_.pop(call.request, ""):
                    self._line(f"wait {name}")
            elif call.function == "Send":
                self._send(call.peer, call.tag, call.nbytes)
            elif call.function not in ("Round", "End"):
                getattr(self, f"_{call.function.lower()}")(call)
        self._line("finalize")
        return self

    # ---- messages -----------------------------------------------------------------------------------------------
    def _line(self, text: str) -> None:
        self.lines.append(f"{self.rank} {text}")

    def _busy(self, seconds: float) -> None:
        if seconds > 0:
            self._line(f"sleep {seconds:.9g}")

    def _number(self, counts: dict[tuple[int, int], int], peer: int, tag: int) -> int:
        """A tag that this message has alone, so that a wait can name it."""
        order = counts[peer, tag]
        counts[peer, tag] += 1
        return tag * _ORDERS + order % _ORDERS

    def _out(self, peer: int, tag: int) -> int:
        self.open += 1
        return self._number(self._sent, peer, tag)

    def _in(self, peer: int, tag: int) -> int:
        self.open -= 1
        return self._number(self._received, peer, tag)

    def _isend(self, peer: int, tag: int, nbytes: int) -> str:
        number = self._out(peer, tag)
        self._line(f"isend {peer} {number} {nbytes}")
        return f"{self.rank} {peer} {number}"

    def _irecv(self, peer: int, tag: int, nbytes: int) -> str:
        number = self._in(peer, tag)
        self._line(f"irecv {peer} {number} {max(nbytes, 1)}")  # of none SimGrid would wait for the message here
        return f"{peer} {self.rank} {number}"

    def _send(self, peer: int, tag: int, nbytes: int) -> None:
        if tag == _COLLECTIVE:
            self._busy(self._overhead)
        self._line(f"send {peer} {self._out(peer, tag)} {nbytes}")

    def _recv(self, peer: int, nbytes: int) -> None:
        self._line(f"recv {peer} {self._in(peer, _COLLECTIVE)} {max(nbytes, 1)}")

    def _exchange(self, dest: int, nbytes: int, source: int, incoming: int) -> None:
        self._busy(self._overhead)
        names = [self._irecv(source, _COLLECTIVE, incoming), self._isend(dest, _COLLECTIVE, nbytes)]
        for name in names:
            self._line(f"wait {name}")

    # ---- collectives --------------------------------------------------------------------------------------------
    def _relative(self, root: int) -> int:
        return (self.rank - root) % self.size

    def _real(self, relative: int, root: int) -> int:
        return (relative + root) % self.size

    def _bcast(self, call: Call) -> None:
        n, size, root, own = call.nbytes, self.size, call.peer, self._relative(call.peer)
        whole = n < LONG_BCAST or size < LEAST_RANKS
        chunk = n if whole else -(-n // size)
        mask, held = 1, n
        while mask < size and not own & mask:
            mask <<= 1
        if own:
            held = n if whole else max(0, min(n - own * chunk, mask * chunk))
            if held or whole:
                self._recv(self._real(own - mask, root), held)
        while mask := mask >> 1:
            if own + mask < size:
                part = n if whole else held - chunk * mask
                if whole or part > 0:
                    self._send(self._real(own + mask, root), _COLLECTIVE, part)
                    held -= 0 if whole else part
        if not whole:
            self._allgather(n, chunk, root, own)

    def _allgather(self, n: int, chunk: int, root: int, own: int) -> None:
        """After a scatter: by recursive doubling, or for many bytes, or ranks that are no power of two, round a ring."""
        size = self.size

        def part(first: int, count: int) -> int:
            return max(0, min(chunk * count, n - chunk * first))

        if n < RING_BCAST and size & (size - 1) == 0:
            for mask in (1 << k for k in range(size.bit_length() - 1)):
                other = own ^ mask
                peer = self._real(other, root)
                self._exchange(peer, part(own // mask * mask, mask), peer, part(other // mask * mask, mask))
            return
        right, left = self._real(own + 1, root), self._real(own - 1, root)
        for step in range(size - 1):
            self._exchange(right, part((own - step) % size, 1), left, part((own - step - 1) % size, 1))

    def _gather(self, call: Call) -> None:
        root, own, mask, held = call.peer, self._relative(call.peer), 1, 1
        while mask < self.size:
            if own & mask:
                self._send(self._real(own ^ mask, root), _COLLECTIVE, held * call.nbytes)
                return
            if own | mask < self.size:
                many = min(mask, self.size - (own | mask))
                self._recv(self._real(own | mask, root), many * call.nbytes)
                held += many
            mask <<= 1

    def _gatherv(self, call: Call) -> None:
        if self.rank != call.peer:
            if call.nbytes:
                self._send(call.peer, _COLLECTIVE, call.nbytes)
            return
        names = [self._irecv(r, _COLLECTIVE, n) for r, n in enumerate(call.counts) if n and r != self.rank]
        for name in names:
            self._line(f"wait {name}")
            self._busy(self._overhead)

    def _scatterv(self, call: Call) -> None:
        if self.rank != call.peer:
            if call.nbytes:
                self._recv(call.peer, call.nbytes)
            return
        names = []
        for r, n in enumerate(call.counts):
            if n and r != self.rank:
                self._busy(self._overhead)
                names.append(self._isend(r, _COLLECTIVE, n))
        for name in names:
            self._line(f"wait {name}")

    def _allreduce(self, call: Call) -> None:
        n, size, own = call.nbytes, self.size, self.rank
        full = 1 << (size.bit_length() - 1)
        rest = size - full
        if own < 2 * rest and own % 2 == 0:
            self._send(own + 1, _COLLECTIVE, n)
            self._recv(own + 1, n)
            return
        if own < 2 * rest:
            self._recv(own - 1, n)
        place = own // 2 if own < 2 * rest else own - rest
        masks = [1 << k for k in range(full.bit_length() - 1)]
        parts = [n] * len(masks) if n <= LONG_SUM else [-(-n // (2 << k)) for k in range(len(masks))]
        steps = list(zip(masks, parts, strict=True))
        for mask, nbytes in steps if n <= LONG_SUM else [*steps, *reversed(steps)]:
            other = place ^ mask
            peer = 2 * other + 1 if other < rest else other + rest
            self._exchange(peer, nbytes, peer, nbytes)
        if own < 2 * rest:
            self._send(own - 1, _COLLECTIVE, n)

    def _barrier(self, call: Call) -> None:
        mask = 1
        while mask < self.size:
            self._exchange((self.rank + mask) % self.size, 0, (self.rank - mask) % self.size, 0)
            mask <<= 1


def messages_of_bcast(nbytes: int, size: int) -> int:
    """How many messages all ranks together send in a broadcast; counted before anything is written."""
    if nbytes < LONG_BCAST or size < LEAST_RANKS:
        return size - 1
    chunk = -(-nbytes // size)
    scattered = int(np.count_nonzero(np.arange(1, size) * chunk < nbytes))
    steps = size.bit_length() - 1 if nbytes < RING_BCAST and size & (size - 1) == 0 else size - 1
    return scattered + size * steps
