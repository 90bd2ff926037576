"""The door from the command line to the experiments: their commands, put onto the application by `attach`."""

from __future__ import annotations

import typer

from . import bench_network, bench_start, bench_target, simulate  # noqa: F401 - they add their commands to `bench` and `model`
from .advise import advise
from .bench import bench
from .compare import compare
from .lab import lab
from .model import model
from .plot import plot
from .quickstart import quickstart
from .report import report
from .reproduce import reproduce
from .scale import scale
from .slurm import slurm
from .tune import tune


def attach(app: typer.Typer) -> None:
    """Add the experiments' commands to the command line."""
    app.command("compare")(compare)
    app.command("plot")(plot)
    app.command("quickstart")(quickstart)
    app.command("scale")(scale)
    app.command("report")(report)
    app.command("reproduce")(reproduce)
    app.command("tune")(tune)
    app.command("advise")(advise)
    app.add_typer(bench, name="bench")
    app.add_typer(lab, name="lab")
    app.add_typer(slurm, name="slurm")
    app.add_typer(model, name="model")
