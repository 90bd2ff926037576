"""`--stall-timeout`: a rank that stops ends the job in time, whatever it is stuck in, and says so; slow but sound runs are left alone."""

from __future__ import annotations

import platform
import re
import time

import pytest
from lanes import shortened

pytestmark = pytest.mark.process
TIMEOUT = 1.5

SCRIPT = """
import ctypes, os, signal, sys, time
from mpi4py import MPI
import mpicomp as mc
import mpicomp.runtime.checkpoint as checkpoint
import mpicomp.runtime.loop as loop

comm = MPI.COMM_WORLD
how, seconds, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]

class Stalling(mc.Problem):
    n_clients, dim, calls, losses = 6, 10, 0, 0

    def loss(self, i, x):
        self.losses += i == 2
        if how == "evaluation" and i == 2 and self.losses > 1:  # once before, in the warm-up
            stall()
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        self.calls += 1
        if how == "compile" and self.calls == 1:
            time.sleep(2 * seconds)
        if i == 2 and self.calls > 100:
            if how == "sleep":
                stall()
            if how == "stop":
                print(f"stalling at {time.time()}", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            if how == "lock":
                print(f"stalling at {time.time()}", flush=True)
                ctypes.PyDLL(None).sleep(30)  # keeps Python's lock

def stall():
    print(f"stalling at {time.time()}", flush=True)
    time.sleep(30)

if how == "checkpoint":
    save = checkpoint.write_whole
    def slow(*args):
        time.sleep(2 * seconds if comm.rank == 1 else 0)
        save(*args)
    checkpoint.write_whole = slow

sound = how in ("compile", "checkpoint")
mc.run(comm=comm, problem=Stalling(), compressor="topk:k=2", method="ef21", rounds=150 if sound else 10**7, step=0.1,
       eval_every=60, stall_timeout=seconds, out=out, checkpoint_every=140, exchange=sys.argv[4] if len(sys.argv) > 4 else "p2p")
print("the run is over", flush=True)
"""


def run(mpi, directory, how: str, *more: str):
    (directory / "stalling.py").write_text(SCRIPT)
    return mpi.run(4, [directory / "stalling.py", how, str(TIMEOUT), directory / "out", *more], timeout=45)


def check(mpi, directory, how: str, *more: str):
    job = run(mpi, directory, how, *more)
    (began,) = (float(moment) for moment in re.findall(r"stalling at ([\d.]+)", job.out))
    assert job.code != 0 and time.time() - began < TIMEOUT + 4
    return job.err


@pytest.mark.parametrize("exchange", shortened(["p2p", "collective"], 1, "waits for the time limit"))
def test_a_rank_that_sleeps(each_mpi, exchange, tmp_path):
    said = check(each_mpi, tmp_path, "sleep", exchange)
    host = platform.node()
    assert re.search(
        rf"rank 2 of 4 on {re.escape(host)} has been in round \d+ for [\d.]+ s, busy in stall \(stalling", said
    )
    assert 'stalling.py", line' in said and "in gradient" in said
    for rank in (0, 1, 3):
        assert f"rank {rank} of 4 on {host} has been in" in said
    assert said.count("waiting for another rank") >= 1 and said.count("busy in") == 1


@pytest.mark.full(reason="waits for the time limit")
def test_a_rank_that_stalls_in_an_evaluation(mpi, tmp_path):
    said = check(mpi, tmp_path, "evaluation")
    assert re.search(r"rank 2 of 4 on \S+ has been in the evaluation after round 0 .*busy in stall", said)


@pytest.mark.full(reason="waits for the time limit")
def test_a_rank_that_is_stopped(each_mpi, tmp_path):
    """It cannot speak any more (unless the launcher wakes it, as Open MPI does before the kill); the others do."""
    said = check(each_mpi, tmp_path, "stop")
    assert "waiting for another rank" in said


def test_a_rank_that_keeps_pythons_lock(mpi, tmp_path):
    said = check(mpi, tmp_path, "lock")
    assert "Timeout" in said and 'File "rank 2 of 4 on' in said and "in gradient" in said


# Rank 2 is stopped once the rounds are over: before its part of the results is written, when only the end of MPI is left, or after that.
AT_THE_END = """
import ctypes, os, signal, sys
import mpicomp.runtime.loop as loop
import mpicomp.runtime.stall as stall
from mpicomp.cli import main

def stop(*args):
    os.kill(os.getpid(), signal.SIGSTOP)

if (os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK")) == "2":
    when = sys.argv.pop(1)
    if when == "results":
        loop.conclude = stop
    elif when == "finalize":
        stall.limit_end = stop
    else:
        libc = ctypes.CDLL(None)  # Python, and MPI with it, ends before the C library calls its own handlers
        libc.__cxa_atexit(ctypes.cast(getattr(libc, "raise"), ctypes.c_void_p), ctypes.c_void_p(int(signal.SIGSTOP)), None)
else:
    sys.argv.pop(1)
main()
"""


@pytest.mark.parametrize("when", shortened(["results", "finalize", "exit"], 1, "waits for the time limit"))
def test_a_rank_that_is_stopped_at_the_end(each_mpi, when, tmp_path):
    (tmp_path / "ending.py").write_text(AT_THE_END)
    options = [
        "--problem",
        "quadratic",
        "--clients",
        "6",
        "--rounds",
        "20",
        "--step",
        "0.1",
        "-q",
        "--out",
        tmp_path / "out",
    ]
    argv = [tmp_path / "ending.py", when, "run", *options, "--stall-timeout", str(TIMEOUT)]
    job = each_mpi.run(4, argv, timeout=45, MPICOMP_FILES_SECONDS="1")
    assert job.code != 0 and (tmp_path / "out" / "summary.json").exists() == (when != "results")
    assert ("has been in the end, round 20" in job.err) == (when == "results")


@pytest.mark.full(reason="waits for longer than the time limit")
@pytest.mark.parametrize("how", ["compile", "checkpoint"])
def test_what_is_slow_for_a_good_reason(mpi, how, tmp_path):
    assert "the run is over" in run(mpi, tmp_path, how).check().out
