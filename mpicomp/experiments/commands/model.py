"""`mpicomp model`: the cost model of a study, calibrated, tried, and asked about places that were not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime import Import

Directory = Annotated[Path, typer.Argument(help="What `mpicomp scale` wrote.")]
Option = typer.Option

model = typer.Typer(
    no_args_is_help=True, help="The cost model of a round: calibrate it from a study's cells, and extrapolate."
)


@model.command("fit")
def model_fit(directory: Directory) -> None:
    """Calibrate: rates with their uncertainty, and the errors on cells that were left out. Writes DIRECTORY/model.json."""
    from ..runtime import DataError, table
    from ..study.cells import Results
    from ..study.model_page import LEAST, Section

    section = Section.of(Results.load(directory))
    if section is None:
        raise DataError(
            f"{directory} has too few finished configurations for a cost model; at least {LEAST} are needed"
        )
    for shown in section.tables().values():
        table(shown.title, shown.header, shown.rows)
    print(section.text())
    section.model.save(directory / "model.json")
    print(f"rates in {directory / 'model.json'}")


@model.command("predict")
def model_predict(
    directory: Directory,
    nodes: Annotated[list[int], Option(help="Number of nodes; may be repeated.")],
    link: Annotated[
        list[str] | None, Option(help="Speed of each node's link, as 25gbit; may be repeated.  [as they were measured]")
    ] = None,
    per_node: Annotated[int, Option(help="Ranks on each node.")] = 1,
    delay: Annotated[
        float, Option(help="One way between two nodes, milliseconds; 0.001 in a cluster, 20 in a WAN.")
    ] = 0.0,
    clients: Annotated[int, Option(help="n; 0 as measured, or one for each rank where that are more.")] = 0,
    dim: Annotated[int, Option(help="d; 0 as measured.")] = 0,
    cores: Annotated[int, Option(help="Cores of a node, where ranks share them; 0 for enough.")] = 0,
    import_: Import = None,
) -> None:
    """Extrapolate: time of a round, load of the server, best exchange, and the link below which each method beats dense."""
    from ..lab.links import Link
    from ..runtime import rate, seconds, size, table
    from ..study.cells import Results
    from ..study.predict import Place, predict

    results = Results.load(directory)
    measured = max((g.clients for g in results.groups), default=0)

    def pays_below(speed: float | None) -> str:
        return "" if speed is None else "any" if speed == float("inf") else rate(speed)

    for count in nodes:
        for speed in link or [""]:
            wire = Link.of(speed or None, delay)
            n = clients or max(measured, count * per_node)
            rows = [
                [
                    p.label,
                    seconds(p.seconds),
                    f"{seconds(p.low)} … {seconds(p.high)}",
                    p.exchange,
                    "" if p.to_target is None else seconds(p.to_target),
                    size(p.server_bytes),
                    f"{100 * p.server_work:.0f} %",
                    pays_below(p.break_even),
                ]
                for p in predict(results, Place(count, per_node, wire.rate or float("inf"), wire.delay, n, dim, cores))
            ]
            header = [
                "",
                "a round [95 %]",
                "best exchange",
                "to the target",
                "through rank 0",
                "server's work",
                "beats dense below",
            ]
            links = rate(wire.rate) if wire.rate else "links as measured"
            table(f"{count:,} nodes × {per_node}, {links}, {delay:g} ms, n = {n:,}", header, rows)
    print("Extrapolated from the study's cells; docs/explanation/cost-model.md has the formulas and what they assume.")
