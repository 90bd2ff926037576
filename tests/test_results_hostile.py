"""Results stay whole: no finished run is lost, no two runs share a directory, and nothing dies between rounds and results."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soak_jobs

import mpicomp as mc
from mpicomp.problems.linear_model import LinearModel
from mpicomp.problems.quadratic import Quadratic
from mpicomp.runtime import claim, results
from mpicomp.runtime.claim import LOCK, Claim, Holder

OPTIONS = {"method": "ef21", "data": "mushrooms", "clients": 4, "rounds": 6, "step": 0.01, "eval_every": 2}
FILES = ["config.toml", "manifest.json", "rounds.csv", "summary.json"]
HERE = Holder.here()


def run(out: Path, **options):
    return mc.run(**{**OPTIONS, **options}, out=str(out))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


# ---- finished runs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"seed": 1}, {"resume": "auto"}, {"resume": "auto", "rounds": 9}])
def test_a_finished_run_is_not_overwritten(options, tmp_path):
    run(tmp_path)
    before = contents(tmp_path)
    assert sorted(before) == FILES
    with pytest.raises(
        mc.ConfigError, match=r"holds the results of a finished run.*choose another out, or give force=True, or remove"
    ):
        run(tmp_path, **options)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"interrupted": 1}', "\x00"])
def test_a_damaged_summary_is_no_leave_to_overwrite(text, tmp_path):
    run(tmp_path)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(mc.ConfigError, match="would be overwritten"):
        run(tmp_path, resume="auto")


def test_a_finished_run_goes_on_from_its_checkpoint(tmp_path):
    run(tmp_path, checkpoint_every=3)
    with pytest.raises(mc.ConfigError, match="is a checkpoint of an earlier run"):
        run(tmp_path)
    result = run(tmp_path, rounds=9, resume="auto")
    assert result.summary["resumed_at"] == 6 and result.summary["rounds"] == 9


def test_an_interrupted_run_without_a_checkpoint_begins_again_only_where_that_is_asked_for(tmp_path):
    run(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "interrupted": True}))
    with pytest.raises(mc.ConfigError, match="results of an interrupted run"):
        run(tmp_path)
    assert run(tmp_path, resume="auto").summary["resumed_at"] == 0


def test_saving_a_result_does_not_overwrite_another(tmp_path):
    result = mc.run(**OPTIONS)
    result.save(tmp_path / "a")
    with pytest.raises(mc.ConfigError, match="finished run"):
        result.save(tmp_path / "a")
    assert sorted(contents(tmp_path / "a")) == FILES


# ---- two runs in one directory --------------------------------------------------------------------------------------
def lock(out: Path, **fields) -> Path:
    """A lock as another process would have left it."""
    out.mkdir(exist_ok=True)
    path = out / LOCK
    path.write_text(json.dumps(asdict(replace(HERE, token="another", **fields))))
    return path


def test_a_second_run_is_refused_while_the_first_one_goes_on(tmp_path):
    """It is refused before it touches anything, and the first one does not notice."""
    met = []

    def second(row):
        with pytest.raises(mc.ConfigError) as caught:
            run(tmp_path, seed=3)
        met.append((str(caught.value), (tmp_path / LOCK).exists()))

    result = mc.run(**OPTIONS, out=str(tmp_path), progress=second, checkpoint_every=2)
    text, held = met[0]
    assert (
        f"in use by another run (process {os.getpid()} on {HERE.host}" in text and f"remove {tmp_path / LOCK}" in text
    )
    assert held and not (tmp_path / LOCK).exists()
    assert sorted(contents(tmp_path)) == FILES
    assert result.summary["iterate_sha256"] == mc.run(**OPTIONS).summary["iterate_sha256"]


def test_an_error_gives_the_directory_back(tmp_path):
    def failing(row):
        raise RuntimeError("of the test")

    with pytest.raises(RuntimeError):
        mc.run(**OPTIONS, out=str(tmp_path), progress=failing)
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path).summary["rounds"] == 6


def test_a_lock_of_a_process_that_is_gone_is_stale(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock(tmp_path, pid=gone.pid)
    assert run(tmp_path).summary["rounds"] == 6 and not (tmp_path / LOCK).exists()


def test_a_process_that_nobody_has_waited_for_is_gone(tmp_path):
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    try:
        assert replace(HERE, pid=zombie.pid, born="").has_ended()
    finally:
        zombie.wait()


@pytest.mark.parametrize(
    ("fields", "ended"),
    [
        ({}, False),
        ({"born": "1"}, True),  # the number has another process now
        ({"pid": 1, "born": ""}, False),
        ({"pid": 2**40}, True),
        ({"boot": "before"}, True),  # the host has been started anew
        ({"boot": "before", "machine": "another"}, False),  # another host, of which nothing is known
        ({"boot": "before", "host": "another"}, False),
        ({"space": "pid:[1]"}, False),  # in another container
    ],
)
def test_which_processes_have_ended(fields, ended, monkeypatch):
    machine = HERE.machine or "of the test"
    monkeypatch.setattr(claim, "_kernel", lambda: (machine, HERE.boot, HERE.space))
    assert replace(HERE, **{"machine": machine, **fields}).has_ended() == ended


@pytest.mark.parametrize(("theirs", "ours", "ended"), [(0, "1", True), (1, "1", False), (1, "2", True), (0, "", False)])
def test_a_requeued_job_takes_over_from_itself(theirs, ours, ended, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", ours)
    elsewhere = {"host": "node7", "machine": "m", "boot": "b", "space": "s", "job": "17", "requeued": theirs}
    assert replace(HERE, **elsewhere).has_ended() == ended
    lock(tmp_path, **elsewhere)
    if ended:
        assert run(tmp_path).summary["rounds"] == 6
    else:
        with pytest.raises(mc.ConfigError, match="on node7 in SLURM job 17"):
            run(tmp_path)


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 0", True),
        ("echo COMPLETED", True),
        ("echo RUNNING", False),
        ("echo PENDING", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_slurm_is_asked_for_a_job_on_another_host(script, ended, monkeypatch, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert replace(HERE, host="node7", machine="m", boot="b", job="17").has_ended() == ended


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"host": "a", "pid": "b"}', '{"host": "a", "pid": -1}', "[" * 10**5]
)
def test_what_is_no_lock_is_named_and_left(text, tmp_path):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(mc.ConfigError, match=r"run.lock is not a lock that mpicomp wrote; remove it where no run uses"):
        run(tmp_path)
    assert (tmp_path / LOCK).read_text() == text


def test_a_fifo_for_a_lock_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(mc.ConfigError, match="this is a FIFO, not a plain file"):
        run(tmp_path)


def test_a_lock_that_was_taken_over_is_not_given_back_by_the_first_holder(tmp_path):
    with Claim(tmp_path / LOCK) as first:
        assert first.take() and not first.take()
        lock(tmp_path)  # somebody has removed it by hand, and another run has taken it
    assert Holder.read(tmp_path / LOCK).token == "another"


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    code = """
import sys
from pathlib import Path
from mpicomp.errors import ConfigError
from mpicomp.runtime.claim import Claim
print("ready", flush=True)
sys.stdin.readline()
with Claim(Path(sys.argv[1])) as claim:
    try:
        print(claim.take(), flush=True)
    except ConfigError:
        print(False, flush=True)
    sys.stdin.readline()
"""
    path = lock(tmp_path, born="1")
    argv = [sys.executable, "-c", code, str(path)]
    jobs = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [job.stdout.readline() for job in jobs] == ["ready\n"] * 4
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    said = sorted(job.stdout.readline().strip() for job in jobs)
    for job in jobs:
        job.communicate("\n")
    assert said == ["False", "False", "False", "True"] and list(tmp_path.iterdir()) == []


@pytest.mark.full(reason="several jobs")
@pytest.mark.process
def test_a_job_of_several_ranks_holds_the_lock_and_a_killed_one_leaves_a_stale_one(mpi, tmp_path):
    argv = [
        "-m",
        "mpicomp",
        "run",
        "-q",
        "--clients",
        "4",
        "--step",
        "0.01",
        "--eval-every",
        "100",
        "--out",
        str(tmp_path),
    ]
    job = soak_jobs.Job(mpi, 3, [*argv, "--rounds", "100000000"])
    assert soak_jobs.wait_until(job, lambda: (tmp_path / LOCK).exists())
    second = subprocess.run([sys.executable, *argv, "--rounds", "5"], capture_output=True, text=True, timeout=60)
    assert second.returncode == 2 and "is in use by another run" in second.stderr and "--out" in second.stderr
    assert Holder.read(tmp_path / LOCK).pid in job.pids()
    soak_jobs.kill(job.pids())
    job.end(20.0)
    assert (tmp_path / LOCK).exists()
    subprocess.run([sys.executable, *argv, "--rounds", "5"], check=True, capture_output=True, timeout=60)
    assert sorted(contents(tmp_path)) == FILES


# ---- results first --------------------------------------------------------------------------------------------------
def test_the_problem_is_asked_for_nothing_after_the_last_round(tmp_path):
    """Not for its constants either, which on a large data set take longer than the run, where the step is a number."""
    asked = []

    class Watched(Quadratic):
        def __init__(self):
            super().__init__(dim=10, clients=4)
            self.over = False

        def __getattribute__(self, name):
            if not name.startswith("_") and object.__getattribute__(self, "__dict__").get("over"):
                asked.append(name)
            return super().__getattribute__(name)

        def describe(self):
            asked.append("before the rounds")
            return super().describe()

    problem = Watched()

    def over(row):
        problem.over = row["round"] == 6

    options = {k: v for k, v in OPTIONS.items() if k not in ("data", "clients")}
    mc.run(**options, problem=problem, out=str(tmp_path), progress=over)
    assert asked[0] == "before the rounds" and set(asked[1:]) <= {"name", "measures", "n_clients", "dim", "data"}


SLOW_FACTS = """
import sys, time
import mpicomp as mc
from mpicomp.problems.quadratic import Quadratic

class Slow(Quadratic):
    def describe(self):
        time.sleep(2.5)
        return super().describe()

mc.run(problem=Slow(dim=5, clients=2), method="gd", step=0.1, rounds=3, stall_timeout=0.5, out=sys.argv[1])
"""


@pytest.mark.full(reason="waits for the stall watch")
def test_slow_facts_of_a_problem_do_not_end_a_run_whose_rounds_are_done(tmp_path):
    env = {**os.environ, "MPICOMP_FILES_SECONDS": "0.5"}
    done = subprocess.run(
        [sys.executable, "-c", SLOW_FACTS, tmp_path / "out"], capture_output=True, env=env, timeout=100
    )
    assert done.returncode == 0 and sorted(contents(tmp_path / "out")) == FILES


def test_a_numeric_step_computes_no_constants(monkeypatch, tmp_path):
    def refuse(self, *args):
        raise AssertionError("constants of the problem were computed")

    for name in ("smoothness", "gram_eigenvalue", "pooled_smoothness"):
        monkeypatch.setattr(LinearModel, name, refuse, raising=False)
    for cls in LinearModel.__subclasses__():
        monkeypatch.setattr(cls, "smoothness", refuse)
    run(tmp_path)
    problem = json.loads((tmp_path / "manifest.json").read_text())["problem"]
    assert problem["rows"] == 8124 and "L" not in problem


def test_constants_that_were_asked_for_are_in_the_manifest(tmp_path):
    run(tmp_path, step="theory", rounds=1)
    problem = json.loads((tmp_path / "manifest.json").read_text())["problem"]
    assert {"L", "L_AM", "L_QM", "L_var", "L_plus", "L_pm"} <= set(problem)


def test_a_description_that_no_file_can_hold_is_refused_before_the_first_round(tmp_path):
    class Described(Quadratic):
        def describe(self):
            return {"array": np.zeros(2)}

    rounds = []
    with pytest.raises(mc.ConfigError, match=r"Described.describe\(\) does not hold JSON types"):
        mc.run(problem=Described(dim=5, clients=2), method="gd", rounds=3, progress=rounds.append, out=str(tmp_path))
    assert rounds == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", FILES)
def test_no_result_file_is_half_written(failing, monkeypatch, tmp_path):
    """Each is written under another name, flushed and renamed; the summary, by which a run counts as finished, is the last."""
    write = results.write_text

    def full(path, text):
        if path.name == failing:
            monkeypatch.setattr(os, "fsync", disk_full)
        write(path, text)

    def disk_full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_text", full)
    with pytest.raises(mc.ConfigError, match=r"cannot write the results to.*No space left on device; free some space"):
        run(tmp_path)
    monkeypatch.undo()
    assert sorted(contents(tmp_path)) == FILES[: FILES.index(failing)]
    assert run(tmp_path).summary["rounds"] == 6


def test_results_are_utf8_in_an_ascii_locale_and_hold_names_that_are_none(tmp_path):
    out = tmp_path / os.fsdecode(b"\xffnone")
    code = "import sys, mpicomp as mc; mc.run(method='gd', step=0.01, rounds=2, clients=4, out=sys.argv[1])"
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code, out], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for name in FILES:
        (out / name).read_bytes().decode()
    assert "\\udcffnone" in (out / "config.toml").read_text()


def test_a_directory_that_is_a_file_and_one_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mc.ConfigError, match=r"cannot write results to .*file: File exists; choose another out"):
        run(tmp_path / "file")
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
