"""`--stall-timeout`: a rank that stops making progress ends the job, and every rank says where it is.

A thread of each rank looks several times a second whether the rank's stage has changed; the rounds pay for one assignment each. It works
while the rank waits in MPI, sleeps, or loops in Python. A call that never lets go of Python's lock (a compiled kernel, a C library)
keeps the thread from running too; then `faulthandler`'s own timer, which the thread winds up each time that it looks, ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import select
import stat
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from ..cluster.comm import FINALIZE_SECONDS, Comm
from ..cluster.environment import declared_rank, declared_size
from ..errors import number_of, worded

EXIT_STALLED = 4
STDERR = 2
GRACE = 1.0  # seconds in which the other ranks have their say, before the first process ends the job
FILES_SECONDS = 600.0  # that writing checkpoints and results may take beyond the time-out
SETUP_SECONDS = 600.0  # likewise the set-up, with its reading of data and its compiling
SETUP, ROUND, EVALUATION, CHECKPOINT, END = (
    "the set-up before round",
    "round",
    "the evaluation after round",
    "the checkpoint after round",
    "the end, round",
)
_WAITS = {Path(__file__).parent.parent / "cluster" / name for name in ("comm.py", "messages.py")}


class StallWatch:
    """Watches the rank that makes it; a context manager, idle where `seconds` is 0.

    Parameters
    ----------
    seconds : the longest that a round or an evaluation may take. comm : of the run; None for one process, and where only the launcher's
        variables tell the rank yet. at : the stage in which it begins.

    Attributes
    ----------
    at : (stage, round), assigned by the loop whenever the rank gets on.
    """

    def __init__(self, seconds: float, comm: Comm | None, at: tuple[str, int] = (ROUND, 0)):
        self.seconds, self.at = seconds, at
        rank, size = (declared_rank() or 0, declared_size() or 1) if comm is None else (comm.rank, comm.size)
        self._who = f"rank {rank} of {size} on {platform.node()}"
        self._watched, self._over = threading.get_ident(), threading.Event()
        self._tick = min(seconds / 10, 0.25)
        files = number_of("MPICOMP_FILES_SECONDS", FILES_SECONDS, 1e9, "seconds")
        setup = number_of("MPICOMP_SETUP_SECONDS", SETUP_SECONDS, 1e9, "seconds")
        self._longer = {SETUP: setup, CHECKPOINT: files, END: files}

    def __enter__(self) -> StallWatch:
        if self.seconds:
            _watching.append(self)
            self._wind_up()
            watch = _named(StallWatch._watch, self._who)
            self._thread = threading.Thread(target=watch, args=(self,), name="stall", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.seconds and not self._over.is_set():
            self._over.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            _watching.remove(self)
            if _watching:  # the process has one such timer
                _watching[-1]._wind_up()

    def _limit(self, at: tuple[str, int]) -> float:
        return self.seconds + self._longer.get(at[0], 0.0)

    def _wind_up(self) -> None:
        faulthandler.dump_traceback_later(self._limit(self.at) + GRACE / 2, exit=True, file=_stderr())

    def _watch(self) -> None:
        seen, since = self.at, time.monotonic()
        while not self._over.wait(self._tick):
            self._wind_up()
            at, now = self.at, time.monotonic()
            if at is not seen:
                seen, since = at, now
            elif now - since > self._limit(at):
                self._end(at, now - since)

    def _end(self, at: tuple[str, int], age: float) -> None:
        """Say where this rank is and end it, and by that the job; a rank that only waits lets the others speak first."""
        frame = sys._current_frames()[self._watched]
        waits = Path(frame.f_code.co_filename) in _WAITS
        doing = "waiting for another rank" if waits else f"busy in {_place(frame)}"
        stack = "".join(traceback.format_stack(frame))
        limit = worded(f"«stall_timeout={self.seconds:g}»")
        text = f"\nmpicomp: {self._who} has been in {at[0]} {at[1]} for {age:.1f} s, {doing}; ending the job ({limit})\n{stack}"
        _write(text)
        time.sleep(GRACE if waits else GRACE / 2)
        os._exit(EXIT_STALLED)


_watching: list[StallWatch] = []


@cache
def _stderr() -> int:
    """stderr, by a descriptor that never waits where it is a pipe: one that nobody reads would keep the process from its end."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(STDERR).st_mode):
            return os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return STDERR


def _write(text: str) -> None:
    """Write to stderr as much of the text as it takes within a moment."""
    rest, deadline = text.encode(), time.monotonic() + GRACE / 2
    with suppress(OSError):
        while rest and select.select([], [_stderr()], [], max(deadline - time.monotonic(), 0.0))[1]:
            rest = rest[os.write(_stderr(), rest) :]


def limit_end(seconds: float) -> None:
    """From now on this process has so long, but at least some seconds, to be gone; then a guard, a process of its own, kills it.

    A rank that is stopped after its last round would keep the others in MPI_Finalize, where no thread of Python's runs any more; one that
    is stopped after MPI_Finalize would keep the launcher. The guard goes when the end of its pipe that is here does, with this process.
    """
    limit = max(seconds, FINALIZE_SECONDS) + GRACE
    ours, _kept_open = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), f"{limit:g}"]
    subprocess.Popen(command, stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(ours)


_GUARD = """
import os, select, signal, sys
pid, limit = int(sys.argv[1]), float(sys.argv[2])
over, _, _ = select.select([0], [], [], limit)
if not over:
    os.kill(pid, signal.SIGKILL)
"""


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def _named(function: Any, file: str) -> FunctionType:
    """The function, seeming to come from another file: `faulthandler` shows nothing of a process but its stacks' files and lines."""
    code: CodeType = function.__code__.replace(co_filename=file)
    return FunctionType(code, function.__globals__, function.__name__)
