"""Studies: the grid, its order and shares; the walk, its records, resuming and time left; errors of the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.errors import ConfigError, UserError
from mpicomp.experiments.study.grid import Study, share
from mpicomp.experiments.study.runners import TIMED_OUT, Outcome, run_job
from mpicomp.experiments.study.scale import (
    DONE,
    FAILED,
    RUNNING,
    Walk,
    alone,
    estimate,
    open_study,
    read_record,
    write_record,
)

FILE = """
name = "small"
repetitions = 2
baselines = ["dense", "allreduce"]
[run]
problem = {name = "quadratic", dim = 30, reg = 0.1}
rounds = 5
[grid]
workers = [1, 2]
clients = [4]
exchange = ["p2p", "collective"]
[[methods]]
method = "ef21"
compressor = ["topk:k=2", "natural"]
"""


def study_of(text: str, **changes) -> Study:
    import tomllib

    values = tomllib.loads(text)
    values.update({k: v for k, v in changes.items() if v is not None})
    return Study.from_dict(values)


# ---- the grid -------------------------------------------------------------------------------------------------------
def test_every_combination_once_for_each_repetition():
    cells = study_of(FILE).cells()
    placed = 2 * 2  # workers, exchanges
    assert len(cells) == 2 * (placed * 3 + 2)  # two compressors and dense; Allreduce has no exchange to vary
    assert len({(c.key, c.repetition) for c in cells}) == len({c.name for c in cells}) == len(cells)
    assert {c.options["exchange"] for c in cells if c.baseline == "allreduce"} == {"allreduce"}
    assert all(c.options["method"] == "gd" for c in cells if c.baseline)


@settings(max_examples=25, deadline=None)
@given(
    workers=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True),
    repetitions=st.integers(1, 4), seed=st.integers(0, 9), tasks=st.integers(1, 12),
)  # fmt: skip
def test_the_order_is_a_permutation_and_the_shares_partition_it(workers, repetitions, seed, tasks):
    grid = {"workers": workers, "clients": [9]}
    study = study_of(FILE, grid=grid, repetitions=repetitions, seed=seed)
    cells = study.cells()
    assert [c.name for c in cells] == [c.name for c in study.cells()]
    other = study_of(FILE, grid=grid, repetitions=repetitions, seed=seed + 1).cells()
    assert sorted(c.name for c in cells) == sorted(c.name for c in other)
    shares = [share(cells, k, tasks) for k in range(tasks)]
    assert sorted(c.name for part in shares for c in part) == sorted(c.name for c in cells)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_longer_study_keeps_the_order_of_the_cells_it_had():
    few, many = study_of(FILE, repetitions=2).cells(), study_of(FILE, repetitions=5).cells()
    names = {c.name for c in few}
    assert [c.name for c in many if c.name in names] == [c.name for c in few]


def test_weak_scaling_multiplies_the_clients_and_nodes_hold_a_server():
    cells = study_of(FILE, mode="weak").cells()
    assert all(c.options["clients"] == 4 * c.workers for c in cells)
    cells = study_of(FILE, grid={"nodes": [2, 4], "per_node": [1, 3], "clients": [12], "dim": [30, 50]}).cells()
    assert {c.workers for c in cells} == {1, 3, 5, 11}
    assert {c.options["problem"]["dim"] for c in cells} == {30, 50}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "stong"}, "did you mean 'strong'"),
        ({"repetition": 3}, "unknown key"),
        ({"repetitions": 0}, "at least 1"),
        ({"warmup": 1.0}, "below 1"),
        ({"baselines": ["dens"]}, "did you mean 'dense'"),
        ({"grid": {"clients": [4]}}, "either workers"),
        ({"grid": {"workers": [1], "nodes": [2], "clients": [4]}}, "either workers"),
        ({"grid": {"workers": [8], "clients": [4]}}, "4 clients cannot be spread over 8 workers"),
        ({"grid": {"workers": [4], "clients": [4]}}, "for allreduce, rank 0"),
        ({"grid": {"workers": [1.5], "clients": [4]}}, "whole numbers"),
        ({"grid": {"workers": 2, "clients": [4]}}, "must be a list"),
        ({"grid": {"workers": [1], "clients": [4], "link": ["1gbit"]}}, 'runner = "lab"'),
        ({"grid": {"nodes": [1], "clients": [4]}}, "no worker"),
        ({"grid": {"workers": [1], "clients": [4], "exchange": ["allreduce"]}}, "is a baseline"),
        ({"runner": "lab"}, "made of nodes"),
        ({"mode": "clients", "grid": {"workers": [1]}}, "needs \\[grid\\] clients"),
        ({"mode": "weak", "run": {"problem": "logistic"}}, "fixed number of samples"),
        ({"run": {"rounds": -1}}, "rounds=-1"),
        ({"run": {"roundz": 1}}, "did you mean 'rounds'"),
        ({"run": {"clients": 3}}, "study's own"),
        ({"methods": [], "baselines": []}, "nothing to run"),
        ({"name": 3}, "should be of type"),
    ],
)  # fmt: skip
def test_mistakes_of_the_file_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        study_of(FILE, **changes)


def test_shares_are_numbered_from_zero():
    with pytest.raises(ConfigError, match="from 0 to 2"):
        share(study_of(FILE).cells(), 3, 3)


# ---- the walk -------------------------------------------------------------------------------------------------------
class Pretender:
    """A runner that runs nothing: it answers as the test says, and remembers whom it was asked for."""

    def __init__(self, answers=lambda cell: 0):
        self.answers, self.asked = answers, []

    def facts(self):
        return {"name": "test", "launcher": "", "cores": 2, "shared": False}

    def run(self, cell, argv, timeout):
        self.asked.append(cell.name)
        code = self.answers(cell)
        if isinstance(code, BaseException):
            raise code
        config = Path(argv[-1])
        if code == 0:
            (config.parent / "summary.json").write_text("{}")
        return Outcome(code, 1.0, "Traceback\nmpicomp: no such thing\n" if code else "", list(argv))


def walk_over(tmp_path, text=FILE, cells=None):
    study = study_of(text)
    open_study(study, text, tmp_path)
    lines: list[str] = []
    return Walk(study, tmp_path, cells or study.cells(), lines.append), lines


def test_finished_cells_are_kept_failed_ones_too_and_interrupted_ones_run_again(tmp_path):
    walk, _ = walk_over(tmp_path)
    bad = walk.cells[3].name
    first = Pretender(
        lambda cell: 1 if cell.name == bad else KeyboardInterrupt() if cell.name == walk.cells[6].name else 0
    )
    with pytest.raises(KeyboardInterrupt):
        walk.run(first)
    assert read_record(walk.directory(walk.cells[6]))["state"] == RUNNING
    record = read_record(walk.directory(walk.cells[3]))
    assert (
        record["state"] == FAILED
        and record["reason"] == "exit code 1: no such thing"
        and "Traceback" in record["output"]
    )

    again, lines = walk_over(tmp_path)
    second = Pretender()
    again.run(second)
    assert second.asked == [c.name for c in walk.cells[6:]]
    assert [c.name for c in again.failed] == [bad] and "6 of" in lines[0]

    third, runner = walk_over(tmp_path)[0], Pretender()
    third.run(runner, retry_failed=True)
    assert runner.asked == [bad] and not third.failed
    assert all(read_record(third.directory(c))["state"] == DONE for c in third.cells)


def test_a_user_error_of_the_runner_fails_the_cell_not_the_study(tmp_path):
    walk, lines = walk_over(tmp_path)
    walk.cells = walk.cells[:2]
    walk.run(Pretender(lambda cell: UserError("no such host")))
    assert len(walk.failed) == 2 and "no such host" in lines[0]


def test_a_directory_of_another_study_is_refused(tmp_path):
    walk, _ = walk_over(tmp_path)
    write_record_of(walk)
    other = FILE.replace("clients = [4]", "clients = [5]")
    with pytest.raises(ConfigError, match="not in this study"):
        open_study(study_of(other), other, tmp_path)
    more = FILE.replace("repetitions = 2", "repetitions = 3")
    open_study(study_of(more), more, tmp_path)


def write_record_of(walk):
    where = walk.directory(walk.cells[0])
    where.mkdir(parents=True)
    write_record(where, {"state": DONE})


def test_two_walks_over_the_same_share_are_refused(tmp_path):
    with (
        alone(tmp_path, 0, 1),
        pytest.raises(ConfigError, match="is in use by another `mpicomp scale`"),
        alone(tmp_path, 0, 1),
    ):
        pass


# ---- time left ------------------------------------------------------------------------------------------------------
def test_known_durations_give_the_time_left():
    left = estimate(["a", "a", "b"], {"a": [3.0, 3.0], "b": [5.0]})
    assert left.seconds == 11.0 and left.low <= 11.0 <= left.high
    assert np.isnan(estimate(["a"], {}).seconds)
    assert estimate([], {"a": [1.0]}).seconds == 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside, off = 0, []
    for _ in range(300):
        typical = rng.gamma(4.0, 5.0, 20)  # twenty configurations, three repetitions each, cells in random order
        cells = rng.permutation(np.repeat(np.arange(20), 3))
        times = typical[cells] * rng.lognormal(0, 0.1, 60)
        finished: dict[str, list[float]] = {}
        for k in range(15):
            finished.setdefault(str(cells[k]), []).append(times[k])
        left = estimate([str(c) for c in cells[15:]], finished)
        inside += left.low <= times[15:].sum() <= left.high
        off.append(left.seconds / times[15:].sum() - 1)
    assert inside >= 0.85 * 300
    assert abs(np.mean(off)) < 0.08


# ---- processes and the command line ---------------------------------------------------------------------------------
def test_a_job_that_takes_too_long_is_ended(tmp_path):
    start = time.monotonic()
    outcome = run_job(
        [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"], dict(os.environ), 2
    )
    assert outcome.code == TIMED_OUT and time.monotonic() - start < 15


def invoke(*args: str):
    return CliRunner().invoke(app, list(args), catch_exceptions=False, standalone_mode=False)


def test_count_and_dry_run_start_nothing(tmp_path):
    (tmp_path / "s.toml").write_text(FILE)
    assert invoke("scale", str(tmp_path / "s.toml"), "--count").output == "28\n"
    assert invoke("scale", str(tmp_path / "s.toml"), "--count", "--task", "1", "--tasks", "3").output == "9\n"
    assert len(invoke("scale", str(tmp_path / "s.toml"), "--dry-run").output.splitlines()) == 28
    with pytest.raises(ConfigError, match="--out DIR"):
        invoke("scale", str(tmp_path / "s.toml"))
    with pytest.raises(ConfigError, match="cannot read the study"):
        invoke("scale", str(tmp_path / "none.toml"))


@pytest.mark.full(reason="a whole study, interrupted")
@pytest.mark.process
def test_a_study_runs_is_reported_and_survives_a_signal(tmp_path, mpi):
    text = FILE.replace("repetitions = 2", "repetitions = 1").replace('["topk:k=2", "natural"]', '"topk:k=2"')
    text = text.replace("workers = [1, 2]", "workers = [2]").replace('["p2p", "collective"]', '["p2p"]')
    (tmp_path / "s.toml").write_text(text)
    command = [mpi.python, "-m", "mpicomp", "scale", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 3 cells are finished" in done.stdout
    for path in (tmp_path / "out" / "cells").iterdir():
        record = json.loads((path / "cell.json").read_text())
        assert record["state"] == DONE and (path / "rounds.csv").exists() and (path / "log.txt").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "3 of 3 cells are finished and kept" in again.stdout
