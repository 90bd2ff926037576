"""`mpicomp launch --restarts N`: after which exit codes a job is started again, how often, and that it goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_alone

from mpicomp.cluster.restart import supervise

COUNTED = "import sys; f = open(sys.argv[1], 'a'); f.write('x'); f.close(); n = len(open(sys.argv[1]).read()); {}"


def starts(directory: Path, body: str, restarts: int, after_resume: bool = False) -> tuple[int, int]:
    """The exit code that `supervise` returns, and how often the program was started; `n` is the number of the start."""
    file = directory / "starts"
    code = supervise([sys.executable, "-c", COUNTED.format(body), str(file)], os.environ, restarts, after_resume)
    return code, len(file.read_text())


@pytest.mark.parametrize(
    ("body", "restarts", "after_resume", "expected"),
    [
        ("sys.exit(0)", 3, False, (0, 1)),
        ("sys.exit(2)", 3, False, (2, 1)),
        ("sys.exit(3)", 3, False, (3, 1)),
        ("sys.exit(75)", 3, False, (75, 1)),
        ("sys.exit(75 if n < 3 else 0)", 3, True, (0, 3)),
        ("sys.exit(1 if n < 3 else 0)", 3, False, (0, 3)),
        ("sys.exit(9)", 2, False, (9, 3)),
        ("import os; os.kill(os.getpid(), 9)", 1, False, (137, 2)),
    ],
)
def test_when_a_job_is_started_again(body, restarts, after_resume, expected, tmp_path, capfd):
    assert starts(tmp_path, body, restarts, after_resume) == expected
    assert capfd.readouterr().err.count("; restart ") == expected[1] - 1


@pytest.mark.process
def test_a_launcher_that_outlives_its_ranks_is_ended(tmp_path):
    """It does what rank 0 of `mpicomp run` does at its end, and then never returns."""
    body = "import time; from mpicomp.cluster.restart import note_end; note_end(75); time.sleep(300)"
    assert starts(tmp_path, body, 0) == (75, 1)


SUPERVISED = """
import os, sys
from mpicomp.cluster.restart import supervise
body = "import time, sys; open(sys.argv[1], 'a').write('x'); time.sleep(30)"
sys.exit(supervise([sys.executable, "-c", body, sys.argv[1]], os.environ, 5, True))
"""


@pytest.mark.process
def test_a_signal_is_passed_on_and_ends_it(tmp_path):
    file = tmp_path / "starts"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISED, file])
    deadline = time.monotonic() + 20
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM and file.read_text() == "x"


# rank 2 kills itself in the first start, once there is a checkpoint
CUSTOMIZE = """
import os, signal, threading, time
from pathlib import Path
here = Path(__file__).parent
if (os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK")) == "2" and not (here / "killed").exists():
    def kill():
        while not list(here.glob("out/checkpoints/*/checkpoint.json")):
            time.sleep(0.002)
        (here / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=kill, daemon=True).start()
"""


@pytest.mark.full(reason="several jobs")
@pytest.mark.process
def test_a_job_of_which_a_rank_is_killed_goes_on(each_mpi, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    options = ["--clients", "6", "--rounds", "3000", "--step", "0.01", "--method", "ef21", "--eval-every", "1000", "-q"]
    launch = [each_mpi.python, "-m", "mpicomp", "launch", "-n", "4", "--restarts", "2", "--", "run", *options]
    more = ["--out", tmp_path / "out", "--checkpoint-every", "100", "--resume", "auto"]
    job = run_alone([*launch, *more], timeout=300, PYTHONPATH=str(tmp_path)).check()
    assert (tmp_path / "killed").exists() and job.err.count("restart 1 of 2") == 1 and "restart 2 of 2" not in job.err
    run_alone([each_mpi.python, "-m", "mpicomp", "run", *options, "--out", tmp_path / "whole"], timeout=300).check()
    again, whole = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("out", "whole"))
    assert again["resumed_at"] >= 100 and again["iterate_sha256"] == whole["iterate_sha256"]
