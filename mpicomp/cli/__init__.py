"""The command line. Nothing here imports NumPy, Numba or MPI before a command needs them, so that --help answers at once."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..errors import (
    CacheWarning,
    ImportedPartError,
    NoMpiError,
    PartFailure,
    StopEarly,
    StopNow,
    UserError,
    full_text,
    option_wording,
)
from ..experiments.commands import attach
from ..streams import harden, live, lost_output
from ..version import __version__
from .doctor import doctor
from .launch import launch
from .listing import list_parts
from .run import run
from .theory import theory
from .warmup import warmup


class _Commands(TyperGroup):
    """The command line library takes EOFError for Ctrl-D and a broken pipe of any file for stdout's, and it ends the process in silence
    after both; SystemExit does the same. What a part of one's own raises is not that."""

    def invoke(self, ctx: Any) -> Any:
        from ..runtime.abort import exit_code

        try:
            return super().invoke(ctx)
        except (StopNow, StopEarly) as stop:
            raise typer.Exit(exit_code(stop)) from None
        except (EOFError, BrokenPipeError, SystemExit) as error:
            raise PartFailure(exit_code(error)) from error


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,  # a default in brackets is no markup
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distributed optimisation with compressed communication over MPI: real bytes, real seconds.",
)
app.command("run")(run)
app.command("launch", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(launch)
app.command("warmup")(warmup)
app.command("doctor")(doctor)
app.command("list")(list_parts)
app.command("theory")(theory)
attach(app)


_LASTING = [["run"], ["scale"], ["reproduce"], ["warmup"], ["report"]]  # what they do lasts without their output


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mpicomp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors that all ranks see are printed by one of them."""
    from ..cluster.environment import declared_rank

    speaks = not declared_rank()
    harden(speaks)
    if not live(sys.stdout):  # Numba would have colorama reset the terminal's colours at the end
        os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    if not speaks:  # rank 0 speaks for all
        warnings.simplefilter("ignore", CacheWarning)
    with option_wording():
        code = _run(speaks)
    if lost_output() and not code and speaks and sys.argv[1:2] not in _LASTING:
        code = 1
    leave(code)


def _run(speaks: bool) -> int:
    """Run the command; its exit code. What all ranks see alike is printed where `speaks`."""
    from ..cluster.process import own_process

    try:
        with own_process():
            return app(standalone_mode=False) or 0
    except UserError as error:
        if isinstance(error, ImportedPartError | NoMpiError):  # of this rank, perhaps: the others may be waiting for it
            if not speaks and isinstance(error, NoMpiError):
                time.sleep(2)  # else rank 0 says so, and ends the job
            _end_job(error, partial(full_text, error), 2)
        if speaks:
            print(f"mpicomp: {full_text(error)}", file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    except SystemExit as left:  # of the command line library, once it has completed a word; of parts, see `_Commands`
        return left.code if isinstance(left.code, int) else 1
    except PartFailure as failure:
        return _fall_loudly(failure.__cause__ or failure, failure.code)
    except BaseException as error:  # a usage error of the command line library has `show`; anything else is ours to see
        if not hasattr(error, "show"):
            return _fall_loudly(error, 1)
        if speaks:
            error.show()
        return getattr(error, "exit_code", 2)


def _fall_loudly(error: BaseException, code: int) -> int:
    """End a job of several ranks with the traceback; in one process print it and return the code."""
    from ..runtime.abort import say, stack_of

    _end_job(error, partial(stack_of, error), code)
    say(partial(stack_of, error))
    return code


def _end_job(error: BaseException, text: Callable[[], str], code: int) -> None:
    """Say what failed on this rank and end the job; nothing in one process, or where MPI has ended.

    A rank that fails before MPI has started leaves the others waiting for it; MPICH ends them only if it dies by a signal.
    """
    from ..cluster.comm import mpi_initialized
    from ..cluster.environment import declared_rank, declared_size
    from ..runtime.abort import end_world, headline_of, say

    if (declared_size() or 1) <= 1:
        return
    if mpi_initialized():
        end_world(text, code, partial(headline_of, error))
        return
    where = f"mpicomp: rank {declared_rank()} on {platform.node()} failed before MPI started"
    say(lambda: f"{where}\n{text()}")
    time.sleep(0.2)  # for the launcher to pass it on
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """Exit. A launcher may end a job as soon as one process leaves with a code that is not zero (srun --kill-on-bad-exit does), and then
    reports that it was terminated. So the code is rank 0's to give: it leaves a moment after the others, which leave with zero. Where
    MPI was not started, or connects nobody, all leave with the code, the silent ones last. Where ranks may have died, MPI is ended here
    in any case: it is not waited for without end."""
    from ..cluster.environment import declared_rank, declared_size

    if (declared_size() or 1) > 1:
        from ..cluster.comm import finalize
        from ..cluster.recovery import supported
        from ..cluster.restart import note_end

        if code or supported():
            sys.stdout.flush()
            sys.stderr.flush()
            first = not declared_rank()
            connected = finalize(code if first else 0) > 1
            if connected == first:
                time.sleep(0.5)
            if connected and not first:
                code = 0
            elif first:
                note_end(code)
    sys.exit(code)
