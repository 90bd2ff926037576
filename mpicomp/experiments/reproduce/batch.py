"""Several runs one after the other in one MPI job, so that starting processes is paid once.

usage: python -m mpicomp.experiments.reproduce.batch DIR...

Each directory holds a `wanted.toml`, and its results go beside it. Started by `ExperimentRunner.over_mpi` on all ranks of the job.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..runtime import EXIT_RESUME, Config, run, world

WANTED = "wanted.toml"


def main(directories: list[str]) -> None:
    """Do the runs of all directories, on every rank; one that a signal stops ends the job with exit code 75."""
    comm = world()
    for directory in directories:
        if run(wanted(directory), comm=comm).interrupted:
            sys.exit(EXIT_RESUME)
        if comm.Get_rank() == 0:
            print(Path(directory).name, flush=True)


def wanted(directory: str | Path) -> Config:
    """The configuration of a run's directory; it goes on from its checkpoint, where a signal stopped it before."""
    config = Config.load(Path(directory) / WANTED)
    config.out = str(directory)
    if (Path(directory) / "summary.json").exists():
        config.resume = "auto"
    return config


if __name__ == "__main__":
    main(sys.argv[1:])
