"""The dense baseline without a server: the star's trajectory up to the order of sums, its bytes as MPI sees them, orders for all ranks."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.cluster import byte_check
from mpicomp.cluster.placement import Placement
from mpicomp.errors import ConfigError, EnvironmentMismatch

COMMON: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 10, "rounds": 40,
    "step": 0.02, "init": "normal:3", "eval_every": 7,
}  # fmt: skip


@pytest.fixture
def comm():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    yield comm
    comm.Free()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"method": "gd"}, 1e-13),
        ({"method": "gd", "optimizer": "heavyball", "wire_dtype": "float32"}, 1e-5),
        ({"method": "gd", "dtype": "float32"}, 1e-5),
        ({"method": "ef21", "compressor": "identity"}, 1e-13),
        ({"method": "ef21-w", "compressor": "identity", "method_options": {}}, 1e-13),
        ({"method": "marina", "compressor": "identity", "method_options": {"p": 0.3}}, 1e-13),
    ],
    ids=str,
)
def test_the_stars_trajectory_up_to_the_order_of_sums(comm, options, tolerance):
    star = mc.run(comm=comm, exchange="p2p", **{**COMMON, **options})
    flat = mc.run(comm=comm, exchange="allreduce", **{**COMMON, **options})
    errors, size = [], comm.Get_size()
    if comm.Get_rank() == 0:
        scale = np.abs(star.x).max()
        errors = [float(np.abs(star.x - flat.x).max() / scale), abs(star.summary["loss"] / flat.summary["loss"] - 1)]
        counted, dtype = flat.summary["bytes"], np.dtype(flat.summary["wire_dtype"])
        gathers = counted["uplink"]["frames"] // size
        assert gathers >= 40
        assert counted["uplink"]["payload"] == gathers * size * 43 * dtype.itemsize
        assert counted["uplink"]["header"] == gathers * size * 4 * dtype.itemsize
        assert counted["uplink"]["values_only"] == star.summary["bytes"]["uplink"]["values_only"]
        assert counted["downlink"]["message"] == 0
    errors = comm.bcast(errors)
    assert max(errors) < tolerance


@pytest.mark.mpi(min_size=2)
def test_every_rank_has_the_same_model(comm):
    """Nothing travels down, so nothing but equal sums keeps the ranks together."""
    from mpicomp.cluster.clock import Clock
    from mpicomp.cluster.comm import Comm
    from mpicomp.exchanges.allreduce import AllreduceExchange
    from mpicomp.kernels.random import uplink_keys

    counted, n, d = Comm(comm), comm.Get_size() + 3, 100_001
    exchange = AllreduceExchange(counted, n, d, np.float32, np.full(n, 1 / n), Clock(counted.now))
    V = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    total, codec = np.ones((1, d), np.float32), mc.compressor("identity").bind(d, n, np.float32)
    exchange.gather(codec, V[exchange.clients].copy(), uplink_keys(0, 0), 0, total)
    sums = comm.allgather(total[0].tobytes())
    assert len(set(sums)) == 1
    np.testing.assert_allclose(total[0], V.mean(axis=0), atol=1e-6)
    counted.free()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ef21", "compressor": "topk:k=3"}, "cannot carry topk:k=3"),
        (
            {"method": "pp-marina", "compressor": "identity", "allow_unsafe": True},
            "sends each client a message of its own",
        ),
        ({"method": "terngrad"}, "needs every client's vector"),
        ({"method": "gd", "clients": 1}, "1 clients cannot be spread over"),
    ],
    ids=str,
)
def test_what_cannot_be_summed_is_refused_on_all_ranks(comm, options, words):
    message = ""
    try:
        mc.run(comm=comm, exchange="allreduce", **{**COMMON, **options})
    except ConfigError as error:
        message = str(error)
    assert all(words in said for said in comm.allgather(message))


def test_placement_on_all_ranks():
    for n, size in ((4, 4), (10, 4), (1000, 7)):
        shares = [Placement.everywhere(n, size).clients(rank) for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(shares), np.arange(n))
        assert min(map(len, shares)) >= 1 and np.ptp([len(share) for share in shares]) <= 1


@pytest.mark.full(reason="test_bytes.py has the same check of other exchanges")
@pytest.mark.process
def test_its_ledger_is_what_mpi_was_handed(mpi):
    try:
        byte_check.build(mpi.python, mpi.is_open_mpi)
    except EnvironmentMismatch as error:
        pytest.skip(str(error))
    argv = ["-m", "mpicomp", "run", "-q", "--no-table", "--verify-bytes", "--exchange", "allreduce", "--method", "gd"]
    job = mpi.run(3, [*argv, "--rounds", "12", "--clients", "6", "--step", "0.1"], NO_COLOR="1").check()
    assert "ledger and MPI agree to the byte" in job.out
    assert re.search(rf"round Allreduce +36 +{36 * 8 * (112 + 4)} +36 +{36 * 8 * (112 + 4)}", job.out)


SCRIPT = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
import mpicomp as mc
comm = MPI.COMM_WORLD

class Troubled(mc.Problem):
    n_clients, dim = 6, 4
    calls = 0
    def loss(self, i, x):
        return 0.5 * float(x @ x)
    def gradient(self, i, x, out):
        out[:] = x
        if i == 3:
            self.calls += 1
            if self.calls == 100 and sys.argv[1] == "nan":
                out[2] = np.nan
            if self.calls == 100 and sys.argv[1] == "signal":
                os.kill(os.getpid(), signal.SIGUSR1)

result = mc.run(comm=comm, problem=Troubled(), method="gd", rounds=300, step=0.01, init="ones", exchange="allreduce",
                eval_every=1000, out=sys.argv[2], resume="auto")
if comm.rank == 0:
    print(result.summary["iterate_sha256"], result.summary["rounds"], result.interrupted, result.summary["divergence"])
"""


@pytest.mark.full(reason="five jobs")
@pytest.mark.process
def test_a_nan_or_a_signal_on_one_rank_stops_all(mpi, tmp_path):
    (tmp_path / "troubled.py").write_text(SCRIPT)

    def run(kind: str, out: str) -> list[str]:
        return (
            mpi.run(3, [tmp_path / "troubled.py", kind, tmp_path / out], timeout=45)
            .check()
            .out.splitlines()[-1]
            .split(" ", 3)
        )

    _, rounds, interrupted, divergence = run("nan", "nan")
    assert 90 < int(rounds) < 101 and interrupted == "False" and "client 3 (rank 1" in divergence
    _, rounds, interrupted, _ = run("signal", "signal")
    assert 90 < int(rounds) < 102 and interrupted == "True"
    assert json.loads((tmp_path / "signal" / "summary.json").read_text())["interrupted"]
    resumed, alone = run("calm", "signal"), run("calm", "calm")
    assert resumed[0] == alone[0] and resumed[1] == alone[1] == "300"
