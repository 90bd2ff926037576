"""Where the time of a start goes, from the command to the end of the first round: jobs that are started for it, phase by phase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

PHASES = ("launcher, interpreter", "imports", "MPI", "problem, step size", "kernels", "evaluation", "first round")
# A rank notes when Python runs it, and then loads what `mpicomp run` loads.
_RANK = "import time; arrived = time.time(); from mpicomp.experiments.bench.start_rank import rank; rank(arrived)"


def bench_start(config: Any, ranks: int = 5, repeats: int = 5, timeout: float = 300.0) -> dict[str, Any]:
    """Start a run's job again and again, after one start that is not counted, so that its kernels are in the cache.

    Parameters
    ----------
    config : of the run (a Config). ranks : of the job. repeats : starts that are counted.

    Returns
    -------
    total : seconds from the start of the launcher to the end of the first round (median, low, high).
    phases : medians by PHASES, each as the slowest rank has it.
    processor : seconds of processor time of all ranks to their end (median, low, high).
    import_package : seconds to import mpicomp alone, beyond starting Python (median, low, high).
    loaded, compiled : kernels, all ranks of the last start. ranks, cores.

    Raises
    ------
    ConfigError : the job fails; with what it said.
    """
    from ..runtime import ConfigError, find_launcher, median_interval, physical_cores

    launcher, seen = find_launcher(), []
    variables = {**os.environ, **launcher.environment(root=os.geteuid() == 0)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(replace(config, rounds=1, eval_every=1, out=None, resume=None).to_toml(), "utf-8")
        command = launcher.command(ranks, [sys.executable, "-c", _RANK, str(path)])
        for repeat in range(-1, repeats):
            started = time.time()
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, errors="replace", timeout=timeout
            )
            if done.returncode:
                raise ConfigError(
                    f"bench start: the job failed with exit code {done.returncode}\n{done.stderr.strip()}"
                )
            if repeat >= 0:
                seen.append(_phases(started, json.loads(done.stdout.splitlines()[-1])))
    return {
        "total": median_interval(_column(seen, "total")),
        "phases": {name: median_interval(_column(seen, name))[0] for name in PHASES},
        "processor": median_interval(_column(seen, "processor")),
        "import_package": median_interval(_import_seconds(max(repeats, 3))),
        **{name: seen[-1][name] for name in ("loaded", "compiled")},
        "ranks": ranks,
        "cores": physical_cores(),
    }


def _phases(started: float, rows: list[dict[str, float]]) -> dict[str, float]:
    """Seconds by phase of one start, from what its ranks wrote down; the first rank has the evaluation and the round."""
    first = rows[0]
    latest = {name: max(row[name] for row in rows) for name in ("arrived", "imported", "connected")}
    named = {
        "launcher, interpreter": latest["arrived"] - started,
        "imports": latest["imported"] - latest["arrived"],
        "MPI": latest["connected"] - latest["imported"],
        "problem, step size": first["setup"],
        "kernels": first["warmup"],
        "evaluation": first["evaluated"] - latest["connected"] - first["setup"] - first["warmup"],
        "first round": first["finished"] - first["evaluated"],
    }
    sums = {name: sum(row[name] for row in rows) for name in ("processor", "loaded", "compiled")}
    return {**named, **sums, "total": first["finished"] - started}


def _column(rows: list[dict[str, float]], name: str) -> Any:
    import numpy as np

    return np.array([row[name] for row in rows])


def _import_seconds(repeats: int) -> Any:
    """Seconds that `import mpicomp` takes, in processes of their own."""
    import numpy as np

    code = "import time; t = time.perf_counter(); import mpicomp; print(time.perf_counter() - t)"
    return np.array([float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(repeats)])
