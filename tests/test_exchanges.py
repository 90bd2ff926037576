"""The contract of an exchange, on the one that needs no MPI; what a frame's header says; no allocation per round."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numba.core.runtime import _nrt_python

import mpicomp as mc
from mpicomp.cluster.ledger import describe
from mpicomp.cluster.placement import Placement
from mpicomp.errors import WireError
from mpicomp.exchanges import base as exchange_module
from mpicomp.exchanges.base import Group
from mpicomp.exchanges.local import LocalExchange
from mpicomp.kernels import njit
from mpicomp.kernels.random import derive, downlink_keys, uplink_keys
from mpicomp.problems import problems
from mpicomp.runtime.config import Config
from mpicomp.runtime.session import Composition, Session
from mpicomp.wire import FLAG_FLOAT64, HEADER_NBYTES, check_header, read_header, write_header

N, D = 6, 41
COMPRESSORS = (
    "identity",
    "topk:k=5",
    "randk:k=5",
    "randk:k=5,mask=shared",
    "permk",
    "sign",
    "qsgd:levels=4",
    "natural",
)
WEIGHTS = np.arange(1.0, N + 1) / 21


def vectors(n: int = N, d: int = D, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((n, d)).astype(dtype)


def applied(name: str, V: np.ndarray, keys: Any, wire: Any = None) -> np.ndarray:
    """C_i(V_i) for all clients, one at a time."""
    c = mc.compressor(name)
    return np.array([c.apply(v, mc.MessageKey.of(keys, i, len(V)), wire or V.dtype) for i, v in enumerate(V)])


@pytest.fixture(params=[1 << 22, 300], ids=["one frame", "small frames"])
def group_nbytes(request, monkeypatch):
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", request.param)


@pytest.mark.covering(2)
@pytest.mark.usefixtures("group_nbytes")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", COMPRESSORS)
class TestContract:
    def make(self, name, dtype):
        exchange = LocalExchange(N, D, dtype, WEIGHTS)
        return exchange, mc.compressor(name).bind(D, N, dtype)

    def close(self, actual, desired):
        np.testing.assert_allclose(
            actual, desired, rtol=20 * np.finfo(actual.dtype).eps, atol=4 * np.finfo(actual.dtype).eps
        )

    def test_gather(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        V, keys = vectors(dtype=dtype), uplink_keys(1, 9)
        total, into = np.full((1, D), 7, dtype), np.ones((N, D), dtype)
        exchange.gather(codec, V, keys, 9, total, into, 0.5)
        C = applied(name, V, keys)
        self.close(total[0], WEIGHTS.astype(dtype) @ C)
        self.close(into, 1 + dtype(0.5) * C)
        np.testing.assert_array_equal(V, vectors(dtype=dtype))

    def test_gather_from_some_clients(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        V, keys, active = vectors(dtype=dtype), uplink_keys(1, 9), np.array([0, 1, 0, 0, 1, 1], bool)
        total, into = np.full((1, D), 7, dtype), np.ones((N, D), dtype)
        exchange.gather(codec, V, keys, 9, total, into, active=active)
        C = applied(name, V, keys) * active[:, None]
        self.close(total[0], WEIGHTS.astype(dtype) @ C)
        self.close(into, 1 + C)
        assert describe(exchange.ledger.traffic)["uplink"]["messages"] == 3
        exchange.gather(codec, V, keys, 9, total, active=np.zeros(N, bool))
        assert not total.any()

    def test_gather_with_other_weights(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        V, keys, weights = vectors(dtype=dtype), uplink_keys(1, 9), np.linspace(1, 2, N)
        total = np.full((1, D), 7, dtype)
        exchange.gather(codec, V, keys, 9, total, weights=weights)
        self.close(total[0], weights.astype(dtype) @ applied(name, V, keys))

    def test_gather_into_separate_rows(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        V, keys, active = vectors(dtype=dtype), uplink_keys(1, 9), np.array([1, 1, 0, 1, 1, 1], bool)
        total = np.full((N, D), 7, dtype)
        exchange.gather(codec, V, keys, 9, total, separate=True, active=active)
        self.close(total, applied(name, V, keys) * active[:, None])

    def test_broadcast(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        v, keys, into = vectors(1, dtype=dtype), downlink_keys(1, 9), np.ones((1, D), dtype)
        C = mc.compressor(name).apply(v[0], mc.MessageKey.of(keys, 0, N))
        exchange.broadcast(codec, v, keys, 9, into)
        self.close(into[0], C)
        exchange.broadcast(codec, v, keys, 9, into, add=True)
        self.close(into[0], 2 * C)

    def test_scatter(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        v, keys, into = vectors(1, dtype=dtype), downlink_keys(1, 9), np.ones((N, D), dtype)
        C, mirror = applied(name, np.repeat(v, N, axis=0), keys), np.ones((N, D), dtype)
        exchange.scatter(codec, v, keys, 9, into, mirror)
        self.close(into, C)
        self.close(mirror, C)
        exchange.scatter(codec, v, keys, 9, into, mirror, add=True)
        self.close(into, 2 * C)
        self.close(mirror, 2 * C)

    def test_scatter_to_some_clients_leaves_the_other_rows(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        v, keys, active = vectors(1, dtype=dtype), downlink_keys(1, 9), np.array([0, 1, 0, 0, 1, 1], bool)
        into = np.full((N, D), 3, dtype)
        exchange.scatter(codec, v, keys, 9, into, active=active)
        C = applied(name, np.repeat(v, N, axis=0), keys)
        self.close(into, np.where(active[:, None], C, dtype(3)))

    def test_a_scaled_codec(self, name, dtype):
        exchange, codec = self.make(name, dtype)
        V, keys = vectors(dtype=dtype), uplink_keys(1, 9)
        total, into = np.zeros((1, D), dtype), np.zeros((N, D), dtype)
        exchange.gather(codec.scaled(0.25), V, keys, 9, total, into)
        C = applied(name, V, keys) / 4
        self.close(total[0], WEIGHTS.astype(dtype) @ C)
        self.close(into, C)

    def test_bytes(self, name, dtype):
        """Frames as they are: a header each, and the messages that the codec writes."""
        exchange, codec = self.make(name, dtype)
        V, keys = vectors(dtype=dtype), uplink_keys(1, 9)
        exchange.gather(codec, V, keys, 9, np.zeros((1, D), dtype))
        buf, tally, rows = np.zeros(N * codec.max_nbytes, np.uint8), np.zeros(2, np.int64), np.arange(N)
        messages = codec.encode(V, rows, rows, keys, buf, 0, tally)
        counted = describe(exchange.ledger.traffic)["uplink"]
        per_frame = N if exchange_module.GROUP_NBYTES > 300 else max(1, (300 - HEADER_NBYTES) // codec.max_nbytes)
        assert counted["messages"] == N
        assert counted["frames"] == -(-N // per_frame)
        assert counted["message"] == messages + HEADER_NBYTES * counted["frames"]
        assert counted["payload_bits"] == tally[0] and counted["values_only"] == -(-tally[1] // 8)
        assert counted["payload"] + counted["header"] == counted["message"]
        assert describe(exchange.ledger.traffic)["downlink"]["message"] == 0


@pytest.mark.parametrize(
    ("method", "compressor"),
    [("ef21", "topk:k=3"), ("marina", "permk"), ("marina-p", "randk:k=5"), ("diana", "natural")],
)
def test_small_frames_give_the_same_bits(method, compressor, monkeypatch):
    options: dict[str, Any] = {
        "problem": "quadratic", "problem_options": {"dim": 200, "reg": 0.01}, "clients": 7, "rounds": 60, "step": 0.01,
        "method": method, "compressor": compressor, "init": "normal:1", "allow_unsafe": True,
    }  # fmt: skip
    large = mc.run(**options)
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 100)
    small = mc.run(**options)
    assert small.summary["iterate_sha256"] == large.summary["iterate_sha256"]
    for direction in ("uplink", "downlink"):
        few, many = (result.summary["bytes"][direction] for result in (large, small))
        assert many["payload_bits"] == few["payload_bits"] and many["messages"] == few["messages"]
        assert many["message"] - few["message"] == HEADER_NBYTES * (many["frames"] - few["frames"])
    assert any(
        small.summary["bytes"][k]["frames"] > large.summary["bytes"][k]["frames"] for k in ("uplink", "downlink")
    )


@pytest.mark.covering(2)
@pytest.mark.parametrize("n", [1, 2, 7, 20, 1000])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_placement(n, size):
    """Every client is on one rank, in order, and workers differ by at most one client; too many workers are refused."""
    if n < size - 1:
        with pytest.raises(
            mc.ConfigError, match=f"{n} clients cannot be spread over {size - 1} workers.*raise clients to"
        ):
            Placement.star(n, size)
        return
    placement = Placement.star(n, size)
    shares = [placement.clients(rank) for rank in range(size)]
    assert len(shares[0]) == 0
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(n))
    assert np.ptp([len(share) for share in shares[1:]]) <= 1


# ---- allocation ---------------------------------------------------------------------------------------------------------
ROWS = [
    ("gd", "identity", {}),
    ("dcgd", "qsgd:bits=4,bucket=512", {}),
    ("dcgd", "randk:k=100", {"batch": 4}),
    ("diana", "natural", {}),
    ("ef14", "sign", {}),
    ("ef21", "topk:k=50", {}),
    ("ef21", "topk:k=50", {"optimizer": "heavyball"}),
    ("ef21-p", "topk:k=50", {}),
    ("marina", "permk", {}),
    ("marina", "permk:layout=uniform", {}),
    ("marina", "randk:k=100,sampling=uniform", {}),
    ("marina-p", "permk", {}),
    ("marina-p", "randk:k=100,mask=shared", {}),
    ("marina", "permk", {"wire_dtype": "float32"}),
]


class LeastSquares(mc.Problem):
    """Rows for minibatches, without a data file."""

    n_clients, dim = 5, 4000

    def __init__(self):
        self.rows = np.random.default_rng(0).standard_normal((5, 8, 4000)) / 60

    def loss(self, i, x):
        return 0.5 * float(np.mean((self.rows[i] @ x - 1) ** 2))

    def gradient(self, i, x, out):
        np.mean(self.rows[i], axis=0, out=out)

    def batch_gradient(self, i, x, samples, out):
        out[:] = 0
        for s in samples:
            np.add(out, self.rows[i, s], out=out)

    def n_samples(self, i):
        return 8


@pytest.fixture
def traced_kernels():
    """Kernels take their memory from Python's allocator, so that tracemalloc sees it (there is no way back, nor a need for one)."""
    _nrt_python.memsys_use_cpython_allocator()


@pytest.mark.usefixtures("traced_kernels")
@pytest.mark.parametrize(("method", "compressor", "options"), ROWS)
def test_nothing_is_allocated_per_round(method, compressor, options):
    """A vector has 32 kB here, so one that is made anew in a round shows in the peak."""
    config = Config.load(
        options={"method": method, "compressor": compressor, "step": "0.01", "allow_unsafe": True, **options}
    )
    problem = LeastSquares() if config.batch else problems.build("quadratic", {"dim": 4000, "clients": 5})
    composition = Composition(config, problem)
    session = Session(config, problem, composition.parts(0.01), LocalExchange(5, 4000), 0.01)
    rounds = iter(range(1000))

    def some(count: int) -> None:
        for _ in range(count):
            session.round(next(rounds))

    some(30)
    gc.collect()
    kept = [
        [0] * length for length in range(1, 21) for _ in range(2000)
    ]  # CPython keeps so many freed tuples of each length
    kept[:] = map(tuple, kept)
    del kept
    grown, peaks = [], []
    tracemalloc.start()
    try:
        for _ in range(3):  # what happens once (late caches, tracemalloc itself) is in the first block only
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            some(100)
            after, peak = tracemalloc.get_traced_memory()
            grown.append(after - before)
            peaks.append(peak - before)
    finally:
        tracemalloc.stop()
    assert min(grown) < 1000, f"memory grows from round to round: {grown}"
    assert min(peaks) < 8000, f"something as large as a vector is allocated in a round: {peaks}"


@njit
def allocates(n):
    return np.zeros(n).sum()


@pytest.mark.usefixtures("traced_kernels")
def test_allocations_in_kernels_are_seen():
    allocates(10)
    tracemalloc.start()
    try:
        allocates(4000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak > 32000


# ---- corrupted frames ---------------------------------------------------------------------------------------------------
CORRUPTIONS = {
    "magic": (lambda frame: frame.__setitem__(0, 0x7F), "not a frame: first byte 0x7f"),
    "version": (lambda frame: frame.__setitem__(1, 9), "version 9"),
    "codec": (lambda frame: frame.__setitem__(2, 77), "codec 77"),
    "flags": (lambda frame: frame.__setitem__(3, 0x81), "unknown flags 0x81"),
    "wire dtype": (lambda frame: frame.__setitem__(3, 0), "float32 values, expected float64"),
    "round": (lambda frame: frame.__setitem__(4, 5), "round 5, expected round 4"),
    "round of 256 later": (lambda frame: frame.__setitem__(5, 1), "round 260, expected round 4"),
    "messages": (lambda frame: frame.__setitem__(8, 3), f"3 messages, expected {N}"),
    "length": (lambda frame: frame.__setitem__(13, 0xFF), "wrong length"),
}


class Corrupting(LocalExchange):
    """Spoils each frame after it has been written."""

    def spoil(self, buf: np.ndarray, nbytes: int) -> int:
        return nbytes

    def write_frame(self, codec, V, rows, clients, keys, round, buf):
        return self.spoil(buf, super().write_frame(codec, V, rows, clients, keys, round, buf))


@pytest.mark.parametrize("direction", ["gather", "scatter", "broadcast"])
@pytest.mark.parametrize("field", CORRUPTIONS)
def test_a_spoiled_header_is_refused(field, direction):
    spoil, message = CORRUPTIONS[field]
    if direction == "broadcast":
        message = message.replace(f"expected {N}", "expected 1")
    exchange = Corrupting(N, D)
    exchange.spoil = lambda buf, nbytes: spoil(buf) or nbytes
    codec, keys = mc.compressor("identity").bind(D, N), uplink_keys(0, 4)
    total = np.zeros((N if direction == "scatter" else 1, D))
    with pytest.raises(WireError, match=message):
        if direction == "gather":
            exchange.gather(codec, vectors(), keys, 4, total)
        else:
            getattr(exchange, direction)(codec, vectors(1), keys, 4, total)
    assert not total.any()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_frame_of_any_other_length_is_refused(name):
    """Cut off at every byte, and with one byte too many, header put right: never a wrong result, never a crash."""
    V, keys, codec = vectors(), uplink_keys(0, 0), mc.compressor(name).bind(D, N)
    exchange = LocalExchange(N, D)
    buf, group = np.zeros(HEADER_NBYTES + N * codec.max_nbytes + 8, np.uint8), np.arange(N)
    nbytes = exchange.write_frame(codec, V, group, group, keys, 0, buf)
    frames = Group(group, group, np.zeros(N, np.int64))
    for wrong in (*range(HEADER_NBYTES, nbytes), nbytes + 1):
        write_header(buf, codec.codec_id, FLAG_FLOAT64, 0, N, wrong - HEADER_NBYTES)
        with pytest.raises(WireError):
            exchange.accumulate(codec, buf, wrong, frames, keys, 0, exchange.fold(codec, np.zeros((1, D)), None, False))
    for wrong in range(HEADER_NBYTES):
        with pytest.raises(WireError, match=f"truncated frame: {wrong} bytes"):
            read_header(buf, wrong)


def test_header_round_trip():
    """Byte by byte as docs/reference/wire.md says; the round wraps at 2^32."""
    frame = np.zeros(HEADER_NBYTES + 300, np.uint8)
    write_header(frame, 5, FLAG_FLOAT64, 0x01020304 + (7 << 32), 0x0A0B, 300)
    assert frame[:16].tobytes() == bytes([0xC5, 1, 5, 1, 4, 3, 2, 1, 0x0B, 0x0A, 0, 0, 0x2C, 1, 0, 0])
    header = read_header(frame, len(frame))
    assert header == (5, FLAG_FLOAT64, 0x01020304, 0x0A0B, 300)
    good = {"codec": 5, "wire_dtype": np.dtype(np.float64), "round": 0x01020304 + (7 << 32), "messages": 0x0A0B}
    check_header(header, **good)
    for key, value in {"codec": 4, "wire_dtype": np.dtype(np.float32), "round": 1, "messages": 1}.items():
        with pytest.raises(WireError):
            check_header(header, **{**good, key: value})


def test_keys_of_directions_and_rounds_differ():
    drawn = {int(key) for t in range(50) for keys in (uplink_keys(3, t), downlink_keys(3, t)) for key in keys}
    assert len(drawn) == 200
    assert derive(3, 1, 0) != derive(4, 1, 0)
