"""`mpicomp plot`: a paper's figure from the directories of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def plot(
    directories: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Run directories, directories that hold some, and studies.")
    ],
    x: Annotated[
        list[str] | None,
        Option(
            "--x",
            help="rounds, bits (sent per client), value-bits (no indices), bytes, seconds; several with commas make panels.  [rounds]",
        ),
    ] = None,
    y: Annotated[
        str, Option("--y", help="grad (‖∇f‖²), loss, loss-gap (f − f*), accuracy, or any measure in rounds.csv.")
    ] = "grad",
    f_star: Annotated[
        str | None, Option("--f-star", help="f* for loss-gap: a number, or compute: the minimum of a convex problem.")
    ] = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="The figure, .pdf, .svg or .png; its points go beside it as .csv.  [the terminal]"),
    ] = None,
    width: Annotated[str, Option(help="column (3.3 inches) or page (6.9).")] = "column",
    band: Annotated[str, Option(help="Around the median over seeds: minmax, quartiles or none.")] = "minmax",
    each_seed: Annotated[
        bool, Option("--each-seed", help="A curve for each run, also where runs differ in the seed only.")
    ] = False,
    label: Annotated[
        list[str] | None,
        Option(help="In place of the label that says what differs; once for each curve, in their order."),
    ] = None,
    log_x: Annotated[bool, Option("--log-x", help="A logarithmic horizontal axis.")] = False,
    log_y: Annotated[
        bool | None, Option("--log-y/--linear-y", help="The vertical axis.  [logarithmic for grad and loss-gap]")
    ] = None,
    text: Annotated[bool, Option("--text", help="Draw in the terminal, also with --out.")] = False,
    different_problems: Annotated[
        bool, Option("--different-problems", help="Draw runs of different problems together.")
    ] = False,
) -> None:
    """Figures of finished runs: a curve for each configuration, with a band over its seeds. Exit code 1 where a run is damaged; the
    others are drawn. Files need the extra `plot`; without --out the figure is drawn in the terminal."""
    from ..runtime import bundles, check_ending, named, optima
    from ..runtime import plot as made_of
    from ..study.runs import load_runs, refuse_mixture

    if out is not None:
        check_ending(out)
    runs, broken = load_runs(directories, evaluated=False)
    for line in broken:
        print(f"mpicomp: left out: {line}", file=sys.stderr)
    differing = refuse_mixture(runs, different_problems, "curves in one figure")
    optimum, notes = optima(f_star)
    figure = made_of(
        named(bundles(runs, each_seed), label), [name for part in x or ["rounds"] for name in part.split(",")], y,
        optimum=optimum, band=band, width=width, log_x=log_x, log_y=log_y, notes=notes,
    )  # fmt: skip
    for line in differing:
        print(f"mpicomp: different problems: {line}", file=sys.stderr)
    if out is not None:
        print(f"wrote {' and '.join(str(path) for path in figure.save(out))}")
    if out is None or text:
        show(figure)
    print(figure.caption)
    if broken:
        raise typer.Exit(1)


def show(figure: object) -> None:
    """Draw a `Plot` in the terminal, as wide as it is."""
    import shutil

    from ..runtime import Look, Plot, spelt

    assert isinstance(figure, Plot)
    size = shutil.get_terminal_size((80, 24))
    print(spelt(figure.text(min(size.columns, 100), 18, Look.of(sys.stdout))))
