"""Tasks timed in turn, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..runtime import median_interval

Task = Callable[[], Any]
_WARM_UP = 2


def times(tasks: dict[str, list[Task]], repeats: int, pool: ThreadPoolExecutor | None = None) -> dict[str, np.ndarray]:
    """Seconds of every task, all in turn in each of the repeats, after two rounds of warm-up; a task has a call for each thread.

    A single call is charged the time that its thread had the processor, so that other programs on the machine count only by the caches
    and the bandwidth that they take; several at once are charged the time that passed.
    """
    took = {name: np.zeros(repeats) for name in tasks}
    for r in range(-_WARM_UP, repeats):
        for name, calls in tasks.items():
            clock = time.thread_time if len(calls) == 1 else time.perf_counter
            start = clock()
            if pool is None or len(calls) == 1:
                calls[0]()
            else:
                list(pool.map(lambda call: call(), calls))
            if r >= 0:
                took[name][r] = clock() - start
    return took


def ratio(took: np.ndarray, limit: np.ndarray) -> dict[str, Any]:
    """Medians with their 95 % intervals: seconds, ceiling_seconds, and ratio, the ceiling's seconds divided by the task's."""
    return {
        "seconds": median_interval(took),
        "ceiling_seconds": median_interval(limit),
        "ratio": median_interval(limit / took),
    }


def samples(work: Callable[[], Any], repeats: int) -> np.ndarray:
    """Seconds of `repeats` calls of one piece of work, after the warm-up."""
    took = np.zeros(repeats)
    for r in range(-_WARM_UP, repeats):
        start = time.perf_counter()
        work()
        if r >= 0:
            took[r] = time.perf_counter() - start
    return took
