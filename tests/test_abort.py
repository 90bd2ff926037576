"""No rank is left behind: each way to fail ends the whole job within seconds, by name, with a code that is not zero.

Jobs of four ranks run under plain `python`, without `-m mpi4py`; `run_alone` (conftest) fails a test whose job hangs or leaves processes.
"""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
SOON = 5.0  # seconds from the failure to the end of all ranks

SCRIPT = """
import ctypes, os, re, signal, sys, time
from pathlib import Path
import numpy as np
from mpi4py import MPI
import mpicomp as mc
from mpicomp.runtime.config import Config

comm = MPI.COMM_WORLD
how, where = sys.argv[1], int(sys.argv[2])

class Failing(mc.Problem):
    n_clients, dim = 6, 10
    calls = 0

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        self.calls += 1
        if comm.rank == where and self.calls > 200:
            fail()

def fail():
    print(f"failing at {time.time()}", flush=True)
    if how == "raise":
        raise ZeroDivisionError("the problem's own mistake")
    if how == "exit":
        sys.exit(7)
    if how == "exit with a text":
        sys.exit("enough of this")
    if how == "user error":
        raise mc.ConfigError("seen by one rank only")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "vanish":
        os._exit(0)
    if how == "vanish in C":
        ctypes.CDLL(None)._exit(0)

problem, options = Failing(), {}
if how == "everywhere":
    options = {"method": "marinara"}
if how == "vanish in C":
    options = {"stall_timeout": 2.0}
if how == "configuration":
    options = {"seed": comm.rank}
def progress(row):
    if how == "progress" and row["round"] > 20:
        print(f"failing at {time.time()}", flush=True)
        raise ValueError("the callback's own mistake")

if how.startswith("cli: "):  # the same run by the command line
    how = how.removeprefix("cli: ")
    print("mapped", *set(re.findall(r"/dev/shm/mpich\\S+", Path("/proc/self/maps").read_text())), flush=True)
    mc.register_problem("failing")(Failing)
    sys.argv = ["mpicomp", "run", "--problem", "failing", "--compressor", "topk:k=2", "--exchange", sys.argv[3], "--method", "ef21",
                "--rounds", "100000", "--step", "0.1", "--quiet"]
    from mpicomp.cli import main
    main()
mc.run(comm=comm, problem=problem, compressor="topk:k=2", progress=progress, exchange=sys.argv[3],
       **{"method": "ef21", "rounds": 100000, "step": 0.1, **options})
print("the run is over", flush=True)
"""


def fail(mpi, directory, how: str, where: int, exchange: str = "p2p"):
    """Run the script until it fails; returns the job, and the seconds from the failure to the end."""
    (directory / "failing.py").write_text(SCRIPT)
    job = mpi.run(
        4, [directory / "failing.py", how, str(where), exchange], timeout=120
    )  # 120 s for compiling; the failure is timed by itself
    ended = time.time()
    assert job.code != 0 or how == "vanish in C", job.out + job.err
    assert "the run is over" not in job.out
    moments = [float(moment) for moment in re.findall(r"failing at ([\d.]+)", job.out)]
    assert bool(moments) == (where >= 0), f"it failed elsewhere\n{job.err}"
    return job, ended - min(moments, default=ended)


# how, on which rank, exchange; exit code (None: not ours to choose), words of the message. Rank 0 hosts no client: its callback fails.
CASES = {
    "exception in a gradient": ("raise", 2, "p2p", 1, "ZeroDivisionError: the problem's own mistake"),
    "exception in a gradient, collective": (
        "raise",
        2,
        "collective",
        1,
        "ZeroDivisionError: the problem's own mistake",
    ),
    "exception on the server": ("progress", 0, "p2p", 1, "ValueError: the callback's own mistake"),
    "sys.exit(7)": ("exit", 2, "p2p", 7, "SystemExit: 7"),
    "sys.exit(text)": ("exit with a text", 1, "p2p", 1, "enough of this"),
    "a user's error on one rank": ("user error", 2, "p2p", 2, "ConfigError: seen by one rank only"),
    "KeyboardInterrupt": ("interrupt", 3, "collective", None, "KeyboardInterrupt"),
    "SIGKILL": ("kill", 3, "p2p", None, ""),
    "os._exit(0)": ("cli: vanish", 2, "p2p", 1, "it called os._exit(0) in the middle of a run"),
    "os._exit(0), collective": ("cli: vanish", 1, "collective", 1, "it called os._exit(0) in the middle of a run"),
}


def check(mpi, directory, how, where, exchange, code, words):
    job, seconds = fail(mpi, directory, how, where, exchange)
    assert seconds < SOON
    assert code is None or job.code == code
    if words:  # a rank that is killed says nothing, and the launcher ends the others
        assert f"mpicomp: rank {where} of 4 on {platform.node()} failed" in job.err and words in job.err
        assert job.err.count("Traceback (most recent call last)") == (how not in ("user error", "cli: vanish"))


# one for each way out: an exception of a worker and of the server, a kill, an exit behind Python's back
QUICK = ("exception in a gradient, collective", "exception on the server", "SIGKILL", "os._exit(0)")
OTHERS = [
    pytest.param(case, marks=pytest.mark.full(reason="another word for it")) for case in CASES if case not in QUICK
]


@pytest.mark.parametrize("case", [*QUICK, *OTHERS])
def test_one_rank_fails(mpi, tmp_path, case):
    check(mpi, tmp_path, *CASES[case])


@pytest.mark.parametrize("case", ["exception in a gradient", "sys.exit(7)", "SIGKILL"])
def test_one_rank_fails_under_open_mpi(open_mpi, tmp_path, case):
    check(open_mpi, tmp_path, *CASES[case])


def test_a_killed_rank_of_the_command_line_leaves_no_shared_memory_behind(mpi, tmp_path):
    job, seconds = fail(mpi, tmp_path, "cli: kill", 3)
    assert seconds < SOON
    mapped = set(re.findall(r"/dev/shm/mpich\S+", job.out))
    assert mapped or mpi.is_open_mpi
    assert not [name for name in mapped if Path(name).exists()]


def test_a_rank_leaves_behind_pythons_back(each_mpi, tmp_path):
    """What the launcher returns then is its own affair; it may not even notice, and the others' time-out ends the job."""
    _, seconds = fail(each_mpi, tmp_path, "vanish in C", 2)
    assert seconds < 2.0 + SOON


LONELY = """
import time
import mpicomp.cluster.comm as comm
comm.FINALIZE_SECONDS = 1.0
if comm.world().rank == 0:
    comm.finalize(7)
time.sleep(300)
"""


def test_an_end_of_mpi_to_which_another_rank_does_not_come(each_mpi, tmp_path):
    (tmp_path / "lonely.py").write_text(LONELY)
    assert each_mpi.run(2, [tmp_path / "lonely.py"]).code == 7


RUN = ["-m", "mpicomp", "run", "--clients", "3", "--problem", "quadratic", "--rounds", "5"]


EARLY = """
import os, signal, sys, time
if (os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
    how = os.environ["HOW"]
    print(f"failing at {time.time()}", flush=True)
    if how == "raise":
        sys.modules["mpi4py"] = None
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os._exit(3)
"""


@pytest.mark.parametrize(
    ("how", "words"), [("raise", "rank 1 on {} failed before MPI started"), ("exit", ""), ("kill", "")]
)
def test_a_rank_that_fails_before_mpi_starts(each_mpi, tmp_path, how, words):
    """It raises in `mpicomp run`; or it is gone before: then the others end themselves, after the time that MPI may take to start."""
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    job = each_mpi.run(3, [*RUN, "--clients", "6"], timeout=60, PYTHONPATH=path, HOW=how, MPICOMP_START_SECONDS="8")
    ended = time.time()
    moment = float(re.findall(r"failing at ([\d.]+)", job.out)[0])
    assert job.code != 0 and ended - moment < 30  # of which eight seconds and the start of the others
    assert words.format(platform.node()) in job.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "marinara"], "mpicomp: unknown method 'marinara'"),
        ([], "mpicomp: 3 clients cannot be spread over 4 workers"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_an_error_that_all_ranks_see_is_printed_once(mpi, options, words):
    """By the command line: one message, no traceback, exit code 2."""
    printed_once(mpi.run(5, [*RUN, *options], timeout=45), words)


def test_an_error_that_all_ranks_see_is_printed_once_under_open_mpi(open_mpi):
    printed_once(open_mpi.run(5, RUN, timeout=45), "mpicomp: 3 clients cannot be spread over 4 workers")


def printed_once(job, words):
    assert job.code == 2, job.err
    assert (job.out + job.err).count(words) == 1
    assert "Traceback" not in job.err


def test_an_error_that_all_ranks_see_in_a_script(mpi, tmp_path):
    """It is raised on every rank as an ordinary exception, so the job is not aborted: each rank ends by itself."""
    job, _ = fail(mpi, tmp_path, "everywhere", -1)
    assert "unknown method 'marinara'" in job.err and "failed; ending the job" not in job.err


def test_ranks_that_were_started_with_different_options(mpi, tmp_path):
    job, _ = fail(mpi, tmp_path, "configuration", -1)
    assert "another configuration than rank 0" in job.err
