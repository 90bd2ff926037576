"""The axes of convergence curves: what the papers plot, and what was really sent and how long it took."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..study.compare import Cost, Stored
from .evidence import Row

BITS = 8.0


def column(stored: Stored, name: str) -> np.ndarray:
    """A column of rounds.csv, float64."""
    return np.array([row[name] for row in stored.rows])


def paper_bits(stored: Stored, direction: str) -> np.ndarray:
    """The papers' count: bits of values for each client in one direction, "uplink" or "downlink", without indices and headers."""
    return BITS * column(stored, f"{direction}_values_only") / stored.summary["clients"]


def message_bytes(stored: Stored) -> np.ndarray:
    """All bytes through the server's link, both directions, headers included; a broadcast once for each rank that gets it."""
    return column(stored, "uplink_message") + column(stored, "downlink_message")


def seconds_at(bits_per_second: float) -> Callable[[Stored], np.ndarray]:
    """Seconds of the cost model over a link of this speed at the server: the measured work, then all bytes, one after the other."""
    return lambda stored: np.array([Cost.of(row).seconds_at(bits_per_second) for row in stored.rows])


def seconds_taken(stored: Stored) -> np.ndarray:
    """Seconds that the rounds took where they ran."""
    return column(stored, "seconds_total")


def at_target(stored: Stored, axis: Callable[[Stored], np.ndarray], target: float) -> float:
    """The axis' value at the first row with ‖∇f‖² ≤ target, infinite where the run does not get there."""
    there = np.flatnonzero(column(stored, "grad_norm_sq") <= target)
    return float(axis(stored)[there[0]]) if len(there) else float("inf")


def up_bits(stored: Stored) -> np.ndarray:
    """`paper_bits` of the uplink."""
    return paper_bits(stored, "uplink")


def down_bits(stored: Stored) -> np.ndarray:
    """`paper_bits` of the downlink."""
    return paper_bits(stored, "downlink")


def both_bits(stored: Stored) -> np.ndarray:
    """`paper_bits` of both directions: what each client receives and sends where it has a machine of its own."""
    return up_bits(stored) + down_bits(stored)


def rounds(stored: Stored) -> np.ndarray:
    """Rounds."""
    return column(stored, "round")


def costs(stored: Stored, target: float) -> Row:
    """What a run took to ‖∇f‖² ≤ target, by all axes but time; infinite where it does not get there."""
    axes = {
        "rounds": rounds,
        "up_bits": up_bits,
        "down_bits": down_bits,
        "both_bits": both_bits,
        "message_bytes": message_bytes,
    }
    return {"target": target, "step": stored.summary["step"]} | {
        k: at_target(stored, a, target) for k, a in axes.items()
    }
