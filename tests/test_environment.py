"""What launchers declare, from environments recorded under each of them (MPICH 5.0.2, Open MPI 5.0.11, SLURM 22.05)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpicomp.cluster.environment import check_world, declared_rank, declared_size
from mpicomp.errors import EnvironmentMismatch, UserError

BATCH = {"SLURM_JOB_ID": "2", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "2"}
STEP = {**BATCH, "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
# mpirun in an allocation: one daemon on each node is a task of the step, the ranks are its children
DAEMONS = {
    **STEP,
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}  # one daemon of mpirun on each node
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "2", "OMPI_UNIVERSE_SIZE": "4"}

RECORDS = {
    "nobody": ({}, None, None),
    "MPICH's mpirun": (MPICH, 2, 3),
    "Open MPI's mpirun": (OPENMPI, 2, 3),
    "SLURM batch shell": (BATCH, None, None),
    "salloc's shell": ({"SLURM_JOB_ID": "2", "SLURM_NTASKS": "4"}, None, None),
    "srun --mpi=pmi2": ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4", "PMI_JOBID": "2.0"}, 3, 4),
    "srun --mpi=pmix": ({**STEP, "PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix.2.1"}, 3, 4),
    "srun --mpi=none": (STEP, 3, 4),
    "srun --pty bash": ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 0, 1),
    "MPICH's mpirun in an allocation": ({**DAEMONS, **MPICH}, 2, 3),
    "Open MPI's mpirun in an allocation": ({**DAEMONS, **OPENMPI}, 2, 3),
    "a variable that is no number": ({"PMI_RANK": "", "PMI_SIZE": "many"}, None, None),
}


@pytest.mark.parametrize(("env", "rank", "size"), RECORDS.values(), ids=RECORDS)
def test_declared(env: dict[str, str], rank: int | None, size: int | None) -> None:
    assert declared_rank(env) == rank
    assert declared_size(env) == size
    check_world(size or 1, env)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (MPICH, ["PMI_SIZE=3", "size 1", "mpicomp launch -n 3", "--mpi=pmix"]),
        (OPENMPI, ["OMPI_COMM_WORLD_SIZE=3", "size 1", "mpicomp launch -n 3", "mpirun that belongs to"]),
        (STEP, ["SLURM_STEP_NUM_TASKS=4", "size 1", "srun --mpi=pmi2", "srun --mpi=pmix"]),
        ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, ["PMI_SIZE=4", "srun --mpi=pmix"]),
    ],
)
def test_worlds_of_one_rank_are_refused_with_the_remedy(env: dict[str, str], words: list[str]) -> None:
    with pytest.raises(EnvironmentMismatch) as caught:
        check_world(1, env)
    assert isinstance(caught.value, UserError)
    assert [word for word in words if word not in str(caught.value)] == []


def test_needs_no_mpi_and_no_numpy() -> None:
    code = "import sys, mpicomp.cluster.environment; sys.exit(bool({'mpi4py', 'numpy', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
