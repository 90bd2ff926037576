"""What a run leaves behind: a directory with the complete configuration, a manifest, the rounds and a summary. No pickle."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.clock import PHASES
from ..cluster.comm import Comm
from ..errors import ConfigError
from ..version import __version__
from .config import Config
from .files import read_plain, write_text

SUMMARY = "summary.json"  # written last: where it is, the run has ended


@dataclass
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
            f"choose another «out», or remove {directory}"
        )


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
