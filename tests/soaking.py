"""Random runs that are killed, stopped, damaged and started again, each compared with the undisturbed run, bit for bit.

`scripts/soak` runs this for an hour. A trial is fixed by (seed, number), but for the moments at which faults meet it. Then one long job
whose memory, files, requests and communicators are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from conftest import MpiHere, _mpi_of, _open_mpi
from soak_faults import FAULTS, damage, freeze
from soak_jobs import END_SECONDS, FILES_SECONDS, JOB_SECONDS, STALL_SECONDS, Case, Job, Loss, kill, typed, wait_until
from soak_surroundings import mounts, possible

import mpicomp as mc
from mpicomp.runtime.claim import LOCK
from mpicomp.runtime.config import Config

OVER = "(over before the fault)"
SURROUNDING_SHARE = 0.5  # of the faults


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
    if left := [path.name for path in case.folder.iterdir() if path.name == LOCK or path.suffix == ".part"]:
        raise Loss(f"files left behind in the directory of results: {left}")


def disturb(case: Case, mpi: MpiHere, tally: Tally) -> None:
    """Let a fault meet the run, and see that it ends."""
    if case.rng.random() < SURROUNDING_SHARE:
        name = case.rng.choice(list(possible()))
        for code, late in possible()[name](case, mpi):
            tally.codes[code] += 1
            tally.faults[OVER if late else name] += 1
    else:
        interrupt(case, mpi, tally)
    if case.rng.random() < 0.25 and (what := damage(case)):
        tally.faults[what] += 1


def interrupt(case: Case, mpi: MpiHere, tally: Tally) -> None:
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
        tally.faults[OVER] += 1
    else:
        tally.faults[name] += 1
        tally.ends.append(time.monotonic() - start)
    if "Traceback" in said and "SIGSTOP" not in name:
        raise Loss(f"after {name}, exit code {code}:\n{said}")


def survive(case: Case, ulfm: MpiHere, tally: Tally) -> None:
    """Kill a worker of a job that is to go on without it."""
    job = Job(ulfm, 4, case.argv("--on-failure", "continue"), launched=True)
    begun = wait_until(job, lambda: len(case.manifests()) > 0)
    if begun:
        time.sleep(case.rng.expovariate(4.0))
        workers = [pid for pid in job.pids() if rank_of(pid) > 0]
        kill(case.rng.sample(workers, min(1, len(workers))))  # none where the job has just ended
    code, said = job.end(JOB_SECONDS)
    tally.faults["SIGKILL of one rank, the others go on" if "died;" in said else OVER] += 1
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
    if why := mounts():
        print(f"without a kernel cache that is full, for which a file system has to be mounted: {why}", flush=True)
    tally, start, number = Tally(), time.monotonic(), only_trial or 0
    while time.monotonic() - start < seconds:
        rng = random.Random(seed * 2**40 + number)
        goes_on = ulfm if isinstance(ulfm, MpiHere) and rng.random() < share else None
        with tempfile.TemporaryDirectory(prefix="mpicomp-soak-") as folder:
            case = Case.draw(rng, Path(folder))
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
