"""A block of clients split over threads: the same bytes, sums and runs as with one."""

import os

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.cluster.threads import CodecThreads, threads_of
from mpicomp.compressors import compressors
from mpicomp.compressors.codec import Difference
from mpicomp.errors import ConfigError, WireError
from mpicomp.kernels.random import uplink_keys

OPTIONS = {
    "topk": "fraction=0.02",
    "chunked-topk": "fraction=0.05,chunk=50",
    "randk": "k=7,sampling=uniform",
    "qsgd": "bits=4",
}  # of those that cannot do without
SPECS = [f"{name}:{OPTIONS[name]}" if name in OPTIONS else name for name in compressors if name != "flag"]
SPECS += ["cast:to=bfloat16", "cq:norm=max", "cq:levels=16,entropy=true", "cq:levels=5,rotate=true", "eden:bits=3"]
SPECS += ["topk:k=100,values=4,rounding=stochastic", "randk:k=100,values=2"]


def sent(team, codec, V, rows):
    """(bytes, tally, what is decoded into the rows) of the messages of some rows."""
    keys, buf, tally = uplink_keys(0, 1), np.zeros(len(rows) * codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
    out, weights = np.ones_like(V), np.linspace(0.5, 1.5, len(rows))
    end = team.encode(codec, V, rows, rows, keys, buf, 0, tally)
    team.decode_add(codec, buf, 0, end, rows, rows, weights, keys, out)
    return end, buf[:end].tobytes(), tally.tolist(), out.tobytes()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("threads", [2, 3, 9])
def test_any_number_of_threads_gives_the_same_bits(spec, threads):
    V = np.random.default_rng(0).standard_normal((7, 500))
    V[3, 4:] = 0  # a top-k message that is shorter than the others
    codec = compressors.create(spec).bind(500, 7, np.float64)
    if codec.round_maximum is not None:
        codec.round_maximum[0] = codec.measure(V, np.arange(7), np.arange(7), uplink_keys(0, 1)).max()
    for rows in (np.arange(7), np.array([0, 2, 3, 6]), np.array([5])):
        assert sent(CodecThreads(threads, least=0), codec, V, rows) == sent(CodecThreads(), codec, V, rows)


def test_widths_that_a_method_chooses_reach_every_thread():
    V, rows = np.random.default_rng(0).standard_normal((4, 500)), np.arange(4)
    codec, team = compressors.create("dynamic").bind(500, 4, np.float64), CodecThreads(3, least=0)
    for widths in ((2, 9, 3, 12), (12, 2, 16, 5)):  # changed when the threads have been at work
        codec.widths[:] = widths
        got = sent(team, codec, V, rows)
        assert got == sent(CodecThreads(), codec, V, rows)
        assert 8 * got[0] == sum(codec.message_bits(width) for width in widths)


def test_a_sum_over_clients_keeps_its_order():
    V, rows = np.random.default_rng(0).standard_normal((5, 300)), np.arange(5)
    codec, team, keys = compressors.create("sign").bind(300, 5, np.float64), CodecThreads(2, least=0), uplink_keys(0, 0)
    buf, zeros, weights = np.zeros(5 * codec.max_nbytes, np.uint8), np.zeros(5, np.int64), np.linspace(0.1, 0.9, 5)
    end = team.encode(codec, V, rows, rows, keys, buf, 0, np.zeros(2, np.int64))
    expected, total = np.zeros((1, 300)), np.zeros((1, 300))
    for j in rows:
        expected[0] += weights[j] * np.abs(V[j]).mean() * np.where(V[j] < 0, -1, 1)
    team.decode_add(codec, buf, 0, end, zeros, rows, weights, keys, total)
    np.testing.assert_allclose(total, expected, rtol=1e-13)


def test_a_thread_that_fails_is_heard():
    codec, rows, team = compressors.create("sign").bind(101, 4, np.float64), np.arange(4), CodecThreads(2, least=0)
    buf = np.full(4 * codec.max_nbytes, 255, np.uint8)  # bits behind the last sign that must be zero are not
    with pytest.raises(WireError, match="bits that must be zero"):
        team.decode_add(codec, buf, 0, buf.size, rows, rows, np.ones(4), uplink_keys(0, 0), np.zeros((4, 101)))


def test_differences_and_a_users_own_compressor_work_in_threads_too():
    V, state = np.random.default_rng(0).standard_normal((2, 6, 400))
    codec, rows, results = compressors.create("sign").bind(400, 6, np.float64), np.arange(6), []
    for team in (CodecThreads(), CodecThreads(2, least=0)):
        buf = np.zeros(6 * codec.max_nbytes, np.uint8)
        difference = Difference(V, state, np.empty_like(V))
        team.encode(codec, difference, rows, rows, uplink_keys(0, 0), buf, 0, np.zeros(2, np.int64))
        results.append(buf.tobytes())
    assert results[0] == results[1]

    class Half(mc.Compressor):
        def max_nbytes(self, d, dtype):
            return 2 * d

        def encode(self, x, out, key):
            out[: 2 * x.size] = x.astype(np.float16).view(np.uint8)
            return 2 * x.size

        def decode(self, buf, out, key):
            out[:] = buf.view(np.float16)

    half = Half().bind(400, 6)
    assert half.twin() is None and sent(CodecThreads(2, least=0), half, V, rows) == sent(CodecThreads(), half, V, rows)


def test_a_run_is_the_same_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("mpicomp.cluster.threads.CodecThreads.__init__.__defaults__", (1, 0))
    options = {"method": "ef21", "compressor": "sign", "clients": 5, "rounds": 8, "step": "0.01"}
    assert np.array_equal(mc.run(**options, threads=1).x, mc.run(**options, threads=2).x)
    with pytest.raises(ConfigError, match="threads=-1"):
        mc.run(**options, threads=-1)


def test_the_number_of_threads_by_default(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_of(0, 1, {}) == 8 and threads_of(0, 4, {}) == 2 and threads_of(0, 100, {}) == 1
    assert threads_of(0, 16, {"MPI_LOCALNRANKS": "4"}) == 2 and threads_of(5, 1, {}) == 5
    assert threads_of(0, 2, {"SLURM_CPUS_PER_TASK": "3"}) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # bound to 8 of 64: they are this rank's own
    assert threads_of(0, 8, {}) == 8
