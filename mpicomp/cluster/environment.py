"""What the launcher (mpirun, srun) says it started, read from the environment: can be asked before MPI starts.

A launcher that speaks another process management interface than the MPI library does not fail: it starts N worlds of
one rank each, exit code 0. `check_world` compares the launcher's word with the world that MPI found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import EnvironmentMismatch, NoMpiError

Environ = Mapping[str, str]


class _Variables(NamedTuple):
    """Where a launcher writes a process's rank and the number of processes; how to make it fit the MPI library."""

    rank: str
    size: str
    remedy: str


_BESIDE = "start it with `mpicomp launch -n {size} -- ...`, or with the mpirun that belongs to the MPI of this Python"

# In this order: an mpirun in a SLURM allocation starts its daemons by srun, so its ranks see that step's variables too.
_LAUNCHERS = (
    _Variables(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        f"Open MPI's mpirun started these processes, but this Python loads another MPI: {_BESIDE}",
    ),
    _Variables(
        "PMI_RANK",
        "PMI_SIZE",
        "MPICH's or Intel's mpirun, or `srun --mpi=pmi2`, started these processes, but this Python loads an MPI that "
        f"does not speak PMI (Open MPI does not): {_BESIDE}, or Open MPI under SLURM with `srun --mpi=pmix`",
    ),
    _Variables(
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "srun did not connect these processes: use `srun --mpi=pmi2` for MPICH (also the wheel's) and Intel "
        "MPI, `srun --mpi=pmix` for Open MPI, or `mpicomp launch -n {size} -- ...`, which chooses",
    ),
)


def _launcher(env: Environ) -> _Variables | None:
    """The first launcher whose two variables are there (of SLURM's, a batch shell has the rank but no size)."""
    return next((known for known in _LAUNCHERS if all(env.get(name, "").isdigit() for name in known[:2])), None)


def declared_rank(env: Environ = os.environ) -> int | None:
    """This process's rank in the launcher's words; None for a process that no launcher started.

    >>> declared_rank({"PMI_RANK": "2", "PMI_SIZE": "4"}), declared_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    (2, None)
    """
    launcher = _launcher(env)
    return int(env[launcher.rank]) if launcher else None


def declared_size(env: Environ = os.environ) -> int | None:
    """The number of processes in the launcher's words; None for a process that no launcher started."""
    launcher = _launcher(env)
    return int(env[launcher.size]) if launcher else None


def check_world(size: int, env: Environ = os.environ) -> None:
    """Compare the size of MPI's world with what the launcher declared.

    Parameters
    ----------
    size : the size of COMM_WORLD.
    env : the environment of the process.

    Raises
    ------
    EnvironmentMismatch : they differ; the message names the variable, both sizes and the remedy.
    """
    launcher = _launcher(env)
    if launcher is None or int(env[launcher.size]) == size:
        return
    declared = env[launcher.size]
    raise EnvironmentMismatch(
        f"the launcher started {declared} processes ({launcher.size}={declared}), but MPI's world has size {size}, "
        f"so each would run alone. {launcher.remedy.format(size=declared)}. `mpicomp doctor` shows the details."
    )


def no_library(reason: str, python: str = sys.executable) -> NoMpiError:
    """The error for a Python whose mpi4py loads no MPI library; `reason` is in mpi4py's words."""
    said = (reason.strip().splitlines() or ["no reason is given"])[0]
    return NoMpiError(
        f"mpi4py of {python} loads no MPI library ({said}). Where this machine has an MPI (`mpirun --version` names it), build "
        "mpi4py for it: `pip install --force-reinstall --no-cache-dir --no-binary mpi4py mpi4py`, which needs its mpicc (Debian: "
        "libmpich-dev or libopenmpi-dev). Else `pip install 'mpicomp[mpi]'` installs an MPI beside this Python"
    )
