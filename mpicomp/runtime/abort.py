"""No rank is left behind: an exception on one rank ends the whole job, with one readable message."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NoReturn

from ..cluster.process import is_owned
from ..errors import RankFailure, UserError, full_text

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

EXIT_USER_ERROR = 2
AGREE_SECONDS = 4.0


class Guarded:
    """The communicator whose job ends with an exception, and a duplicate of it that carries nothing but the agreement on errors.

    Attributes
    ----------
    comm : mpi4py communicator; None for one process.
    """

    def __init__(self, comm: MPIComm | None):
        self.comm = comm if comm is not None and comm.Get_size() > 1 else None
        self.errors: MPIComm | None = None
        self.renew()

    def move(self, comm: MPIComm) -> None:
        """From now on the job is the ranks of `comm`: the others have died. All ranks that are left call this, and then `renew`, whether
        or not they had come to `release` before."""
        self.comm, self.errors = comm, None

    def renew(self) -> None:
        """Have a duplicate; all ranks call this together."""
        if self.comm is not None and self.errors is None:
            self.errors = self.comm.Dup()

    def release(self) -> None:
        """Give the duplicate back."""
        if self.errors is not None:
            self.errors.Free()
            self.errors = None


@contextmanager
def guard(comm: MPIComm | None) -> Iterator[Guarded]:
    """Abort the job of `comm` (mpi4py) on any exception but a UserError that all ranks raise alike.

    In the command line's own process `os._exit(0)` counts as one. In a program that calls the library `os._exit` is left alone: no code
    runs when a rank leaves so, and what becomes of the others is the launcher's affair, or that of `stall_timeout`.

    Parameters
    ----------
    comm : an mpi4py communicator, or None for one process, where exceptions simply pass.
    """
    held = Guarded(comm)
    if held.comm is None:
        yield held
        return
    try:
        with _no_silent_exit(held) if is_owned() else nullcontext():
            yield held
    except UserError as error:
        if held.errors is None or not _all_arrive(held.errors):
            _end(
                held.comm,
                f"{type(error).__name__}: {full_text(error)}\n(the other ranks do not see this error)",
                EXIT_USER_ERROR,
            )
        raise
    except RankFailure as error:
        _end(held.comm, full_text(error), 1)
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        _end(held.comm, traceback.format_exc(), code or 1)
    else:
        held.release()


@contextmanager
def _no_silent_exit(held: Guarded) -> Iterator[None]:
    """`os._exit(0)` in this process, the command line's own, is a failure here. MPICH's launcher may take a rank that leaves so for a
    success: on a busy machine it then ends the others and returns 0 itself, or leaves them waiting."""
    leave, process = os._exit, os.getpid()

    def failing_exit(status: int) -> NoReturn:
        if status == 0 and os.getpid() == process and held.comm is not None:  # not in a process that was forked
            stack = "".join(traceback.format_stack(sys._getframe(1)))
            _end(held.comm, f"it called os._exit(0) in the middle of a run\n{stack}", 1)
        leave(status)

    os._exit = failing_exit
    try:
        yield
    finally:
        os._exit = leave


def _all_arrive(comm: MPIComm) -> bool:
    """Every rank comes here within AGREE_SECONDS."""
    request, deadline = comm.Ibarrier(), time.monotonic() + AGREE_SECONDS
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _end(comm: MPIComm, message: str, code: int) -> None:
    """Print the message and abort. Higher ranks wait a moment, so that of several failing ranks the first one speaks."""
    rank = comm.Get_rank()
    time.sleep(min(0.1 * rank, 1.0))
    sys.stdout.flush()
    who = f"rank {rank} of {comm.Get_size()} on {platform.node()}"
    print(f"\nmpicomp: {who} failed; ending the job\n{message}", file=sys.stderr, flush=True)
    time.sleep(0.2)  # once the job is being ended, MPICH's launcher may drop what it has not yet passed on
    comm.Abort(code)
    os._exit(code)  # MPICH's Abort returns while the job is being ended; nothing may run on as if `run` had returned
