"""What one call of an aggregator cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..cluster.clock import PHASES
from ..cluster.ledger import describe


@dataclass(frozen=True)
class Report:
    """What one call cost on this rank.

    Attributes
    ----------
    call : number of the call, from 0 on. phases : seconds by phase (compute, encode, send, wait, decode, step).
    traffic : int64, shape (2, 9), the ledger's table of this call.
    """

    call: int
    phases: np.ndarray
    traffic: np.ndarray

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase."""
        return {name: float(value) for name, value in zip(PHASES, self.phases, strict=True)}

    @cached_property
    def bytes(self) -> dict[str, dict[str, Any]]:
        """What this rank handed over, by direction: payload, header, message, and by level (shared_memory, intra_node, inter_node)."""
        return describe(self.traffic)
