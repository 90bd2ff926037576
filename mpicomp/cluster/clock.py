"""The clock: seconds by phase on one rank. A phase ends with `lap`, which charges it with the time since the previous lap.

Only rounds are on the clock: the phases of a rank never add up to more than its rounds took.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PHASES = ("compute", "encode", "send", "wait", "decode", "step")
COMPUTE, ENCODE, SEND, WAIT, DECODE, STEP = range(6)


class Clock:
    """Phase totals of one rank, and the wall time of each round.

    Parameters
    ----------
    now : a monotonic clock in seconds (MPI.Wtime, time.perf_counter).
    rounds : wall times of at most this many rounds are kept; later ones replace the oldest.

    Attributes
    ----------
    seconds : float64, shape (6,): totals of the phases, in the order of PHASES.
    total : seconds of all finished rounds.
    """

    def __init__(self, now: Callable[[], float], rounds: int = 0):
        self.now = now
        self.seconds = np.zeros(len(PHASES))
        self.total = 0.0
        self._walls = np.full(min(max(rounds, 1), 1 << 20), 0.0)  # its memory is taken now, not little by little
        self._finished = 0
        self._running = False
        self._last = self._start = now()

    def start_round(self) -> None:
        """A round begins now; the time since the last lap is nobody's (evaluation, checkpoints)."""
        self._running = True
        self._last = self._start = self.now()

    def lap(self, phase: int) -> None:
        """Charge the time since the previous lap to `phase`; between rounds it is nobody's."""
        if not self._running:
            return
        now = self.now()
        self.seconds[phase] += now - self._last
        self._last = now

    def end_round(self) -> None:
        """The round is over."""
        self._running = False
        wall = self.now() - self._start
        self.total += wall
        self._walls[self._finished % len(self._walls)] = wall
        self._finished += 1

    def round_seconds(self) -> np.ndarray:
        """Wall times of the rounds that are kept, seconds."""
        return self._walls[: min(self._finished, len(self._walls))]


def median_interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Median and a distribution-free confidence interval of it by order statistics (Hoefler and Belli 2015, rule 5).

    >>> median_interval(np.arange(1.0, 101.0))
    (50.5, 40.0, 61.0)
    """
    ordered = np.sort(samples)
    n = len(ordered)
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    z = {0.9: 1.6449, 0.95: 1.96, 0.99: 2.5758}[level]
    half = z * np.sqrt(n) / 2
    low, high = int(np.floor(n / 2 - half)), int(np.ceil(1 + n / 2 + half))
    return float(np.median(ordered)), float(ordered[max(low, 1) - 1]), float(ordered[min(high, n) - 1])
