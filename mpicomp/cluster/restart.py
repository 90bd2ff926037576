"""`mpicomp launch`: what stands between the user and the job's launcher; with `--restarts N` it starts a job again after it has failed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from .. import streams
from .process import ended_with_parent

FINISHED = {0: "finished", 2: "refused its options", 3: "diverged"}  # what another start would not change
RESUME = 75  # the job was told to stop, or reached its time limit, and wrote a checkpoint
END = "MPICOMP_END"  # names the file into which rank 0 writes its exit code as the last thing that it does
END_SECONDS, ASK_SECONDS = 5.0, 2.0
COPY_SECONDS = 2.0
# what the job gets for a signal to this process: where the terminal is gone, it stops in good order, with a checkpoint
PASSED_ON: dict[int, int] = {
    signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGUSR1: signal.SIGUSR1, signal.SIGUSR2: signal.SIGUSR2,
}  # fmt: skip


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
    sys.stdout.flush()  # what was printed before the job's own output
    heard: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(PASSED_ON[number])

    before: dict[int, Any] = {}
    for number in PASSED_ON:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            before[number] = signal.signal(number, pass_on)
    try:
        with tempfile.TemporaryDirectory(prefix="mpicomp-") as folder:
            end = Path(folder) / "end"
            process, copies = _start(command, {**env, END: str(end)})
            if heard:
                process.send_signal(PASSED_ON[heard[0]])
            code = _wait(process, end)
            for copy in copies:
                copy.join(COPY_SECONDS)  # a process that the job has left behind may hold its end open
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (128 - code if code < 0 else code), bool(heard)


def _start(command: Sequence[str], env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], list[threading.Thread]]:
    """Start a launcher; returns it, and the threads that copy its output, since one whose stdout cannot be written ends the job.

    It is in a group of its own, so that Ctrl-C in a terminal reaches the job once, through this process. It gets SIGTERM when this process
    dies.
    """
    pipes = [os.pipe(), os.pipe()]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=pipes[0][1], stderr=pipes[1][1], process_group=0,
        preexec_fn=ended_with_parent(),
    )  # fmt: skip
    copies = []
    for (ours, theirs), number in zip(pipes, (streams.STDOUT, streams.STDERR), strict=True):
        os.close(theirs)
        copies.append(threading.Thread(target=streams.pass_on, args=(ours, number), daemon=True))
        copies[-1].start()
    return process, copies


def _wait(process: subprocess.Popen[bytes], end: Path) -> int:
    """Wait for the launcher, but not long after rank 0's end; returns its exit code, or rank 0's."""
    while True:
        ended = end.exists()
        try:
            return process.wait(timeout=END_SECONDS if ended else 0.5)
        except subprocess.TimeoutExpired:
            if ended:
                _end(process)
                return int(end.read_text("utf-8") or 1)


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
            Path(env[END]).write_text(str(code), "utf-8")
