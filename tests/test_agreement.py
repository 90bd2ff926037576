"""Slices that are encoded where they are: what their servers agree on, the bits of the parts, and methods in slices both ways."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lanes import shortened
from test_cutting import CUT, KEYS, N, cut, encoded

import mpicomp as mc
from mpicomp.cluster.ledger import DOWNLINK, VALUE_BITS
from mpicomp.compressors import Codec
from mpicomp.compressors.agreement import Agreement, Kth, Norm
from mpicomp.errors import WireError
from mpicomp.exchanges.local import LocalExchange
from mpicomp.exchanges.sharded import LocalShardedExchange
from mpicomp.exchanges.slicing import alignment_of
from mpicomp.kernels.quantize import norm
from mpicomp.kernels.random import bits32, shifted
from mpicomp.kernels.sizes import NORM_BLOCK, PARTIAL_SUMS
from mpicomp.problems import problems
from mpicomp.runtime.config import Config
from mpicomp.runtime.exchanges import exchange_setting
from mpicomp.runtime.session import Composition, Session


def agree(agreement: Agreement, V: np.ndarray, bounds: np.ndarray) -> list[np.ndarray]:
    """What each slice's codec is given: the talks of all slices, sentence by sentence, and no sentence longer than said beforehand."""
    slices = len(bounds) - 1
    parts = [np.ascontiguousarray(V[:, lo:hi]) for lo, hi in pairwise(bounds)]
    talks = [agreement.talk(part, s, slices) for s, part in enumerate(parts)]
    said, found = [next(talk) for talk in talks], []
    while not found:
        for sentence, part in zip(said, parts, strict=True):
            assert sentence.nbytes <= agreement.room(len(V), part.shape[1])
        heard, said = [sentence.view(np.uint8) for sentence in said], []
        for talk in talks:
            try:
                said.append(talk.send(heard))
            except StopIteration as end:
                found.append(end.value)
    assert len(found) == slices and not said
    return found


# ---- norms ------------------------------------------------------------------------------------------------------------
def plain_sum(x: np.ndarray, order: int) -> float:
    """The sum of |x_j| or x_j², from its description: blocks, in a block 64 sums of every 64th entry, all added one after the other."""
    total = 0.0
    for first in range(0, len(x), NORM_BLOCK):
        sums = [0.0] * PARTIAL_SUMS
        for j, value in enumerate(x[first : first + NORM_BLOCK].astype(np.float64)):
            sums[j % PARTIAL_SUMS] += abs(value) if order == 1 else value * value
        block = 0.0
        for s in sums:
            block += s
        total += block
    return total


@pytest.mark.covering()
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_norms_of_slices(order, dtype):
    """Bit for bit those of the whole vectors, wherever slices begin."""
    rng, d = np.random.default_rng(order), 5 * NORM_BLOCK + 77
    V = (rng.standard_normal((3, d)) * np.exp(3 * rng.standard_normal((3, d)))).astype(dtype)
    V[2, 4 * NORM_BLOCK + 3] = np.nan
    expected = [np.abs(x).max() if order == 0 else plain_sum(x, order) for x in V]
    expected = np.sqrt(expected) if order == 2 else np.array(expected, np.float64)
    if order:
        direct = np.array([norm(x, order, np.empty(PARTIAL_SUMS)) for x in V])
        np.testing.assert_array_equal(direct, expected)
    blocks = np.array([0, 1, 1, 2, 5, 6])
    for bounds in (np.minimum(blocks * NORM_BLOCK, d), np.array([0, d])):
        for found in agree(Norm(order), V, bounds):
            np.testing.assert_array_equal(found, expected)
    if order:
        mean = agree(Norm(order, d), V, np.array([0, NORM_BLOCK, d]))[0]
        sums = np.array([plain_sum(x, order) for x in V]) / d
        np.testing.assert_array_equal(mean, np.sqrt(sums) if order == 2 else sums)


# ---- the k largest --------------------------------------------------------------------------------------------------------
def chosen(x: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest magnitudes, NaN above all, of equal ones the lower place first, without zeros."""
    size = np.where(np.isnan(x), np.inf, np.abs(x).astype(np.float64))
    order = sorted(range(len(x)), key=lambda j: (-size[j], not np.isnan(x[j]), j))
    return np.array(sorted(j for j in order[:k] if size[j] > 0), np.int64)


def vectors(rng: np.random.Generator, d: int) -> dict[str, np.ndarray]:
    """Shapes of vectors that thresholds have trouble with."""
    normal = rng.standard_normal(d)
    crowded = normal.copy()
    crowded[: d // 4] *= 1e6
    sparse = np.where(rng.random(d) < 0.02, normal, 0.0)
    broken = normal.copy()
    broken[rng.integers(0, d, 5)] = [np.nan, np.inf, -np.inf, np.inf, -np.nan]
    return {
        "normal": normal, "ties": normal.round(0), "equal": np.full(d, -1.5), "zeros": np.zeros(d), "crowded": crowded, "sparse": sparse,
        "heavy": normal / rng.random(d) ** 2, "broken": broken, "tiny": normal * 1e-40,
    }  # fmt: skip


@pytest.mark.covering()
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 60, 700, 2999])
def test_the_k_largest_of_slices(k, dtype):
    """Thresholds and numbers of ties with which the slices' entries are the k largest of the whole vector, of equal ones the first."""
    rng, d = np.random.default_rng(k), 3000
    named = {name: x.astype(dtype) for name, x in vectors(rng, d).items()}
    V = np.stack(list(named.values()))
    word = np.dtype(f"u{V.dtype.itemsize}")
    keys = V.view(word) & word.type((1 << (8 * word.itemsize - 1)) - 1)
    for bounds in (
        np.array([0, 1000, 2000, 3000]),
        np.array([0, 16, 16, 2992, 3000]),
        np.array([0, 3000]),
        np.arange(0, 3001, 200),
    ):
        given = agree(Kth(k), V, bounds)
        for row, name in enumerate(named):
            taken: list[int] = []
            for s, (lo, hi) in enumerate(pairwise(bounds)):
                threshold, ties = (int(number) for number in given[s][row])
                own = keys[row, lo:hi]
                above, equal = np.flatnonzero(own > threshold), np.flatnonzero(own == threshold)
                taken += sorted([*(lo + above), *(lo + equal[:ties])])
            assert np.array_equal(taken, chosen(V[row], k)), (name, bounds)


def test_thresholds_take_few_bytes():
    """Of 4000 entries among five slices the servers say less than a twentieth of what the entries take."""
    x = np.random.default_rng(0).standard_normal((1, 400_000)).astype(np.float32)
    said: list[int] = []

    class Counting(Kth):
        def talk(self, x: np.ndarray, own: int, slices: int) -> Any:
            talk = super().talk(x, own, slices)
            sentence = next(talk)
            while True:
                said.append(sentence.nbytes)
                heard = yield sentence
                try:
                    sentence = talk.send(heard)
                except StopIteration as end:
                    return end.value

    agree(Counting(4000), x, np.arange(6) * 80_000)
    assert len(said) == 10 and sum(said) < 4000 * 5 / 20 * 5


@pytest.mark.parametrize("agreement", [Kth(30), Norm(2), Norm(0)])
def test_corrupted_talk(agreement):
    """What no server says is refused, and nothing else happens."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 1000))
    sentences = [next(agreement.talk(x, s, 3)) for s in range(3)]
    for trial in range(200):
        talk = agreement.talk(x, 0, 3)
        next(talk)
        heard = [sentence.view(np.uint8).copy() for sentence in sentences]
        victim = heard[trial % 3]
        if trial % 2:
            victim = heard[trial % 3] = victim[: rng.integers(0, len(victim))]
        if len(victim):
            victim[rng.integers(0, len(victim), 3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
        try:
            for _ in range(2):
                talk.send(heard)
        except (WireError, StopIteration):
            continue
    with pytest.raises(WireError, match="corrupted"):
        talk = agreement.talk(x, 0, 3)
        next(talk)
        talk.send([sentence.view(np.uint8)[:-1] for sentence in sentences])


SEPARABLE = [spec for spec in CUT if not spec.startswith("uniform") and "values" not in spec]  # also on the way down


# ---- parts --------------------------------------------------------------------------------------------------------------
def test_shifted_keys():
    key = np.uint64(0x123456789ABCDEF0)
    for ahead in (0, 5, 4096, 2**31 + 7):
        assert [bits32(shifted(key, ahead), e) for e in range(50)] == [bits32(key, ahead + e) for e in range(50)]


def given_parts(codec: Codec, V: np.ndarray, bounds: np.ndarray) -> list[bytes]:
    """The parts as the servers of slices write them."""
    agreement = codec.cutting.agreement if codec.round_maximum is None else None
    given = agree(agreement, V, bounds) if agreement is not None else None
    parts = []
    for s, (lo, hi) in enumerate(pairwise(bounds)):
        if lo == hi:
            parts.append(b"")
            continue
        reader = codec.part(lo, hi)
        if given is not None:
            reader.give(given[s])
        parts.append(encoded(reader, np.ascontiguousarray(V[:, lo:hi])).tobytes())
    return parts


@pytest.mark.covering()
@pytest.mark.parametrize(("wire", "dtype"), [("float32", "float32"), ("float64", "float64")])
@pytest.mark.parametrize(
    "spec", [*SEPARABLE, "natural-dithering:norm=max", "dynamic:bits=7,norm=l2", "dynamic:bits=12"]
)
def test_servers_write_the_parts_of_whole_messages(spec, wire, dtype):
    """Byte for byte: as if the whole vector had been encoded and its message cut."""
    rng, d = np.random.default_rng(4), 41_003
    codec = mc.compressor(spec).bind(d, N, wire)
    cutting = codec.cutting
    assert cutting.separable and cutting.grid % cutting.alignment == 0
    normal, rounded = rng.standard_normal((2, N, d)).astype(dtype)
    rounded = rounded.round(0)
    rounded[1, 30_000] = np.nan if codec.compressor.carries_nan else 0.0
    rounded[2] = 0.0
    for V in (normal, rounded):
        message = encoded(codec, V)
        inner = np.sort(rng.integers(0, d // cutting.grid + 1, 3)) * cutting.grid
        bounds = np.concatenate([[0], inner, [d]])
        expected = [part.tobytes() for part in cut(codec, message, bounds)]
        assert given_parts(codec, V, bounds) == expected, bounds


@pytest.mark.covering()
@pytest.mark.parametrize(
    "spec", ["sign", "sign:norm=l2", "qsgd:bits=4", "qsgd:bits=4,norm=max", "cq", "dynamic", "topk:k=50", "ternary"]
)
def test_the_papers_count_of_parts(spec):
    """What is said of the whole vector counts once: the values of a downlink in slices are those of one message."""
    d, keys = 50_000, KEYS
    v = np.random.default_rng(0).standard_normal((1, d))
    codec = mc.compressor(spec).bind(d, 4, "float32")
    star = LocalExchange(4, d)
    sharded = LocalShardedExchange(4, d, servers=3, alignment=alignment_of([codec], [codec]))
    assert np.count_nonzero(np.diff(sharded.bounds)) == 3
    for exchange in (star, sharded):
        exchange.broadcast(codec, v, keys, 0, np.zeros((1, d)))
    assert star.ledger.traffic[DOWNLINK, VALUE_BITS] == sharded.ledger.traffic[DOWNLINK, VALUE_BITS]


# ---- whole methods ------------------------------------------------------------------------------------------------------
BOTH_WAYS: list[dict[str, Any]] = [
    {"method": "cd-adam"},
    {"method": "cd-adam", "compressor": "topk:fraction=0.01"},
    {"method": "ef21-bc", "compressor": "topk:fraction=0.01"},
    {"method": "ef21-bc", "compressor": "sign", "dtype": "float32"},
    {"method": "ef21-p", "compressor": "topk:fraction=0.01"},
    {"method": "ef21-p+ef21", "compressor": "topk:fraction=0.01", "downlink_compressor": "topk:fraction=0.02"},
    {"method": "ef21-p+ef21", "compressor": "sign:norm=l2", "downlink_compressor": "cq:norm=max,levels=5"},
    {"method": "dore", "compressor": "qsgd:bits=4", "downlink_compressor": "qsgd:bits=4,norm=max"},
    {"method": "dore", "compressor": "natural", "downlink_compressor": "natural", "dtype": "float32"},
    {"method": "artemis", "compressor": "qsgd:levels=3", "downlink_compressor": "natural-dithering:levels=5"},
    {"method": "artemis", "compressor": "ternary", "downlink_compressor": "ternary"},
    {"method": "m3", "compressor": "randk:fraction=0.1", "downlink_compressor": "qsgd:bits=4,bucket=512"},
    {"method": "m3", "compressor": "cq", "downlink_compressor": "permk"},
    {"method": "mcm", "compressor": "natural-dithering", "downlink_compressor": "cq:levels=300"},
    {"method": "rand-mcm", "compressor": "qsgd:bits=4", "downlink_compressor": "qsgd:bits=4"},
    {"method": "marina-p", "compressor": "cq:radius=common"},
    {"method": "dq-sgd", "rounds": 6},
    {"method": "terngrad"},
]  # fmt: skip
DIM, CLIENTS, SERVERS = 50_000, 4, 3
COMMON: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": DIM, "reg": 0.01}, "clients": CLIENTS, "rounds": 6, "step": 0.01,
    "init": "normal:1", "eval_every": 3, "allow_unsafe": True,
}  # fmt: skip


def session_of(options: dict[str, Any], servers: int) -> Session:
    problem = problems.build("quadratic", {"dim": DIM, "clients": CLIENTS, "reg": 0.01})
    config = Config(step="0.01", init="normal:1", allow_unsafe=True, clients=CLIENTS, **{"rounds": 6, **options})
    composition = Composition(config, problem)
    exchange: Any = LocalExchange(CLIENTS, DIM, np.dtype(config.dtype))
    if servers > 1:
        setting = exchange_setting(config, problem, composition, None)
        alignment = alignment_of(setting.codecs(), setting.downlink_codecs())
        exchange = LocalShardedExchange(CLIENTS, DIM, np.dtype(config.dtype), servers=servers, alignment=alignment)
        assert np.count_nonzero(np.diff(exchange.bounds)) == servers
    return Session(config, problem, composition.parts(0.01), exchange, 0.01)


@pytest.mark.parametrize(
    "options", shortened(BOTH_WAYS, 4, "another method"), ids=lambda o: "-".join(map(str, o.values()))
)
def test_both_ways_in_slices(options):
    """Methods that compress both ways have the bits of one server with several."""
    found = []
    for servers in (1, SERVERS):
        session = session_of(options, servers)
        for t in range(6):
            session.round(t)
        found.append(session.x.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("eden", "cannot cut the messages of compressor 'eden'.*sign.*exchange='sliced'.*exchange='p2p'"),
        ("cq:rotate=true", "cannot cut the messages of compressor 'cq:rotate=true'.*exchange='sliced'"),
        ("uniform", "cuts on the way up alone those of compressor 'uniform'.*exchange='sliced'"),
        ("topk:k=50,values=4", "cuts on the way up alone those of compressor 'topk:k=50,values=4'.*exchange='sliced'"),
        ("qsgd:bits=4,bucket=100", "written in parts only at multiples of 200 .*another bucket.*exchange='sliced'"),
    ],
)
def test_refusals(spec, words):
    exchange = LocalShardedExchange(CLIENTS, DIM, servers=SERVERS)
    with pytest.raises(mc.ConfigError, match=words):
        exchange.check(mc.compressor(spec).bind(DIM, CLIENTS, "float64"), uplink=False)


# ---- over MPI -----------------------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize(
    ("ranks", "which"),
    [
        *shortened([(3, "few"), (2, "all")], 1, "all methods"),
        pytest.param(3, "all", marks=[pytest.mark.full(reason="other ranks, and all methods"), pytest.mark.night]),
    ],
)
def test_both_ways_over_mpi(mpi, ranks, which):
    """sharded has the bits of p2p, bytes and all, and goes on from a checkpoint."""
    mpi.run(ranks, [__file__, "bits", which], timeout=300).check()


@pytest.mark.full(reason="a job that is resumed twice")
@pytest.mark.process
def test_both_ways_go_on(mpi, tmp_path):
    mpi.run(3, [__file__, "resume", tmp_path], timeout=240).check()


def bits(comm: Any, which: str) -> None:
    chosen = [BOTH_WAYS[0], BOTH_WAYS[2], BOTH_WAYS[7], BOTH_WAYS[15]] if which == "few" else BOTH_WAYS
    for options in [{**COMMON, **own} for own in chosen]:
        star, slices = (mc.run(comm=comm, exchange=name, **options) for name in ("p2p", "sharded"))
        if comm.rank > 0:
            continue
        assert slices.summary["iterate_sha256"] == star.summary["iterate_sha256"], options
        for way in ("uplink", "downlink"):
            counts, expected = slices.summary["bytes"][way], star.summary["bytes"][way]
            assert counts["values_only"] == expected["values_only"], (options, way)
            assert counts["shared_memory"] + counts["intra_node"] + counts["inter_node"] == counts["message"]


def resume(comm: Any, directory: Path) -> None:
    for own in (BOTH_WAYS[0], BOTH_WAYS[2]):
        options = {**COMMON, **own}
        whole = comm.bcast(mc.run(**options).summary["iterate_sha256"] if comm.rank == 0 else None)
        for first, second in (("sharded", "p2p"), ("p2p", "sharded"), ("sharded", "sharded")):
            out = str(directory / f"{own['method']}-{first}-{second}")
            mc.run(comm=comm, exchange=first, **{**options, "rounds": 3, "checkpoint_every": 3, "out": out})
            comm.Barrier()
            result = mc.run(comm=comm, exchange=second, **{**options, "resume": out})
            if comm.rank == 0:
                assert result.summary["resumed_at"] == 3
                assert result.summary["iterate_sha256"] == whole, (own, first, second)


if __name__ == "__main__":
    from mpi4py import MPI

    match sys.argv[1:]:
        case ["bits", which]:
            bits(MPI.COMM_WORLD, which)
        case ["resume", directory]:
            resume(MPI.COMM_WORLD, Path(directory))
