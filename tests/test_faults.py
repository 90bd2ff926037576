"""What a user's problem can do wrong, one fault at a time: the message says where, a divergence ends the run in its round."""

from __future__ import annotations

import json
import platform
import re

import numpy as np
import pytest
from numba import njit

import mpicomp as mc
from mpicomp.errors import ProblemError, full_text
from mpicomp.runtime.session import finite


class Quadratic(mc.Problem):
    """f_i(x) = ‖x‖²/2, and from the 30th call on client 2 does something else."""

    n_clients, dim = 4, 6

    def __init__(self, fault=None, after=30):
        self.fault, self.after, self.calls = fault, after, 0

    def loss(self, i, x):
        return 0.5 * float(x @ x)

    def gradient(self, i, x, out):
        self.calls += 1
        if self.fault and i == 2 and self.calls >= self.after:
            return self.fault(x, out)
        out[:] = x


def run(problem, **options):
    given = {"method": "ef21", "compressor": "topk:k=2", "rounds": 40, "step": 0.1, "init": "ones", "eval_every": 1000}
    return mc.run(problem=problem, **{**given, **options})


def wrong_shape(x, out):
    out[:] = np.zeros(4)


def fails(x, out):
    raise ZeroDivisionError("the problem's own mistake")


@njit
def kernel_that_fails(x, out):
    for j in range(len(out)):
        if x[j] != 0:
            raise OverflowError("in the kernel")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (kernel_that_fails, OverflowError, "in the kernel"),
        (wrong_shape, ValueError, "broadcast"),
        (fails, ZeroDivisionError, "own mistake"),
        (lambda x, out: x, ProblemError, "ndarray was returned; use out"),
    ],
)
def test_the_message_names_client_and_round(fault, kind, words):
    with pytest.raises(kind) as raised:
        run(Quadratic(fault))
    text = full_text(raised.value)
    assert words in text and "client 2" in text and re.search(r"in round \d+, on the rank of clients 0 to 3", text)


@pytest.mark.parametrize("fault", [lambda x, out: None, lambda x, out: out[:3].fill(0)])
def test_a_gradient_that_is_not_written_is_noticed_at_once(fault):
    with pytest.raises(ProblemError, match="left entries of out") as raised:
        run(Quadratic(fault, after=0))
    assert "client 2" in full_text(raised.value)


def test_out_may_be_returned_too():
    class Returning(Quadratic):
        def gradient(self, i, x, out):
            out[:] = x
            return out

    assert run(Returning()).summary["rounds"] == 40


@pytest.mark.parametrize(
    "returned", [None, 1.0, np.ones((6, 1)), np.ones(5), np.ones(6, complex), np.array(["a"] * 6)], ids=repr
)
def test_a_function_that_returns_something_else(returned):
    problem = mc.FunctionProblem(lambda i, x: 0.5 * x @ x, lambda i, x: x if i < 3 else returned, dim=6, n_clients=4)
    with pytest.raises(ProblemError, match=r"expected real numbers of shape \(6,\)") as raised:
        run(problem)
    assert "client 3" in full_text(raised.value)


def test_a_loss_that_fails_is_named():
    problem = mc.FunctionProblem(lambda i, x: None if i == 1 else 0.0, lambda i, x: x, dim=6, n_clients=4)
    with pytest.raises(TypeError) as raised:
        run(problem)
    assert "client 1" in full_text(raised.value)


# ---- divergence -----------------------------------------------------------------------------------------------------
def test_finite():
    one, other = np.ones((1, 9)), np.full((1, 9), 1e308)
    assert finite(one, other)
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, 8):
            spoilt = one.copy()
            spoilt[0, place] = bad
            assert not finite(spoilt, one) and not finite(one, spoilt)


@pytest.mark.parametrize("method", ["gd", "ef21", "marina", "diana", "ef21-p", "marina-p", "cd-adam", "ef14"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_run_stops_in_the_round_of_the_first_nan(method, value, tmp_path):
    met = []

    def spoil(x, out):
        met.append(True)
        out[:] = x
        out[1] = value

    problem = Quadratic(spoil, after=70)
    rounds = []

    class Watched(Quadratic):
        def gradient(self, i, x, out):
            if i == 0:
                rounds.append(len(met))
            return problem.gradient(i, x, out)

    compressor = {"gd": "identity", "marina": "permk", "marina-p": "permk", "diana": "randk:k=2"}.get(
        method, "topk:k=2"
    )
    result = run(Watched(), method=method, compressor=compressor, out=str(tmp_path), checkpoint_every=3)
    assert result.summary["diverged"]
    assert sum(1 for seen in rounds if seen) <= 1, "it went on after the round in which it diverged"
    assert result.history[-1]["round"] == result.summary["rounds"] < 40
    assert "client 2 (rank 0" in result.summary["divergence"] and "step='theory'" in result.summary["divergence"]
    (last, *_) = sorted(tmp_path.glob("checkpoints/round-*"), reverse=True)
    assert str(last) in result.summary["divergence"]
    with np.load(last / "rank-00000.npz") as shard:
        assert all(np.all(np.isfinite(shard[name])) for name in shard.files)


def test_a_step_size_that_is_too_large(tmp_path):
    result = run(Quadratic(), method="gd", compressor="identity", step=1e10, rounds=5000, out=str(tmp_path))
    assert result.summary["diverged"] and 30 < result.summary["rounds"] < 33  # (1e10)^31 > 1.8e308
    assert np.isnan(result.history[-1]["loss"])
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] is True


SCRIPT = """
import sys
import numpy as np
from mpi4py import MPI
import mpicomp as mc
comm = MPI.COMM_WORLD

class Spoilt(mc.Problem):
    n_clients, dim, calls = 6, 10, 0
    def loss(self, i, x):
        return 0.5 * float(x @ x)
    def gradient(self, i, x, out):
        self.calls += 1
        out[:] = x
        if i == 3 and self.calls > 100:
            if sys.argv[1] == "nan":
                out[4] = np.nan
            else:
                out[:] = np.ones(3)

result = mc.run(comm=comm, problem=Spoilt(), method="ef21", compressor="topk:k=2", rounds=10**6, step=0.1, init="ones",
                exchange=sys.argv[2], eval_every=10**6)
if comm.rank == 0:
    print(result.summary["diverged"], result.summary["rounds"], result.summary["divergence"])
"""


def growing(**options):
    """x ← −1.5 x in each round, so f grows by 2.25; every number stays finite for a thousand rounds."""
    return run(Quadratic(), method="gd", compressor="identity", step=2.5, rounds=200, eval_every=10, **options)


def test_a_loss_that_explodes_but_stays_finite(tmp_path):
    found = growing(out=str(tmp_path), checkpoint_every=7).summary
    assert found["diverged"] and found["rounds"] == 20 and np.isfinite(found["loss"])
    assert (
        "f has grown from 3 to" in found["divergence"] and "try a smaller step or step='theory'" in found["divergence"]
    )
    assert found["divergence"].endswith(
        "round-000000007"
    )  # round 14's is later than the last good evaluation, of round 10
    assert not growing(explosion=0).summary["diverged"]
    later = growing(explosion=1e12).summary
    assert later["diverged"] and later["rounds"] > 20


@pytest.mark.process
@pytest.mark.parametrize("exchange", ["p2p", "collective"])
def test_all_ranks_stop_at_a_nan(each_mpi, exchange, tmp_path):
    (tmp_path / "spoilt.py").write_text(SCRIPT)
    job = each_mpi.run(4, [tmp_path / "spoilt.py", "nan", exchange], timeout=45).check()
    assert "True" in job.out and f"client 3 (rank 2 on {platform.node()})" in job.out


@pytest.mark.process
def test_a_wrong_shape_names_rank_host_round_and_client(mpi, tmp_path):
    (tmp_path / "spoilt.py").write_text(SCRIPT)
    job = mpi.run(4, [tmp_path / "spoilt.py", "shape", "p2p"], timeout=45)
    assert job.code == 1 and f"rank 2 of 4 on {platform.node()} failed" in job.err
    assert "client 3" in job.err and re.search(r"in round \d+, on the rank of clients 2 to 3", job.err)


@pytest.mark.process
def test_a_divergence_ends_with_3_and_a_hint(each_mpi, tmp_path):
    problem = [
        "--problem",
        "quadratic",
        "--set",
        "problem.dim=20",
        "--clients",
        "6",
        "--init",
        "ones",
        "--step",
        "1e30",
    ]
    options = ["--method", "gd", "--rounds", "100000", "--checkpoint-every", "2", "-q", "--no-table", "--out", tmp_path]
    job = each_mpi.run(3, ["-m", "mpicomp", "run", *problem, *options], timeout=45)
    assert job.code == 3 and job.err.count("diverged in round 11") == 1 and "all gradients were finite" in job.err
    assert "try a smaller --step" in job.err and "the last good checkpoint is" in job.err and "Traceback" not in job.err
