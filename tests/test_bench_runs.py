"""Benchmarks of rounds, starts and links return what they promise; how fast anything is, is no test."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mpicomp.errors import ConfigError, LabError
from mpicomp.experiments.bench import breakeven, link, target
from mpicomp.experiments.bench.breakeven import Rates, break_even
from mpicomp.experiments.bench.start import PHASES, bench_start
from mpicomp.experiments.lab import NetworkLab
from mpicomp.runtime.config import Config
from mpicomp.wire import HEADER_NBYTES

SMALL = {"problem": "quadratic", "problem_options": {"dim": 40}, "clients": 4, "method": "gd"}


def is_interval(values: Any) -> bool:
    median, low, high = values
    return 0 < low <= median <= high and bool(np.isfinite(high))


# ---- break-even speeds ---------------------------------------------------------------------------------------------------
def test_the_break_even_speed_of_a_link_bound_round():
    """While messages travel longer than they take to decode, the speed has a closed form: the n-th of it where up and down overlap."""
    n, e, c, dense_c = 7, 0.02, 1e-4, 5e-5
    for d, overlapping in ((20_000, False), (10**6, True)):
        dense, few = Rates("identity", 0.0, dense_c, 4 * d), Rates("some", e, c, d // 2)
        expected = 8 * (1 if overlapping else n) * (dense.nbytes - few.nbytes) / (e + c - dense_c)
        assert break_even(few, dense, n, d, n) == pytest.approx(expected, rel=1e-6)
        # seven workers on two cores take 7/2 as long to encode
        shared = expected * (e + c - dense_c) / (e * n / 2 + c - dense_c)
        assert break_even(few, dense, n, d, 2) == pytest.approx(shared, rel=1e-6)


def test_break_even_never_and_at_any_speed():
    dense = Rates("identity", 0.0, 1e-3, 4_000_000)
    assert break_even(Rates("larger and slower", 1e-3, 2e-3, 5_000_000), dense, 4, 10**6, 4) is None
    assert break_even(Rates("smaller and faster", 0.0, 1e-4, 1_000_000), dense, 4, 10**6, 4) == float("inf")


def test_a_round_whose_server_is_the_wall():
    """Many fast messages that are slow to decode: the first arrives, then all are decoded one after the other."""
    rates = Rates("slow", 0.0, 0.01, 1000)
    assert rates.round_seconds(1e12, 50, 0, 50) == pytest.approx(0.5, rel=1e-6)


def test_bench_breakeven_measures_messages():
    dense, sign, top = breakeven.breakeven(2000, 3, ["sign", "topk:k=20"], repeats=3)
    assert dense["spec"] == "identity" and dense["encode"] == 0 and dense["nbytes"] == HEADER_NBYTES + 8000
    assert sign["nbytes"] == HEADER_NBYTES + 4 + 250
    assert top["times_fewer"] == dense["nbytes"] / top["nbytes"] > 50
    assert all(r["decode"] > 0 for r in (dense, sign, top)) and sign["encode"] > 0
    assert all(r["speed"] is None or r["speed"] > 1e3 for r in (sign, top)) and dense["speed"] is None


# ---- bounds of rounds ------------------------------------------------------------------------------------------------------
def test_bytes_one_after_another():
    """Four workers, dense long models: n + 1 of them; and messages longer than the models."""
    D = 10**6
    assert target.on_the_path(4 * D, 4 * D, 4, 1) == 5 * D
    assert target.on_the_path(40.0, 4 * D, 4, 1) == 4 * D + 10
    assert target.on_the_path(10 * 8 * D, 10 * 4 * D, 4, 10) == 10 * 9 * D
    assert target.on_the_path(4000, 4000, 4, 1) == 8000


def test_the_bound_of_a_round_on_links():
    """A star of n dense workers takes n + 1 vectors one after the other, not 2n; slices go both ways at once."""
    n, D, rate, delay = 4, 10**6, 1e8, 0.002
    star = {
        "exchange": "p2p", "work": [0.0, 0.01, 0.02, 0.02, 0.02], "step": [0.003, 0.0, 0.0, 0.0, 0.0],
        "received": [n * D, *[D] * n], "sent": [n * D, *[D] * n], "up": [0.0, *[D] * n], "down": D,
    }  # fmt: skip
    assert link.bound(star, rate, delay) == pytest.approx(8 * (n + 1) * D / rate + 2 * delay + 0.01 + 0.003)
    # where little comes up, the last worker's answer follows the last model
    few = {**star, "received": [n * 100, *[D] * n], "up": [0.0, *[100] * n]}
    assert link.bound(few, rate, delay) == pytest.approx(8 * (n * D + 100) / rate + 2 * delay + 0.01 + 0.003)
    slices = {**star, "exchange": "sharded", "received": [D] * 5, "sent": [D, D, 2 * D, D, D], "step": [0.001] * 5}
    assert link.bound(slices, rate, delay) == pytest.approx(16 * D / rate + 2 * delay + 0.02 + 0.001)


# ---- under an MPI launcher -----------------------------------------------------------------------------------------------
@pytest.mark.full(reason="measures, and asserts little")
@pytest.mark.process
def test_bench_mpi(mpi):
    argv = ["-m", "mpicomp", "bench", "mpi", "--json", "--repeats", "4", "--size", "8", "--size", "5000"]
    rows = json.loads(mpi.run(3, argv).check().out)
    operations = ("latency", "bandwidth", "bcast", "gather", "allreduce")
    assert [(r["size"], r["operation"]) for r in rows] == [(size, name) for size in (8, 5000) for name in operations]
    for r in rows:
        assert is_interval(r["seconds"]) and r["p99"] > 0 and r["memcpy"] > 0
        assert r["rate"] == pytest.approx(r["size"] / r["seconds"][0])


@pytest.mark.full(reason="measures, and asserts little")
@pytest.mark.process
def test_bench_scaling_clients(mpi):
    argv = ["-m", "mpicomp", "bench", "scaling-clients", "--json", "--clients", "4", "--clients", "9"]
    rows = json.loads(
        mpi.run(3, [*argv, "--data", "mushrooms", "--rounds", "5", "--repeats", "2"], timeout=200).check().out
    )
    assert [(r["clients"], r["dim"]) for r in rows] == [(4, 112), (9, 112)]
    for r in rows:
        assert is_interval(r["round"]) and r["kernels"] > 0 and r["rate"] == pytest.approx(1 / r["round"][0])
        frames, message = 2, 112 * 12 / 8  # natural of float64: a sign and eleven bits of exponent
        assert r["bytes"] == pytest.approx(message + frames * HEADER_NBYTES / r["clients"])
    few, many = rows
    assert many["each"] * 5 == pytest.approx(9 * many["beyond"] - 4 * few["beyond"]) and few["each"] == 0


@pytest.mark.full(reason="three jobs for three messages")
@pytest.mark.process
def test_benchmarks_that_need_ranks_say_so(mpi):
    for name in ("mpi", "scaling-clients", "overhead"):
        job = mpi.run(1, ["-m", "mpicomp", "bench", name])
        assert job.code == 2 and f"bench {name} needs at least 2 ranks" in job.err and "Traceback" not in job.err


@pytest.mark.full(reason="measures, and asserts little")
@pytest.mark.process
def test_bench_start(mpi):
    found = bench_start(Config(**SMALL), ranks=2, repeats=2)
    assert is_interval(found["total"]) and is_interval(found["processor"]) and is_interval(found["import_package"])
    assert set(found["phases"]) == set(PHASES) and all(np.isfinite(list(found["phases"].values())))
    assert found["loaded"] > 0 and found["compiled"] == 0
    with pytest.raises(ConfigError, match=r"(?s)bench start: the job failed.*unknown compressor"):
        bench_start(Config(**{**SMALL, "method": "ef21", "compressor": "nothing"}), ranks=2, repeats=1)


# ---- in the network lab --------------------------------------------------------------------------------------------------
@pytest.fixture
def lab():
    """Skips where no lab can be made."""
    try:
        NetworkLab(nodes=2).close()
    except LabError as error:
        pytest.skip(str(error))


@pytest.mark.process
@pytest.mark.usefixtures("lab")
def test_bench_target(mpi, monkeypatch):
    four_bits = next(name for name in target.CONTENDERS if name.startswith("4 bits"))
    kept = {name: target.CONTENDERS[name] for name in (target.DENSE, target.ALLREDUCE, four_bits)}
    monkeypatch.setattr(target, "CONTENDERS", kept)
    rows = target.bench_target(dim=4096, nodes=3, rate="100mbit", target=0.05)
    dense, allreduce, four = rows
    assert [r["name"] for r in rows] == list(kept) and all(0 < r["reached"] <= 0.0501 for r in rows)
    assert dense["bytes"] == dense["rounds"] * 4 * (4 * 4096 + HEADER_NBYTES)  # two workers, up and down
    assert dense["gain"] == dense["fewer"] == dense["shorter"] == allreduce["gain_allreduce"] == 1
    assert dense["path"] == dense["bytes"]  # short models go to all at once
    assert 6 < dense["bytes"] / dense["rounds"] / (four["bytes"] / four["rounds"]) < 8
    # the dense vector in and out of every rank, as often as the library likes, and what a start takes
    assert allreduce["path"] > allreduce["rounds"] * 4 * 4096


@pytest.mark.process
@pytest.mark.usefixtures("lab")
def test_bench_breakeven_in_the_lab(mpi):
    found = breakeven.check(dim=4096, workers=2, rounds=4, repeats=3)
    assert [r["speed"] / found["speed"] for r in found["rows"]] == [0.25, 1.0, 4.0]
    assert found["rows"][0]["predicted"] > found["rows"][1]["predicted"] > found["rows"][2]["predicted"]
    assert found["rows"][1]["predicted"] == pytest.approx(1, abs=1e-3)
    assert all(r["measured"] == r["dense"] / r["compressed"] > 0 for r in found["rows"])
