"""What lies around a run: files of the working directory that hide modules, a notebook's variables, Numba's switches, ports, /dev/shm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpicomp.cluster.launcher import MPICH, OPEN_MPI, Launcher, Mpi

RUN = [
    "run",
    "--problem",
    "quadratic",
    "--set",
    "problem.dim=20",
    "--clients",
    "4",
    "--rounds",
    "3",
    "--step",
    "0.1",
    "--no-table",
]


# ---- the launcher's ports ---------------------------------------------------------------------------------------------------
LOOPBACK = ["-iface", "lo"], {"UCX_NET_DEVICES": "lo", "FI_TCP_IFACE": "lo"}
NOTHING: tuple = ([], {})
ON_LINUX = pytest.mark.skipif(not Path("/sys/class/net/lo").exists(), reason="Linux")


@ON_LINUX
@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, LOOPBACK),
        ({"hosts": ["localhost:4"]}, LOOPBACK),
        ({"extra": ["-bind-to", "core"]}, LOOPBACK),
        ({"env": {"UCX_NET_DEVICES": "eth0"}}, (["-iface", "lo"], {"FI_TCP_IFACE": "lo"})),
        ({"hosts": ["localhost", "b"]}, NOTHING),
        ({"hostfile": "hosts"}, NOTHING),
        ({"extra": ["-hosts", "a,b"]}, NOTHING),
        ({"extra": ["-iface", "eth0"]}, NOTHING),
        ({"extra": ["--hostfile=x"]}, NOTHING),
        ({"env": {"SLURM_JOB_ID": "7"}}, NOTHING),
        ({"env": {"PBS_NODEFILE": "nodes"}}, NOTHING),
        ({"env": {"HYDRA_HOST_FILE": "nodes"}}, NOTHING),
    ],
)
def test_jobs_of_one_host_stay_on_the_loopback_interface(given, expected):
    assert Launcher("/usr/bin/mpirun", Mpi(MPICH, "4.3.0")).loopback(**{"env": {}, **given}) == expected


def test_other_launchers_are_left_alone():
    for launcher in (
        Launcher("/usr/bin/mpirun", Mpi(OPEN_MPI, "5.0.8")),
        Launcher("/usr/bin/srun", Mpi(MPICH, "4.3.0")),
    ):
        assert launcher.loopback(env={}) == NOTHING


LISTENING = """
import os, sys
import mpicomp as mc
from mpicomp.cli import main

def addresses():
    listening = {}
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            listening[fields[9]] = fields[1].split(":")[0]
    own = set()
    for link in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{link}")
        except OSError:
            continue
        if target.startswith("socket:["):
            own.add(listening.get(target[8:-1]))
    return own - {None}

class Listening(mc.Problem):
    name = "listening"
    n_clients, dim = 4, 10
    said = False

    def __init__(self, clients=4):
        pass

    def loss(self, i, x):
        if not self.said:
            Listening.said = True
            print("listening", sorted(addresses() - {"00000000"}), flush=True)
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x

mc.register_problem("listening")(Listening)
"""


@ON_LINUX
@pytest.mark.process
def test_ranks_of_launch_listen_on_the_loopback_interface_alone(mpi, tmp_path):
    """What stands at all interfaces, 00000000, is the launcher's own socket, which its children inherit."""
    if mpi.is_open_mpi:
        pytest.skip("Open MPI")
    (tmp_path / "listening.py").write_text(LISTENING)
    command = [
        mpi.python,
        "-m",
        "mpicomp",
        "launch",
        "-n",
        "3",
        "--",
        "run",
        "--import",
        str(tmp_path / "listening.py"),
    ]
    command += ["--problem", "listening", "--method", "gd", "--rounds", "2", "--step", "0.1", "-q"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "UCX", "FI_", "SLURM"))}
    job = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    assert set(line for line in job.stdout.splitlines() if "listening [" in line) <= {
        "listening ['0100007F']", "listening []",
    }  # fmt: skip
