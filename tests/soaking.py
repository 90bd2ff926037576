"""Random runs that are killed, stopped, damaged and started again, each compared with the undisturbed run, bit for bit.

`scripts/soak` runs this for an hour. A trial is fixed by (seed, number), but for the moments at which faults meet it. Then one long job
whose memory, files, requests and communicators are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from conftest import _MARK, MpiHere, _kill, _mpi_of, _open_mpi, processes

import mpicomp as mc
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
    """

    mpi: MpiHere
    ranks: int
    argv: list[str]
    launched: bool = False
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if self.launched:
            command = [self.mpi.python, "-m", "mpicomp", "launch", "-n", str(self.ranks), "--", *self.argv[2:]]
        else:
            command = self.mpi.launcher.command(self.ranks, [self.mpi.python, *self.argv])
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PRTE_"))}
        env = {**kept, **self.mpi.launcher.environment(root=os.geteuid() == 0), _MARK: self.mark, **QUICK}
        self.segments: set[Path] = set()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(
            command,
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
    """A run, and where its files are."""

    options: dict[str, str]
    folder: Path
    rng: random.Random

    @classmethod
    def draw(cls, rng: random.Random, folder: Path) -> Case:
        """A random one that its method allows."""
        while True:
            options = {
                "method": rng.choice([name for name in methods if name != "custom"]), "compressor": rng.choice(COMPRESSORS),
                "clients": str(rng.randrange(3, 12)), "rounds": str(rng.choice((150, 300, 600))), "seed": str(rng.randrange(10**6)),
                "step": rng.choice(("0.01", "0.003")), "eval_every": str(rng.choice((37, 100))), "data": "mushrooms",
                "wire_dtype": rng.choice(("float32", "float64")), "checkpoint_every": rng.choice(("2", "7", "30")),
            }  # fmt: skip
            if rng.random() < 0.3:
                options["batch"] = "4"
            try:
                mc.run(Config.load(options={**typed(options), "rounds": 0}))
            except mc.UserError:
                continue
            return cls(options, folder, rng)

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
            raise Loss(f"no progress within {seconds:.0f} s")
        time.sleep(0.0005)
    return True


# ---- faults: each returns the exit codes that may follow -----------------------------------------------------------------
def kill(pids: list[int]) -> None:
    """SIGKILL."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_one(case: Case, job: Job) -> None:
    """SIGKILL of one rank at a random moment."""
    time.sleep(case.rng.expovariate(4.0))
    kill(case.rng.sample(job.pids(), 1) if job.pids() else [])


def kill_all(case: Case, job: Job) -> None:
    """SIGKILL of all ranks at a random moment."""
    time.sleep(case.rng.expovariate(4.0))
    kill(job.pids())


def kill_writing(case: Case, job: Job) -> None:
    """SIGKILL of one or all ranks while a file of a checkpoint is being written."""
    pids = job.pids()
    wait_until(job, lambda: case.writing())
    kill(case.rng.choice((pids[:1], pids[-1:], pids)))


def ask(case: Case, job: Job) -> None:
    """A signal that asks one rank for a checkpoint and an orderly end."""
    time.sleep(case.rng.expovariate(4.0))
    pids = job.pids()
    if pids:
        os.kill(case.rng.choice(pids), case.rng.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)))


def freeze(case: Case, job: Job) -> None:
    """SIGSTOP of one rank: the stall watch of the others has to end the job."""
    time.sleep(case.rng.expovariate(4.0))
    pids = job.pids()
    if pids:
        os.kill(case.rng.choice(pids), signal.SIGSTOP)


FAULTS: dict[str, tuple[Callable[[Case, Job], None], list[str]]] = {
    "SIGKILL of one rank": (kill_one, []),
    "SIGKILL of all ranks": (kill_all, []),
    "SIGKILL while a checkpoint is written": (kill_writing, []),
    "a signal to one rank": (ask, []),
    "SIGSTOP of one rank": (freeze, ["--stall-timeout", f"{STALL_SECONDS:g}", "--checkpoint-every", "60"]),
}


def damage(case: Case) -> str | None:
    """Truncate, alter or remove a file of the newest checkpoint, where there is an older one; says what was done."""
    whole = case.manifests()
    if len(whole) < 2:
        return None
    file = case.rng.choice(sorted(whole[-1].parent.iterdir()))
    what = case.rng.choice(("truncated", "altered", "removed"))
    data = bytearray(file.read_bytes())
    if what == "removed":
        file.unlink()
    elif what == "truncated":
        file.write_bytes(data[: case.rng.randrange(len(data))])
    else:
        data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
        file.write_bytes(data)
    return f"file of the newest checkpoint {what}"


# ---- trials ---------------------------------------------------------------------------------------------------------------
@dataclass
class Tally:
    """What has happened so far."""

    trials: int = 0
    faults: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    ends: list[float] = field(default_factory=list)  # seconds from a fault to the end of all ranks
    losses: list[str] = field(default_factory=list)

    def report(self, seconds: float) -> str:
        """The end-of-run report."""
        ends = sorted(self.ends) or [0.0]
        lines = [f"{count:>7}  {name}" for name, count in sorted(self.faults.items())]
        return "\n".join(
            [
                f"{self.trials} trials, {self.faults.total()} faults, {len(self.losses)} losses, in {seconds:.0f} s",
                *lines,
                f"from a fault to the end of all ranks: median {ends[len(ends) // 2]:.1f} s, longest {ends[-1]:.1f} s",
                f"exit codes after faults: {dict(sorted(self.codes.items()))}",
                *self.losses,
            ]
        )


def trial(case: Case, mpi: MpiHere, ulfm: MpiHere | None, tally: Tally) -> None:
    """One run with up to four faults, and the same without; raises Loss where they differ."""
    whole = mc.run(Config.load(options=typed(case.options)))
    if ulfm is not None:
        survive(case, ulfm, tally)
    else:
        for _ in range(case.rng.randrange(1, 5)):
            disturb(case, mpi, tally)
        code, said = Job(mpi, case.ranks(), case.argv()).end(JOB_SECONDS)
        if code:
            raise Loss(f"exit code {code} without a fault\n{said}")
    compare(whole.summary, json.loads((case.folder / "summary.json").read_text()))


def disturb(case: Case, mpi: MpiHere, tally: Tally) -> None:
    """Start the job, let a fault meet it, and see it end."""
    name = case.rng.choice(list(FAULTS))
    fault, more = FAULTS[name]
    job = Job(mpi, case.ranks(), case.argv(*more))
    seen = case.written()
    begun = wait_until(job, lambda: case.written() != seen)
    if begun:
        fault(case, job)
    late, start = job.process.poll() is not None, time.monotonic()
    code, said = job.end(END_SECONDS + (STALL_SECONDS + FILES_SECONDS if fault is freeze else 0))
    tally.codes[code] += 1
    if late or code == 0:
        tally.faults["(over before the fault)"] += 1
    else:
        tally.faults[name] += 1
        tally.ends.append(time.monotonic() - start)
    if "Traceback" in said and "SIGSTOP" not in name:
        raise Loss(f"after {name}, exit code {code}:\n{said}")
    if case.rng.random() < 0.25 and (what := damage(case)):
        tally.faults[what] += 1


def survive(case: Case, ulfm: MpiHere, tally: Tally) -> None:
    """Kill a worker of a job that is to go on without it."""
    job = Job(ulfm, 4, case.argv("--on-failure", "continue"), launched=True)
    begun = wait_until(job, lambda: len(case.manifests()) > 0)
    if begun:
        time.sleep(case.rng.expovariate(4.0))
        workers = [pid for pid in job.pids() if rank_of(pid) > 0]
        kill(case.rng.sample(workers, min(1, len(workers))))  # none where the job has just ended
    code, said = job.end(JOB_SECONDS)
    tally.faults["SIGKILL of one rank, the others go on" if "died;" in said else "(over before the fault)"] += 1
    if code:
        raise Loss(f"exit code {code} of a job that was to go on\n{said}")


def rank_of(pid: int) -> int:
    """The rank of a process of Open MPI; 0 where it cannot be known."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return 0
    return next((int(v.partition(b"=")[2]) for v in environ if v.startswith(b"OMPI_COMM_WORLD_RANK=")), 0)


def compare(whole: dict, found: dict) -> None:
    """The same iterate, loss and bytes (headers depend on the number of ranks)."""
    for key in ("iterate_sha256", "loss", "grad_norm_sq", "rounds"):
        if whole[key] != found[key] and whole[key] == whole[key]:
            raise Loss(f"{key}: {found[key]} instead of {whole[key]}")
    for way in ("uplink", "downlink"):
        if whole["bytes"][way]["values_only"] != found["bytes"][way]["values_only"]:
            raise Loss(f"{way} bytes: {found['bytes'][way]} instead of {whole['bytes'][way]}")


def soak(seconds: float, seed: int, only_trial: int | None, share: float) -> Tally:
    """Trials until the time is over."""
    mpi, ulfm = _mpi_of(sys.executable), _open_mpi()
    if isinstance(mpi, str):
        sys.exit(mpi)
    tally, start, number = Tally(), time.monotonic(), only_trial or 0
    while time.monotonic() - start < seconds:
        rng = random.Random(seed * 2**40 + number)
        goes_on = ulfm if isinstance(ulfm, MpiHere) and rng.random() < share else None
        with tempfile.TemporaryDirectory(prefix="mpicomp-soak-") as folder:
            case = Case.draw(rng, Path(folder) / "out")
            try:
                trial(case, mpi, goes_on, tally)
            except Loss as loss:
                tally.losses.append(f"LOSS in trial {number} ({case.options}): {loss}")
                print(tally.losses[-1], flush=True)
                shutil.copytree(
                    folder, Path(tempfile.gettempdir()) / f"mpicomp-soak-loss-{seed}-{number}", dirs_exist_ok=True
                )
        tally.trials += 1
        if tally.trials % 10 == 0:
            print(f"{tally.trials} trials, {tally.faults.total()} faults, {len(tally.losses)} losses", flush=True)
        number += 1
        if only_trial is not None:
            break
    print(tally.report(time.monotonic() - start), flush=True)
    return tally


def main() -> None:
    """The command line of `scripts/soak`."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="for the trials; the long job comes after them")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--trial", type=int, help="this trial only")
    parser.add_argument(
        "--survivors", type=float, default=0.15, help="share of trials with --on-failure continue (Open MPI)"
    )
    parser.add_argument("--rounds", type=int, default=10**6, help="of the long job; 0 for none")
    parser.add_argument(
        "--runs", type=int, default=2500, help="in one job, for which MPICH has 2048 communicators; 0 for none"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    tally = soak(options.seconds, options.seed, options.trial, options.survivors)
    if options.rounds or options.runs:
        from steady import steady

        faults = steady(options.rounds, options.runs)
        print(*[f"LOSS {fault}" for fault in faults], f"{len(faults)} losses in the long jobs", sep="\n", flush=True)
        tally.losses += faults
    sys.exit(1 if tally.losses else 0)


if __name__ == "__main__":
    main()
