"""`mpicomp report`: tables, figures and one HTML page from the cells of a study, or from any runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY | RUNS...", help="What `mpicomp scale` wrote; or directories of runs, or with runs in them."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.  [`report` in the study, or beside the runs]")
    ] = None,
    different_problems: Annotated[
        bool, typer.Option("--different-problems", help="Report runs of different problems together.")
    ] = False,
) -> None:
    """Tables (CSV), figures (PNG and SVG) and one self-contained HTML page of a study, or of any set of runs. Exit code 1 where a cell or a
    run is damaged; the page has the others. Needs the extra `plot`."""
    from ..study.page import write_report

    damaged: list[str] = []
    if len(directories) == 1 and _is_study(directories[0]):
        written = write_report(directories[0], out)
        damaged = [f"cell {name}: {reason}" for name, reason in written.damaged]
    else:
        from ..study.runs import load_runs, refuse_mixture
        from ..study.runs_page import write_runs_report

        runs, damaged = load_runs(directories)
        differing = refuse_mixture(runs, different_problems, "one report")
        written = write_runs_report(runs, damaged, differing, out)
    print(
        f"{written.page}: {len(written.figures)} figures, {len(written.tables)} tables, {written.page.stat().st_size / 1e6:.2f} MB"
    )
    for line in damaged:
        print(f"mpicomp: left out: {line}", file=sys.stderr)
    if damaged:
        raise typer.Exit(1)


def _is_study(path: Path) -> bool:
    """A study's directory; or one with neither a study nor runs in it, of which the study's report says what is missing."""
    return (path / "study.toml").is_file() or not (any(path.glob("summary.json")) or any(path.glob("*/summary.json")))
