"""What a run leaves behind: a directory with the complete configuration, a manifest, the rounds and a summary. No pickle."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster.clock import PHASES
from ..cluster.comm import Comm
from ..errors import ConfigError
from ..version import __version__
from .config import Config
from .files import read_plain, write_text
from .view import as_run, figure_of, frame, html, three_lines

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..figures.draw import Plot
    from ..figures.runs import Run

SUMMARY = "summary.json"  # written last: where it is, the run has ended


@dataclass(repr=False)
class Result:
    """A finished run, on the server; on other ranks everything but `config` and `interrupted` is empty.

    Attributes
    ----------
    x : the model x^T, shape (d,). history : one dict for each evaluation. summary, manifest : as in the files.
    byte_check : with `verify_bytes`, what `VerifiedComm.verify` found; complete on the server.
    interrupted : a signal or the time limit stopped it after a checkpoint.
    """

    config: Config
    x: np.ndarray | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    byte_check: dict[str, Any] | None = None
    interrupted: bool = False

    def save(self, directory: str | Path) -> None:
        """Write config.toml, manifest.json, rounds.csv and, last, summary.json, each of them whole or not at all.

        Raises
        ------
        ConfigError : the directory cannot be written, or holds the results of a run.
        """
        refuse_results(directory)
        self.write(check_directory(directory))

    def write(self, out: Path) -> None:
        """The same into a directory that is there, in place of what this run left in it before."""
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, fieldnames=list(self.history[0]))
        writer.writeheader()
        writer.writerows(self.history)
        try:
            write_text(out / "config.toml", self.config.to_toml())
            write_text(out / "manifest.json", _json(self.manifest))
            write_text(out / "rounds.csv", table.getvalue())
            write_text(out / SUMMARY, _json(self.summary))
        except OSError as error:
            raise ConfigError(
                f"cannot write the results to {out}: {error.strerror}; free some space or choose another «out»"
            ) from None

    # ---- what it shows of itself --------------------------------------------------------------------------------
    def plot(
        self,
        *others: Result,
        x: str | Sequence[str] = "rounds",
        y: str = "grad",
        f_star: float | str | None = None,
        labels: Sequence[str] | None = None,
        band: str = "minmax",
        width: str = "column",
        log_x: bool = False,
        log_y: bool | None = None,
    ) -> Plot:
        """A figure of this result, and of others beside it: a notebook shows it, `save("figure.pdf")` writes it with its points as CSV.

        Results that differ only in the seed are one curve, the median, with a band.

        Parameters
        ----------
        x : rounds, bits (sent per client, indices included), value-bits (without), bytes (both directions) or seconds; several of them make
            a panel each.
        y : grad (‖∇f‖²), loss, loss-gap (f − f*), accuracy, or a measure of the problem by its name.
        f_star : f* for loss-gap, or "compute": the minimum of a convex problem that the configuration names.
        labels : of the curves, in place of those that say what differs. band : minmax, quartiles or none.
        width : column or page. log_x, log_y : logarithmic axes; y as the quantity has it where None.

        Raises
        ------
        ConfigError : an unknown name; results of different problems, or without rounds, as on ranks other than 0; loss-gap without f*.
        """
        look = {"band": band, "width": width, "log_x": log_x, "log_y": log_y}
        return figure_of([result._run() for result in (self, *others)], x, y, f_star, labels, **look)

    def to_pandas(self) -> DataFrame:
        """The rounds as a pandas.DataFrame, a row for each evaluation, in the columns of rounds.csv; `attrs` holds the summary.

        Raises
        ------
        EnvironmentMismatch : pandas, the extra `pandas`, is not installed.
        """
        return frame(self.history, self.summary)

    def _run(self) -> Run:
        return as_run(self.config, self.history, self.summary, self.manifest)

    def __repr__(self) -> str:
        if not self.summary:
            return f"Result on a rank that keeps none{', interrupted' if self.interrupted else ''}; rank 0 has it"
        return three_lines(self.summary, self._run(), self.interrupted)

    def _repr_html_(self) -> str:
        return html(repr(self), self._run()) if self.summary else f"<pre>{self!r}</pre>"


def check_directory(directory: str | Path) -> Path:
    """Make the results' directory, before the run rather than after it.

    Raises
    ------
    ConfigError : it cannot be made or written to.
    """
    out = Path(directory)
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write results to {out}: {error.strerror}; choose another «out»") from None
    return out


def refuse_results(directory: str | Path, resumed: bool = False) -> None:
    """Raises ConfigError where a run has left its results in the directory: they would be lost.

    Parameters
    ----------
    resumed : what a run left that was interrupted may go.
    """
    summary = Path(directory) / SUMMARY
    try:
        found = json.loads(read_plain(summary, links=True))
        interrupted = isinstance(found, dict) and found.get("interrupted") is True
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError):
        interrupted = False
    if not (interrupted and resumed):
        raise ConfigError(
            f"{directory} holds the results of {'an interrupted' if interrupted else 'a finished'} run, which would be overwritten: "
            f"choose another «out», or give «force=True», or remove {directory}"
        )


def discard_results(directory: str | Path) -> None:
    """Remove what a run has left in a directory, the summary first, and nothing that is not a run's.

    Raises
    ------
    ConfigError : it cannot be removed.
    """
    where = Path(directory)
    try:
        for name in (SUMMARY, "rounds.csv", "manifest.json"):
            (where / name).unlink(missing_ok=True)
        for folder in [*where.glob("checkpoints/round-*"), *where.glob("checkpoints/refused-round-*")]:
            shutil.rmtree(folder)
    except OSError as error:
        raise ConfigError(f"cannot remove the results in {where}: {error.strerror}; choose another «out»") from None


def digest(x: np.ndarray) -> str:
    """sha256 of the array's bytes, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()).hexdigest()


def origin(config: Config, problem: dict[str, Any]) -> dict[str, Any]:
    """Where, with what and from which state of the sources a run is made: the manifest apart from what the ranks add at the end.

    Parameters
    ----------
    problem : the problem's description.
    """
    import numba

    return {
        "mpicomp": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "platform": platform.platform(),
        "git": _git(),
        "command": sys.argv,
        "slurm": {
            k: v
            for k, v in sorted(os.environ.items())
            if k.startswith("SLURM_JOB") or k in ("SLURM_NNODES", "SLURM_NTASKS")
        },
        "seed": config.seed,
        "problem": problem,
        "phases": list(PHASES),
    }


def rank_facts(comm: Comm | None) -> dict[str, Any]:
    """What the manifest says of this rank: host, binding, MPI library."""
    facts: dict[str, Any] = {"host": platform.node(), "pid": os.getpid()}
    if hasattr(os, "sched_getaffinity"):
        facts["cores"] = sorted(os.sched_getaffinity(0))
    if comm is not None:
        import mpi4py
        from mpi4py import MPI

        facts["mpi"] = MPI.Get_library_version().strip("\x00\n").splitlines()[0]
        facts["mpi_standard"] = ".".join(map(str, MPI.Get_version()))
        facts["mpi4py"] = mpi4py.__version__
    return facts


@cache
def _git() -> str | None:
    """The commit of the sources, with a + where they differ from it; None outside a checkout. Asked once."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, errors="replace", timeout=5
        )
        changed = subprocess.run(["git", "-C", here, "diff", "--quiet", "HEAD"], capture_output=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if changed.returncode else "") if commit.returncode == 0 else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
