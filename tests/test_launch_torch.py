"""`mpicomp launch` with a program that knows torch.distributed and no MPI."""

from __future__ import annotations

import sys

import pytest
from conftest import run_alone

torch = pytest.importorskip("torch")

TRAIN = """
import os, sys
import torch, torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
x = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(x)
open(f"{sys.argv[1]}/{dist.get_rank()}", "w").write(f"{x.item():g} of {dist.get_world_size()}")
dist.destroy_process_group()
"""


@pytest.mark.torch
@pytest.mark.process
def test_torch_finds_its_process_group(mpi, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    command = [sys.executable, "-m", "mpicomp", "launch", "-n", "3", "--", sys.executable, script, tmp_path]
    run_alone(command, timeout=120, OMP_NUM_THREADS="1").check()
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["6 of 3"] * 3
