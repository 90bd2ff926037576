"""Messages cut into parts for slices of the coordinates: the parts give the same bits as the whole, at the bounds that are allowed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_conformance import METHODS

import mpicomp as mc
from mpicomp.cluster.placement import Placement, slices
from mpicomp.compressors import Codec, compressors
from mpicomp.exchanges.local import LocalExchange
from mpicomp.exchanges.sharded import LocalShardedExchange, ShardedExchange
from mpicomp.exchanges.slicing import LEAST, alignment_of
from mpicomp.kernels.random import uplink_keys
from mpicomp.problems import problems
from mpicomp.runtime.config import Config
from mpicomp.runtime.exchanges import warmup_exchange
from mpicomp.runtime.session import Composition, Session

N = 5
CUT = [
    "identity", "cast:to=float16", "topk:k=1", "topk:fraction=0.02", "topk:fraction=0.3", "randk:fraction=0.1",
    "randk:fraction=0.9", "randk:fraction=0.1,mask=shared", "randk:fraction=0.2,sampling=uniform",
    "randk:fraction=0.2,sampling=stratified", "permk", "permk:layout=uniform", "sign", "sign:norm=l2", "sign:norm=unit",
    "natural", "qsgd:bits=2", "qsgd:bits=4", "qsgd:bits=7,norm=max,bucket=24", "qsgd:levels=100", "qsgd:bits=12", "qsgd:bits=16,bucket=100",
    "ternary", "ternary:scale=unit", "integers:levels=300", "cq", "cq:norm=max,levels=5", "cq:levels=300", "cq:variant=sign-magnitude",
    "iq", "iq:levels=4", "uniform", "uniform:error=0.002", "uniform:bits=2,rounding=nearest",
    "natural-dithering", "dynamic", "dynamic:bits=5,bucket=24",
    "topk:fraction=0.1,values=bfloat16", "topk:fraction=0.3,values=4",
    "topk:k=5,values=2", "topk:fraction=0.5,values=sign,bucket=5", "topk:fraction=0.2,values=8,rounding=stochastic",
    "randk:fraction=0.2,values=bfloat16",
    "randk:fraction=0.2,sampling=uniform,values=bfloat16", "permk:values=bfloat16",
]  # fmt: skip
KEYS = uplink_keys(3, 8)


def encoded(codec: Codec, V: np.ndarray) -> np.ndarray:
    buf, rows = np.zeros(N * codec.max_nbytes + 8, np.uint8), np.arange(len(V))
    return buf[: codec.encode(V, rows, rows, KEYS, buf, 0, np.zeros(2, np.int64))]


def cut(codec: Codec, message: np.ndarray, bounds: np.ndarray) -> list[np.ndarray]:
    """The parts of all clients' messages, by slice; what lies beside them is untouched."""
    room = max(N * codec.part(lo, hi).max_nbytes for lo, hi in pairwise(bounds))
    out, first = np.full((len(bounds) - 1) * (room + 1), 0xAB, np.uint8), np.arange(len(bounds) - 1) * (room + 1)
    places = first.copy()
    end = codec.cut(message, 0, np.arange(N), KEYS, bounds, out, places)
    assert end == len(message) and np.all(places - first <= room)
    assert all(np.all(out[place : start + room + 1] == 0xAB) for start, place in zip(first, places, strict=True))
    return [out[a:b] for a, b in zip(first, places, strict=True)]


def random_bounds(codec: Codec, rng: np.random.Generator) -> np.ndarray:
    """Any bounds that the codec allows, some slices perhaps empty."""
    alignment = codec.cutting.alignment
    inner = np.sort(rng.integers(0, codec.dim // alignment + 1, rng.integers(0, 5))) * alignment
    return np.concatenate([[0], inner, [codec.dim]])


@pytest.mark.covering()
@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("spec", CUT)
def test_parts_decode_to_the_same_bits(spec, wire):
    rng = np.random.default_rng(11)
    for d in (50, 2321):
        codec, rows, weights = mc.compressor(spec).bind(d, N, wire), np.zeros(N, np.int64), np.arange(1.0, N + 1) / 7
        for V in (rng.standard_normal((N, d)), rng.standard_normal((N, d)).round(0), np.zeros((N, d))):
            message, whole = encoded(codec, V), np.full((1, d), 0.5)
            codec.decode_add(message, 0, len(message), rows, np.arange(N), weights, KEYS, whole)
            for _ in range(3):
                bounds, joined = random_bounds(codec, rng), np.full((1, d), 0.5)
                for s, part in enumerate(cut(codec, message, bounds)):
                    lo, hi = int(bounds[s]), int(bounds[s + 1])
                    if lo == hi:
                        assert not len(part)
                        continue
                    reader, target = codec.part(lo, hi), joined[:, lo:hi]
                    reader.decode_add(part, 0, len(part), rows, np.arange(N), weights, KEYS, target)
                assert joined.tobytes() == whole.tobytes(), (d, bounds)


def test_the_list_is_complete():
    """What has a cutting is in the list above; the others are refused by name."""
    can = {name for name in compressors if _bound(name) is not None and _bound(name).cutting is not None}
    assert can == {spec.partition(":")[0] for spec in CUT}


def _bound(name: str) -> Codec | None:
    for options in ("", ":k=3", ":bits=4", ":fraction=0.1", ":levels=4"):
        try:
            codec = compressors.create(name + options).bind(1000, N, np.float64)
        except mc.ConfigError:
            continue
        return codec if codec.compressor.name == name else None
    return None


def test_a_block_of_permk_goes_to_one_or_two_servers():
    codec = mc.compressor("permk").bind(4000, N, "float32")
    V = np.random.default_rng(0).standard_normal((N, 4000))
    bounds = slices(4000, N, LEAST)
    message, counts = encoded(codec, V), np.zeros((N, N), int)
    for client in range(N):
        for s, part in enumerate(_parts_of_one(codec, message, client, bounds)):
            counts[client, s] = len(part)
    assert np.all((counts > 0).sum(axis=1) <= 2) and counts.sum() == len(message)


def _parts_of_one(codec: Codec, message: np.ndarray, client: int, bounds: np.ndarray) -> list[np.ndarray]:
    nbytes = len(message) // N
    out, places = np.zeros((N, nbytes), np.uint8).ravel(), np.arange(N) * nbytes
    codec.cut(message[client * nbytes :], 0, np.array([client]), KEYS, bounds, out, places)
    return [out[s * nbytes : places[s]] for s in range(N)]


# ---- slices -----------------------------------------------------------------------------------------------------------
@pytest.mark.covering()
@pytest.mark.parametrize("dim", [1, 39, 40, 41, 1000, 4096])
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_slices(dim, size):
    bounds = slices(dim, size, 40)
    assert bounds[0] == 0 and bounds[-1] == dim and len(bounds) == size + 1 and np.all(np.diff(bounds) >= 0)
    assert bounds[1] > 0 and all(b % 40 == 0 or b == dim for b in bounds)
    assert np.ptp(np.diff(bounds)) <= 80


def test_alignment_and_placement():
    bound = [mc.compressor(spec).bind(1000, N, "float64") for spec in ("qsgd:bits=4,bucket=100", "ternary", "topk:k=3")]
    assert alignment_of(bound) == 200 and alignment_of([]) == LEAST
    with pytest.raises(mc.ConfigError, match="3 clients cannot be spread over 4 ranks"):
        Placement.everywhere(3, 4)


# ---- whole methods ------------------------------------------------------------------------------------------------------
QUADRATIC = problems.build("quadratic", {"dim": 250, "clients": 6, "reg": 0.01})


def iterate(name: str, exchange: Any, options: dict[str, Any]) -> bytes:
    config = Config.load(options={"method": name, "step": "0.01", "init": "normal:1", "allow_unsafe": True, **options})
    composition = Composition(config, QUADRATIC)
    session = Session(config, QUADRATIC, composition.parts(0.01), exchange, 0.01)
    for t in range(8):
        session.round(t)
    return session.x.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_slices(name):
    """The same bits as without slices, or a refusal that says what can be done."""
    try:
        expected = iterate(name, LocalExchange(6, 250), {})
    except mc.UserError as error:
        pytest.skip(f"not on a quadratic: {error}")
    try:
        actual = iterate(name, LocalShardedExchange(6, 250, servers=4), {})
    except mc.ConfigError as refusal:
        assert "exchange='p2p'" in str(refusal)
        return
    assert actual == expected


@pytest.mark.parametrize("spec", ["cq", "cq:radius=common", "cq:levels=4,radius=common,norm=max", "iq:levels=3"])
def test_marina_with_correlated_quantizers_by_slices(spec):
    options = {"compressor": spec, "allow_unsafe": True}
    assert iterate("marina", LocalExchange(6, 250), options) == iterate(
        "marina", LocalShardedExchange(6, 250, servers=4), options
    )


def test_slices_fit_the_compressors_that_a_composition_names():
    """`custom` names its compressors in its mechanisms: their buckets count, and slices that do not fit are refused."""
    named = {"uplink": "ef21:qsgd:bits=4,bucket=80,norm=max", "downlink": "ef21-p:cast:to=bfloat16"}
    config = Config(method="custom", method_options=named, step="0.01", exchange="sharded", allow_unsafe=True)
    composition = Composition(config, QUADRATIC)
    exchange = warmup_exchange(ShardedExchange, config, QUADRATIC, composition, 3, np.arange(2))
    assert np.all(exchange.bounds == [0, 160, 240, 250])
    with pytest.raises(
        mc.ConfigError, match=r"multiples of 80 coordinates, and the slices begin at \[0, 120, 200\].*exchange='p2p'"
    ):
        Session(
            config, QUADRATIC, composition.parts(0.01), LocalShardedExchange(6, 250, servers=3, alignment=LEAST), 0.01
        )


def test_a_difference_that_is_not_formed():
    options = {"compressor": "sign:norm=unit"}
    star = iterate("ef21-p", LocalExchange(6, 250), options)
    assert iterate("ef21-p", LocalShardedExchange(6, 250, servers=4), options) == star


@pytest.mark.parametrize(("options", "words"), [
    ({"method": "diana", "compressor": "eden"}, "compressor 'eden'.*cast, .*identity, .*topk.*exchange='sliced'.*exchange='p2p'"),
    ({"method": "marina", "compressor": "cq:rotate=true"}, "cannot cut the messages of compressor 'cq:rotate=true'.*exchange='p2p'"),
    ({"method": "dcgd", "compressor": "qsgd:bits=4,entropy=true"}, "cannot cut the messages of compressor 'qsgd.*exchange='p2p'"),
    ({"method": "ef21-p", "compressor": "sign"}, r"'sign' can be written in parts only at multiples of 8192 .*exchange='p2p'"),
])  # fmt: skip
def test_refusals(options, words):
    with pytest.raises(mc.ConfigError, match=words):
        iterate(options["method"], LocalShardedExchange(6, 250, servers=4), options)
