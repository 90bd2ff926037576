"""`mpicomp model simulate`: rounds on networks that nobody has, replayed by SimGrid, beside the closed-form model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime import Import
from .bench import Json, print_json
from .model import model

if TYPE_CHECKING:
    from ..simulate.platforms import Platform
    from ..simulate.recorder import Recorder

Option = typer.Option


@model.command("simulate")
def model_simulate(
    source: Annotated[Path, typer.Argument(help="A run's TOML file or directory, or what `run --trace DIR` recorded.")],
    nodes: Annotated[str, Option(help="Numbers of nodes, with commas. A recorded trace has its own.")] = "64,256",
    per_node: Annotated[int, Option(help="Ranks on each node.")] = 1,
    platform: Annotated[
        str, Option(help="star:25gbit, fat-tree:100gbit:32:2, dragonfly:100gbit:4, or a SimGrid platform's .xml.")
    ] = "star:25gbit",
    delay: Annotated[float, Option(help="One way between two nodes under one switch, milliseconds.")] = 0.001,
    exchange: Annotated[str, Option(help="Exchanges, with commas.  [the run's; p2p for auto]")] = "",
    clients: Annotated[int, Option(help="n; 0 as in the run, or one for each rank where that are more.")] = 0,
    rounds: Annotated[int, Option(help="Rounds that are recorded and replayed.")] = 3,
    overhead: Annotated[float, Option(help="Processor time for each message sent or received, microseconds.")] = 1.0,
    keep: Annotated[Path | None, Option(help="Directory for the files that SimGrid gets.  [they are removed]")] = None,
    payload: Annotated[
        float, Option(help="Share of a link's rate that carries messages; 0.956 for TCP over Ethernet.")
    ] = 1.0,
    figure: Annotated[Path | None, Option(help="Draw the rows there, as .png and .svg.")] = None,
    timeout: Annotated[float, Option(help="Seconds, after which a simulation is given up.")] = 3600.0,
    json: Json = False,
    import_: Import = None,
) -> None:
    """Simulate rounds by SimGrid: every MPI call of every rank, with its bytes, on a network of so many nodes."""
    from ..runtime import ConfigError
    from ..simulate.platforms import Platform
    from ..simulate.replay import program, version

    program()
    network = Platform.of(platform, delay, payload)
    if rounds < 1 or not timeout > 0:
        raise ConfigError(f"--rounds {rounds} and --timeout {timeout:g} must be positive")
    if (source / "trace.json").is_file():
        rows = [_recorded(source, network, keep, timeout)]
    else:
        recorder = _recorder(source, rounds)
        chosen = _exchanges(exchange, recorder)
        counts = _numbers(nodes)
        rows = [
            _planned(recorder, name, count, per_node, network, overhead * 1e-6, clients, keep, timeout)
            for count in counts
            for name in chosen
        ]
    if figure is not None:
        from .simulate_figure import draw

        draw(rows, figure)
    if json:
        print_json({"simgrid": version(), "platform": platform, "delay_ms": delay, "payload": payload, "rows": rows})
        return
    _show(rows, network)
    print(f"{version()}; docs/explanation/simulation.md says what is simulated and what is measured.")


def _numbers(text: str) -> list[int]:
    from ..runtime import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--nodes {text!r}: expected numbers with commas between them, such as 64,256,1024") from None


def _recorder(source: Path, rounds: int) -> Recorder:
    """Of a TOML file, or of a run's directory, whose measured seconds it takes."""
    from ..runtime import Config, ConfigError
    from ..simulate.recorder import Measured, Recorder

    if source.is_dir():
        if not (source / "config.toml").is_file():
            raise ConfigError(
                f"{source} is neither a run's directory nor a trace: no config.toml and no trace.json in it; give what "
                "`mpicomp run --out DIR` or `--trace DIR` wrote, or a run's TOML file"
            )
        return Recorder(Config.load(source / "config.toml"), rounds, measured=Measured.of(source))
    return Recorder(Config.load(source), rounds)


def _exchanges(text: str, recorder: Recorder) -> list[str]:
    """The exchanges that are asked for, or the run's."""
    if text:
        return text.split(",")
    name = recorder.named_exchange
    return ["p2p" if name in ("auto", "local") else name]


def _planned(
    recorder: Recorder, exchange: str, nodes: int, per_node: int, network: Platform, overhead: float, clients: int,
    keep: Path | None, timeout: float,
) -> dict[str, Any]:  # fmt: skip
    from ..runtime import ConfigError
    from ..simulate.closed import closed_form
    from ..simulate.plan import Planned, Where

    row: dict[str, Any] = {"exchange": exchange, "nodes": nodes, "ranks": nodes * per_node}
    try:
        planned = Planned.of(recorder, exchange, Where(nodes, per_node, overhead), clients)
    except ConfigError as error:
        return {**row, "refused": str(error)}
    folder = None if keep is None else keep / f"{exchange.replace(':', '-')}-{nodes}"
    found = planned.simulate(network, folder, timeout)
    formula = closed_form(planned, network)
    return {
        **row,
        "clients": planned.layout.n_clients,
        "messages": planned.messages() // len(planned.rounds),
        "simulated": found,
        "closed_form": formula,
        "difference": None if formula is None else formula / found - 1,
    }


def _recorded(source: Path, network: Platform, keep: Path | None, timeout: float) -> dict[str, Any]:
    import numpy as np

    from ..runtime import read_trace
    from ..simulate.plan import replay_recorded

    facts, ranks = read_trace(source)
    found = replay_recorded(ranks, facts["nodes"], network, keep, timeout)
    walls = facts["round_seconds"]
    measured = float(np.mean(walls[1:] or walls))
    return {
        "exchange": facts["exchange"],
        "nodes": len(set(facts["nodes"])),
        "ranks": facts["ranks"],
        "clients": facts["clients"],
        "messages": sum(call.function in ("Isend", "Send") and call.purpose == "round" for own in ranks for call in own)
        // max(len(facts["round_seconds"]), 1),
        "simulated": found,
        "measured": measured,
        "difference": found / measured - 1,
    }


def _show(rows: list[dict[str, Any]], network: Platform) -> None:
    from ..runtime import rate, seconds, table

    other = "measured" if "measured" in rows[0] else "closed form"
    shown = []
    for row in rows:
        if "refused" in row:
            shown.append([row["exchange"], f"{row['nodes']:,}", f"{row['ranks']:,}", "", "", "not replayed", "", ""])
            continue
        beside, difference = row.get(other.replace(" ", "_")), row["difference"]
        shown.append(
            [
                row["exchange"], f"{row['nodes']:,}", f"{row['ranks']:,}", f"{row['clients']:,}", f"{row['messages']:,}",
                seconds(row["simulated"]), "" if beside is None else seconds(beside),
                "" if difference is None else f"{100 * difference:+.0f} %",
            ]
        )  # fmt: skip
    speed = rate(network.link.rate) if network.link.rate else network.text
    header = ["exchange", "nodes", "ranks", "clients", "messages", "simulated", other, "difference"]
    table(f"A round on {network.kind}, {speed}", header, shown)
    for row in rows:
        if "refused" in row:
            print(f"{row['exchange']}, {row['nodes']:,} nodes: {row['refused']}")
