"""`mpicomp bench`: how fast, with the ceiling beside it. Never part of a test."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .run import with_run_options, world

bench = typer.Typer(no_args_is_help=True, help="Measure: rounds per second of any run, the overhead of a round.")


@bench.callback()
def _bench() -> None:
    pass


@bench.command("round")
@with_run_options
def bench_round(config: Any) -> None:
    """Time the rounds of a run (the options of `mpicomp run`), evaluating only before the first and after the last."""
    from ..runtime.loop import run
    from .show import PHASES, seconds, table

    config.eval_every = max(config.rounds, 1)
    result = run(config, comm=world(config.exchange))
    if not result.summary:
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
def bench_overhead(repeats: Annotated[int, typer.Option(help="Pairs of runs, ours and bare, in turn.")] = 5) -> None:
    """A round with the identity compressor against a bare mpi4py loop that moves the same buffers (under mpirun, 2 ranks or more)."""
    from ..bench.overhead import overhead
    from ..errors import ConfigError
    from .show import seconds, table

    comm = world("auto")
    if comm is None or comm.Get_size() < 2:
        raise ConfigError("bench overhead needs at least 2 ranks: mpicomp launch -n 2 -- bench overhead")
    rows = [
        [
            f"{r['dim']:,}",
            r["exchange"],
            seconds(r["round"]),
            seconds(r["bare"]),
            f"{r['ratio']:.2f}",
            f"{1e6 * r['extra']:+.1f} µs",
        ]
        for r in overhead(comm, repeats=repeats)
    ]
    if rows:
        header = ["d (float32)", "exchange", "round", "bare mpi4py", "ratio", "difference"]
        table(f"Overhead of a round, {comm.Get_size()} ranks, medians of {repeats} pairs", header, rows)
