"""The jobs of the soak: a random run that is fixed by its options, and the processes that work on it."""

from __future__ import annotations

import lzma
import os
import random
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from conftest import _MARK, MpiHere, _kill, processes

import mpicomp as mc
from mpicomp.data.sets import FILES
from mpicomp.methods import methods
from mpicomp.runtime.config import Config

END_SECONDS, JOB_SECONDS = 10.0, 600.0  # from a fault to the job's end; for a whole job
STALL_SECONDS, FILES_SECONDS = 4.0, 6.0  # --stall-timeout, and what checkpoints and results may take beyond it
QUICK = {"MPICOMP_FILES_SECONDS": f"{FILES_SECONDS:g}"}
COMPRESSORS = (
    "identity", "topk:k=3", "topk:fraction=0.2", "randk:k=4", "permk", "sign", "natural", "qsgd:bits=4,bucket=32", "cq", "eden:bits=2",
    "terngrad", "dynamic:bits=4",
)  # fmt: skip


class Loss(AssertionError):
    """A job that did not end, left something behind, or whose result is not that of the undisturbed run."""


@dataclass
class Job:
    """A job that is under way, in an environment that names it.

    Attributes
    ----------
    argv : what Python runs on each rank. launched : start it as a user does, by `mpicomp launch`; argv is then that of `mpicomp`.
    redirect : of the streams of each rank, as a shell writes it; of a job that is launched, of the launcher's.
    before : a command that starts the launcher. more : variables of the environment.
    """

    mpi: MpiHere
    ranks: int
    argv: list[str]
    launched: bool = False
    redirect: str = ""
    before: Sequence[str] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        redirected = ["bash", "-c", f'exec "$0" "$@" {self.redirect}'] if self.redirect else []
        if self.launched:
            launch = [self.mpi.python, "-m", "mpicomp", "launch", "-n", str(self.ranks), "--", *self.argv[2:]]
            command = [*redirected, *launch]
        else:
            command = self.mpi.launcher.command(self.ranks, [*redirected, self.mpi.python, *self.argv])
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PRTE_"))}
        env = {**kept, **self.mpi.launcher.environment(root=os.geteuid() == 0), _MARK: self.mark, **QUICK, **self.more}
        self.segments: set[Path] = set()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(
            [*self.before, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def pids(self) -> list[int]:
        """The ranks' processes. Their shared memory is noted on the way."""
        lines = processes(self.mark).items()
        found = [pid for pid, line in lines if line.startswith(f"{self.mpi.python} -m mpicomp run")]
        for pid in found:
            self.segments |= segments(pid)
        return found

    def end(self, seconds: float) -> tuple[int, str]:
        """Exit code, and what was said. Raises Loss where it takes longer, or leaves a process behind."""
        try:
            code = self.process.wait(timeout=seconds)
            deadline = time.monotonic() + END_SECONDS
            while left := processes(self.mark):
                if time.monotonic() > deadline:
                    raise Loss(f"processes left behind: {left}")
                time.sleep(0.02)
        except subprocess.TimeoutExpired:
            raise Loss(f"not over after {seconds:.0f} s: {processes(self.mark)}") from None
        finally:
            _kill(self.mark)
        if left := sorted(str(path) for path in self.segments if path.exists()):
            raise Loss(f"shared memory left behind: {left}")
        self._said.seek(0)
        with self._said as said:
            return code, said.read()


def segments(pid: int) -> set[Path]:
    """The files in /dev/shm that a process has mapped."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return {Path(line.split()[5]) for line in maps.splitlines() if "/dev/shm/" in line and "(deleted)" not in line}


# ---- a trial's run ------------------------------------------------------------------------------------------------------
@dataclass
class Case:
    """A run, and where its files are: `out` and the data in a folder of its own."""

    options: dict[str, str]
    folder: Path
    rng: random.Random

    @classmethod
    def draw(cls, rng: random.Random, place: Path) -> Case:
        """A random one that its method allows."""
        data = place / "data.svm"
        data.write_bytes(rows())
        while True:
            options = {
                "method": rng.choice([name for name in methods if name != "custom"]), "compressor": rng.choice(COMPRESSORS),
                "clients": str(rng.randrange(3, 12)), "rounds": str(rng.choice((150, 300, 600))), "seed": str(rng.randrange(10**6)),
                "step": rng.choice(("0.01", "0.003")), "eval_every": str(rng.choice((37, 100))), "data": str(data),
                "wire_dtype": rng.choice(("float32", "float64")), "checkpoint_every": rng.choice(("2", "7", "30")),
            }  # fmt: skip
            if rng.random() < 0.3:
                options["batch"] = "4"
            try:
                mc.run(Config.load(options={**typed(options), "rounds": 0}))
            except mc.UserError:
                continue
            return cls(options, place / "out", rng)

    @property
    def data(self) -> Path:
        """The file with the rows."""
        return Path(self.options["data"])

    def argv(self, *more: str) -> list[str]:
        """The command line, with another exchange each time."""
        words = [word for key, value in self.options.items() for word in (f"--{key.replace('_', '-')}", value)]
        out = ["--out", str(self.folder), "--resume", "auto"]
        exchange = ["--exchange", self.rng.choice(("p2p", "collective"))]
        return ["-m", "mpicomp", "run", "-q", "--no-table", *words, *exchange, *out, *more]

    def ranks(self) -> int:
        """Another number of ranks each time."""
        return self.rng.randrange(2, min(5, int(self.options["clients"]) + 2))

    def manifests(self) -> list[Path]:
        """The checkpoints that are whole, the oldest first; a job that runs may remove one while it is looked at."""
        found = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder / "checkpoints")):
                path = self.folder / "checkpoints" / name / "checkpoint.json"
                found += [path] if name.startswith("round-") and path.exists() else []
        return found

    def writing(self) -> bool:
        """A file of a checkpoint is being written."""
        with suppress(FileNotFoundError):
            folder = self.folder / "checkpoints"
            return any(file.endswith(".part") for name in os.listdir(folder) for file in os.listdir(folder / name))
        return False

    def written(self) -> list[int]:
        """When they were written."""
        times = []
        for path in self.manifests():
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime_ns)
        return times


@cache
def rows() -> bytes:
    """The text of the data."""
    return lzma.decompress((FILES / "mushrooms.svm.xz").read_bytes())


def typed(options: dict[str, str]) -> dict[str, object]:
    """The options in their types."""
    whole = ("clients", "rounds", "seed", "eval_every", "batch")
    return {key: int(value) if key in whole else value for key, value in options.items() if key != "checkpoint_every"}


def wait_until(job: Job, condition: Callable[[], object], seconds: float = JOB_SECONDS) -> bool:
    """Wait for the condition; False where the job is over first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if job.process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            _kill(job.mark)
            raise Loss(f"no progress within {seconds:.0f} s")
        time.sleep(0.0005)
    return True


def kill(pids: list[int]) -> None:
    """SIGKILL."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
