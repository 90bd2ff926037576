"""What a person reads when something fails, or of a run; a stall of a rank whose stderr nobody reads; the soak's own faults."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import soak_jobs
import soak_surroundings
from conftest import run_alone
from lanes import shortened
from misbehaving import problem_that

import mpicomp as mc
from mpicomp.console.show import run_rows
from mpicomp.exchanges.hierarchical import HierarchicalExchange
from mpicomp.runtime.imports import import_parts


def quadratic(**options):
    return mc.FunctionProblem(
        lambda i, x: 0.5 * float(x @ x), lambda i, x: x - i, dim=5, n_clients=4,
        constants=mc.Smoothness.bounds(np.ones(4)), **options,
    )  # fmt: skip


# ---- one message, in the right words ----------------------------------------------------------------------------------
def test_a_missing_file_is_named_once(tmp_path):
    missing = str(tmp_path / "parts.py")
    with pytest.raises(mc.ConfigError, match="there is no such file") as caught:
        import_parts([missing])
    assert mc.errors.full_text(caught.value).count(missing) == 1


def test_a_file_that_imports_a_missing_one_says_both(tmp_path):
    inner, outer = tmp_path / "inner.py", tmp_path / "outer.py"
    outer.write_text(f"import mpicomp as mc\nmc.run(imports=[{str(inner)!r}])\n")
    with pytest.raises(mc.ConfigError) as caught:
        import_parts([str(outer)])
    text = mc.errors.full_text(caught.value)
    assert text.count(str(inner)) == 1 and text.count(f"while importing {outer}") == 1


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({"problem": "mean"}, None),
        ({"problem": "quadratic"}, None),
        ({"problem": quadratic()}, None),
        ({"problem": "logistic"}, "mushrooms"),
        ({"problem": "mlp", "data": "digits"}, "digits"),
    ],
    ids=["mean", "quadratic", "own", "logistic", "mlp"],
)
def test_a_run_names_the_data_that_it_has(options, data):
    summary = mc.run(**options, method="gd", step=0.01, rounds=1).summary
    assert summary["data"] == data
    assert dict(run_rows(summary))["problem"].split(" · ")[1] == (data or "-")


def test_data_that_is_no_name_is_not_shown():
    class Arrays(mc.FunctionProblem):
        data = np.zeros(1000)

    problem = Arrays(lambda i, x: 0.0, lambda i, x: x, dim=5, n_clients=4)
    assert mc.run(problem=problem, method="gd", step=0.01, rounds=1).summary["data"] is None


@pytest.mark.parametrize(
    ("options", "heading"),
    [
        ({"method": "ef21", "compressor": "topk:k=2"}, "ef21 · topk:k=2"),
        (
            {"method": "custom", "method_options": {"uplink": "ef21:topk:k=2", "downlink": "ef21-p:sign"}},
            "custom · ef21:topk:k=2 up, ef21-p:sign down",
        ),
        (
            {"method": "ef21-bc", "compressor": "topk:k=2", "downlink_compressor": "topk:k=3"},
            "ef21-bc · topk:k=2 up, topk:k=3 down",
        ),
    ],
)
def test_a_heading_shows_what_goes_up_and_down(options, heading):
    summary = mc.run(problem=quadratic(), step=0.01, rounds=1, **options).summary
    assert dict(run_rows(summary))["method"] == heading
    assert dict(run_rows({k: v for k, v in summary.items() if k != "heading"}))["method"].startswith(options["method"])


@pytest.mark.parametrize(("call", "where"), [(1, "in the warm-up"), (4, "in the warm-up"), (200, "in round ")])
def test_errors_of_the_warm_up_are_not_of_a_round(call, where):
    calls = []

    def failing(i, x):
        calls.append(i)
        if len(calls) == call:
            raise ZeroDivisionError
        return x - i

    problem = mc.FunctionProblem(lambda i, x: 0.0, failing, dim=5, n_clients=4)
    with pytest.raises(ZeroDivisionError) as caught:
        mc.run(problem=problem, method="gd", step=0.1, rounds=100)
    (note,) = [note for note in caught.value.__notes__ if "on the rank of clients" in note]
    assert note.startswith(where)


def test_an_exchange_that_cannot_lose_ranks_is_refused_in_the_same_words_by_name_and_as_a_class():
    said = []
    config = mc.Config(on_failure="continue", exchange="hierarchical")
    for refuse in (config.validate, lambda: config.refuse_dependence(HierarchicalExchange)):
        with pytest.raises(mc.ConfigError, match="others depend on them") as caught:
            refuse()
        said.append(str(caught.value))
    assert said[0] == said[1]


# ---- several ranks that fail at once ------------------------------------------------------------------------------------
ALL_FAIL = problem_that(
    "all-fail",
    """
    if self.calls > int(os.environ["CALLS"]):
        raise ZeroDivisionError("the mistake of all")
    """,
)
SCRIPT = """
import sys
from mpi4py import MPI
sys.path.insert(0, sys.argv[1])
import parts
import mpicomp as mc
mc.run(comm=MPI.COMM_WORLD, problem=parts.Misbehaving(), method="gd", step=0.1, rounds=100000)
"""


@pytest.mark.process
@pytest.mark.parametrize("calls", shortened(["0", "200"], 1, "another moment"))
@pytest.mark.parametrize("how", shortened(["command", "script"], 1, "as a script"))
def test_of_several_failing_ranks_one_tells_the_story(each_mpi, tmp_path, how, calls):
    (tmp_path / "parts.py").write_text(ALL_FAIL)
    (tmp_path / "script.py").write_text(SCRIPT)
    run = [
        "-m",
        "mpicomp",
        "run",
        "-q",
        "--import",
        tmp_path / "parts.py",
        "--problem",
        "all-fail",
        "--method",
        "gd",
        "--step",
        "0.1",
    ]
    argv = [*run, "--rounds", "100000"] if how == "command" else [tmp_path / "script.py", tmp_path]
    job = each_mpi.run(4, argv, timeout=120, CALLS=calls)
    assert job.code == 1 and job.err.count("Traceback") == 1, job.err
    assert job.err.count("; ending the job") == 1
    brief = [line for line in job.err.splitlines() if "failed too" in line]
    assert all(line.endswith("failed too: ZeroDivisionError: the mistake of all") for line in brief)


# ---- ranks that are silent ------------------------------------------------------------------------------------------------
SILENT = """
import json, sys
from mpi4py import MPI
import mpicomp as mc
options = json.loads(sys.argv[1])
for exchange in ("p2p", "collective", "sharded", "hierarchical"):
    x = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, stall_timeout=10, **options).summary.get("iterate_sha256")
    if x is not None:
        print(exchange, x, flush=True)
"""


@pytest.mark.process
def test_a_rank_whose_clients_are_all_silent_is_not_waited_for(mpi):
    """One client of four speaks in a round, so one of the two workers has nothing to send."""
    options = {
        "problem": "quadratic", "problem_options": {"dim": 30}, "clients": 4, "method": "pp-marina", "compressor": "randk:k=3",
        "method_options": {"r": 1, "p": 0.1}, "step": 0.01, "rounds": 20,
    }  # fmt: skip
    job = mpi.run(3, ["-c", SILENT, json.dumps(options)], timeout=60).check()
    whole = mc.run(**options).summary["iterate_sha256"]
    assert dict(line.split() for line in job.out.splitlines()) == dict.fromkeys(
        ("p2p", "collective", "sharded", "hierarchical"), whole
    )


# ---- a stall that nobody can be told of ---------------------------------------------------------------------------------
STUCK = """
import ctypes, sys, time
import mpicomp as mc

class Stuck(mc.Problem):
    n_clients, dim, calls = 2, 4, 0

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        self.calls += 1
        if self.calls > 50:
            if sys.argv[1] == "keeps Python's lock":
                ctypes.PyDLL(None).sleep(1000)
            time.sleep(1000)

mc.run(problem=Stuck(), method="gd", step=0.1, rounds=10**6, stall_timeout=1.0)
"""


@pytest.mark.process
@pytest.mark.full(reason="waits for the stall watch")
@pytest.mark.parametrize(("how", "code"), [("sleeps", 4), ("keeps Python's lock", 1)])
@pytest.mark.parametrize("sink", ["pipe", "full", "closed"])
def test_a_stall_ends_the_process_though_nobody_reads_its_stderr(tmp_path, how, code, sink):
    (tmp_path / "stuck.py").write_text(STUCK)
    with soak_surroundings.unread(tmp_path / "pipe") as pipe:
        redirect = {"pipe": f"2>{pipe}", "full": "2>/dev/full", "closed": "2>&-"}[sink]
        command = ["bash", "-c", f'exec "$0" "$@" {redirect}', sys.executable, tmp_path / "stuck.py", how]
        assert run_alone(command, timeout=60).code == code


# ---- the soak's own faults ------------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.full(reason="each is a job or two")
@pytest.mark.night
@pytest.mark.parametrize("name", soak_surroundings.SURROUNDINGS)
def test_a_run_comes_through_each_fault_of_its_surroundings(mpi, tmp_path, name):
    if name not in soak_surroundings.possible():
        pytest.skip(soak_surroundings.mounts())
    case = soak_jobs.Case.draw(random.Random(name), tmp_path)
    soak_surroundings.SURROUNDINGS[name](case, mpi)
    code, said = soak_jobs.Job(mpi, case.ranks(), case.argv()).end(soak_jobs.JOB_SECONDS)
    assert code == 0, said


def test_other_rows_are_other_rows(tmp_path):
    case = soak_jobs.Case.draw(random.Random(0), tmp_path)
    for _ in range(20):
        assert soak_surroundings.other_rows(case) != soak_jobs.rows()


def test_a_pipe_that_nobody_reads_takes_nothing(tmp_path):
    with soak_surroundings.unread(tmp_path / "pipe") as pipe:
        end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.write(end, b"x")
        os.close(end)


def test_where_a_file_system_cannot_be_mounted_the_soak_does_without(monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError("no unshare")

    monkeypatch.setattr(subprocess, "run", refuse)
    soak_surroundings.mounts.cache_clear()
    assert (
        soak_surroundings.mounts() == "no unshare"
        and soak_surroundings.full not in soak_surroundings.possible().values()
    )
    soak_surroundings.mounts.cache_clear()
