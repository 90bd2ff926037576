"""The ledger: every byte that this rank hands to MPI, counted where it is handed over.

Two views of the same bytes. `functions` counts calls and bytes by MPI function and purpose, which an independent counter below (PMPI,
the MPI library's monitoring) must reproduce to the byte. `traffic` counts the rounds' messages by direction: payload bits, the
bits that the papers count, and whole frames with their headers; these also by level, the way that they take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

UPLINK, DOWNLINK = 0, 1
DIRECTIONS = ("uplink", "downlink")

# Columns of the traffic table.
PAYLOAD_BITS, VALUE_BITS, MESSAGE_BYTES, BROADCAST_BYTES, FRAMES, MESSAGES, FIRST_LEVEL = range(7)

# Levels: within one process or through a window of shared memory; by MPI between ranks of a node; by MPI between nodes.
LEVELS = ("shared_memory", "intra_node", "inter_node")
IN_MEMORY, IN_NODE, BETWEEN_NODES = (1, 0, 0), (0, 1, 0), (0, 0, 1)  # one receiver


class Ledger:
    """Counters of one rank.

    Attributes
    ----------
    traffic : int64, shape (2, 9): for uplink and downlink, payload bits, value bits, message bytes (a broadcast counts once for each
        receiver), broadcast bytes (a broadcast counts once), frames, messages; and the message bytes of each of the LEVELS.
    functions : {(purpose, MPI function): [calls, bytes]}.
    """

    def __init__(self) -> None:
        self.traffic = np.zeros((2, FIRST_LEVEL + len(LEVELS)), np.int64)
        self.functions: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def handed(self, purpose: str, function: str, nbytes: int) -> None:
        """`nbytes` were handed to the MPI function for this purpose ("round", "evaluation", "setup")."""
        entry = self.functions[purpose, function]
        entry[0] += 1
        entry[1] += nbytes

    def frame(
        self,
        direction: int,
        tally: Sequence[int] | np.ndarray,
        nbytes: int,
        messages: int,
        by_level: tuple[int, ...],
        clients: int = 1,
    ) -> None:
        """A frame with the given bits was sent to ranks, `by_level` of them, for `clients` clients each of which the papers charge."""
        row, receivers = self.traffic[direction], sum(by_level)
        for level, count in enumerate(by_level):
            row[FIRST_LEVEL + level] += nbytes * count
        row[PAYLOAD_BITS] += tally[0] * receivers
        row[VALUE_BITS] += tally[1] * clients
        row[MESSAGE_BYTES] += nbytes * receivers
        row[BROADCAST_BYTES] += nbytes
        row[FRAMES] += receivers
        row[MESSAGES] += messages * receivers

    def by_function(self) -> dict[str, list[int]]:
        """[calls, bytes] by MPI function, over all purposes."""
        total: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for (_, function), (calls, nbytes) in self.functions.items():
            total[function][0] += calls
            total[function][1] += nbytes
        return dict(total)


def describe(traffic: np.ndarray) -> dict[str, dict[str, Any]]:
    """The traffic table (summed over ranks) as the result files show it; all figures in bytes but `payload_bits`.

    `payload` is the payload rounded up to whole bytes, `header` everything else that was sent (frame headers, padding), `message`
    their sum, `broadcast` the same with each broadcast counted once, `values_only` what the papers count: values, signs, levels and
    norms in the wire precision, once for each client. `shared_memory`, `intra_node` and `inter_node` are `message` by level.
    """
    out = {}
    for direction, row in zip(DIRECTIONS, traffic, strict=True):
        payload = -(-int(row[PAYLOAD_BITS]) // 8)
        out[direction] = {
            "payload": payload,
            "header": int(row[MESSAGE_BYTES]) - payload,
            "message": int(row[MESSAGE_BYTES]),
            "broadcast": int(row[BROADCAST_BYTES]),
            "values_only": -(-int(row[VALUE_BITS]) // 8),
            "payload_bits": int(row[PAYLOAD_BITS]),
            "frames": int(row[FRAMES]),
            "messages": int(row[MESSAGES]),
            **{level: int(row[FIRST_LEVEL + k]) for k, level in enumerate(LEVELS)},
        }
    return out
