"""The command line. Nothing here imports NumPy, Numba or MPI before a command needs them, so that --help answers at once."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import traceback
import warnings
from typing import Annotated, NoReturn

import typer

from ..errors import CacheWarning, ImportedPartError, UserError, full_text, option_wording
from ..experiments.commands import attach
from ..version import __version__
from .doctor import doctor
from .launch import launch
from .listing import list_parts
from .run import run
from .theory import theory
from .warmup import warmup

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
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

    if declared_rank():  # rank 0 speaks for all
        warnings.simplefilter("ignore", CacheWarning)
    with option_wording():
        code = _run(not declared_rank())
    leave(code)


def _run(speaks: bool) -> int:
    """Run the command; its exit code. What all ranks see alike is printed where `speaks`."""
    from ..cluster.process import own_process

    try:
        with own_process():
            return app(standalone_mode=False) or 0
    except UserError as error:
        if isinstance(error, ImportedPartError):  # of this rank, perhaps: the others may be waiting for it
            _fall_loudly(full_text(error))
        if speaks:
            print(f"mpicomp: {full_text(error)}", file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    except Exception as error:  # a usage error of the command line library has `show`; anything else is ours to see
        if not hasattr(error, "show"):
            _fall_loudly()
            raise
        if speaks:
            error.show()
        return getattr(error, "exit_code", 2)


def _fall_loudly(text: str = "") -> None:
    """A rank that fails before MPI has started leaves the others waiting for it; MPICH ends them only if it dies by a signal.

    text : what to print; the traceback where it is empty.
    """
    from ..cluster.environment import declared_rank, declared_size

    if (declared_size() or 1) > 1:
        from ..cluster.comm import mpi_initialized

        if not mpi_initialized():
            print(f"mpicomp: rank {declared_rank()} on {platform.node()} failed before MPI started", file=sys.stderr)
            print(text or traceback.format_exc(), file=sys.stderr, flush=True)
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
