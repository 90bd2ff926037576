"""No rank is left behind: an exception on one rank ends the whole job, with one readable message.

The end of the job never depends on the message: what it says is made and printed in a thread of its own, which gets some seconds.
A stderr that is full, closed or read by nobody, or an exception whose text raises another one, costs the message and nothing else.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from ..cluster.comm import mpi_finalized, world
from ..cluster.failing import MOST_SECONDS, told_by_another, turn
from ..cluster.process import is_owned
from ..errors import PartFailure, RankFailure, StopEarly, StopNow, UserError, full_text

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

EXIT_USER_ERROR = 2
AGREE_SECONDS = 4.0
SAY_SECONDS = 2.0  # that the message may take


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

    Raises
    ------
    PartFailure : in one process that is the command line's own, in place of what is none of mpicomp's errors.
    """
    held = Guarded(comm)
    if held.comm is None:
        with wrapped() if is_owned() else nullcontext():
            yield held
        return
    try:
        with _no_silent_exit(held) if is_owned() else nullcontext():
            yield held
    except UserError as error:
        if not _all_arrive(held.errors):
            _end(held.comm, partial(_seen_by_one, error), EXIT_USER_ERROR, partial(headline_of, error), held.errors)
        raise
    except RankFailure as error:
        _end(held.comm, partial(full_text, error), 1)
    except BaseException as error:
        # a signal may be the launcher's, to a job that another rank has ended
        headline = None if isinstance(error, StopEarly | StopNow) else partial(headline_of, error)
        _end(held.comm, partial(stack_of, error), exit_code(error), headline, held.errors)
    else:
        held.release()


def _seen_by_one(error: UserError) -> str:
    return f"{type(error).__name__}: {full_text(error)}\n(the other ranks do not see this error)"


def headline_of(error: BaseException) -> str:
    """Kind and text of the exception, the first line of it."""
    return "".join(traceback.format_exception_only(error)).strip().split("\n")[0]


def stack_of(error: BaseException) -> str:
    """The exception as Python prints it."""
    return "".join(traceback.format_exception(error))


@contextmanager
def wrapped() -> Iterator[None]:
    """Raise PartFailure in place of an exception that the libraries between here and the process's end could take for their own, such as
    EOFError, StopIteration or SystemExit. A UserError, and the user's own Ctrl-C, pass as they are."""
    try:
        yield
    except (UserError, PartFailure, StopEarly, StopNow):
        raise
    except BaseException as error:
        raise PartFailure(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """The exit code after an exception: its own where it has one that is a number other than 0, 130 after Ctrl-C, else 1."""
    code = getattr(error, "code", None) if isinstance(error, SystemExit | StopNow) else None
    if isinstance(code, int):
        return code % 256 or 1
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


@contextmanager
def _no_silent_exit(held: Guarded) -> Iterator[None]:
    """`os._exit(0)` in this process, the command line's own, is a failure here. MPICH's launcher may take a rank that leaves so for a
    success: on a busy machine it then ends the others and returns 0 itself, or leaves them waiting."""
    leave, process = os._exit, os.getpid()

    def failing_exit(status: int) -> NoReturn:
        if status == 0 and os.getpid() == process and held.comm is not None:  # not in a process that was forked
            stack = "".join(traceback.format_stack(sys._getframe(1)))
            _end(held.comm, lambda: f"it called os._exit(0) in the middle of a run\n{stack}", 1)
        leave(status)

    os._exit = failing_exit
    try:
        yield
    finally:
        os._exit = leave


def _all_arrive(comm: MPIComm | None) -> bool:
    """Every rank comes here within AGREE_SECONDS; False also where MPI cannot tell any more."""
    if comm is None:
        return False
    try:
        request, deadline = comm.Ibarrier(), time.monotonic() + AGREE_SECONDS
        while not request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    except BaseException:  # MPI's errors, and a signal that ends the process: in each case the job is to end
        return False
    return True


def _end(
    comm: MPIComm,
    message: Callable[[], str],
    code: int,
    headline: Callable[[], str] | None = None,
    talk: MPIComm | None = None,
) -> NoReturn:
    """Abort, and print the message before as far as that is possible. Higher ranks wait a moment, so that of several failing ranks the
    first one speaks.

    Parameters
    ----------
    headline : one line in place of the message, where another rank tells that; None for none. talk : over which ranks hear of it; None:
        they do not.
    """
    try:
        rank = comm.Get_rank()
        who = f"rank {rank} of {comm.Get_size()} on {platform.node()}"
        if talk is None:
            time.sleep(turn(rank))
        if talk is not None and told_by_another(talk):
            if headline is not None:
                say(lambda: f"mpicomp: {who} failed too: {headline()}")
            time.sleep(MOST_SECONDS)  # for the other one's turn
        else:
            say(lambda: f"\nmpicomp: {who} failed; ending the job\n{message()}")
        time.sleep(0.2)  # once the job is being ended, MPICH's launcher may drop what it has not yet passed on
    finally:
        try:
            comm.Abort(code)
        finally:
            # MPICH's Abort returns while the job is being ended; nothing may run on as if `run` had returned
            os._exit(code)


def end_world(message: Callable[[], str], code: int, headline: Callable[[], str]) -> None:
    """The same for all processes of this job, outside of a run; nothing where MPI has been ended, or connects nobody.

    Parameters
    ----------
    headline : one line, for all ranks but one of several that fail at once.
    """
    if not mpi_finalized() and world().Get_size() > 1:
        _end(world(), message, code, headline, world())


def say(message: Callable[[], str]) -> None:
    """Print what `message` returns on stderr, and what stdout still holds. Whatever that does, this returns within SAY_SECONDS, and raises
    nothing."""

    def speak() -> None:
        text = "(what went wrong has no text: making it failed)"
        with suppress(BaseException):
            text = message()
        with suppress(BaseException):
            print(text, file=sys.stderr, flush=True)
        with suppress(BaseException):
            sys.stdout.flush()

    thread = threading.Thread(target=speak, name="say", daemon=True)
    with suppress(RuntimeError):  # no more threads
        thread.start()
        thread.join(SAY_SECONDS)
