"""The command lines of each launcher, how one is found, and a real start of two ranks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpicomp.cluster import launcher
from mpicomp.cluster.launcher import INTEL, MPICH, OPEN_MPI, Launcher, Mpi, find_launcher, identify
from mpicomp.errors import ConfigError, EnvironmentMismatch

PRINTED = {
    "HYDRA build details:\n    Version:                                 5.0.2\n": Mpi(MPICH, "5.0.2"),
    "MPICH Version:      4.3.1\nMPICH Release date: ...": Mpi(MPICH, "4.3.1"),
    "MPI VERSION    : CRAY MPICH version 8.1.28.15 (ANL base 3.4a2)": Mpi(MPICH, "8.1.28.15"),
    "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/": Mpi(OPEN_MPI, "5.0.11"),
    "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4": Mpi(OPEN_MPI, "4.1.4"),
    "Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 20260101": Mpi(INTEL, "2021.18"),
    "Usage: mpirun": None,
    "": None,
}


@pytest.mark.parametrize(("text", "mpi"), PRINTED.items())
def test_identify(text: str, mpi: Mpi | None) -> None:
    assert identify(text) == mpi


def mpirun(flavour: str, version: str) -> Launcher:
    return Launcher("mpirun", Mpi(flavour, version))


def srun(flavour: str) -> Launcher:
    return Launcher("/usr/bin/srun", Mpi(flavour, "5.0.2"))


COMMANDS = [
    (mpirun(MPICH, "5.0.2"), {}, "mpirun -n 5 py -m x"),
    (mpirun(MPICH, "5.0.2"), {"hosts": ["a", "b"]}, "mpirun -n 5 -hosts a:3,b:3 py -m x"),
    (mpirun(MPICH, "5.0.2"), {"hostfile": "h"}, "mpirun -n 5 -f h py -m x"),
    (mpirun(INTEL, "2021.18"), {}, "mpirun -n 5 py -m x"),
    (mpirun(OPEN_MPI, "5.0.11"), {}, "mpirun -n 5 --map-by :OVERSUBSCRIBE py -m x"),
    (mpirun(OPEN_MPI, "5.0.11"), {"cores": 5}, "mpirun -n 5 py -m x"),
    (mpirun(OPEN_MPI, "4.1.4"), {}, "mpirun -n 5 --oversubscribe py -m x"),
    (mpirun(OPEN_MPI, "5.0.11"), {"hosts": ["a:4", "b"]}, "mpirun -n 5 --host a:4,b:3 py -m x"),
    (mpirun(OPEN_MPI, "5.0.11"), {"hostfile": "h", "extra": ["--bind-to", "core"]},
     "mpirun -n 5 --hostfile h --bind-to core py -m x"),
    (srun(MPICH), {}, "/usr/bin/srun --mpi=pmi2 --kill-on-bad-exit=1 -n 5 py -m x"),
    (srun(INTEL), {}, "/usr/bin/srun --mpi=pmi2 --kill-on-bad-exit=1 -n 5 py -m x"),
    (srun(OPEN_MPI), {"extra": ["--mpi=cray_shasta"]},
     "/usr/bin/srun --mpi=pmix --kill-on-bad-exit=1 -n 5 --mpi=cray_shasta py -m x"),
    (srun(MPICH), {"env": {"SLURM_CPUS_PER_TASK": "2", "SLURM_STEP_ID": "0"}, "hosts": ["n1:3", "n2"]},
     "/usr/bin/srun --mpi=pmi2 --kill-on-bad-exit=1 -n 5 --cpus-per-task=2 --overlap --nodelist=n1,n2 py -m x"),
    (srun(MPICH), {"hostfile": "h"}, "/usr/bin/srun --mpi=pmi2 --kill-on-bad-exit=1 -n 5 --nodefile=h py -m x"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "options", "line"), COMMANDS)
def test_command(start: Launcher, options: dict, line: str) -> None:
    assert start.command(5, ["py", "-m", "x"], **{"cores": 2, "env": {}, **options}) == line.split()


def test_command_refuses() -> None:
    for n in (0, -3):
        with pytest.raises(ConfigError, match=rf"{n} ranks.*1 or more"):
            mpirun(MPICH, "5.0.2").command(n, ["x"])
    with pytest.raises(ConfigError, match="both"):
        mpirun(MPICH, "5.0.2").command(2, ["x"], hosts=["a"], hostfile="h")


def test_only_open_mpi_needs_a_word_for_root() -> None:
    yes = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    assert mpirun(OPEN_MPI, "5.0.11").environment(root=True) == yes
    assert mpirun(OPEN_MPI, "5.0.11").environment(root=False) == {}
    assert mpirun(MPICH, "5.0.2").environment(root=True) == {}
    assert srun(OPEN_MPI).environment(root=True) == {}


def program(folder: Path, name: str, prints: str) -> str:
    """A fake program."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return str(path)


class Machine:
    """A machine of fake programs: a virtual environment with its Python, and a folder on PATH."""

    def __init__(self, folder: Path, library: str):
        self.venv, self.bin = folder / "venv", folder / "bin"
        self.python = program(self.venv, "python", library)

    def find(self, **env: str) -> Launcher:
        return find_launcher({"PATH": f"{self.bin}:/usr/bin:/bin", **env}, self.python)


@pytest.fixture(params=["MPICH Version: 5.0.2", "Open MPI v5.0.11"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/sh", tmp_path / "bin" / "sh")
    return Machine(tmp_path, request.param)


FAKES = {MPICH: "HYDRA build details: Version: 4.3", OPEN_MPI: "mpirun (Open MPI) 5.0.1"}


def library(machine: Machine) -> str:
    return launcher.loaded_mpi({}, machine.python).flavour


def test_the_mpirun_beside_python_comes_first(machine: Machine) -> None:
    own = program(machine.venv, "mpirun", FAKES[library(machine)])
    program(machine.bin, "mpirun", FAKES[library(machine)])
    assert machine.find().program == own


def test_an_mpirun_of_another_mpi_is_passed_over(machine: Machine) -> None:
    other = OPEN_MPI if library(machine) == MPICH else MPICH
    program(machine.venv, "mpirun", FAKES[other])
    right = program(machine.bin, "mpiexec", FAKES[library(machine)])
    assert machine.find() == Launcher(right, identify(FAKES[library(machine)]))


def test_only_an_mpirun_of_another_mpi_is_an_error(machine: Machine) -> None:
    other = OPEN_MPI if library(machine) == MPICH else MPICH
    wrong = program(machine.bin, "mpirun", FAKES[other])
    with pytest.raises(EnvironmentMismatch) as caught:
        find_launcher({"PATH": str(machine.bin)}, machine.python)
    for word in (f"mpi4py loads {library(machine)}", wrong, other, "pip install 'mpicomp[mpi]'"):
        assert word in str(caught.value)


def test_an_older_open_mpi_starts_no_newer_one() -> None:
    assert not Mpi(OPEN_MPI, "4.1.4").starts(Mpi(OPEN_MPI, "5.0.11"))
    assert Mpi(MPICH, "4.3").starts(Mpi(INTEL, "2021.18"))


def test_nothing_found_names_the_remedy(machine: Machine) -> None:
    with pytest.raises(EnvironmentMismatch, match=r"no mpirun.*pip install 'mpicomp\[mpi\]'"):
        find_launcher({"PATH": str(machine.bin)}, machine.python)
    strange = program(machine.venv, "python", "Some MPI 1.0")
    with pytest.raises(EnvironmentMismatch, match=r"an MPI that is not known.*Some MPI.*pip install 'mpicomp\[mpi\]'"):
        find_launcher({"PATH": str(machine.bin)}, strange)
    silent = machine.venv / "python"
    silent.write_text('#!/bin/sh\necho "RuntimeError: cannot load MPI library" >&2\nexit 1\n')
    with pytest.raises(EnvironmentMismatch, match=r"no MPI library \(.*cannot load.*pip install 'mpicomp\[mpi\]'"):
        find_launcher({"PATH": str(machine.bin)}, str(silent))


def test_srun_inside_an_allocation_only(machine: Machine) -> None:
    slurm = program(machine.bin, "srun", "MPI plugin types are... pmix pmi2 none")
    own = program(machine.venv, "mpirun", FAKES[library(machine)])
    assert machine.find(SLURM_JOB_ID="7").program == slurm
    assert machine.find().program == own
    program(machine.bin, "srun", "MPI plugin types are... none")  # a SLURM that speaks neither: mpirun works there
    assert machine.find(SLURM_JOB_ID="7").program == own


def test_physical_cores_are_at_most_the_allowed_threads() -> None:
    assert 1 <= launcher.physical_cores() <= (os.cpu_count() or 1)


# ---- real processes -------------------------------------------------------------------------------------------------
LAUNCH = [sys.executable, "-m", "mpicomp", "launch"]


def alone() -> dict[str, str]:
    """The environment without what a launcher of this test left in it."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "MPI_", "SLURM_"))
    }


@pytest.mark.process
def test_launch_prints_the_command_and_starts_the_ranks() -> None:
    done = subprocess.run(
        [*LAUNCH, "-n", "2", "--", "doctor"], env=alone(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "-n 2" in done.stderr.splitlines()[0] and done.stderr.splitlines()[0].endswith("-m mpicomp doctor")
    assert "2 (the launcher says 2)" in done.stdout


@pytest.mark.process
def test_launch_passes_the_exit_code_on() -> None:
    done = subprocess.run(
        [*LAUNCH, "-n", "2", "--", "run", "--nonsense"], env=alone(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.count("No such option") == 1


@pytest.mark.process
def test_dry_run_starts_nothing() -> None:
    command = [*LAUNCH, "-n", "3", "--dry-run", "--mpi-args", "-x 'a b'", "--", "run", "--rounds", "5"]
    done = subprocess.run(command, env=alone(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.rstrip().endswith(f"-x 'a b' {sys.executable} -m mpicomp run --rounds 5")


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["-n", "0", "--", "doctor"], {}, "cannot start 0 ranks"),
        (["--", "doctor"], {}, "how many ranks"),
        (["-n", "2"], {}, "nothing to launch"),
        (["-n", "2", "--", "doctor"], {"PMI_RANK": "0", "PMI_SIZE": "3"}, "already one of 3 processes"),
    ],
)
def test_launch_refuses(arguments: list[str], env: dict[str, str], says: str) -> None:
    done = subprocess.run([*LAUNCH, *arguments], env={**alone(), **env}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import os, time\nfrom mpi4py import MPI\n"
        f"open(os.path.join({str(pids)!r}, str(os.getpid())), 'w').close()\ntime.sleep(60)\n"
    )
    start = find_launcher(alone())
    environment = {**alone(), **start.environment(root=os.geteuid() == 0)}
    command = start.command(2, [sys.executable, str(rank)])
    code = f"from mpicomp.cluster.launcher import become; become({command!r}, {environment!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        process.send_signal(number)
        assert process.wait(timeout=30) != 0
    wait_until(lambda: not any(Path("/proc", path.name).exists() for path in pids.iterdir()))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
