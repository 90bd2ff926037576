"""`mpicomp quickstart`: two real runs beside gradient descent on the same transport, with their tables and figures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class Case:
    """Runs that are compared: the first one is dense, the yardstick.

    Attributes
    ----------
    title : what is run, and what to look for. common, runs : options of all runs, and of each. y, log_x : of the figures.
    """

    name: str
    title: str
    common: list[str]
    runs: dict[str, list[str]]
    y: str
    log_x: bool


CASES = (
    Case(
        "mushrooms",
        "logistic regression on mushrooms, 112 coordinates, 20 clients: gradients compressed on the way up (MARINA with PermK)",
        [
            "--problem", "logistic", "--set", "problem.reg=0.1", "--data", "mushrooms", "--clients", "20", "--wire-dtype", "float32",
            "--tol", "1e-10", "--eval-every", "10", "--rounds", "20000",
        ],
        {
            "gd": ["--method", "gd", "--step", "theory*4"],
            "marina": ["--method", "marina", "--compressor", "permk", "--step", "theory*8"],
        },
        "grad",
        False,
    ),
    Case(
        "news4",
        "a network on news articles, 64,324 weights, 20 clients: both directions compressed (EF21-BC with Top-2 %)",
        [
            "--problem", "mlp", "--set", "problem.hidden=64", "--set", "problem.reg=1e-4", "--data", "news4", "--partition", "shuffled",
            "--clients", "20", "--init", "paper", "--dtype", "float32", "--step", "1.0", "--rounds", "100", "--eval-every", "5",
        ],
        {
            "gd": ["--method", "gd"],
            "ef21-bc": [
                "--method", "ef21-bc", "--compressor", "topk:fraction=0.02", "--downlink-compressor", "topk:fraction=0.02",
            ],
        },
        "accuracy",
        True,
    ),
)  # fmt: skip
"""In the second the vector is long and nothing travels as it is, so compression pays on fast links, too."""


def quickstart(
    workers: Annotated[int, typer.Option(help="Worker processes beside the server.")] = 4,
    out: Annotated[Path, typer.Option(help="Where the runs' results and figures go.")] = Path("runs/quickstart"),
    force: Annotated[
        bool, typer.Option("--force", help="Run anew where results of an earlier quickstart are there.")
    ] = False,
) -> None:
    """Two methods on real data over MPI, 20 clients, each beside dense gradient descent; then tables, and figures in the terminal and,
    with the extra `plot`, as files."""
    for case in CASES:
        print(f"\n{case.name}: {case.title}\n", flush=True)
        for name, options in case.runs.items():
            command = [sys.executable, "-m", "mpicomp", "launch", "-n", str(workers + 1), "--", "run", "--no-table"]
            where = ["--out", str(out / case.name / name), *(["--force"] if force else [])]
            code = subprocess.run([*command, *case.common, *options, *where]).returncode
            if code:
                raise typer.Exit(code)
        _show(case, [out / case.name / name for name in case.runs], out / f"{case.name}.png")


def _show(case: Case, directories: list[Path], file: Path) -> None:
    """The comparison of the runs, their curve in the terminal, and a figure where matplotlib is there."""
    from ..runtime import MissingExtra, bundles
    from ..runtime import plot as made_of
    from ..study.runs import load_runs
    from .compare import compare
    from .plot import show

    compare(directories)
    columns: list[Any] = list(bundles(load_runs(directories)[0]))
    print()
    show(made_of(columns, ["bytes"], case.y, log_x=case.log_x))
    figure = made_of(columns, ["rounds", "bits", "bytes"], case.y, log_x=case.log_x, width="page")
    try:
        written, points = figure.save(file)
        print(f"\nfigure: {written}, its points: {points}")
    except MissingExtra:
        print("\nmpicomp: the same as a file needs matplotlib: pip install 'mpicomp[plot]'", file=sys.stderr)
