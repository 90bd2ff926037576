"""`mpicomp launch --restarts N`: start a job again after it has failed, at most N times."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

FINISHED = {0: "finished", 2: "refused its options", 3: "diverged"}  # what another start would not change
RESUME = 75  # the job was told to stop, or reached its time limit, and wrote a checkpoint
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def supervise(command: Sequence[str], env: Mapping[str, str], restarts: int, after_resume: bool) -> int:
    """Run the command until it is finished or has been restarted so many times; returns its last exit code.

    A signal to this process is passed on to the job, and the job is not started again after it.

    Parameters
    ----------
    restarts : at most so many. after_resume : also after exit code 75.
    """
    for left in range(restarts, -1, -1):
        code, stopped = _run(command, env)
        if code in FINISHED or stopped or (code == RESUME and not after_resume):
            return code
        what = f"the job ended with exit code {code}"
        if not left:
            print(f"mpicomp: {what}; it was restarted {restarts} times, which is all", file=sys.stderr, flush=True)
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
        process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, process_group=0)
        if heard:
            process.send_signal(heard[0])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (128 - code if code < 0 else code), bool(heard)
