"""The runner of a study: does its runs, in this process or over MPI, and does none twice."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import log2
from pathlib import Path
from typing import Any

from ..lab import NetworkLab
from ..runtime import (
    DATA_SETS,
    EXIT_RESUME,
    Config,
    ConfigError,
    DataError,
    LabError,
    MpicompError,
    __version__,
    check_directory,
    find_launcher,
    run,
)
from ..study.compare import Stored
from .batch import WANTED, wanted
from .evidence import Evidence, Interrupted, Row
from .tuning import best_exponent

ENDINGS = ("", ".libsvm", ".svm", ".txt", ".svm.xz", ".xz", ".gz", ".bz2")
SAME_BITS = "same-bits"  # table of the runs that were made in this process and over MPI
LAB_TIMEOUT = 1800.0  # seconds, for all runs of a study
DEFAULTS = asdict(Config())


class ExperimentRunner:
    """Runs and tables of one study, kept under a directory: what is finished there is not done again.

    A run's directory is named by its label and a digest of its configuration, the number of ranks and the version of mpicomp, so a
    changed study does its changed runs only.

    Parameters
    ----------
    out : the directory. data_dir : where data sets lie that the package does not bring; None for none.
    ranks : of the runs over MPI, one of them the server. say : is told what is going on.
    """

    def __init__(
        self,
        out: str | Path,
        data_dir: str | Path | None = None,
        ranks: int = 5,
        say: Callable[[str], None] = lambda text: None,
    ):
        if ranks < 2:
            raise ConfigError(f"{ranks} ranks: a study needs a server and a worker, so 2 or more")
        if data_dir is not None and not Path(data_dir).is_dir():
            raise DataError(f"--data-dir {data_dir} is not a directory; give the one that holds the LIBSVM files")
        self.out = check_directory(out)
        self.data_dir, self.ranks, self.say = data_dir, ranks, say
        self.evidence = Evidence()

    # ---- data ---------------------------------------------------------------------------------------------------
    def data(self, *names: str) -> str:
        """The first of the data sets that is here: a file of that name in `data_dir`, or else a set that the package brings.

        Raises
        ------
        DataError : none is.
        """
        for name in names:
            for ending in ENDINGS if self.data_dir is not None else ():
                path = Path(self.data_dir or "", name + ending)
                if path.is_file():
                    return str(path)
            if name in DATA_SETS:
                return name
        where = f"is not in {self.data_dir}" if self.data_dir else "does not come with mpicomp"
        raise DataError(f"data set {' or '.join(names)} {where}; give --data-dir DIR with its LIBSVM file in it")

    # ---- runs ---------------------------------------------------------------------------------------------------
    def run(self, label: str, **options: Any) -> Stored:
        """A run in this process, whose bits are those of any number of ranks; kept in the evidence under `label`.

        Parameters
        ----------
        options : as in a configuration file, where `method`, `problem` and `optimizer` may be texts with options, "marina:p=0.1".
        """
        self.evidence.curves[label] = stored = self._in_process(label, options)
        return stored

    def tune(
        self,
        label: str,
        target: float = 0.0,
        cost: Callable[[Stored], float] | None = None,
        start: float | None = None,
        **options: Any,
    ) -> Stored:
        """The best of the steps 2^k, all of them as far as they help (`tuning.best_exponent`).

        Best is the fewest rounds to ‖∇f‖² ≤ target, or else the smallest ‖∇f‖² at the end; or the smallest `cost`, a finite number or
        infinity, where that is given. A run ends when it has taken more rounds than the best to the target. Only the best is kept in the
        evidence; its configuration has the step.

        Parameters
        ----------
        start : a step to begin near, by default the theory's. It decides how many steps are tried, not which one is the best.
        """
        found: dict[int, Stored] = {}
        reached = float("inf")
        if start is None:
            once = {**options, "rounds": 1, "eval_every": 1, "step": "theory"}
            start = self._in_process(f"{label} theory", once).summary["step"]

        def quality(k: int) -> tuple[float, float]:
            nonlocal reached
            wanted = {**options, "step": repr(2.0**k), "tol": target}
            if cost is None and reached < float("inf"):
                wanted["rounds"] = max(1, int(reached))
            found[k] = stored = self._in_process(f"{label} 2^{k}", wanted)
            rank = _quality(stored, target) if cost is None else (float(f"{cost(stored):.3g}"), 0.0)
            reached = min(reached, rank[0])
            return rank

        best = found[best_exponent(quality, round(log2(start)))]
        if best.summary.get("diverged"):
            raise MpicompError(f"{label}: every step that was tried diverged; start from a smaller one than {start:g}")
        self.evidence.curves[label] = best
        return best

    def seeds(self, label: str, count: int, **options: Any) -> list[Stored]:
        """Runs with the seeds 1, ..., count, in this order, each kept in the evidence under the label with " seed S" behind it.

        Steps are tuned with seed 0, so no verdict rests on the draws that chose a step. In an option's text "{seed}" stands for the seed,
        as in init="normal:{seed}".
        """
        return [self.run(f"{label} seed {seed}", **{**options, "seed": seed}) for seed in range(1, count + 1)]

    def over_mpi(self, runs: dict[str, dict[str, Any]]) -> None:
        """Runs by label, over MPI on `ranks` ranks, one after the other in one job.

        Raises
        ------
        MpicompError : the job failed.
        """
        self._batch(runs, f"{self.ranks}", self._launch)

    def over_network(self, labels: Iterable[str], rate: str) -> bool:
        """Do runs over MPI again with each rank on a node of its own, whose link has this rate, under their label with the rate behind it.

        False, and nothing done, where this machine or user cannot have such a network (`mpicomp lab`).
        """
        runs = {f"{label} {rate}": self._same_options(label) for label in labels}
        try:
            self._batch(runs, f"{self.ranks} {rate}", lambda argv: self._launch_in_lab(argv, rate))
        except LabError as error:
            self.say(f"not measured at {rate}: {error}")
            return False
        return True

    def _batch(self, runs: dict[str, dict[str, Any]], where: str, start: Callable[[list[str]], None]) -> None:
        """Do those runs that are missing in one job, which `start` starts."""
        directories = {label: self._place(label, options, where) for label, options in runs.items()}
        missing = [str(d) for d in directories.values() if not _finished(d)]
        if missing:
            self.say(f"{len(missing)} runs over MPI, ranks: {where}")
            start([sys.executable, "-m", "mpicomp.experiments.reproduce.batch", *missing])
        for label, directory in directories.items():
            self.evidence.curves[label] = Stored.load(directory)

    def _same_options(self, label: str, target: float = 0.0) -> dict[str, Any]:
        config = Config.load(self.evidence.curves[label].directory / WANTED)
        config.tol = max(config.tol, target)
        return {"wanted": config}

    def again_over_mpi(self, labels: Iterable[str], target: float = 0.0) -> None:
        """Do runs of this process again over MPI, with the very same options, under their label with " mpi" behind it.

        The table `SAME_BITS` says whether both ended at the same iterate. With a `target` they end at ‖∇f‖² ≤ target, and those of this
        process that do not are done anew for the comparison.
        """
        options = {label: self._same_options(label, target) for label in labels}
        self.over_mpi({f"{label} mpi": own for label, own in options.items()})
        rows = self.evidence.tables.setdefault(SAME_BITS, [])
        for label, own in options.items():
            curve, spread = self.evidence.curves[label], self.evidence.curves[f"{label} mpi"].summary
            unchanged = own["wanted"].tol == Config.load(curve.directory / WANTED).tol
            alone = (curve if unchanged else self._in_process(label, own)).summary
            same = alone["iterate_sha256"] == spread["iterate_sha256"]
            rows.append({"run": label, "ranks": spread["ranks"], "same": same})

    def _in_process(self, label: str, options: dict[str, Any]) -> Stored:
        directory = self._place(label, options, "1")
        if not _finished(directory):
            self.say(label)
            if run(wanted(directory)).interrupted:
                raise Interrupted(f"stopped by a signal in the run {label!r}; the same command goes on from there")
        return Stored.load(directory)

    def _place(self, label: str, options: dict[str, Any], where: str) -> Path:
        """The directory of a run, made, with the configuration that is wanted in it; `where` it runs enters its name's digest."""
        seed = str(options.get("seed", 0))
        own = {k: v.replace("{seed}", seed) if isinstance(v, str) else v for k, v in options.items()}
        config = options.get("wanted") or Config.load(options=own)
        own = {
            k: v for k, v in asdict(config).items() if v != DEFAULTS[k]
        }  # so that a new option of a run changes no old name
        digest = hashlib.sha256(json.dumps([__version__, where, own], sort_keys=True).encode()).hexdigest()[:10]
        directory = self.out / "runs" / f"{_slug(label)}-{digest}"
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / WANTED).exists():
            (directory / WANTED).write_text(config.to_toml(), "utf-8")
        return directory

    def _launch(self, argv: list[str]) -> None:
        launcher = find_launcher()
        command = launcher.command(self.ranks, argv)
        environment = {**os.environ, **launcher.environment(root=os.geteuid() == 0)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as job:
            assert job.stdout is not None
            for line in job.stdout:
                self.say(f"  {line.rstrip()}")
        if job.returncode == EXIT_RESUME:
            raise Interrupted("stopped by a signal in a run over MPI; the same command goes on from there")
        if job.returncode:
            raise MpicompError(f"a job over MPI ended with exit code {job.returncode}: {' '.join(command[:4])} ...")

    def _launch_in_lab(self, argv: list[str], rate: str) -> None:
        with NetworkLab(self.ranks, rate) as lab:
            done = lab.run(argv, timeout=LAB_TIMEOUT)
        if done.code:
            raise MpicompError(f"a job at {rate} ended with exit code {done.code}: {done.stderr.strip()[-500:]}")

    # ---- tables -------------------------------------------------------------------------------------------------
    def table(self, name: str, rows: list[Row]) -> list[Row]:
        """Enter rows that were made from the evidence's curves."""
        self.evidence.tables[name] = rows
        return rows

    def measured(self, name: str, make: Callable[..., list[Row]], **arguments: Any) -> list[Row]:
        """A table that takes time to make, `make(**arguments)`; kept in a file under a digest of the arguments and of its module."""
        source = inspect.getsource(sys.modules[make.__module__])
        key = json.dumps([__version__, source, arguments], sort_keys=True)
        path = self.out / "tables" / f"{_slug(name)}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.json"
        if not path.exists():
            self.say(f"table {name}")
            path.parent.mkdir(exist_ok=True)
            half = path.with_suffix(".part")
            half.write_text(json.dumps(make(**arguments), indent=1), "utf-8")
            half.replace(path)
        return self.table(name, json.loads(path.read_text("utf-8")))


def _quality(stored: Stored, target: float) -> tuple[float, float]:
    """Smaller is better: (rounds to the target or infinity, ‖∇f‖² at the end to three digits, so that a search ends where all is alike)."""
    reached = stored.first_at(target)
    last = float(f"{stored.rows[-1]['grad_norm_sq']:.3g}")
    return (reached["round"] if reached else float("inf")), (last if last == last else float("inf"))


def _finished(directory: Path) -> bool:
    summary = directory / "summary.json"
    return summary.exists() and not json.loads(summary.read_text("utf-8"))["interrupted"]


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "-", label).strip("-")
