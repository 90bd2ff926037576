"""`mpicomp report`: tables, figures and one HTML page from the cells of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(help="What `mpicomp scale` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Where the report goes.  [DIRECTORY/report]")] = None,
) -> None:
    """Tables (CSV), figures (PNG and SVG) and one self-contained HTML page of a study. Exit code 1 where a cell is damaged; the page has
    the others. Needs the extra `plot`."""
    from ..study.page import write_report

    written = write_report(directory, out)
    print(
        f"{written.page}: {len(written.figures)} figures, {len(written.tables)} tables, {written.page.stat().st_size / 1e6:.2f} MB"
    )
    for name, reason in written.damaged:
        print(f"mpicomp: left out: cell {name}: {reason}", file=sys.stderr)
    if written.damaged:
        raise typer.Exit(1)
