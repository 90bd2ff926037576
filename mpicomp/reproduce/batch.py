"""Several runs one after the other in one MPI job, so that starting processes is paid once.

usage: python -m mpicomp.reproduce.batch DIR...

Each directory holds a `wanted.toml`, and its results go beside it. Started by `Desk.over_mpi` on all ranks of the job.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..cluster.comm import world
from ..runtime.config import Config
from ..runtime.loop import run

WANTED = "wanted.toml"


def main(directories: list[str]) -> None:
    """Do the runs of all directories, on every rank."""
    comm = world()
    for directory in directories:
        config = Config.load(Path(directory) / WANTED)
        config.out = directory
        run(config, comm=comm)
        if comm.Get_rank() == 0:
            print(Path(directory).name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
