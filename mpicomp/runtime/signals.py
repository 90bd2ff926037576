"""Signals that ask a run to stop, and a way out where it does not come to the end of its round."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..cluster.process import is_owned
from ..errors import StopNow

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
SAME_SECONDS = 1.0  # a launcher passes on what its group gets too: signals so close are one request
GRACE = 5.0  # that a signal's handler has, before the process is killed in its place
_CLOSED = 0  # no signal has this number


class Signals:
    """Handlers of SIGNALS, as a context manager that puts back those that were there; not in child processes that are forked meanwhile.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT ask for a stop, or, before the run can stop in good order, are `early`'s affair; a SIGINT then
    ends the process at once, and so does a second one later. A second SIGTERM, at least SAME_SECONDS after the first, has the effect that
    it has without this.

    Python runs handlers between two of its own instructions, never within a call of MPI or of a compiled kernel. In the command line's own
    process a thread therefore hears of the signals too, and kills the process where one that ends it at once has not done so.
    In a thread other than the main one signals are left alone.

    Parameters
    ----------
    early : called with the number of a signal other than SIGINT that comes too early.

    Attributes
    ----------
    asked : a signal has asked for a stop. orderly : from now on the run can stop in good order.
    """

    def __init__(self, early: Callable[[int], None]) -> None:
        self.asked = self.orderly = False
        self._early = early
        self._terminated = math.inf  # when the first SIGTERM came
        self._before: dict[int, Any] = {}
        self._listener: _Listener | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
            _active.append(self)
            if is_owned():
                self._listener = _Listener()
        return self

    @property
    def watching(self) -> bool:
        """The handlers are in place."""
        return bool(self._before)

    def __exit__(self, *_: object) -> None:
        if self._before:
            _active.remove(self)
            self.restore()
            if self._listener is not None:
                self._listener.close()

    def forget(self) -> None:
        """In a forked child: nothing of this is its own."""
        self.restore()
        if self._listener is not None:
            signal.set_wakeup_fd(-1)
        self._before, self._listener = {}, None

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.asked or not self.orderly):
            raise StopNow
        if number == signal.SIGTERM:
            now = time.monotonic()
            if now - self._terminated > SAME_SECONDS:
                self.restore()
                os.kill(os.getpid(), number)
                return
            self._terminated = min(self._terminated, now)
        if not self.orderly:
            self._early(number)
            return
        self.asked = True


class _Listener:
    """A thread that counts signals as they arrive, whatever the main thread is doing."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.write(self._write, bytes([_CLOSED]))
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _listen(self) -> None:
        interrupts, terminated, patience = 0, math.inf, None
        while True:
            if not select.select([self._read], [], [], patience)[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            for number in os.read(self._read, 64):
                now = time.monotonic()
                if number == _CLOSED:
                    return
                interrupts += number == signal.SIGINT
                if interrupts > 1 or (number == signal.SIGTERM and now - terminated > SAME_SECONDS):
                    patience = GRACE
                if number == signal.SIGTERM:
                    terminated = min(terminated, now)


_active: list[Signals] = []


def _leave_to_the_child() -> None:
    """A process that the run's code forks has the handlers that were there before the run: else it could not be terminated."""
    for signals in reversed(_active):
        signals.forget()
    _active.clear()


os.register_at_fork(after_in_child=_leave_to_the_child)
