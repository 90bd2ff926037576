"""What outsiders touch: draws of a round, the wire's dtype, compressors by hand, who is asked for what, parts that are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors.base import compressors, example
from mpicomp.compressors.vectors import vector_of
from mpicomp.exchanges.local import LocalExchange
from mpicomp.exchanges.sharded import LocalShardedExchange
from mpicomp.kernels.random import client_key, exchange_private, numbered_keys, uplink_keys
from mpicomp.mechanisms.base import Link
from mpicomp.state import ClientState, CommonState, ModelState, ServerState, State, declared, held

ROOT = Path(__file__).parent.parent
BUILT_IN = [name for name in compressors if compressors[name].__module__.startswith("mpicomp.")]
RANDOM = [name for name in BUILT_IN if not example(name).deterministic]
VECTOR = np.random.default_rng(0).standard_normal(512)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


# ---- 1. the draws of a round -----------------------------------------------------------------------------------------
def gathered(link: Link, codec: object, n: int, round: int, draw: int | None = None) -> np.ndarray:
    total = np.zeros((n, VECTOR.size))
    link.gather(codec, np.tile(VECTOR, (n, 1)), round, total, separate=True, draw=draw)  # type: ignore[arg-type]
    return total


@pytest.mark.parametrize("kind", [LocalExchange, LocalShardedExchange])
@pytest.mark.parametrize("name", RANDOM)
def test_two_messages_of_a_round_are_independent(name, kind):
    n, compressor = 4, example(name)
    link = Link(kind(n, VECTOR.size), 5, np.float64, True)
    try:
        codec = link.codec(compressor)
    except mc.ConfigError:
        pytest.skip("cannot be cut")
    equal, rounds = np.zeros((3, n), int), 6
    for round in range(rounds):
        draws = [gathered(link, codec, n, round) for _ in range(3)]
        for pair, (a, b) in enumerate(((0, 1), (1, 2), (0, 2))):
            equal[pair] += [np.array_equal(draws[a][i], draws[b][i]) for i in range(n)]
        np.testing.assert_array_equal(gathered(link, codec, n, round, draw=0), draws[0])  # on purpose
    assert np.all(equal < rounds), "a client sends the same message twice"  # permk of four clients has four masks
    fresh = Link(kind(n, VECTOR.size), 5, np.float64, True)
    np.testing.assert_array_equal(gathered(fresh, fresh.codec(compressor), n, rounds - 1), draws[0])  # needs no history


@pytest.mark.parametrize("name", ["randk", "natural", "qsgd"])
def test_errors_of_two_messages_of_a_round_are_uncorrelated(name):
    """The mean of two independent messages has half the variance; with shared bits it has all of it."""
    link = Link(LocalExchange(1, VECTOR.size), 0, np.float64, True)
    codec = link.codec(example(name))
    single, both = [], []
    for round in range(60):
        a, b = (gathered(link, codec, 1, round)[0] - VECTOR for _ in range(2))
        single.append(np.sum(a**2))
        both.append(np.sum((0.5 * (a + b)) ** 2))
    assert 0.4 < np.mean(both) / np.mean(single) < 0.6


def test_a_down_and_an_up_message_of_one_link_are_independent():
    link = Link(LocalExchange(1, VECTOR.size), 0, np.float64, True)
    codec, into = link.codec(mc.compressor("randk:fraction=0.1")), np.zeros((1, VECTOR.size))
    up = gathered(link, codec, 1, 7)
    link.broadcast(codec, VECTOR[None], 7, into)
    assert not np.array_equal(up != 0, into != 0)


def test_exact_messages_take_no_draw():
    """So a method whose first exchange is exact has the random numbers that it had without it."""
    link = Link(LocalExchange(2, VECTOR.size), 0, np.float64, True)
    codec = link.codec(mc.compressor("randk:fraction=0.1"))
    plain = gathered(link, codec, 2, 0)
    gathered(link, link.values(), 2, 1)
    beside = gathered(link, codec, 2, 1)
    other = Link(LocalExchange(2, VECTOR.size), 0, np.float64, True)
    np.testing.assert_array_equal(gathered(other, other.codec(mc.compressor("randk:fraction=0.1")), 2, 1), beside)
    assert not np.array_equal(plain, beside)


def test_compressed_is_what_the_next_exchange_carries():
    link = Link(LocalExchange(2, VECTOR.size), 0, np.float64, True)
    codec, V = link.codec(mc.compressor("natural")), np.tile(VECTOR, (2, 1))
    for _ in range(2):
        expected = link.compressed(codec, V, 0, np.empty_like(V))
        np.testing.assert_array_equal(gathered(link, codec, 2, 0), expected)


def test_numbered_keys():
    keys = uplink_keys(3, 4)
    assert numbered_keys(keys, 0) == keys
    drawn = {int(k) for number in range(100) for k in numbered_keys(keys, number)}
    assert len(drawn) == 200
    later = {int(k) for round in range(5, 50) for k in uplink_keys(3, round)}
    assert not drawn & later


# ---- 3. the wire's dtype -----------------------------------------------------------------------------------------------
class Seen(mc.Compressor):
    """Sends the values as they come, and remembers what it was given."""

    unbiased = contractive = True

    def __init__(self) -> None:
        self.dtypes: set[str] = set()

    def omega(self, d, n=1):
        return 0.0

    def max_nbytes(self, d, dtype):
        return dtype.itemsize * (d - 1)

    def encode(self, x, out, key):
        self.dtypes.add(f"encode {x.dtype}")
        assert not x.flags.writeable
        message = x[:-1].view(np.uint8)
        out[: message.size] = message
        return message.size

    def decode(self, buf, out, key):
        self.dtypes.add(f"decode {out.dtype}")
        assert not buf.flags.writeable
        out[:-1] = buf.view(out.dtype)
        out[-1] = 0


@pytest.mark.parametrize("dtype, wire", [("float32", "float32"), ("float64", "float64"), ("float64", "float32")])
def test_a_compressor_of_ones_own_writes_the_wires_dtype(dtype, wire):
    own = Seen()
    result = mc.run(
        problem="quadratic", problem_options={"dim": 40}, method="dcgd", compressor=own, clients=3, rounds=5, step=0.01,
        dtype=dtype, wire_dtype=wire,
    )  # fmt: skip
    assert own.dtypes == {f"encode {wire}", f"decode {wire}"}
    nbytes = 4 + 39 * np.dtype(wire).itemsize
    assert result.summary["bytes"]["uplink"]["payload"] == 5 * 3 * nbytes


@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_never_more_than_dense(d, wire):
    """Also for compressors of one's own: where a message might be longer than the vector, the vector is sent."""
    assert Seen().bind(d, 1, wire).max_nbytes <= d * np.dtype(wire).itemsize
    x = np.arange(1.0, d + 1).astype(wire)
    np.testing.assert_array_equal(Seen().apply(x)[: d - 1], x[: d - 1])


def test_max_nbytes_of_the_old_form_is_refused():
    class Old(mc.Compressor):
        def max_nbytes(self, d):  # type: ignore[override]
            return d

    with pytest.raises(mc.ConfigError, match=r"Old.max_nbytes must take \(d, dtype\)"):
        Old().bind(10, 1)


# ---- 4. by hand ---------------------------------------------------------------------------------------------------------
@DTYPES
@pytest.mark.parametrize("d", [1, 2, 129, 512])
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_compressor_works_by_hand(name, d, dtype):
    try:
        compressor = example(name)
        compressor.bind(d, 5, dtype)
    except mc.ConfigError:
        pytest.skip("its options do not fit the dimension")
    x, key = np.ascontiguousarray(VECTOR[:d], dtype), mc.MessageKey.seeded(1, client=2, n_clients=5)
    if name == "integers":
        x = np.clip(x.round(), -1, 1)
    data = compressor.compress(x, key)
    back = compressor.decompress(data)
    assert isinstance(data, bytes) and back.dtype == dtype and back.shape == (d,)
    np.testing.assert_array_equal(back, compressor.apply(x, key))
    assert compressor.compress(x, key) == data
    # the three methods of the simple contract
    out, again = np.zeros(compressor.max_nbytes(d, np.dtype(dtype)), np.uint8), np.full(d, 7, dtype)
    nbytes = compressor.encode(x, out, key)
    compressor.decode(out[:nbytes], again, key)
    np.testing.assert_array_equal(again, back)
    # the bytes of a run
    codec = compressor.bind(d, 5, dtype)
    if codec.round_maximum is None:
        buf, rows, clients = np.zeros(codec.max_nbytes, np.uint8), np.zeros(1, np.int64), np.array([2])
        end = codec.encode(x[None], rows, clients, uplink_keys(1, 0), buf, 0, np.zeros(2, np.int64))
        assert buf[:end].tobytes() == out[:nbytes].tobytes() == data[-end:]
    for damaged in (b"", data[:20], data[:-1] if nbytes else b"", b"\x00" + data[1:]):
        with pytest.raises(mc.WireError):
            compressor.decompress(damaged)


def test_a_message_of_another_compressor_is_refused():
    data = mc.compressor("sign").compress(VECTOR)
    with pytest.raises(mc.WireError, match="a message of codec"):
        mc.compressor("topk:k=10").decompress(data)


def test_a_compressor_without_methods_says_what_it_needs():
    class Empty(mc.Compressor):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define max_nbytes, encode and decode, or bind"):
        Empty().compress(VECTOR)


@pytest.mark.parametrize("client", [0, 1, 999, 2**31])
def test_the_private_key_of_an_exchange_from_a_clients(client):
    private = uplink_keys(7, 8).private
    assert exchange_private(np.uint64(client_key(private, client)), client) == private


GOOD = [
    (np.arange(50), np.float64),
    ([1, 2.5, -3], np.float64),
    ((True, False), np.float64),
    (np.float16([1, 2]), np.float32),
    (np.arange(6, dtype=">f8"), np.float64),
    (np.arange(12.0)[::2], np.float64),
    (np.arange(4, dtype=np.float32), np.float32),
    (np.array([1, 2], dtype=np.longdouble), np.float64),
]
BAD = [
    (np.zeros((2, 3)), r"x has shape \(2, 3\).*flatten it"),
    (1.0, r"x has shape \(\)"),
    (np.array([1, "a"], dtype=object), "x holds object entries"),
    (["a"], "x holds <U1 entries"),
    (np.array([1j]), "x holds complex128 entries"),
    (np.zeros(0), "x has no entries"),
    (np.array([2**60 + 1]), "integers above 2"),
    ([[1], [1, 2]], "x is not an array"),
]


@pytest.mark.parametrize("x, dtype", GOOD, ids=str)
def test_arrays_are_converted_where_that_loses_nothing(x, dtype):
    made = vector_of(x)
    assert made.dtype == dtype and made.flags.c_contiguous
    np.testing.assert_array_equal(made, np.asarray(x).astype(dtype))
    np.testing.assert_array_equal(mc.compressor("identity").apply(x), np.asarray(x).astype(dtype))


@pytest.mark.parametrize("x, message", BAD, ids=str)
def test_other_arrays_are_refused_by_name(x, message):
    for call in (mc.compressor("topk:k=1").apply, mc.compressor("topk:k=1").compress):
        with pytest.raises(mc.ConfigError, match=message):
            call(x)


# ---- 5. who is asked for what -----------------------------------------------------------------------------------------
def test_the_warm_up_of_a_server_asks_for_no_gradient():
    from mpicomp.exchanges.p2p import P2PExchange
    from mpicomp.runtime.session import Composition
    from mpicomp.runtime.warmup import warm_up

    def never(i, x):
        raise AssertionError("a rank without clients was asked for one")

    problem = mc.FunctionProblem(never, never, dim=20, n_clients=4, constants=mc.Smoothness.bounds(np.ones(4)))
    for method, compressor in [
        ("ef21", "topk:k=3"),
        ("marina", "permk"),
        ("cd-adam", "sign"),
        ("marina-p", "randk:k=2"),
    ]:
        config = mc.Config(method=method, compressor=compressor, step="0.01", allow_unsafe=True)
        composition = Composition(config, problem)
        warm_up(config, problem, composition, 0.01, P2PExchange, 3, np.arange(0), False)


def test_hosted_clients(monkeypatch):
    monkeypatch.setattr(
        "mpicomp.api.checked_communicator", lambda comm: None
    )  # test_options_hostile.py has what is refused
    assert mc.hosted_clients(7) == range(7)

    class Comm:
        def __init__(self, rank):
            self.rank = rank

        def Get_rank(self):
            return self.rank

        def Get_size(self):
            return 3

    assert [list(mc.hosted_clients(4, Comm(r))) for r in range(3)] == [[], [0, 1], [2, 3]]
    assert [list(mc.hosted_clients(4, Comm(r), "sharded")) for r in range(3)] == [[0], [1], [2, 3]]


OWN_ROWS = """
import numpy as np
from mpi4py import MPI
import mpicomp as mc

world, n, d = MPI.COMM_WORLD, 4, 30
exchange = {exchange!r}
mine = {{i: np.random.default_rng(i).normal(size=d) for i in mc.hosted_clients(n, world, exchange)}}

class Own(mc.Problem):
    dim, n_clients = d, n
    def loss(self, i, x): return 0.5 * float(np.sum((x - mine[i]) ** 2))
    def gradient(self, i, x, out): np.subtract(x, mine[i], out=out)
    def n_samples(self, i): return len(mine[i])
    def batch_gradient(self, i, x, samples, out): np.subtract(x, mine[i], out=out)
    def smoothness(self): return mc.Smoothness.bounds(np.ones(n))

for method, options in [("ef21", {{}}), ("marina", {{"compressor": "permk"}}), ("vr-marina", {{"batch": 2, "compressor": "randk:k=3"}})]:
    result = mc.run(problem=Own(), method=method, rounds=20, step=0.1, comm=world, exchange=exchange, **options)
    if world.rank == 0:
        print(method, result.summary["iterate_sha256"])
"""


@pytest.mark.process
@pytest.mark.parametrize("exchange", ["p2p", "sharded"])
def test_ranks_that_hold_only_their_own_rows(mpi, tmp_path, exchange):
    script = tmp_path / "own.py"
    script.write_text(OWN_ROWS.format(exchange=exchange))
    done = mpi.run(3, [script])
    alone = tmp_path / "alone.py"
    alone.write_text(OWN_ROWS.format(exchange="auto").replace("comm=world", "comm=None"))
    expected = subprocess.run([sys.executable, str(alone)], capture_output=True, text=True, check=True, timeout=120)
    done.check()
    assert [
        line for line in done.out.splitlines() if "marina" in line or "ef21" in line
    ] == expected.stdout.splitlines()


# ---- 9. declared state -----------------------------------------------------------------------------------------------------
class Part:
    a = ClientState()
    b = ServerState(columns=1, dtype=np.int64)


class Child(Part):
    c = CommonState()
    b = None


def test_declarations():
    assert [s.name for s in declared(Part())] == ["a", "b"]
    assert [s.name for s in declared(Child())] == ["a", "c"]
    part = Part()
    with pytest.raises(AttributeError, match=r"Part\.a is not there yet"):
        _ = part.a
    assert held(part) == {} and isinstance(Part.a, State)
    part.a = np.ones((2, 3))
    part.b = None
    assert list(held(part)) == ["a"] and part.a.shape == (2, 3)
    np.testing.assert_array_equal(Part.b.zeros(1, 5, np.dtype(float)), np.zeros((1, 1), np.int64))


def test_what_an_optimizer_declares_is_allocated():
    from mpicomp.optimizers import Optimizer

    class Mine(Optimizer):
        m, t = ModelState(), ModelState(columns=1, dtype=np.int64)

    mine = Mine()
    mine.start(np.zeros((1, 6), np.float32), 0.1)
    assert mine.m.shape == (1, 6) and mine.m.dtype == np.float32 and mine.t.shape == (1, 1) and mine.t.dtype == np.int64


# ---- 9, 10. parts of one's own -------------------------------------------------------------------------------------------
def test_an_exchange_of_ones_own_as_an_object():
    class Counting(LocalExchange):
        calls = 0

        def gather(self, *args, **options):
            Counting.calls += 1
            super().gather(*args, **options)

    options = {"problem": "quadratic", "problem_options": {"dim": 10}, "method": "ef21", "clients": 3, "rounds": 7}
    own = mc.run(exchange=Counting, **options)
    assert Counting.calls == 7
    assert own.summary["iterate_sha256"] == mc.run(**options).summary["iterate_sha256"]


def test_an_optimizer_of_ones_own_as_an_object():
    from mpicomp.optimizers import HeavyBall

    options = {"problem": "quadratic", "problem_options": {"dim": 10}, "method": "ef21", "clients": 3, "rounds": 7}
    named = mc.run(optimizer="heavyball:momentum=0.5", **options)
    assert mc.run(optimizer=HeavyBall(0.5), **options).summary["iterate_sha256"] == named.summary["iterate_sha256"]


def test_options_that_are_not_there():
    with pytest.raises(mc.ConfigError, match=r"unknown option 'rouns'.*did you mean 'rounds'\?"):
        mc.run(rouns=3)  # type: ignore[call-arg]


def test_the_options_that_type_checkers_know_are_those_of_the_configuration():
    import dataclasses
    import inspect

    from mpicomp.runtime.options import RunOptions

    parts = {"problem", "method", "compressor", "optimizer", "exchange"}
    assert set(RunOptions.__annotations__) | parts == {f.name for f in dataclasses.fields(mc.Config)}
    assert parts < set(inspect.signature(mc.run).parameters)


@pytest.fixture
def command(tmp_path):
    def run(*argv, cwd=tmp_path):
        return subprocess.run(
            [sys.executable, "-m", "mpicomp", *argv],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )

    return run


OWN = str(ROOT / "examples" / "own_parts.py")


def test_import_makes_parts_known_to_every_command(command, tmp_path):
    listed = command("list", "exchanges", "--import", OWN)
    assert listed.returncode == 0 and "delayed" in listed.stdout, listed.stderr
    common = ("--method", "induced", "--compressor", "half", "--clients", "6", "--rounds", "5")
    done = command("run", "--import", OWN, *common, "--out", "r", "--no-table")
    assert done.returncode == 0, done.stderr
    again = command("run", "r/config.toml", "--out", "again", "--no-table")  # what was imported is in the configuration
    assert again.returncode == 0, again.stderr
    hashes = [(tmp_path / out / "summary.json").read_text().split("iterate_sha256")[1][:80] for out in ("r", "again")]
    assert hashes[0] == hashes[1]
    assert command("theory", "--import", OWN, *common).returncode == 0


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "cannot import .*nothing.py: there is no such file"),
        ("1 / 0", "cannot import .*nothing.py: ZeroDivisionError"),
        ("import no_such_thing", "No module named 'no_such_thing'"),
        (
            "import mpicomp as mc\n@mc.register_compressor('topk')\nclass Mine(mc.Compressor): pass",
            "compressor 'topk' is already registered",
        ),
    ],
)
def test_imports_that_fail_are_named(command, tmp_path, text, message):
    if text is not None:
        (tmp_path / "nothing.py").write_text(text)
    done = command("run", "--import", "nothing.py", "--rounds", "1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    import re

    assert re.search(message, done.stderr), done.stderr


@pytest.mark.process
def test_parts_of_ones_own_under_mpirun(mpi, tmp_path):
    argv = [
        "-m",
        "mpicomp",
        "run",
        "--import",
        OWN,
        "--method",
        "induced",
        "--compressor",
        "half",
        "--clients",
        "6",
        "--rounds",
        "9",
    ]
    outputs = []
    for ranks, exchange, out in ((3, "delayed", "mpi"), (1, "auto", "alone")):
        full = [*argv, "--exchange", exchange, "--out", str(tmp_path / out), "--quiet", "--no-table"]
        if ranks == 1:
            subprocess.run([sys.executable, *full], check=True, timeout=120, capture_output=True)
        else:
            done = mpi.run(ranks, full)
            done.check()
        outputs.append((tmp_path / out / "summary.json").read_text().split("iterate_sha256")[1][:80])
    assert outputs[0] == outputs[1]
