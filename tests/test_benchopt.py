"""The benchmark of benchmarks/benchopt: `benchopt run` at a tiny size, and its rows against runs of the library."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import mpicomp as mc

READ = "import json, sys, pandas; print(json.dumps(pandas.read_parquet(sys.argv[1]).to_dict('records'), default=str))"


@pytest.mark.process
@pytest.mark.full(reason="needs benchopt, which takes long to start")
@pytest.mark.night
@pytest.mark.skipif(importlib.util.find_spec("benchopt") is None, reason="needs the extra benchopt")
def test_benchopt_runs_it_and_has_the_rows_of_the_library(tmp_path):
    shutil.copytree(
        ROOT / "benchmarks/benchopt", tmp_path / "benchmark", ignore=shutil.ignore_patterns("outputs", "__*")
    )
    command = [
        Path(sys.executable).with_name("benchopt"),
        "run",
        tmp_path / "benchmark",
        "--no-plot",
        "-n",
        "4",
        "-r",
        "1",
    ]
    command += ["-d", "quadratic[dim=20]", "-o", "*[clients=4]", "--output", "tiny"]
    command += ["-s", "mpicomp[method=[gd,ef21-muon]]", "-s", "mpicomp[method=ef21,compressor='topk:k=2',factor=16]"]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the theorems of ef21-muon need" in done.stdout  # skipped, with the reason
    found = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / "benchmark/outputs/tiny.parquet"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = json.loads(found.stdout)
    problem = {"problem": "quadratic", "problem_options": {"dim": 20, "reg": 0.05}, "clients": 4, "init": "normal:1"}
    for method, own in (("gd", {}), ("ef21", {"compressor": "topk:k=2", "step": "theory*16"})):
        mine = [row for row in rows if row["p_solver_method"] == method]
        assert len(mine) >= 3
        last = int(max(row["objective_rounds"] for row in mine))
        history = {
            row["round"]: row for row in mc.run(method=method, **own, **problem, rounds=last, eval_every=5).history
        }
        for row in mine:
            ours = history[row["objective_rounds"]]
            assert row["objective_value"] == ours["grad_norm_sq"] and row["objective_loss"] == ours["loss"]
            assert row["objective_bits_up"] == 8 * ours["uplink_payload"] / 4
            assert row["objective_bytes"] == ours["uplink_message"] + ours["downlink_message"]
