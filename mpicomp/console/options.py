"""The options of a run, which several commands take, and the communicator of the job that a command runs in."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FLAGS
from .complete import completed

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

    from ..runtime.config import Config

Option = typer.Option


def _whole(text: str) -> int:
    """A whole number, also as 1e3."""
    for convert in (int, float):
        try:
            value = convert(text)
        except ValueError:
            continue
        if math.isfinite(value) and value == math.floor(value):
            return int(value)
    raise typer.BadParameter(f"{text!r} is no whole number, such as 1000 or 1e3")


Whole = functools.partial(typer.Option, parser=_whole, metavar="<int>")


def _import(names: list[str] | None) -> list[str] | None:
    """What `--import` does, in this process and in those that it starts."""
    if not names:
        return names
    from ..runtime.imports import import_parts, pass_on, resolved

    whole = [resolved(name) for name in names]
    import_parts(whole)
    pass_on(whole)
    return whole


Import = Annotated[
    list[str] | None,
    Option(
        "--import",
        metavar="FILE_OR_MODULE",
        callback=_import,
        help="Python file or module with parts of your own, imported first; may be given several times.",
    ),
]


def _options(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML file with any of the options below, or the directory of a run.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        Option(
            autocompletion=completed("methods"),
            help="Method, `mpicomp list methods`; options as ef21:start=dense.  [marina]",
        ),
    ] = None,
    compressor: Annotated[
        str | None,
        Option(
            autocompletion=completed("compressors"),
            help="Compressor, `mpicomp list compressors`: topk:k=10, qsgd:bits=4,bucket=512, ...",
        ),
    ] = None,
    downlink_compressor: Annotated[
        str | None,
        Option(autocompletion=completed("compressors"), help="For methods that compress in both directions."),
    ] = None,
    problem: Annotated[
        str | None, Option(autocompletion=completed("problems"), help="Problem, `mpicomp list problems`.  [logistic]")
    ] = None,
    data: Annotated[
        str | None,
        Option(help="Data set by name, or a file: LIBSVM, CSV (.gz, .xz, .bz2 too), .npz, Parquet, HDF5.  [mushrooms]"),
    ] = None,
    clients: Annotated[int | None, Whole(help="Number of clients n.  [20]")] = None,
    partition: Annotated[
        str | None, Option(help="contiguous, shuffled, sorted or dirichlet:BETA.  [contiguous]")
    ] = None,
    reg: Annotated[
        float | None, Option(help="Regularisation λ of the problem; of logistic it is 0.1 unless given.")
    ] = None,
    features: Annotated[int | None, Whole(help="Columns of the data.  [the largest index in the file]")] = None,
    label: Annotated[
        str | None, Option(help="Column of the labels in a table: its name, or its number from 0, -1 the last.")
    ] = None,
    zero_based: Annotated[bool, Option("--zero-based", help="Indices of LIBSVM text count from 0.")] = False,
    scale: Annotated[str | None, Option(help="Columns by maxabs, rows to unit, or all by the largest value.")] = None,
    positive: Annotated[str | None, Option(help="The label that is +1, against all others.")] = None,
    test: Annotated[
        str | None, Option(help="Test loss and accuracy on these rows: a share held out, 0.2, a set or a file.")
    ] = None,
    rounds: Annotated[int | None, Whole(help="Rounds T.  [1000]")] = None,
    tol: Annotated[float | None, Option(help="Stop once ‖∇f‖² is at most this; 0 never.  [0]")] = None,
    step: Annotated[str | None, Option(help="theory, theory*FACTOR, or a number.  [theory]")] = None,
    explosion: Annotated[
        float | None, Option(help="Stop, diverged, once f is above f(x⁰) by so many |f(x⁰)|; 0 never.  [1e6]")
    ] = None,
    batch: Annotated[
        int | None,
        Whole(help="Samples per client and round; 0 for the method's own: exact gradients, or few samples.  [0]"),
    ] = None,
    optimizer: Annotated[
        str | None,
        Option(
            autocompletion=completed("optimizers"),
            help="In place of the method's own: sgd:momentum=0.9,schedule=cosine, ...",
        ),
    ] = None,
    uplink: Annotated[
        str | None,
        Option(
            autocompletion=completed("uplinks"), help="For --method custom: MECHANISM:COMPRESSOR, as ef21:topk:k=10."
        ),
    ] = None,
    downlink: Annotated[
        str | None, Option(autocompletion=completed("downlinks"), help="For --method custom: as marina-p@p=0.1:permk.")
    ] = None,
    smoothing: Annotated[float | None, Option(help="For --method custom: β of the clients' model averages.")] = None,
    init: Annotated[str | None, Option(help="x⁰: zero, ones, normal:SEED, or paper.  [zero]")] = None,
    dtype: Annotated[str | None, Option(help="Of the computation: float32 or float64.  [float64]")] = None,
    wire_dtype: Annotated[str | None, Option(help="Of the values that travel.  [as --dtype]")] = None,
    exchange: Annotated[
        str | None,
        Option(
            autocompletion=completed("exchanges", also=("auto",)),
            help="p2p, collective, sharded, hierarchical, hierarchical:sum, allreduce (dense), local, or auto.  [auto]",
        ),
    ] = None,
    threads: Annotated[
        int | None, Whole(help="Of a rank, for its clients' messages; 0 for its share of the processors.  [0]")
    ] = None,
    seed: Annotated[int | None, Whole(help="Of everything random.  [0]")] = None,
    eval_every: Annotated[
        int | None, Whole(help="Rounds between evaluations; 0 for about a hundred in all.  [0]")
    ] = None,
    evaluate: Annotated[
        str | None, Option(help="full: f, ‖∇f‖² and the problem's measures; measures: these alone; none.  [full]")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Directory for config.toml, manifest.json, rounds.csv and summary.json.")
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Begin anew where --out holds another run's results, which are removed.")
    ] = False,
    checkpoint_every: Annotated[int | None, Whole(help="Rounds between checkpoints under --out; 0 never.  [0]")] = None,
    checkpoint_seconds: Annotated[float | None, Option(help="Seconds between checkpoints; 0 never.  [0]")] = None,
    time_limit: Annotated[
        float | None, Option(help="Checkpoint and stop (exit code 75) after so many seconds.")
    ] = None,
    stall_timeout: Annotated[
        float | None,
        Option(help="End the job, with every rank's stack, once a round takes so many seconds; 0 never.  [0]"),
    ] = None,
    resume: Annotated[
        str | None, Option(help="Go on from a run directory's checkpoints; auto: from --out's, if any.")
    ] = None,
    on_failure: Annotated[
        str | None,
        Option(help="A rank dies: stop; restart:N the job; continue:rehost or continue:drop its clients.  [stop]"),
    ] = None,
    verify_bytes: Annotated[
        bool, Option("--verify-bytes", help="Compare the ledger with an independent count of what MPI is handed.")
    ] = False,
    trace: Annotated[
        str | None, Option(metavar="DIR", help="Record every MPI call of every rank, for `mpicomp model simulate`.")
    ] = None,
    allow_unsafe: Annotated[bool, Option("--allow-unsafe", help="Run combinations that no theory covers.")] = False,
    set_: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Any option, also problem.dim=100, method.p=0.1.")
    ] = None,
    imports: Import = None,
) -> None:
    """The options of a run; `None` is what was not given."""


def with_run_options(command: Callable[..., Any], without: Sequence[str] = ()) -> Callable[..., Any]:
    """Give a command the options of a run before its own; it receives the configuration built from them as its first argument.

    Parameters
    ----------
    without : names of options that make no sense for it. An option of its own takes the place of a run's of the same name.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    left_out = {*without, *(p.name for p in own)}
    shared = [p for p in inspect.signature(_options, eval_str=True).parameters.values() if p.name not in left_out]

    @functools.wraps(command)
    def wrapper(**given: Any) -> Any:
        return command(take_config(given, [p.name for p in shared]), **given)

    every = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shared + own
    ]  # those that must be given may come last
    wrapper.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in shared + own}
    del wrapper.__wrapped__
    return wrapper


def take_config(given: dict[str, Any], names: Sequence[str] = ()) -> Config:
    """Take a run's options out of those of a command and build the configuration.

    Parameters
    ----------
    given : the command's options by their names in Python. names : of those that are a run's; by default all that a run has.

    Raises
    ------
    UserError : options that cannot work, or a file that cannot be read.
    """
    from ..runtime.config import Config

    path, sets = given.pop("config"), tuple(given.pop("set_") or ())
    if path is not None and path.is_dir():  # a run's
        path = path / "config.toml"
    options = {name: given.pop(name) for name in names or inspect.signature(_options).parameters if name in given}
    options["out"] = str(options["out"]) if options.get("out") else None
    for flag in ("allow_unsafe", "force", "verify_bytes"):
        options[flag] = options.get(flag) or None
    options["zero_based"] = options.get("zero_based") or None
    for table, keys in FLAGS.items():
        sets = (*(f"{table}.{k}={v}" for k in keys if (v := options.pop(k, None)) is not None), *sets)
    return Config.load(path, options, sets)


def launched_world(exchange: str = "auto") -> MPIComm | None:
    """The communicator of this job, checked against what the launcher declared; None in a process that nobody launched.

    Raises
    ------
    EnvironmentMismatch : the launcher started more ranks than this MPI sees.
    """
    from ..cluster.environment import check_world, declared_size

    if declared_size() is None:
        from ..exchanges.base import exchanges

        if exchange != "auto" and exchanges[exchange].over_mpi:
            print(
                f"mpicomp: one process, so --exchange {exchange} runs in-process; `mpicomp launch -n 5 -- run ...` starts five"
            )
        return None
    from ..cluster.comm import world as mpi_world

    comm = mpi_world()
    check_world(comm.Get_size())
    return comm
