"""The kernel cache: processes that start at once compile each kernel once between them, and a warm-up leaves nothing to compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numba.core.errors import TypingError

from mpicomp.compressors import compressors
from mpicomp.compressors.base import example
from mpicomp.kernels import cache as cache_module
from mpicomp.kernels import njit
from mpicomp.kernels.cache import cache_use
from mpicomp.runtime.precompile import PRECISIONS, _exercise

KERNELS = """
import json, sys, time
from pathlib import Path
import numpy as np
from mpicomp.kernels import njit
from mpicomp.kernels.cache import cache_use

@njit
def square(value):
    return value * value

@njit
def norm_sq(x):
    total = x.dtype.type(0)
    for j in range(x.shape[0]):
        total += square(x[j])
    return total

dtype, start = sys.argv[1], Path(sys.argv[2])
(start.parent / f"ready-{sys.argv[3]}").touch()
while not start.exists():
    time.sleep(0.001)
result = norm_sq(np.full(5, 3, dtype))
uses = [use for use in cache_use() if use.module == "__main__"]
print(json.dumps([float(result), str(result.dtype) if hasattr(result, "dtype") else type(result).__name__,
                  sum(use.loaded for use in uses), sum(use.compiled for use in uses)]))
"""
DTYPES = ("float32", "float64", "int64", "float32", "float64", "int64")


def start_at_once(folder: Path, start: Path) -> list[list]:
    """Processes that call one kernel with arguments of several types at the same moment: what they print."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder / "cache")}
    jobs = [
        subprocess.Popen(
            [sys.executable, folder / "norms.py", dtype, start, str(i)], env=env, stdout=subprocess.PIPE, text=True
        )
        for i, dtype in enumerate(DTYPES)
    ]
    while any(job.poll() is None for job in jobs) and len(list(start.parent.glob("ready-*"))) < len(jobs):
        time.sleep(0.001)
    start.touch()
    return [json.loads(job.communicate(timeout=60)[0]) for job in jobs]


@pytest.mark.process
@pytest.mark.full(reason="compiles into caches of its own")
def test_processes_that_start_at_once_compile_each_kernel_once(tmp_path):
    (tmp_path / "norms.py").write_text(KERNELS)
    for turn in ("cold", "warm"):
        (tmp_path / turn).mkdir()
        seen = start_at_once(tmp_path, tmp_path / turn / "start")
        assert [value for value, *_ in seen] == [45.0] * len(DTYPES)
        compiled = sum(count for *_, count in seen)
        assert compiled == (2 * len(set(DTYPES)) if turn == "cold" else 0), seen  # the kernel and the one that it calls


def test_a_kernel_that_cannot_be_compiled_gives_the_lock_back():
    @njit
    def wrong(x):
        return x.no_such_thing

    with pytest.raises(TypingError):
        wrong(np.zeros(3))
    assert cache_module._locks.depth == 0


def test_every_compressor_can_be_warmed_up():
    assert [example(name).name for name in compressors] == list(compressors)
    for dtype, wire in PRECISIONS:
        _exercise(example("sign"), dtype, wire)
    called = {use.kernel for use in cache_use() if use.module == "mpicomp.compressors.sign"}
    assert {"_encode", "_encode_difference", "_encode_sum", "_decode"} <= called


@pytest.mark.full(reason="compiles a run anew")
@pytest.mark.process
def test_a_warm_up_leaves_nothing_to_compile(mpi, tmp_path):
    options = ["--method", "diana", "--compressor", "permk", "--problem", "quadratic", "--set", "problem.dim=40"]
    options += ["--clients", "6", "--dtype", "float32"]
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}

    said = mpi.run(1, ["-m", "mpicomp", "warmup", *options], timeout=120, **env).check().out
    kept = files()
    assert "compressors.permk" in said and " 0 were there" in said and len(kept) > 10
    mpi.run(3, ["-m", "mpicomp", "run", "--rounds", "4", "-q", *options], timeout=60, **env).check()
    assert files() == kept
    again = mpi.run(1, ["-m", "mpicomp", "warmup", *options], **env).check().out
    assert "0 kernels compiled" in again and "Compiled" not in again
