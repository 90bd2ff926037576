"""A Python program as a rank of a job: `python -m mpicomp.cluster.script (FILE | -m MODULE | -c TEXT) ARGS...`.

Python ends MPI when it ends, and that waits for the other ranks: after an exception on one of them nobody would ever come back. Here the
job is ended with the exception's traceback, and with the exit code that the rank would have had.
"""

from __future__ import annotations

import os
import platform
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import TracebackType

from .restart import note_end

_OURS = (__file__, runpy.__file__, "<frozen runpy>")
PASS_ON_SECONDS = 0.2  # for the launcher to pass on what was printed


def main(words: Sequence[str]) -> None:
    """Run the program as Python would; end the job where it fails."""
    try:
        _run(list(words))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        if code and _in_mpi():
            _end(code % 256 or 1)
        _note(code)
        sys.exit(code)
    except BaseException as error:
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        rank = os.environ.get("RANK", "0")
        print(f"mpicomp: rank {rank} on {platform.node()} failed; ending the job", file=sys.stderr)
        traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
        _end(code)


def _run(words: list[str]) -> None:
    """As `python WORDS` does; the path has no first entry yet (`-P`)."""
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the program's first line on."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _OURS:
        trace = trace.tb_next
    return trace


def _in_mpi() -> bool:
    """The program has started MPI, and not ended it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized()


def _note(code: int) -> None:
    if code and os.environ.get("RANK") == "0":
        note_end(code)


def _end(code: int) -> None:
    """End all ranks. Where MPI has not started others may be waiting for it, and a launcher ends them only if this one dies by a signal."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    time.sleep(PASS_ON_SECONDS)
    _note(code)
    if _in_mpi():
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
