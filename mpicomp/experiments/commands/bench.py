"""`mpicomp bench`: how fast, with the ceiling beside it. Never part of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime import Import, launched_world, with_run_options

bench = typer.Typer(
    no_args_is_help=True,
    help="Measure: rounds per second of any run, the overhead of a round, compressors against memory.",
)


Json = Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")]


@bench.callback()
def _bench() -> None:
    pass


def print_json(found: Any) -> None:
    """All figures of a benchmark, as JSON."""
    import json

    print(json.dumps(found, indent=1))


@bench.command("round")
@with_run_options
def bench_round(config: Any, json: Json = False) -> None:
    """Time the rounds of a run (the options of `mpicomp run`), evaluating only before the first and after the last."""
    from ..runtime import PHASES, run, seconds, table

    config.eval_every = max(config.rounds, 1)
    result = run(config, comm=launched_world(config.exchange))
    if not result.summary:
        return
    if json:
        print_json(result.summary)
        return
    took, rounds = result.summary["seconds"], result.summary["rounds"]
    rows = [
        ["rounds", str(rounds)],
        ["rounds per second", f"{rounds / took['total']:.1f}"],
        ["seconds for all rounds", seconds(took["total"])],
        ["round, median", seconds(took["round_median"])],
        [
            "  95 % interval of the median",
            f"{seconds(took['round_median_low'])} … {seconds(took['round_median_high'])}",
        ],
        *([f"  {phase} a round, slowest rank", seconds(took[phase] / max(rounds, 1))] for phase in PHASES),
        ["compiling and warm-up (not counted)", seconds(took["warmup"])],
    ]
    label = f"{config.method_spec} on {config.problem}, {result.summary['clients']} clients on {result.summary['ranks']} ranks"
    table(label, ["", "measured"], rows)


@bench.command("overhead")
def bench_overhead(
    repeats: Annotated[int, typer.Option(help="Pairs of runs, ours and bare, in turn.")] = 5, json: Json = False
) -> None:
    """A round with the identity compressor against a bare mpi4py loop that moves the same buffers (under mpirun, 2 ranks or more)."""
    from ..bench.overhead import overhead
    from ..runtime import ConfigError, seconds, table

    comm = launched_world("auto")
    if comm is None or comm.Get_size() < 2:
        raise ConfigError("bench overhead needs at least 2 ranks: mpicomp launch -n 2 -- bench overhead")
    found = overhead(comm, repeats=repeats)
    if json and found:
        print_json(found)
        return
    rows = [
        [
            f"{r['dim']:,}",
            r["exchange"],
            seconds(r["round"]),
            seconds(r["bare"]),
            f"{r['ratio']:.2f}",
            f"{1e6 * r['extra']:+.1f} µs",
        ]
        for r in found
    ]
    if rows:
        header = ["d (float32)", "exchange", "round", "bare mpi4py", "ratio", "difference"]
        table(f"Overhead of a round, {comm.Get_size()} ranks, medians of {repeats} pairs", header, rows)


@bench.command("aggregator")
def bench_aggregator(
    repeats: Annotated[int, typer.Option(help="Steps that are timed.")] = 20, json: Json = False
) -> None:
    """The aggregator on ResNet-18's 62 tensors beside one flat vector, and without compression beside a bare Allreduce (under mpirun)."""
    from ..bench.aggregator import dense_and_allreduce, tensors_and_flat
    from ..runtime import ConfigError, seconds, table

    comm = launched_world("allreduce")
    if comm is None or comm.Get_size() < 2:
        raise ConfigError("bench aggregator needs at least 2 ranks: mpicomp launch -n 2 -- bench aggregator")
    found = {
        "tensors": tensors_and_flat(comm, repeats=repeats),
        "dense": dense_and_allreduce(comm, repeats=10 * repeats),
    }
    if comm.Get_rank():
        return
    if json:
        print_json(found)
        return
    rows = [
        [r["spec"], seconds(r["tensors"][0]), seconds(r["flat"][0]), f"{r['ratio']:.2f}", f"{r['sent'] / 1e6:.2f} MB"]
        for r in found["tensors"]
    ]
    header = ["uplink", "62 tensors", "one vector", "ratio", "sent by rank 0"]
    table(f"A step of 11.2 million parameters, {comm.Get_size()} ranks, medians of {repeats}", header, rows)
    rows = [
        [
            f"{r['dim']:,}",
            seconds(r["aggregator"][0]),
            seconds(r["bare"][0]),
            f"{r['ratio']:.2f}",
            f"{1e6 * r['extra']:+.1f} µs",
        ]
        for r in found["dense"]
    ]
    table("Without compression", ["d (float32)", "aggregator", "bare Allreduce", "ratio", "difference"], rows)


@bench.command("link")
def bench_link(
    rate: Annotated[
        list[str] | None, typer.Option(help="Of each link; may be repeated. Default: 100mbit, 1gbit.")
    ] = None,
    dim: Annotated[list[int] | None, typer.Option(help="Dimension; may be repeated. Default: 2^20 and 2^22.")] = None,
    spec: Annotated[list[str] | None, typer.Option(help="Compressor, such as qsgd:bits=4; may be repeated.")] = None,
    exchange: Annotated[list[str] | None, typer.Option(help="Exchange; may be repeated.")] = None,
    nodes: Annotated[int, typer.Option(help="Nodes of the lab.")] = 5,
    per_node: Annotated[int, typer.Option(help="Ranks on each.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds that are timed.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    import_: Import = None,
) -> None:
    """Rounds in the network lab (root, or user namespaces) against the bytes that the busiest interface moves, at the link's rate."""
    from ..bench.link import DIMS, EXCHANGES, RATES, SPECS, link_rounds
    from ..runtime import seconds, table

    found = link_rounds(rate or RATES, dim or DIMS, spec or SPECS, exchange or EXCHANGES, nodes, per_node, rounds)
    if json:
        import json as text

        print(text.dumps(found, indent=1))
        return
    rows = [
        [
            r["rate"],
            f"{r['dim']:,}",
            r["spec"],
            r["exchange"],
            f"{max(r['received']) / 1e6:.2f} MB",
            f"{max(r['sent']) / 1e6:.2f} MB",
            seconds(max(map(sum, zip(r["work"], r["step"], strict=True)))),
            seconds(r["bound"]),
            seconds(r["round"]),
            f"{r['ratio']:.2f}",
        ]
        for r in found
    ]
    header = ["link", "d (float32)", "", "exchange", "received", "sent", "compute", "bound", "round", "ratio"]
    table(f"Rounds on links, {nodes} nodes of {per_node} rank(s), means of {rounds}", header, rows)


@bench.command("compressors")
def bench_compressors(
    dim: Annotated[list[int] | None, typer.Option(help="Dimension; may be repeated. Default: 2^22 and 2^24.")] = None,
    spec: Annotated[list[str] | None, typer.Option(help="Compressor, such as qsgd:bits=4; may be repeated.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    repeats: Annotated[int, typer.Option(help="How often each is timed.")] = 30,
    threads: Annotated[int, typer.Option(help="Vectors handled at once.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print all figures, with intervals, as JSON.")] = False,
    import_: Import = None,
) -> None:
    """Encode, and decode and add up, one vector: against copying it, against a dense sum, and against NumPy and torch."""
    from ..bench.compressors import DIMS, SPECS
    from ..bench.compressors import bench_compressors as measure
    from ..runtime import ConfigError, seconds, table

    if dtype not in ("float32", "float64"):
        raise ConfigError(f"bench compressors: --dtype={dtype!r} must be float32 or float64")
    if min([*(dim or ()), repeats, threads]) < 1:
        raise ConfigError("bench compressors: --dim, --repeats and --threads must be at least 1")
    found = measure(dim or DIMS, spec or SPECS, dtype, repeats, threads)
    if json:
        import json as text

        print(text.dumps(found, indent=1))
        return
    for d in dict.fromkeys(r["dim"] for r in found):
        here = [r for r in found if r["dim"] == d and r["kind"] != "operation"]
        rows = [
            [
                r["spec"],
                f"{r['payload_bits']:.3g}",
                seconds(r["encode"][0]),
                f"{r['encode_rate'] / 1e9:.3g}",
                _ratio(r["encode_ratio"]),
                seconds(r["decode"][0]) if r["decode"] else "",
                _ratio(r["decode_ratio"]) if r["decode"] else "",
            ]
            for r in here
        ]
        header = ["", "bits/entry", "encode", "GB/s", "× memcpy [95 %]", "decode, add", "× dense add [95 %]"]
        ceilings = f"memcpy {seconds(here[0]['memcpy'][0])}, dense add {seconds(here[0]['add'][0])}"
        table(f"d = {d:,}, {dtype}, {threads} at once; {ceilings}; medians of {repeats}", header, rows)
        operations = [
            [r["operation"], seconds(r["seconds"][0]), r["ceiling"], seconds(r["ceiling_seconds"][0]), _ratio(r["ratio"]), _rest(r)]
            for r in found
            if r["dim"] == d and r["kind"] == "operation"
        ]  # fmt: skip
        if operations:
            table(f"d = {d:,}, {dtype}: steps", ["", "takes", "ceiling", "takes", "ratio [95 %]", ""], operations)


@bench.command("rate")
def bench_rate(
    spec: Annotated[list[str] | None, typer.Option(help="Compressor, such as qsgd:bits=4; may be repeated.")] = None,
    vector: Annotated[
        list[Path] | None, typer.Option(help="A .npy file, in place of our vectors; may be repeated.", dir_okay=False)
    ] = None,
    dim: Annotated[int, typer.Option(help="Dimension of the normal and of the heavy-tailed vector.")] = 1 << 18,
    figure: Annotated[Path | None, typer.Option(help="Write FIGURE.svg and .png; needs the extra `plot`.")] = None,
    json: Json = False,
    import_: Import = None,
) -> None:
    """Bits an entry against relative error, for normal and heavy-tailed vectors and a network's gradients, beside the least possible."""
    from ..bench.rate import SPECS, gaps
    from ..bench.rate import bench_rate as measure
    from ..runtime import ConfigError, table

    if dim < 2:
        raise ConfigError(f"bench rate: --dim={dim} must be at least 2")
    found = measure(spec or SPECS, dim, vector or ())
    if figure is not None:
        from .rate_figure import draw

        draw(found, figure)
    if json:
        print_json({"rows": found, "gaps": gaps(found)})
        return
    for name in dict.fromkeys(r["vector"] for r in found):
        here = sorted((r for r in found if r["vector"] == name), key=lambda r: r["error"])
        rows = [
            [
                r["spec"],
                f"{r['error']:.3g}",
                f"{r['bits']:.3f}",
                "" if r["least"] is None else f"{r['least']:.3f}",
                "unbiased" if r["unbiased"] else "",
                "best" if r["pareto"] else "",
            ]
            for r in here
        ]
        header = ["", "relative error", "bits/entry", "least possible", "", "Pareto"]
        table(f"{name}, d = {here[0]['dim']:,}, float32", header, rows)
    rows = [[r["vector"], r["spec"], f"{r['error']:.3g}", f"{r['bits']:.3f}", f"{r['ours']:.3f}"] for r in gaps(found)]
    if rows:
        table("At the error of what else one would use", ["", "", "relative error", "bits/entry", "ours"], rows)


def _rest(row: dict[str, Any]) -> str:
    """What an operation has besides its times."""
    if "indices_rate" not in row:
        return ""
    return f"{row['indices_rate'] / 1e6:.0f} M/s, {row['bits_per_index']:.2f} bits each, entropy {row['entropy']:.2f}"


def _ratio(interval: tuple[float, float, float]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval)


@bench.command("roofline")
def bench_roofline(
    repeats: Annotated[int, typer.Option(help="How often each is timed.")] = 20, json: Json = False
) -> None:
    """What bounds the encoders that compute much: the instructions of their loops, from the machine code, and the cycles they take."""
    from ..bench.roofline import roofline
    from ..runtime import table

    found = roofline(max(repeats, 1))
    if json:
        print_json(found)
        return
    rows = []
    for row in found["rows"]:
        for loop in row["loops"]:
            name = f"{row['spec']}: {loop['name']}"
            share = f"{loop['instructions']} / {loop['entries']}"
            rows.append([name, share, str(loop["bits"]), f"{loop['slots'] / loop['entries']:.2f}", "", ""])
        rows[-1][-2:] = [f"{row['bound']:.2f}", f"{row['cycles']:.2f}"]
    header = ["", "instructions / entries", "bits", "vector slots an entry", "bound, cycles an entry", "measured"]
    table(f"Innermost loops; {found['clock'] / 1e9:.2f} GHz", header, rows)
    memory = found["memory"]
    print(
        f"Additions to 1 % of 2^22 numbers: {memory['additions'] * 1e9:.1f} ns a cache line; one asked for by itself comes in "
        f"{memory['latency'] * 1e9:.0f} ns, so {memory['lines_at_once']:.1f} are on their way at once."
    )


@bench.command("wire")
def bench_wire(
    device: Annotated[str, typer.Option(help="The network interface of rank 0 whose bytes are read.")] = "eth0",
) -> None:
    """Bytes of a network interface against bytes handed to MPI, for messages of 64 B to 16 MiB from rank 0 to rank 1 on another host."""
    from ..bench.wire import wire
    from ..runtime import table

    rows = [
        [
            f"{r['size']:,}",
            f"{r['messages']:,}",
            f"{r['mpi']:,}",
            f"{r['sent']:,}",
            f"{100 * (r['sent'] / r['mpi'] - 1):+.2f} %",
            f"{(r['sent'] - r['mpi']) / r['messages']:.0f}",
            f"{r['packets'] / r['messages']:.2f}",
            f"{r['received'] / r['messages']:.0f}",
        ]
        for r in wire(launched_world("auto"), device)
    ]
    if rows:
        header = [
            "size",
            "messages",
            "MPI bytes",
            f"{device} sent",
            "more",
            "a message",
            "packets a message",
            "received a message",
        ]
        table("What the network adds", header, rows)
