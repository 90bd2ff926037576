"""`mpicomp quickstart`: the first real run, beside gradient descent on the same transport."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

COMMON = [
    "--problem", "logistic", "--set", "problem.reg=0.1", "--data", "mushrooms", "--clients", "20", "--wire-dtype", "float32",
    "--tol", "1e-10", "--eval-every", "10", "--no-table",
]  # fmt: skip
RUNS = {
    "gd": ["--method", "gd", "--step", "theory*4", "--rounds", "20000"],
    "marina": ["--method", "marina", "--compressor", "permk", "--step", "theory*8", "--rounds", "20000"],
}


def quickstart(
    workers: Annotated[int, typer.Option(help="Worker processes beside the server.")] = 4,
    out: Annotated[Path, typer.Option(help="Where the two runs' results go.")] = Path("runs/quickstart"),
) -> None:
    """MARINA with PermK on real data over MPI, 20 clients, beside dense gradient descent; then compare the two."""
    for name, options in RUNS.items():
        command = [sys.executable, "-m", "mpicomp", "launch", "-n", str(workers + 1), "--", "run"]
        code = subprocess.run([*command, *options, *COMMON, "--out", str(out / name)]).returncode
        if code:
            raise typer.Exit(code)
    from .compare import compare

    compare([out / name for name in RUNS])
