"""`mpicomp scale`: a grid of runs, from a study's file to a directory of cells that `mpicomp report` reads."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..runtime import Import
from .common import stop_at_sigterm

Option = typer.Option


def scale(
    study: Annotated[Path, typer.Argument(help="The study's TOML file, docs/reference/studies.md.")],
    out: Annotated[Path | None, Option(help="Directory of the study; finished cells in it are kept.")] = None,
    count: Annotated[bool, Option("--count", help="Print the number of cells and stop.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="List the cells in their order and stop.")] = False,
    task: Annotated[int, Option(help="Run one share of the cells only: this one of --tasks, from 0 on.")] = 0,
    tasks: Annotated[int, Option(help="Number of shares, for job arrays.")] = 1,
    hosts: Annotated[str, Option(help="Hosts for [grid] nodes where no scheduler gives them, as a,b,c.")] = "",
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run cells again that failed before.")] = False,
    import_: Import = None,
) -> None:
    """Run a study: every combination of its grid, repeated, in random order; resumable, one directory for each cell."""
    from ..runtime import ConfigError
    from ..study.grid import Study, share
    from ..study.runners import make_runner
    from ..study.scale import Walk, alone, open_study

    loaded = Study.load(study)
    cells = share(loaded.cells(), task, tasks)
    if count:
        print(len(cells))
        return
    if dry_run:
        for cell in cells:
            seed = loaded.seed_options(cell)["seed"]
            print(f"{cell.name}  {cell.label}, {cell.ranks} ranks, seed {seed}, {cell.options}")
        return
    if out is None:
        raise ConfigError("give --out DIR, where the cells are kept")
    open_study(loaded, study.read_text("utf-8"), out)
    stop_at_sigterm()  # so that the cell that runs is taken down too
    with alone(out, task, tasks):
        runner = make_runner(loaded, [host for host in hosts.split(",") if host])
        walk = Walk(loaded, out, cells, lambda line: print(line, flush=True))
        if find_spec("matplotlib") is None:
            print(
                "mpicomp: no matplotlib here: `mpicomp report` will have no figures; `pip install 'mpicomp[plot]'`",
                file=sys.stderr,
            )
        print(f"{loaded.name}: {len(cells)} cells, {runner.facts()['name']}, results in {out}", flush=True)
        try:
            walk.run(runner, retry_failed)
        finally:
            runner.close()
    if walk.failed:
        print(
            f"{len(walk.failed)} of {len(cells)} cells failed; their cell.json and log.txt say why, --retry-failed runs them again"
        )
        raise typer.Exit(1)
    print(f"all {len(cells)} cells are finished; `mpicomp report {out}` makes the page")
