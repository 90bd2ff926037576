"""When to write a checkpoint and when to stop: by round, by the clock, or because a signal asks for it.

All ranks must do the same at the same round boundary. A checkpoint every R rounds needs no agreement. For the rest the server decides,
and its downlink frames of a round carry the order for that round's end in their headers, so that no message is added; a worker that
got a signal asks the server by a flag of its uplink frames. In the same way all ranks hear of a divergence that the server has met.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..exchanges.base import Exchange
from ..wire import FLAG_CHECKPOINT, FLAG_DIVERGED, FLAG_REQUEST, FLAG_STOP
from .config import Config
from .signals import Signals

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again, with --resume auto


class Orders(NamedTuple):
    """What all ranks do after a round."""

    checkpoint: bool
    stop: bool
    diverged: bool


class Control:
    """Watches signals and clocks for one run; a context manager, within which `Signals` ask for a checkpoint and a stop."""

    def __init__(self, config: Config):
        self.config = config
        self.exchange: Any = None  # until `attach`
        self._signals = Signals()
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Control:
        self._signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.__exit__()

    def attach(self, exchange: Exchange) -> None:
        """From now on orders travel in the frames of this exchange; a signal that came before is not lost."""
        self.exchange, self._signals.orderly = exchange, True

    def before_round(self) -> None:
        """Decide what this rank's frames say in the coming round."""
        exchange, now = self.exchange, time.monotonic()
        exchange.flags_sent = 0
        if exchange.is_root:
            limit, seconds = self.config.time_limit, self.config.checkpoint_seconds
            if self._signals.asked or exchange.flags_seen & FLAG_REQUEST or (limit and now - self._start >= limit):
                exchange.flags_sent |= FLAG_STOP
            if seconds and now - self._last >= seconds:
                self._last = now
                exchange.flags_sent |= FLAG_CHECKPOINT
        elif self._signals.asked:
            exchange.flags_sent = FLAG_REQUEST
        exchange.flags_seen = 0

    def after_round(self, t: int) -> Orders:
        """The orders for the end of the round that was the t-th."""
        exchange, every = self.exchange, self.config.checkpoint_every
        order = exchange.flags_sent | exchange.flags_seen
        stop, diverged = bool(order & FLAG_STOP), bool(order & FLAG_DIVERGED)
        checkpoint = bool(order & FLAG_CHECKPOINT) or bool(every and t % every == 0) or stop
        return Orders(checkpoint and not diverged and self.config.out is not None, stop, diverged)
