"""`mpicomp warmup`: compile a run's kernels before it, once on each node."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..console.options import with_run_options


@with_run_options
def warmup(
    config: Any,
    every_codec: Annotated[
        bool, typer.Option("--all-codecs", help="All compressors in all precisions too: several minutes.")
    ] = False,
) -> None:
    """Fill this host's kernel cache for a run (its options), so that the run's ranks compile nothing. Needs no MPI: under SLURM, `srun
    --ntasks-per-node=1 mpicomp warmup run.toml` before the run."""
    from ..console.show import seconds, table
    from ..runtime.precompile import precompile

    warmth = precompile(config, every_codec)
    modules: dict[str, list[str]] = {}
    for use in warmth.uses:
        if use.compiled:
            modules.setdefault(use.module.removeprefix("mpicomp."), []).append(use.kernel)
    if modules:
        table(
            "Compiled", ["module", "kernels"], [[name, ", ".join(modules[name])] for name in sorted(modules)], text=True
        )
    print(
        f"{warmth.compiled} kernels compiled, {warmth.loaded} were there, in {seconds(warmth.seconds)}; cache: {warmth.directory or 'none'}"
    )
