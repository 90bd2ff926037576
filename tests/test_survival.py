"""`--on-failure`: a rank dies, and the others go on with its clients (the same bits) or without them; or the run says that they cannot."""

from __future__ import annotations

import json
import os
import platform

import numpy as np
import pytest
from conftest import run_alone
from test_restart import CUSTOMIZE

import mpicomp as mc
from mpicomp.cluster.recovery import LAUNCHER_OPTIONS, OnFailure, check, require
from mpicomp.errors import EnvironmentMismatch
from mpicomp.problems import problems
from mpicomp.problems.subset import SubsetProblem

MPICH_SAYS, OPEN_MPI_SAYS = "MPICH Version: 4.3.2", "Open MPI v5.0.11, package: x"


# ---- what can be had --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["abort", "restart:x", "restart:-1", "continue:", "continue:keep", "stop:1"])
def test_other_words_are_refused(text):
    with pytest.raises(mc.ConfigError, match=r"allowed: stop, restart, restart:N, continue"):
        mc.Config(on_failure=text).validate()


def test_the_last_option_of_a_command_line_counts():
    argv = ["run", "--on-failure", "stop", "--on-failure=restart:7"]
    assert OnFailure.of(argv).restarts == 7 and OnFailure.of(argv[:3]) == OnFailure() == OnFailure.of(["run", "x.toml"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_failure": "restart"}, "checkpoint_every=R and resume='auto' too"),
        ({"on_failure": "continue", "verify_bytes": True}, "a dead rank cannot tell"),
    ],
)
def test_what_does_not_go_together(options, words):
    with pytest.raises(mc.ConfigError, match=words):
        mc.Config(**options).validate()


def test_an_mpi_that_cannot_is_named_with_the_remedy():
    enabled = {"OMPI_MCA_mpi_ft_enable": "1"}
    require(OPEN_MPI_SAYS, enabled)
    with pytest.raises(EnvironmentMismatch, match=r"mpirun --with-ft ulfm"):
        require(OPEN_MPI_SAYS, {})
    for library in (MPICH_SAYS, "Open MPI v4.1.4", "nobody knows"):
        with pytest.raises(EnvironmentMismatch, match=r"Open MPI 5.*on_failure='restart'"):
            require(library, enabled)
    with pytest.raises(EnvironmentMismatch):
        check(None)


@pytest.mark.process
def test_the_run_says_at_its_start_that_it_cannot(each_mpi):
    """MPICH never can; Open MPI only where its mpirun was told."""
    options = ["-m", "mpicomp", "run", "--on-failure", "continue", "--rounds", "5", "--clients", "3"]
    job = each_mpi.run(3, options, timeout=45)
    remedy = "mpirun --with-ft ulfm" if each_mpi.is_open_mpi else "--on-failure restart"
    assert job.code == 2 and job.err.count("--on-failure continue") == 1 and remedy in job.err


def test_launch_adds_what_open_mpi_needs(each_mpi):
    launch = [
        each_mpi.python,
        "-m",
        "mpicomp",
        "launch",
        "-n",
        "3",
        "--dry-run",
        "--",
        "run",
        "--on-failure",
        "continue",
    ]
    job = run_alone(launch, timeout=45)
    if each_mpi.is_open_mpi:
        assert job.code == 0 and "--with-ft ulfm" in job.out
    else:
        assert job.code == 2 and "use Open MPI 5" in job.err


# ---- what is left of a problem ----------------------------------------------------------------------------------------
def test_the_constants_of_what_is_left_hold():
    """Against the exact constants of the same clients, whose Hessians are found by differences of gradients."""
    whole = problems.build("quadratic", {"clients": 7, "dim": 6, "seed": 4, "noise": 3.0})
    left = np.array([0, 2, 3, 6])
    part, d = SubsetProblem(whole, left), whole.dim
    hessians = np.zeros((len(left), d, d))
    for j in range(len(left)):
        at, zero = np.empty(d), np.empty(d)
        part.gradient(j, np.zeros(d), zero)
        for c in range(d):
            part.gradient(j, np.eye(d)[c], at)
            hessians[j, c] = at - zero
    mean, squares = hessians.mean(axis=0), (hessians @ hessians).mean(axis=0)
    constants = part.smoothness()
    assert part.n_clients == 4 and part.loss(1, np.ones(d)) == whole.loss(2, np.ones(d))
    assert np.linalg.norm(mean, 2) - 1e-9 <= constants.L
    assert constants.L_plus**2 >= np.linalg.norm(squares, 2) - 1e-9
    assert constants.L_pm**2 >= np.linalg.norm(squares - mean @ mean, 2) - 1e-9
    np.testing.assert_allclose(constants.L_i, [np.linalg.norm(h, 2) for h in hessians])
    np.testing.assert_array_equal(part.block(np.array([3]), np.float64).clients, [6])


# ---- processes --------------------------------------------------------------------------------------------------------
# Rank VICTIM kills itself in its 300th gradient; rank 0 hosts nobody and does so in its progress. f_i = ½‖x − i‖².
SCRIPT = """
import json, os, signal, sys
import numpy as np
from mpi4py import MPI
import mpicomp as mc
from mpicomp.cluster.restart import note_end

comm, (victim, how, out) = MPI.COMM_WORLD, sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly(mc.Problem):
    n_clients, dim, calls = 6, 5, 0

    def loss(self, i, x):
        return 0.5 * np.sum((x - i) ** 2)

    def gradient(self, i, x, out):
        out[:] = x - i
        self.calls += 1
        if comm.rank == int(victim) and self.calls == 300:
            die()

    def smoothness(self):
        return mc.Smoothness.bounds(np.ones(6))

def progress(row):
    if comm.rank == int(victim) and row["round"] >= 60:
        die()

options = {} if out == "-" else {"out": out, "checkpoint_every": 40}
result = mc.run(comm=comm, problem=Deadly(), method="marina", compressor="randk:k=2", rounds=300, eval_every=30, progress=progress,
                on_failure=how, **options)
if result.summary:
    print(json.dumps({"x": result.x.tolist(), **result.summary}), flush=True)
    note_end(0)
"""


def undisturbed() -> mc.Result:
    problem = mc.FunctionProblem(
        lambda i, x: 0.5 * np.sum((x - i) ** 2), lambda i, x: x - i, 5, 6, mc.Smoothness.bounds(np.ones(6))
    )
    return mc.run(problem=problem, method="marina", compressor="randk:k=2", rounds=300, eval_every=30)


# As `mpicomp launch` does it: Open MPI's launcher may not end by itself.
SUPERVISE = "import os, sys; from mpicomp.cluster.restart import supervise; sys.exit(supervise(sys.argv[1:], os.environ, 0, False))"


def survive(mpi, directory, victim: int, *how: str, before: str = ""):
    (directory / "deadly.py").write_text(before + SCRIPT)
    argv = [mpi.python, str(directory / "deadly.py"), str(victim), *how]
    command = mpi.launcher.command(4, argv, extra=LAUNCHER_OPTIONS)
    env = mpi.launcher.environment(root=os.geteuid() == 0)
    return run_alone([mpi.python, "-c", SUPERVISE, *command], timeout=120, **env)


@pytest.mark.process
def test_the_others_host_the_clients_and_find_the_same_bits(open_mpi, tmp_path):
    job = survive(open_mpi, tmp_path, 2, "continue", str(tmp_path / "out")).check()
    found, whole = json.loads(job.out.splitlines()[-1]), undisturbed().summary
    assert f"mpicomp: rank 2 on {platform.node()} died; 3 ranks are left and go on from" in job.err
    assert found["losses"] == [{"ranks": [2], "hosts": [platform.node()], "ranks_left": 3}] and found["resumed_at"] > 0
    assert found["iterate_sha256"] == whole["iterate_sha256"]
    assert found["bytes"]["uplink"]["payload_bits"] == whole["bytes"]["uplink"]["payload_bits"]


# Rank 2 kills itself at the end of the attempt, which rank 1 notices in its last call of MPI, and the others only after theirs.
PARTED = """
import os, signal
from mpi4py import MPI
from mpicomp.errors import RankFailure
from mpicomp.runtime.abort import Guarded
release, calls, rank = Guarded.release, [], MPI.COMM_WORLD.rank

def at_the_end(held):
    calls.append(1)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and len(calls) == 1:
        raise RankFailure("rank 2 has died")
    release(held)

Guarded.release = at_the_end
"""


@pytest.mark.process
def test_ranks_that_had_come_to_the_end_go_on_with_those_that_had_not(open_mpi, tmp_path):
    job = survive(open_mpi, tmp_path, 9, "continue", str(tmp_path / "out"), before=PARTED).check()
    found = json.loads(job.out.splitlines()[-1])
    assert [loss["ranks"] for loss in found["losses"]] == [[2]] and job.seconds < 60
    assert found["iterate_sha256"] == undisturbed().summary["iterate_sha256"]


@pytest.mark.process
def test_launch_goes_on_without_a_rank(open_mpi, tmp_path):
    """From the user's command line to the summary: rank 2 kills itself once there is a checkpoint, the others end with the same bits."""
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    options = ["--clients", "6", "--rounds", "1000", "--step", "0.01", "--method", "ef21", "--eval-every", "500", "-q"]
    launch = [open_mpi.python, "-m", "mpicomp", "launch", "-n", "4", "--", "run", *options, "--on-failure", "continue"]
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    job = run_alone(
        [*launch, "--out", tmp_path / "out", "--checkpoint-every", "100"], timeout=180, PYTHONPATH=path
    ).check()
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (
        "--with-ft ulfm" in job.err and job.err.count("rank 2 on") == 1 and "3 ranks are left and go on from" in job.err
    )
    assert found["losses"][0]["ranks"] == [2] and found["resumed_at"] >= 100 and found["rounds"] == 1000
    whole = mc.run(clients=6, rounds=1000, step=0.01, method="ef21", eval_every=500)
    assert found["iterate_sha256"] == whole.summary["iterate_sha256"]


@pytest.mark.process
def test_the_others_go_on_without_the_clients(open_mpi, tmp_path):
    job = survive(open_mpi, tmp_path, 3, "continue:drop", "-").check()
    found = json.loads(job.out.splitlines()[-1])
    assert found["losses"][0]["dropped"] == [4, 5] and found["clients"] == 4 and "without clients 4-5" in job.err
    assert found["rounds"] == 300 and found["loss"] == pytest.approx(0.5 * 5 * np.var([0, 1, 2, 3]))
    np.testing.assert_allclose(found["x"], 1.5, rtol=1e-6)


@pytest.mark.process
def test_the_end_of_the_server_is_the_end(open_mpi, tmp_path):
    job = survive(open_mpi, tmp_path, 0, "continue", "-")
    assert job.code != 0 and "the server was among them" in job.err and "Traceback" not in job.err and job.seconds < 60
