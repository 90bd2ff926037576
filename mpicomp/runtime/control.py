"""When to write a checkpoint and when to stop: by round, by the clock, or because a signal asks for it.

All ranks must do the same at the same round boundary. A checkpoint every R rounds needs no agreement. For the rest the server decides,
and its downlink frames of a round carry the order for that round's end in their headers, so that no message is added; a worker that
got a signal asks the server by a flag of its uplink frames. In the same way all ranks hear of a divergence that the server has met.

Before the first round nothing is there that could be lost: a signal, or the time limit, ends the job at once, with the exit code after
which it may be started again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from ..errors import StopEarly, worded
from ..exchanges.base import Exchange
from ..wire import FLAG_CHECKPOINT, FLAG_DIVERGED, FLAG_REQUEST, FLAG_STOP
from .config import Config
from .signals import Signals
from .stall import SETUP, STDERR, StallWatch

EXIT_RESUME = 75  # EX_TEMPFAIL of sysexits.h: try again, with --resume auto


class Orders(NamedTuple):
    """What all ranks do after a round."""

    checkpoint: bool
    stop: bool
    diverged: bool


class Control:
    """Watches signals and clocks for one run; a context manager, within which `Signals` ask for a checkpoint and a stop. Before the first
    round they end the process at once (SystemExit 75; KeyboardInterrupt for SIGINT).
    """

    def __init__(self, config: Config):
        self.config = config
        self.exchange: Any = None  # until `attach`
        self._signals, self._ended = Signals(self._end_early), False
        self._start = self._last = time.monotonic()
        self._setup = StallWatch(config.stall_timeout, None, (SETUP, 1))
        self._alarm = threading.Timer(config.time_limit, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM))
        self._alarm.daemon = True

    def __enter__(self) -> Control:
        if self._signals.__enter__().watching and self.config.time_limit:
            self._alarm.start()
        self._setup.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_setup()
        self._signals.__exit__()
        if self._ended and not isinstance(error, SystemExit):
            raise StopEarly(EXIT_RESUME) from error

    def attach(self, exchange: Exchange) -> None:
        """The set-up is over: from now on orders travel in the frames of this exchange."""
        if self._ended:
            raise StopEarly(EXIT_RESUME)
        self.exchange, self._signals.orderly = exchange, True
        self._end_setup()

    def _end_setup(self) -> None:
        self._alarm.cancel()
        self._setup.__exit__()

    def _end_early(self, number: int) -> None:
        limit = self.config.time_limit
        late = limit and time.monotonic() - self._start >= limit
        reason = worded(f"«time_limit={limit:g}»") if late else signal.Signals(number).name
        text = f"mpicomp: {reason} ends the job within its set-up, before the first round; exit code {EXIT_RESUME}\n"
        with suppress(OSError):
            os.write(STDERR, text.encode())
        # where the exception is lost, in a callback of the compiler, the set-up ends at the next place
        self._ended = True
        raise StopEarly(EXIT_RESUME)

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
