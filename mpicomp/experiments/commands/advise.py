"""`mpicomp advise`: what to run on a problem in a place, by how much it is faster than dense, and when nothing pays."""

from __future__ import annotations

import dataclasses
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime import with_run_options
from .common import DECIDED, stop_at_sigterm

if TYPE_CHECKING:
    from ..advice.advise import Advice, Adviser
    from ..advice.validate import Judgement

Option = typer.Option
_WITHOUT = (*DECIDED, "compressor", "downlink_compressor", "uplink", "downlink")


def _advise(
    config: Any,
    target: Annotated[float, Option(help="‖∇f‖² to come to.")],
    out: Annotated[Path, Option(help="Directory of all short runs; what has been run in it is kept.")],
    nodes: Annotated[
        int,
        Option("--nodes", "-N", help="Nodes with links of --link, of the network lab; 0 for ranks on this machine."),
    ] = 0,
    per_node: Annotated[int, Option(help="Ranks on each node.")] = 1,
    link: Annotated[
        str, Option(help="Of each node's link, in each direction: 100mbit, 1gbit, ...; none: no limit.")
    ] = "none",
    delay: Annotated[float, Option(help="Milliseconds, one way between two nodes.")] = 0.0,
    ranks: Annotated[
        int,
        Option(
            "--ranks",
            "-n",
            help="MPI ranks on this machine, where there are no --nodes; 0 for one for each client and a server, as many as cores.",
        ),
    ] = 0,
    method: Annotated[
        list[str] | None, Option(help="METHOD + COMPRESSOR, as `mpicomp tune` takes it; several.  [a list of its own]")
    ] = None,
    exchange: Annotated[list[str] | None, Option(help="p2p, collective or sharded; several.  [all three]")] = None,
    steps: Annotated[
        str, Option(help="Steps to try, as `mpicomp tune` takes them, or times gradient descent's 1/L.")
    ] = "1/L*2^-4..2^1",
    tries: Annotated[int, Option("--try", help="How many of the best are tried in the place.")] = 4,
    processes: Annotated[int, Option(help="Pilot runs at once; 0 for as many as the cores hold.")] = 0,
    best: Annotated[
        Path | None, Option("--best", "-o", help="The advised run as a TOML file.  [OUT/best.toml]")
    ] = None,
    validate: Annotated[
        bool, Option("--validate", help="Then run every combination to the target, and say how good the advice was.")
    ] = False,
) -> None:
    """Say what to run: predicted from short runs here and a model of the place, and the few best tried there."""
    from ..advice.advise import Adviser
    from ..advice.candidates import LISTED, candidates, dense, exchanges_of, steps_of
    from ..advice.there import LabPool, sharing
    from ..advice.validate import judge
    from ..lab.links import Link
    from ..runtime import Claim, ConfigError, LabError, build_problem, check_directory, physical_cores, unknown
    from ..tuning.place import Place
    from ..tuning.pool import Pool, slots

    if not 0 < target < math.inf:
        raise ConfigError(f"--target {target:g}: a ‖∇f‖² above 0 is needed")
    if min(nodes, per_node - 1, ranks, processes, tries - 1, delay) < 0:
        raise ConfigError(
            "--nodes, --ranks, --processes and --delay must not be negative, --per-node and --try at least 1"
        )
    if ranks and nodes:
        raise ConfigError("both --ranks (on this machine) and --nodes are given; give one of them")
    if not nodes and (link != "none" or delay):
        raise ConfigError("--link and --delay are of nodes: give --nodes, too")
    for name in exchange or []:
        if name not in LISTED:
            raise unknown("exchange", name, LISTED)
    config = dataclasses.replace(config, **DECIDED, exchange="local", allow_unsafe=True)
    problem = build_problem(config)
    n = problem.n_clients
    number = nodes * per_node or ranks or max(2, min(n + 1, physical_cores()))
    if not 2 <= number <= n:
        raise ConfigError(
            f"{number} ranks for {n} clients: at least two ranks are needed, and with every exchange as many clients as ranks"
        )
    wire = Link.of(None if link == "none" else link, delay)
    check_directory(out)
    stop_at_sigterm()
    with Claim(out / ".advise.lock", "another `mpicomp advise`") as claim, ExitStack() as held:
        claim.take()
        at_once, note = slots(processes, 1, config.threads or 1, physical_cores())
        here = Pool(out, "rounds", 1, config.threads or 1, at_once)
        there: Pool | None = Pool(out, "rounds", number, config.threads or 1, 1)
        if nodes:
            try:
                there = _lab_pool(
                    held,
                    LabPool,
                    out,
                    nodes,
                    per_node,
                    None if link == "none" else link,
                    delay,
                    number,
                    config.threads or 1,
                )
            except LabError as error:
                there, note = None, f"nothing is tried in the place, so all below is predicted: {error}"
        if note:
            print(note, flush=True)
        place = Place(
            number, per_node if nodes else 0, n, problem.dim, wire.rate, wire.delay, sharing(number, there is not None)
        )
        grid, baseline = steps_of(steps, config, problem), dense(config)
        others, say = candidates(config, method or []), partial(print, flush=True)
        carries = {c.label: exchanges_of(c, exchange or LISTED, problem, number) for c in [baseline, *others]}
        adviser = Adviser(config, baseline, others, grid, target, place, carries, out, here, there, say, tries)
        advice = adviser.advise()
        _show(adviser, advice, best or out / "best.toml")
        if validate and there is not None:
            _show_judgement(judge(adviser, advice), out / "grid.csv")
    if advice.best is None:
        print(
            f"nothing came to ‖∇f‖² ≤ {target:g} in {config.rounds:,} rounds: raise --rounds or --target, or give --steps"
        )
        raise typer.Exit(1)


def _lab_pool(
    held: ExitStack,
    kind: Any,
    out: Path,
    nodes: int,
    per_node: int,
    rate: str | None,
    delay: float,
    ranks: int,
    threads: int,
) -> Any:
    from ..lab import NetworkLab

    lab = held.enter_context(NetworkLab(nodes, rate, delay))
    return kind(out, "rounds", ranks, threads, 1, lab, per_node)


def _show(adviser: Adviser, advice: Advice, path: Path) -> None:
    """The table, and what follows from it."""
    from ..advice.candidates import shown
    from ..runtime import seconds, size, table, write_text

    names = {contender.label: shown(contender) for contender in [adviser.dense, *adviser.others]}
    rows = [
        [
            names[c.point.contender], c.exchange, c.point.step[:9], f"{c.rounds:,}", size(c.nbytes), seconds(c.predicted),
            "" if math.isnan(c.measured) else seconds(c.measured), f"{c.tried:,}" if c.tried else "",
        ]
        for c in advice.choices
    ]  # fmt: skip
    table(
        f"To ‖∇f‖² ≤ {adviser.target:g}",
        ["", "exchange", "step", "rounds", "bytes", "predicted", "measured", "rounds tried"],
        rows,
    )
    parts = ", ".join(f"{name} {seconds(took)}" for name, took in advice.spent.parts.items())
    print(f"the advice took {seconds(advice.spent.total)}: {parts}")
    best, dense = advice.best, advice.dense
    if best is None:
        return
    what = f"{names[best.point.contender]}, --exchange {best.exchange}, --step {best.point.step}"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(adviser.configured(best), out=None)
    write_text(path, f"# mpicomp advise: {what}\n" + config.to_toml())
    if not advice.pays:
        print(f"no compression pays here: run dense, {what}: {seconds(best.seconds)}")
    elif dense is None:
        print(f"run {what}: {seconds(best.seconds)}; dense gradient descent does not come to the target")
    else:
        print(
            f"run {what}: {seconds(best.seconds)}, dense {seconds(dense.seconds)}: {dense.seconds / best.seconds:.2f} times faster"
        )
    print(f"`mpicomp launch -n {adviser.place.ranks} -- run {path}` runs it")


def _show_judgement(found: Judgement, path: Path) -> None:
    from ..runtime import seconds, table

    rows = [[c, e, s[:9], seconds(t) if math.isfinite(t) else "", what] for t, c, s, e, what in found.runs]
    table(f"All {len(rows)} combinations", ["", "exchange", "step", "seconds to the target", "ended"], rows)
    found.write_csv(path)
    share = (
        ""
        if math.isnan(found.grid_seconds)
        else f"; the grid took {seconds(found.grid_seconds)}, the advice {100 * found.share:.1f} % of that"
    )
    print(
        f"advised: {seconds(found.chosen)}, best: {seconds(found.runs[0][0])}: {found.ratio:.2f} times the best{share}"
    )


advise = with_run_options(_advise, _WITHOUT)
