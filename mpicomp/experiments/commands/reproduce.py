"""`mpicomp reproduce`: a paper's experiments, a verdict for each of its claims, the figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime import Import


def reproduce(
    name: Annotated[str | None, typer.Argument(help="Which study: see --list; or all.", show_default=False)] = None,
    scale: Annotated[
        str, typer.Option(help="small: minutes on 2 cores; paper: the paper's sizes, up to hours.")
    ] = "small",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where LIBSVM files lie that the package does not bring (phishing, ...).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for runs, verdicts, tables and figures.  [runs/reproduce/NAME-SCALE]")
    ] = None,
    ranks: Annotated[int, typer.Option(help="Ranks of the runs over MPI, one of them the server.")] = 5,
    list_: Annotated[bool, typer.Option("--list", help="List the studies and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdicts.")] = False,
    import_: Import = None,
) -> None:
    """Reproduce a paper: run its experiments, judge each claim, draw its figures. What is finished under --out is not run again."""
    from ..reproduce.evidence import Interrupted
    from ..reproduce.report import reproduce as reproduce_study
    from ..reproduce.report import write_summary
    from ..reproduce.reproduction import papers
    from ..reproduce.summary import HEADING
    from ..runtime import EXIT_RESUME, ConfigError, declared_size, table

    if list_:
        table(
            "Studies",
            ["name", "what it is", "paper"],
            [[n, papers[n].summary, papers[n].paper] for n in papers],
            text=True,
        )
        return
    if name is None:
        raise ConfigError(f"which study? {', '.join(papers)} or all; mpicomp reproduce --list says what they are")
    if (declared_size() or 1) > 1:
        raise ConfigError(
            f"this is one of {declared_size()} processes, but a study starts its own MPI jobs: run it once, with --ranks {declared_size()}"
        )
    changed: list[str] = []
    directories: list[Path] = []
    for study in papers if name == "all" else [name]:
        where = out / f"{study}-{scale}" if out is not None and name == "all" else out
        try:
            judged, directory = reproduce_study(study, scale, where, data_dir, ranks, _quiet if quiet else _say)
        except Interrupted as stop:
            print(f"mpicomp: {study}: {stop}", file=sys.stderr)
            raise typer.Exit(EXIT_RESUME) from None
        columns = ["claim", "verdict", "numbers"]
        table(f"{study} ({scale}): {papers[study].paper}", columns, _rows(judged), text=True)
        print(f"runs, verdicts, tables and figures in {directory}")
        changed += [f"{study}: {j.claim.name} was {j.expected}" for j in judged if j.changed]
        directories.append(directory)
    if name == "all":
        rows, path = write_summary(directories)
        table("All verdicts", list(HEADING), rows, text=True)
        print(f"the same table in Markdown: {path}")
    for line in changed:
        print(f"mpicomp: not the known outcome: {line}")
    if changed:
        raise typer.Exit(1)


def _rows(judged: list[Any]) -> list[list[str]]:
    return [[j.claim.text, j.verdict.outcome + (" (!)" if j.changed else ""), j.verdict.numbers] for j in judged]


def _say(text: str) -> None:
    print(text, flush=True)


def _quiet(text: str) -> None:
    pass
