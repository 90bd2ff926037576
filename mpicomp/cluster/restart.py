"""`mpicomp launch --restarts N`: start a job again after it has failed, at most N times."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

FINISHED = {0: "finished", 2: "refused its options", 3: "diverged"}  # what another start would not change
RESUME = 75  # the job was told to stop, or reached its time limit, and wrote a checkpoint
END = "MPICOMP_END"  # names the file into which rank 0 writes its exit code as the last thing that it does
END_SECONDS, ASK_SECONDS = 5.0, 2.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def supervise(command: Sequence[str], env: Mapping[str, str], restarts: int, after_resume: bool) -> int:
    """Run the command until it is finished or has been restarted so many times; returns its last exit code.

    A launcher that is still there some seconds after rank 0 has left an exit code behind is ended: Open MPI's may wait for ever for a rank
    that has died. A signal to this process is passed on to the job, and the job is not started again after it.

    Parameters
    ----------
    restarts : at most so many. after_resume : also after exit code 75.
    """
    for left in range(restarts, -1, -1):
        code, stopped = _run(command, env)
        if code in FINISHED or stopped or (code == RESUME and not after_resume):
            return code
        what = f"the job ended with exit code {code}"
        if not left and restarts:
            print(f"mpicomp: {what}; it was restarted {restarts} times, which is all", file=sys.stderr, flush=True)
        if not left:
            return code
        print(f"mpicomp: {what}; restart {restarts - left + 1} of {restarts}", file=sys.stderr, flush=True)
    raise AssertionError


def _run(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, bool]:
    """The command's exit code, as a shell has it, and whether a signal was passed on to it."""
    heard: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(number)

    before: dict[int, Any] = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        # in a group of its own: Ctrl-C in a terminal reaches the job once, through this process
        with tempfile.TemporaryDirectory(prefix="mpicomp-") as folder:
            end = Path(folder) / "end"
            process = subprocess.Popen(command, env={**env, END: str(end)}, stdin=subprocess.DEVNULL, process_group=0)
            if heard:
                process.send_signal(heard[0])
            code = _wait(process, end)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (128 - code if code < 0 else code), bool(heard)


def _wait(process: subprocess.Popen[bytes], end: Path) -> int:
    """Wait for the launcher, but not long after rank 0's end; returns its exit code, or rank 0's."""
    while True:
        ended = end.exists()
        try:
            return process.wait(timeout=END_SECONDS if ended else 0.5)
        except subprocess.TimeoutExpired:
            if ended:
                _end(process)
                return int(end.read_text() or 1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and its group: asked first, since it then removes its directory in /tmp and its files in /dev/shm."""
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=ASK_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def note_end(code: int, env: Mapping[str, str] = os.environ) -> None:
    """On rank 0, before it leaves: its exit code, for `supervise`."""
    if END in env:
        with contextlib.suppress(OSError):  # on another host than the launcher there is no such directory
            Path(env[END]).write_text(str(code))
