"""`mpicomp tune`: the step size and options with which each method gets to a target soonest."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime import with_run_options
from .common import DECIDED, stop_at_sigterm

Option = typer.Option


def _tune(
    config: Any,
    target: Annotated[float, Option(help="‖∇f‖² to come to.")],
    out: Annotated[Path, Option(help="Directory of the search; what has been run in it is kept.")],
    method: Annotated[
        list[str] | None,
        Option(
            help="METHOD, METHOD + COMPRESSOR or METHOD + COMPRESSOR + DOWNLINK; several, each tuned by itself.  [the file's]"
        ),
    ] = None,
    steps: Annotated[str, Option(help="theory*2^-2..2^8, 0.01*2^0..2^6, or values with commas.")] = "theory*2^-2..2^8",
    axis: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUES", help="Another axis: compressor.k=2^0..2^6, batch=1,16, method.p=...; several."),
    ] = None,
    objective: Annotated[
        str, Option(help="What to spend least of: rounds, bits (up, a client), bytes (both ways) or seconds.")
    ] = "rounds",
    seeds: Annotated[
        int,
        Option(help="Seeds of each point, from --seed on, whose median counts; one where the seed does not matter."),
    ] = 1,
    ranks: Annotated[int, Option("--ranks", "-n", help="MPI ranks of each run; 1 for a process without MPI.")] = 1,
    processes: Annotated[
        int, Option(help="Runs at once; 0 for as many as the cores hold (1 where seconds count).")
    ] = 0,
    halving: Annotated[float, Option(help="Of so many points one goes on, with so many times the budget.")] = 2.0,
    exhaustive: Annotated[
        bool, Option("--exhaustive", help="Leave nothing behind that could still be the best.")
    ] = False,
    extend: Annotated[int, Option(help="Steps that may be added past the grid's edge, for each method.")] = 6,
    best: Annotated[Path | None, Option("--best", "-o", help="The best run as a TOML file.  [OUT/best.toml]")] = None,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run trials again that failed before.")] = False,
) -> None:
    """Tune step sizes and options: each method's best to a target, by successive halving; resumable."""
    from ..runtime import Claim, ConfigError, check_directory, physical_cores, table, unknown
    from ..tuning import report
    from ..tuning.grid import Steps, contenders
    from ..tuning.pool import Pool, slots
    from ..tuning.search import Search
    from ..tuning.trials import FAULT, OBJECTIVES

    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    if not 0 < target < float("inf"):
        raise ConfigError(f"--target {target:g}: a ‖∇f‖² above 0 is needed")
    for name, value, least in (
        ("seeds", seeds, 1),
        ("ranks", ranks, 1),
        ("processes", processes, 0),
        ("extend", extend, 0),
    ):
        if value < least:
            raise ConfigError(f"--{name} {value}: at least {least} is needed")
    if not 1 < halving < float("inf"):
        raise ConfigError(f"--halving {halving:g}: a number above 1 is needed, for example 2")
    if config.rounds < 1:
        raise ConfigError("--rounds 0: a run of no rounds cannot come to a target")
    config = dataclasses.replace(config, **DECIDED)
    grid = Steps.parse(steps)
    found, notes = contenders(method or [], axis or [], config)
    threads = config.threads or 1
    wanted = processes or int(objective == "seconds")
    at_once, note = slots(wanted, ranks, threads, physical_cores())
    check_directory(out)
    stop_at_sigterm()  # so that the runs under way are taken down too
    with Claim(out / ".tune.lock", "another `mpicomp tune`") as claim:
        claim.take()
        if retry_failed:
            for fault in out.glob(f"trials/*/{FAULT}"):
                fault.unlink()
        for line in filter(None, [*notes, note]):
            print(line, flush=True)
        pool = Pool(out, objective, ranks, threads, at_once)
        say = partial(print, flush=True)
        search = Search(found, grid, target, out, pool, say, seeds, halving, exhaustive, extend)
        brackets = search.run()
    table(f"To ‖∇f‖² ≤ {target:g} with least {report.NAMES[objective]}", report.HEADER, report.rows(search, brackets))
    report.write_csv(search, brackets, out / "tune.csv")
    winner = min(brackets.values(), key=lambda bracket: bracket.cost)
    for k, bracket in enumerate(brackets.values()):
        report.write_best(search, bracket, out / f"best-{k}.toml")
    for line in report.summary(search, brackets):
        print(line)
    path = best or out / "best.toml"
    report.write_best(search, winner, path)
    if not winner.reached:
        print(f"nothing came to ‖∇f‖² ≤ {target:g} in {config.rounds:,} rounds: raise --rounds or --target")
        raise typer.Exit(1)
    print(f"all points are in {out / 'tune.csv'}; `mpicomp run {path}` runs the best one")


tune = with_run_options(_tune, tuple(DECIDED))
