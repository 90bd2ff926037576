"""What a method asks of its exchange in a round, operations, the lengths of their messages, and what they cost.

A run gives the same bits for any exchange and any number of ranks, so the messages of one process are those of all of them. Only where
messages are cut (`sharded`, `sliced`) do their parts depend on the number of ranks; that many slices are made in one process, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

GATHER, BROADCAST, SCATTER, TALK = "gather", "broadcast", "scatter", "talk"


@dataclass(frozen=True)
class Cost:
    """Seconds: of a frame, and of each client's message in it."""

    frame: float = 0.0
    message: float = 0.0

    def of(self, messages: float, frames: float = 1.0) -> float:
        """Seconds of so many messages in so many frames."""
        return self.frame * frames + self.message * messages

    def times(self, factor: float) -> Cost:
        """Each of both by a factor."""
        return Cost(self.frame * factor, self.message * factor)


@dataclass(frozen=True)
class Operation:
    """One call of the exchange.

    Attributes
    ----------
    kind : GATHER, BROADCAST or SCATTER; TALK, where the servers of slices agree on something.
    dim : of its vectors. capacity : bytes of the longest message. itemsize : bytes of a value on the wire.
    fixed : all messages have that length. whole : every server has all of its vectors. separate : the server keeps a row for each client.
    dense : its vectors are arrays that are sent as they lie in memory. absorbs : the clients add the decoded messages to their state.
    lengths : int64, bytes of each client's message, shape (n,) or where messages are cut (n, servers); of a broadcast of shape (1,) or
        (1, servers); of a TALK what each server says.
    active : bool, shape (n,), the clients that take part; None for all.
    encode, decode, absorb : of a frame and message, seconds: where it is written, on a server, on a worker.
    """

    kind: str
    dim: int
    capacity: int
    itemsize: int
    fixed: bool
    whole: bool
    separate: bool
    dense: bool
    absorbs: bool
    lengths: np.ndarray
    active: np.ndarray | None = None
    encode: Cost = Cost()
    decode: Cost = Cost()
    absorb: Cost = Cost()

    def spread(self, n: int, capacity: int) -> Operation:
        """The operation of n clients: those beyond the recorded ones repeat them, with messages as much longer as the longest may be."""
        if self.kind == TALK:
            return self
        lengths = self.lengths
        if self.kind != BROADCAST:
            lengths = lengths[np.arange(n) % len(lengths)]
        if capacity != self.capacity:
            lengths = np.minimum(np.rint(lengths * (capacity / max(self.capacity, 1))), capacity).astype(np.int64)
        active = None if self.active is None else self.active[np.arange(n) % len(self.active)]
        return replace(self, lengths=lengths, active=active, capacity=capacity)


@dataclass
class Round:
    """The operations of a round, and what lies beside them, seconds: a client's gradients, and the server's step."""

    operations: list[Operation] = field(default_factory=list)
    compute: float = 0.0
    step: float = 0.0
