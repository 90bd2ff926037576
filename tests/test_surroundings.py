"""What lies around a run: files of the working directory that hide modules, a notebook's variables, Numba's switches, ports, /dev/shm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_alone

from mpicomp.cluster import window
from mpicomp.cluster.launcher import MPICH, OPEN_MPI, Launcher, Mpi
from mpicomp.errors import EnvironmentMismatch

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


def clean(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "UCX", "FI_", "SLURM", "PYTHON"))}
    return {**kept, **more}


def python(folder: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], cwd=folder, env=clean(**env), capture_output=True, text=True, timeout=100
    )


# ---- the working directory ----------------------------------------------------------------------------------------------------
HIDING = ["random", "numpy", "typing", "dataclasses", "json", "numba", "mpi4py", "typer", "copy", "scipy"]


@pytest.mark.process
def test_files_of_the_working_directory_hide_no_module(tmp_path):
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    done = python(tmp_path, "-m", "mpicomp", *RUN)
    assert done.returncode == 0 and "wrong module" not in done.stdout + done.stderr, done.stderr


@pytest.mark.process
def test_nor_do_they_under_launch(mpi, tmp_path):
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    done = python(tmp_path, "-m", "mpicomp", "launch", "-n", "2", "--", *RUN)
    assert done.returncode == 0 and "wrong module" not in done.stdout + done.stderr, done.stderr


# ---- switches of others ---------------------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize(
    "argv", [["-m", "mpicomp", *RUN], ["-c", "import mpicomp as mc; mc.run(problem='quadratic', rounds=2)"]]
)
def test_numba_without_its_compiler_is_named(tmp_path, argv):
    done = python(tmp_path, *argv, NUMBA_DISABLE_JIT="1")
    assert (
        done.returncode != 0
        and "NUMBA_DISABLE_JIT switches off Numba's compiler" in done.stderr
        and "unset it" in done.stderr
    )
    assert ("Traceback" in done.stderr) == (argv[0] == "-c")


@pytest.mark.process
def test_a_notebooks_backend_does_not_matter(tmp_path):
    """matplotlib refuses to be imported where MPLBACKEND names a package that is not there."""
    code = "from mpicomp.experiments.study.style import pyplot; from mpicomp.experiments.reproduce.drawing import have_matplotlib as have; "
    code += "import os; assert have(); pyplot().figure(); print(os.environ['MPLBACKEND'])"
    pytest.importorskip("matplotlib")
    done = python(
        tmp_path, "-c", code, MPLBACKEND="module://no_such_package.backend_inline", MPLCONFIGDIR=str(tmp_path)
    )
    assert done.returncode == 0 and done.stdout == "module://no_such_package.backend_inline\n", done.stderr


# ---- shared memory ----------------------------------------------------------------------------------------------------------------
def test_room_is_compared_with_what_is_left(monkeypatch):
    monkeypatch.setattr(window, "free_bytes", lambda: 1 << 20)
    window.check_room(1 << 20)
    with pytest.raises(
        EnvironmentMismatch, match=r"/dev/shm has 1.0 MiB left, .* need 2.0 MiB .*shm-size.*exchange='p2p'"
    ):
        window.check_room(2 << 20)
    monkeypatch.setattr(window, "_reserved", 1)
    with pytest.raises(EnvironmentMismatch):
        window.check_room(1 << 20)
    monkeypatch.setattr(window, "free_bytes", lambda: None)
    window.check_room(1 << 60)


SMALL = """
import sys
import mpicomp.cluster.window as window
from mpicomp.cli import main

window.free_bytes = lambda: 100_000
main()
"""


@pytest.mark.process
@pytest.mark.parametrize("exchange", ["hierarchical", "hierarchical:sum"])
def test_too_little_shared_memory_is_named(mpi, tmp_path, exchange):
    (tmp_path / "small.py").write_text(SMALL)
    options = [*RUN, "-q", "--exchange", exchange, "--set", "problem.dim=20000"]
    job = mpi.run(3, [tmp_path / "small.py", *options])
    assert job.code == 2 and job.err.count("/dev/shm has 0.1 MiB left") == 1 and "--exchange p2p" in job.err, job.err
    mpi.run(3, [tmp_path / "small.py", *RUN, "-q", "--exchange", exchange]).check()


@pytest.mark.full(reason="mounts a file system, where it may")
@pytest.mark.process
def test_a_small_file_system_ends_no_rank_by_a_signal(mpi, tmp_path):
    mount = "mount -t tmpfs -o size=40m tmpfs /dev/shm"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no file system may be mounted here")
    options = [*RUN, "-q", "--exchange", "hierarchical", "--set", "problem.dim=4000000"]
    job = run_alone(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{mount} && exec "$@"',
            "sh",
            *mpi.launcher.command(3, [mpi.python, "-m", "mpicomp", *options]),
        ]
    )
    assert job.code == 2 and "/dev/shm has" in job.err, job.err


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
    job = subprocess.run(command, env=clean(), capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    assert {line for line in job.stdout.splitlines() if "listening [" in line} <= {
        "listening ['0100007F']", "listening []",
    }  # fmt: skip
