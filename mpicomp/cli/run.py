"""`mpicomp run`: one run, under mpirun or srun on all their ranks, else in this process."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..console.options import launched_world, with_run_options

Option = typer.Option


@with_run_options
def run(
    config: Any,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No progress, only the final table.")] = False,
    no_table: Annotated[bool, Option("--no-table", help="Progress, but no final table.")] = False,
    track: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[:OPTIONS]",
            help="tensorboard:directory=DIR, wandb, mlflow, bar; several with commas, or given again.",
        ),
    ] = None,
) -> None:
    """Run one method on one problem; under mpirun or srun on all their ranks, else in this process."""
    from ..cluster.environment import declared_size
    from ..console.show import Progress, experimental_notes, show_byte_check, show_run
    from ..runtime.control import EXIT_RESUME
    from ..runtime.loop import run as run_method
    from ..runtime.stall import limit_end

    if config.verify_bytes and declared_size() is not None:
        from ..cluster.byte_check import require

        require()
    comm = launched_world(config.exchange)
    if config.step.startswith("theory") and (comm is None or comm.Get_rank() == 0):
        for note in experimental_notes(config):
            print(f"mpicomp: {note}", file=sys.stderr)
    trackers = _trackers(track or [])
    progress = None if quiet or any(tracker.name == "bar" for tracker in trackers) else Progress(config)
    result = run_method(config, comm=comm, progress=[*([progress] if progress else []), *trackers])
    if progress is not None:
        progress.finish()
    if result.summary and not no_table:
        show_run(result.summary, config.out)
    if result.byte_check is not None:
        if result.summary:
            show_byte_check(result.byte_check, result.summary["bytes"])
        if not result.byte_check["equal"]:
            raise typer.Exit(1)
    if config.stall_timeout and comm is not None:
        limit_end(config.stall_timeout)
    if result.interrupted:
        raise typer.Exit(EXIT_RESUME)
    if result.summary.get("diverged"):
        print(f"mpicomp: {result.summary['divergence']}", file=sys.stderr)
        raise typer.Exit(3)


def _trackers(texts: list[str]) -> list[Any]:
    """Trackers by name; names without options may stand in one text, with commas between them."""
    if not texts:
        return []
    from ..trackers.base import trackers

    named = [name for text in texts for name in ([text] if ":" in text else text.split(","))]
    return [trackers.create(name) for name in named]
