"""Signals: a gradient that does not return, child processes of a user's part, and the launcher that stands between a job and its user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import processes
from lanes import shortened
from misbehaving import problem_that

import mpicomp as mc
from mpicomp.runtime import signals
from mpicomp.runtime.signals import SAME_SECONDS, Signals

STUCK = problem_that(
    "stuck",
    """
    if rank == "2" and self.calls > 200:
        open(os.environ["HERE"], "a").close()
        while os.environ["HOW"] == "loop":
            pass
        while os.environ["HOW"] == "swallow":
            try:
                time.sleep(100)
            except BaseException:
                pass
    """,
)


class Started:
    """A process with a mark in its environment, by which those that it starts are found."""

    def __init__(self, words: list, tmp_path: Path, how: str):
        (tmp_path / "stuck.py").write_text(STUCK)
        self.mark, self.here = f"{os.getpid()}-{tmp_path.name}", tmp_path / "here"
        env = {**os.environ, "MPICOMP_TEST_JOB": self.mark, "HERE": str(self.here), "HOW": how}
        self.process = subprocess.Popen(
            [str(word) for word in words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, condition: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come so far"
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr, once every process is gone."""
        try:
            _, err = self.process.communicate(timeout=90)
            self.until(lambda: not processes(self.mark), 15)
        finally:
            for pid in processes(self.mark):
                os.kill(pid, signal.SIGKILL)
        return self.process.returncode, err


def words(tmp_path: Path, *more: str) -> list:
    return [
        "run", "--import", tmp_path / "stuck.py", "--problem", "stuck", "--method", "ef21", "--compressor", "topk:k=2", "--step", "0.1",
        "--rounds", "1000000", "-q", *more,
    ]  # fmt: skip


MPICOMP = [sys.executable, "-m", "mpicomp"]


# ---- a gradient that does not return ------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize("how, number", [("loop", signal.SIGTERM), ("loop", signal.SIGINT)])
def test_a_second_signal_ends_a_gradient_that_does_not_return(tmp_path, how, number):
    started = Started([*MPICOMP, *words(tmp_path)], tmp_path, how)
    started.until(started.here.exists)
    started.process.send_signal(number)
    time.sleep(SAME_SECONDS + 0.3)
    assert started.process.poll() is None
    started.process.send_signal(number)
    assert started.end()[0] == (-number if number == signal.SIGTERM else 130)


@pytest.mark.process
@pytest.mark.full(reason="waits for the handler's grace")
def test_a_gradient_that_swallows_the_exception_is_killed(tmp_path):
    started = Started([*MPICOMP, *words(tmp_path)], tmp_path, "swallow")
    started.until(started.here.exists)
    for _ in range(2):
        started.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert started.end()[0] == -signal.SIGKILL


@pytest.mark.process
def test_a_second_sigterm_to_the_launcher_ends_a_job_that_is_stuck(mpi, tmp_path):
    started = Started([*MPICOMP, "launch", "-n", "4", "--", *words(tmp_path)], tmp_path, "loop")
    started.until(started.here.exists)
    started.process.send_signal(signal.SIGTERM)
    time.sleep(SAME_SECONDS + 0.5)
    assert started.process.poll() is None
    started.process.send_signal(signal.SIGTERM)
    assert started.end()[0] != 0


@pytest.mark.full(reason="several jobs")
@pytest.mark.process
def test_a_rank_that_waits_in_mpi_hears_the_second_signal(mpi, tmp_path):
    """Rank 0 waits within MPI for rank 2, where Python runs no handler; its signals end the job all the same."""
    command = mpi.launcher.command(4, [*MPICOMP, *words(tmp_path)])
    started = Started(command, tmp_path, "loop")
    started.until(started.here.exists)
    (first,) = (pid for pid in processes(started.mark) if b"PMI_RANK=0\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(first, signal.SIGTERM)
    time.sleep(SAME_SECONDS + 0.3)
    os.kill(first, signal.SIGTERM)
    assert started.end()[0] != 0


def test_signals_close_together_are_one_request(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    killed = []
    monkeypatch.setattr(signals.os, "kill", lambda pid, number: killed.append(number))
    with Signals(print) as watched:
        watched.orderly = True
        for moment in (100.0, 100.4, 100.9):
            now[0] = moment
            watched._on_signal(signal.SIGTERM, None)
            assert watched.asked and not killed
        watched._on_signal(signal.SIGUSR1, None)
        now[0] = 100.0 + SAME_SECONDS + 0.1
        watched._on_signal(signal.SIGUSR1, None)
        assert not killed
        watched._on_signal(signal.SIGTERM, None)
        assert killed == [signal.SIGTERM]


def test_the_handlers_of_a_program_come_back():
    def own(number, frame):
        raise AssertionError

    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    signal.signal(signal.SIGUSR1, own)
    try:
        with Signals(print):
            assert signal.getsignal(signal.SIGUSR1) is not own
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before[signal.SIGUSR1])
    assert {number: signal.getsignal(number) for number in signals.SIGNALS} == before


# ---- children of a user's part --------------------------------------------------------------------------------------------
FORKING = """
import multiprocessing
import mpicomp as mc

def busy(_):
    while True:
        pass

class Forking(mc.Problem):
    n_clients, dim, pool = 2, 4, None

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        if self.pool is None:
            self.pool = multiprocessing.get_context("fork").Pool(2)
            self.pool.map_async(busy, range(2))

problem = Forking()
result = mc.run(problem=problem, method="gd", rounds=5, step=0.1)
problem.pool.terminate()
problem.pool.join()
print("rounds", result.summary["rounds"])
"""


@pytest.mark.process
def test_a_busy_pool_of_a_part_can_be_terminated(tmp_path):
    """`terminate` sends SIGTERM, which the pool's processes would take for a request to the run."""
    (tmp_path / "forking.py").write_text(FORKING)
    job = subprocess.run([sys.executable, tmp_path / "forking.py"], capture_output=True, text=True, timeout=60)
    assert job.returncode == 0 and "rounds 5" in job.stdout, job.stderr


def test_a_forked_child_has_the_handlers_of_before():
    before = signal.getsignal(signal.SIGTERM)
    with Signals(print):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            same = all(signal.getsignal(n) != s._on_signal for s in [*signals._active] for n in signals.SIGNALS)
            os.write(write, b"y" if same and signal.getsignal(signal.SIGTERM) == before else b"n")
            os._exit(0)
        os.waitpid(pid, 0)
        answer = os.read(read, 1)
        os.close(read)
        os.close(write)
        assert signal.getsignal(signal.SIGTERM) != before
    assert answer == b"y"


# ---- between a job and its user ---------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize("restarts", shortened(["--restarts=3", "--restarts=0"], 1, "without restarts"))
@pytest.mark.parametrize("number", shortened([signal.SIGHUP, signal.SIGKILL, signal.SIGTERM], 2, "another signal"))
def test_what_ends_the_launcher_ends_the_job(mpi, tmp_path, number, restarts):
    """By a checkpoint, of which the next job makes use; no rank goes on alone."""
    out = tmp_path / "out"
    more = ["--out", out, "--checkpoint-every", "100000"]
    started = Started([*MPICOMP, "launch", "-n", "3", restarts, "--", *words(tmp_path, *more)], tmp_path, "")
    started.until(started.here.exists)
    started.process.send_signal(number)
    code, err = started.end()
    assert code == (-number if number == signal.SIGKILL else 75), err
    assert json.loads((out / "summary.json").read_text())["interrupted"]
    assert "restart 1" not in err


@pytest.mark.process
def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path):
    code = "import os, sys; from mpicomp.cluster.restart import supervise; sys.exit(supervise(sys.argv[1:], os.environ, 0, False))"
    body = f"import time, pathlib; pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(1.5)"
    process = subprocess.Popen(["nohup", sys.executable, "-c", code, sys.executable, "-c", body], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


# ---- small ------------------------------------------------------------------------------------------------------------------
def test_a_tilde_in_a_file_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('data = "~/höhe.svm"\nout = "~/runs"\nresume = "~/runs"\n', encoding="utf-8")
    config = mc.Config.load(tmp_path / "run.toml")
    assert (config.data, config.out, config.resume) == (
        str(tmp_path / "höhe.svm"),
        str(tmp_path / "runs"),
        str(tmp_path / "runs"),
    )
    assert mc.Config.load(None, {"out": "~/a"}).out == str(tmp_path / "a")
    assert mc.Config.load(None, {}, ("data=~/b",)).data == str(tmp_path / "b")
