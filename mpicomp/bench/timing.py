"""Timing one piece of work again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP = 3


def samples(work: Callable[[], Any], repeats: int) -> np.ndarray:
    """Seconds of `repeats` calls, after a few that are not counted."""
    took = np.zeros(repeats)
    for r in range(-WARM_UP, repeats):
        start = time.perf_counter()
        work()
        if r >= 0:
            took[r] = time.perf_counter() - start
    return took
