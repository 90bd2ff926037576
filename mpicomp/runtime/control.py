"""When to write a checkpoint and when to stop: by round, by the clock, or because a signal asks for it.

All ranks must do the same at the same round boundary. A checkpoint every R rounds needs no agreement. For the rest the server decides,
and its downlink frames of a round carry the order for that round's end in their headers, so that no message is added; a worker that
got a signal asks the server by a flag of its uplink frames. In the same way all ranks hear of a divergence that the server has met.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any, NamedTuple

from ..exchanges.base import Exchange
from ..wire import FLAG_CHECKPOINT, FLAG_DIVERGED, FLAG_REQUEST, FLAG_STOP
from .config import Config

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again, with --resume auto
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Orders(NamedTuple):
    """What all ranks do after a round."""

    checkpoint: bool
    stop: bool
    diverged: bool


class Control:
    """Watches signals and clocks for one run; a context manager that puts the signal handlers back.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT ask for a checkpoint and a stop; a second SIGINT, or one before the first
    round, ends the process at once. In a thread other than the main one signals are left alone.
    """

    def __init__(self, config: Config):
        self.config = config
        self.exchange: Any = None  # until `attach`
        self._asked = False
        self._before: dict[int, Any] = {}
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Control:
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, exchange: Exchange) -> None:
        """From now on orders travel in the frames of this exchange; a signal that came before is not lost."""
        self.exchange = exchange

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self._asked or self.exchange is None):
            raise KeyboardInterrupt
        self._asked = True

    def before_round(self) -> None:
        """Decide what this rank's frames say in the coming round."""
        exchange, now = self.exchange, time.monotonic()
        exchange.flags_sent = 0
        if exchange.is_root:
            limit, seconds = self.config.time_limit, self.config.checkpoint_seconds
            if self._asked or exchange.flags_seen & FLAG_REQUEST or (limit and now - self._start >= limit):
                exchange.flags_sent |= FLAG_STOP
            if seconds and now - self._last >= seconds:
                self._last = now
                exchange.flags_sent |= FLAG_CHECKPOINT
        elif self._asked:
            exchange.flags_sent = FLAG_REQUEST
        exchange.flags_seen = 0

    def after_round(self, t: int) -> Orders:
        """The orders for the end of the round that was the t-th."""
        exchange, every = self.exchange, self.config.checkpoint_every
        order = exchange.flags_sent | exchange.flags_seen
        stop, diverged = bool(order & FLAG_STOP), bool(order & FLAG_DIVERGED)
        checkpoint = bool(order & FLAG_CHECKPOINT) or bool(every and t % every == 0) or stop
        return Orders(checkpoint and not diverged and self.config.out is not None, stop, diverged)
