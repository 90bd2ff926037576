"""mc.Aggregator in one process and its parts; over several ranks see tests/test_aggregator_mpi.py."""

from __future__ import annotations

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.aggregator.rules import grouped, matches, split
from mpicomp.aggregator.tensors import Structure
from mpicomp.compressors import compressors
from mpicomp.compressors.identity import Identity
from mpicomp.compressors.layers import Layers

UPLINKS = [
    "direct",
    "direct:natural",
    "ef21:topk:fraction=0.1",
    "ef14:sign",
    "diana:randk:fraction=0.2",
    "ef21+:topk:k=3",
    "powersgd:rank=2,rows=7",
]
DOWNLINKS = ["dense", "direct:natural", "ef14:sign", "ef21-p:topk:fraction=0.2"]


def quadratic(d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2.0, d), rng.standard_normal(d)


@pytest.mark.covering()
@pytest.mark.parametrize("downlink", DOWNLINKS)
@pytest.mark.parametrize("uplink", UPLINKS)
def test_the_same_bits_as_a_run(uplink, downlink):
    """A loop of gradient descent around the aggregator is `run` with method custom and a replicated optimizer, bit for bit."""
    d, rounds, step = 60, 12, 0.125  # a power of two: ef14 has the step within
    a, b = quadratic(d)
    if uplink.startswith("powersgd"):
        parts = {"method": "powersgd", "method_options": {"rank": 2}}
        if downlink != "dense":
            pytest.skip("powersgd has no downlink")
    else:
        options = {"uplink": uplink, "downlink": downlink, "replicated": True}
        parts = {"method": "custom", "method_options": options}
    problem = mc.FunctionProblem(lambda i, x: float(0.5 * np.sum(a * (x - b) ** 2)), lambda i, x: a * (x - b), d, 1)
    result = mc.run(problem=problem, rounds=rounds, step=str(step), seed=5, **parts)
    agg, x = mc.Aggregator(None, d, uplink=uplink, downlink=downlink, seed=5), np.zeros(d)
    for _ in range(rounds):
        x -= step * agg.mean(a * (x - b))
    np.testing.assert_array_equal(x, result.x)


def test_marina_takes_a_function_of_the_point():
    d, rounds, step = 40, 30, 0.2
    a, b = quadratic(d, 1)
    problem = mc.FunctionProblem(lambda i, x: float(0.5 * np.sum(a * (x - b) ** 2)), lambda i, x: a * (x - b), d, 1)
    options = {"uplink": "marina@p=0.3:randk:k=5", "downlink": "dense", "replicated": True}
    result = mc.run(problem=problem, rounds=rounds, step=str(step), seed=2, method="custom", method_options=options)
    agg, x = mc.Aggregator(None, d, uplink="marina@p=0.3:randk:k=5", seed=2), np.zeros(d)
    for _ in range(rounds):
        x -= step * agg.mean(lambda point: a * (point - b), at=x)
    np.testing.assert_allclose(x, result.x, rtol=1e-12, atol=1e-14)  # the change is evaluated at both points anew
    with pytest.raises(mc.AggregationError, match="two points"):
        for _ in range(20):
            agg.mean(a * (x - b))


# ---- layers ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 3])
def test_layers_are_their_blocks(rows, dtype):
    """Each block of C(x) is what its compressor makes of the block, for the messages of one client and of several."""
    specs = [(50, "topk:k=4"), (7, "identity"), (120, "sign"), (33, "cast:to=bfloat16")]
    C = Layers([(n, compressors.create(spec)) for n, spec in specs])
    d = sum(n for n, _ in specs)
    V = np.random.default_rng(3).standard_normal((rows, d)).astype(dtype)
    codec = C.bind(d, rows, dtype)
    keys, index = mc.MessageKey.seeded(0), np.arange(rows)
    from mpicomp.kernels.random import Keys

    pair = Keys(keys.shared, keys.private)
    buf, tally, out = np.zeros(rows * codec.max_nbytes, np.uint8), np.zeros(2, np.int64), np.zeros((rows, d), dtype)
    end = codec.encode(V, index, index, pair, buf, 0, tally)
    codec.decode_add(buf, 0, end, index, index, np.ones(rows, dtype), pair, out)
    lo = 0
    for n, spec in specs:
        for row in range(rows):
            np.testing.assert_array_equal(out[row, lo : lo + n], compressors.create(spec).apply(V[row, lo : lo + n]))
        lo += n
    total = np.zeros((1, d), dtype)
    codec.decode_add(buf, 0, end, np.zeros(rows, np.int64), index, np.full(rows, 0.5, dtype), pair, total)
    np.testing.assert_allclose(total[0], 0.5 * out.sum(axis=0), rtol=1e-6, atol=1e-6)
    with pytest.raises(mc.WireError):
        codec.decode_add(buf, 0, end - 1, index, index, np.ones(rows, dtype), pair, out)


def test_blocks_have_random_bits_of_their_own():
    C = Layers([(200, compressors.create("randk:k=20")), (200, compressors.create("randk:k=20"))])
    x = C.apply(np.ones(400))
    assert np.count_nonzero(x) == 40 and not np.array_equal(x[:200] != 0, x[200:] != 0)


def test_the_constants_of_layers():
    C = Layers([(10, compressors.create("topk:k=5")), (100, compressors.create("topk:k=10"))])
    assert C.alpha(110) == 0.1 and C.contractive and not C.unbiased and C.deterministic
    U = Layers([(10, compressors.create("randk:k=5")), (100, compressors.create("randk:k=10"))])
    assert U.omega(110) == 9.0 and U.unbiased and U.alpha(110) == 0.1
    assert U.cut_at(np.array([0, 40, 110])).parts[1][0] == 30
    with pytest.raises(mc.ConfigError, match="110 coordinates, the vectors have 100"):
        C.bind(100, 1)
    with pytest.raises(mc.ConfigError, match="at least one"):
        Layers([])
    assert Layers([(3, Identity()), (4, Identity())]).bind(7, 1).codec_id == Identity.codec_id


@pytest.mark.parametrize("spec", ["randk:k=3", "natural", "qsgd:bits=4"])
def test_unbiased_blocks_enter_a_contractive_mechanism_scaled(spec):
    """EF21 with layers is EF21 on each block by itself."""
    rng = np.random.default_rng(0)
    agg = mc.Aggregator(None, {"a": np.zeros(30)}, uplink="ef21:identity", rules=[("a", spec)])
    g = rng.standard_normal(30)
    errors = []
    for _ in range(400):
        errors.append(float(np.linalg.norm(agg.mean({"a": g})["a"] - g)))
    assert errors[-1] < 1e-3 * errors[0] + 1e-12


def test_what_cannot_go_by_slices():
    common = compressors.create("cq:radius=common")
    with pytest.raises(mc.ConfigError, match="needs the largest norm of the whole vector"):
        Layers([(200, common), (300, common)]).bind(500, 3)


# ---- structures and rules -------------------------------------------------------------------------------------------------
def test_rules_in_order():
    tensors = Structure(
        {
            "a.weight": np.zeros((20, 10)),
            "a.bias": np.zeros(20),
            "b.weight": np.zeros((5, 5)),
            "n": np.zeros(5, np.float32),
        }
    ).tensors
    rules = [("ndim<2", "cast:to=bfloat16"), ("a.*", "powersgd:rank=2"), ("size<=25", "direct:identity")]
    groups = grouped(tensors, "ef21:topk:k=3", rules, None)
    named = {(g.mechanism, g.dtype.name): [t.name for t in g.tensors] for g in groups}
    assert named == {
        ("powersgd@rank=2", "float64"): ["a.weight"],
        ("ef21", "float64"): ["a.bias"],
        ("direct", "float64"): ["b.weight"],
        ("ef21", "float32"): ["n"],
    }
    assert matches(lambda name, shape: shape == (20,), tensors[1])
    with pytest.raises(mc.ConfigError, match="names a compressor"):
        split("topk:k=3")
    with pytest.raises(mc.ConfigError, match="no pair"):
        grouped(tensors, "direct", ["ndim<2"], None)
    with pytest.raises(mc.ConfigError, match="unknown uplink"):
        grouped(tensors, "direct", [("*", "nothing:k=1")], None)


def test_buckets_close_from_the_last_tensor_on():
    tensors = Structure([np.zeros(100), np.zeros(100), np.zeros(100)]).tensors
    groups = grouped(tensors, "direct", [], 1000)
    assert [[t.name for t in g.tensors] for g in groups] == [["1", "2"], ["0"]]


def test_the_order_of_a_dict_does_not_matter():
    rng = np.random.default_rng(4)
    g = {"w": rng.standard_normal((8, 5)), "b": rng.standard_normal(5)}
    one = mc.Aggregator(None, g, uplink="ef21:topk:fraction=0.1")
    other = mc.Aggregator(None, dict(reversed(g.items())), uplink="ef21:topk:fraction=0.1")
    for _ in range(3):
        first, second = one.mean(g), other.mean(dict(reversed(g.items())))
        assert all(np.array_equal(first[k], second[k]) for k in g)
    other.load_state_dict(one.state_dict())


def test_kinds_of_values():
    agg = mc.Aggregator(None, [np.zeros((2, 3), np.float16), np.zeros(4, np.float32), np.float64(0)])
    values = [np.full((3, 2), 1.5, np.float16).T, None, np.array(2.5)]
    out = agg.mean(values)
    assert [o.dtype for o in out] == [np.float16, np.float32, np.float64]
    assert np.array_equal(out[0], values[0]) and not out[1].any() and out[2] == 2.5
    inside = [v if v is None else v.copy() for v in values]
    back = agg.mean_(inside)
    assert back[0] is inside[0] and back[1].shape == (4,)
    single = mc.Aggregator(None, np.zeros((3, 3)))
    x = np.asfortranarray(np.arange(9.0).reshape(3, 3))
    np.testing.assert_array_equal(single.mean(x), x)


@pytest.mark.parametrize(
    ("like", "value", "message"),
    [
        (np.zeros(3), np.zeros(4), r"the array has shape \(3,\), got shape \(4,\)"),
        ({"w": np.zeros(3)}, {"w": np.zeros(3), "v": np.zeros(1)}, "tensor 'v' is not one of those"),
        ({"w": np.zeros(3), "v": np.zeros(1)}, {"w": np.zeros(3)}, "tensor 'v' is missing; give None"),
        ([np.zeros(3)], np.zeros(3), "1 tensors is expected|got"),
        ([np.zeros(3)], [np.zeros(3)] * 2, "a list of 1 tensors is expected, got 2 tensors"),
        (np.zeros(3), np.array([1.0, np.nan, 2.0]), "the array holds nan at entry 1"),
        ({"w": np.zeros(3)}, {"w": np.array([1.0, np.inf, 2.0])}, "tensor 'w' holds inf at entry 1"),
        (np.zeros(3), np.zeros(3, complex), "Cannot cast"),
        (np.zeros(3), None, "got None"),
    ],
)
def test_what_cannot_be_averaged(like, value, message):
    agg = mc.Aggregator(None, like, uplink="ef21:topk:k=1")
    with pytest.raises(mc.AggregationError, match=message):
        agg.mean(value)
    agg.mean(like)  # and the loop may go on
    assert agg.calls == 1


def test_an_error_leaves_what_is_remembered():
    """The memory after a call that failed is that before it; so are the random numbers of the next one."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 40))
    for uplink in ("ef14:topk:k=4", "diana:randk:k=4"):
        plain, disturbed = (mc.Aggregator(None, 40, uplink=uplink, downlink="ef14:sign") for _ in range(2))
        for value in values:
            expected = plain.mean(value)
            for bad in (np.where(np.arange(40) == 3, np.nan, value), value[:-1]):
                with pytest.raises(mc.AggregationError):
                    disturbed.mean(bad)
            np.testing.assert_array_equal(disturbed.mean(value), expected)


def test_a_function_that_fails_is_the_cause():
    agg = mc.Aggregator(None, 3, uplink="ef21:topk:k=1")

    def broken(point):
        raise RuntimeError("out of memory")

    with pytest.raises(mc.AggregationError, match="RuntimeError: out of memory") as raised:
        agg.mean(broken, at=np.zeros(3))
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"like": np.zeros(3, int)}, "the array is of dtype int64; allowed: float16, float32, float64"),
        ({"like": []}, "no array with an entry"),
        ({"like": 0}, "a dimension is at least 1"),
        ({"uplink": "topk:k=1"}, "put a mechanism before it, for example 'ef21:topk:k=1'"),
        ({"uplink": "randk:k=1"}, "for example 'direct:randk:k=1'"),
        ({"uplink": "ef21:topk:k=9"}, "k=9 must be an integer from 1 to the dimension, 3"),
        ({"uplink": "ef21@start=zero:topk:k=1"}, "start=zero sends nothing"),
        ({"downlink": "marina-p@p=0.5:randk:k=1"}, "gives each client a vector of its own"),
        ({"exchange": "ring"}, "unknown exchange 'ring'"),
        ({"timeout": 0.0}, "above 0"),
    ],
)
def test_options_that_cannot_work(options, message):
    options = {"like": np.zeros(3), **options}
    with pytest.raises(mc.ConfigError, match=message):
        mc.Aggregator(None, options.pop("like"), **options)


def test_weights():
    agg = mc.Aggregator(None, 3, weighted=True)
    np.testing.assert_array_equal(agg.mean(np.ones(3), weight=7.0), np.ones(3))
    for weight in (None, -1.0, np.nan):
        with pytest.raises(mc.AggregationError, match="weight="):
            agg.mean(np.ones(3), weight=weight)
    with pytest.raises(mc.AggregationError, match="weighted=True"):
        mc.Aggregator(None, 3).mean(np.ones(3), weight=1.0)


# ---- state ----------------------------------------------------------------------------------------------------------------
@pytest.mark.covering()
@pytest.mark.parametrize("downlink", DOWNLINKS)
@pytest.mark.parametrize("uplink", [*UPLINKS, "dasha:randk:fraction=0.2"])
def test_resume_is_exact(uplink, downlink):
    rng = np.random.default_rng(1)
    like = {"w": np.zeros((6, 7), np.float32), "b": np.zeros(6, np.float32), "s": np.zeros(())}
    values = [{k: rng.standard_normal(v.shape).astype(v.dtype) for k, v in like.items()} for _ in range(6)]
    options = {"uplink": uplink, "downlink": downlink, "seed": 9, "rules": [("b", "direct:natural")]}
    if "fraction" in uplink or ":k=" in uplink or "powersgd" in uplink:
        options["rules"] += [("s", "direct")]
    agg = mc.Aggregator(None, like, **options)
    whole = [agg.mean(v) for v in values]
    first = mc.Aggregator(None, like, **options)
    for v in values[:3]:
        first.mean(v)
    again = mc.Aggregator(None, like, **options)
    again.load_state_dict(first.state_dict())
    assert again.calls == 3
    for v, expected in zip(values[3:], whole[3:], strict=True):
        got = again.mean(v)
        assert all(np.array_equal(got[k], expected[k]) for k in like)


def test_another_state_is_refused():
    agg = mc.Aggregator(None, {"w": np.zeros(5)}, uplink="ef21:topk:k=1")
    state = agg.state_dict()
    with pytest.raises(mc.ConfigError, match="saved with seed=0, this aggregator has 1"):
        mc.Aggregator(None, {"w": np.zeros(5)}, uplink="ef21:topk:k=1", seed=1).load_state_dict(state)
    with pytest.raises(mc.ConfigError, match="saved with tensors="):
        mc.Aggregator(None, {"w": np.zeros(6)}, uplink="ef21:topk:k=1").load_state_dict(state)
    with pytest.raises(mc.ConfigError, match="none that an aggregator"):
        agg.load_state_dict({})
    del state["tensors"]["w"]["uplink/g_i"]
    with pytest.raises(mc.ConfigError, match="no uplink/g_i"):
        agg.load_state_dict(state)


def test_set_keeps_what_the_same_mechanism_remembers():
    g = np.arange(1.0, 11.0)
    agg = mc.Aggregator(None, 10, uplink="ef21:topk:k=1")
    for _ in range(9):
        agg.mean(g)
    agg.set(uplink="ef21:identity")
    np.testing.assert_array_equal(agg.mean(g), g)
    assert agg.state_dict()["tensors"][""]["uplink/g_i"].shape == (10,)
    agg.set(uplink="direct:identity")
    np.testing.assert_array_equal(agg.mean(g), g)
    assert agg.state_dict()["tensors"] == {}
    agg.set(uplink="ef21:topk:k=1")
    assert np.count_nonzero(agg.mean(g)) == 1
    with pytest.raises(mc.ConfigError):
        agg.set(uplink="nothing")
    assert np.count_nonzero(agg.mean(g)) == 2


# ---- while gradients are computed -----------------------------------------------------------------------------------------
def test_started_tensors_give_what_mean_gives():
    rng = np.random.default_rng(2)
    like = {f"t{i}": np.zeros(50 + i) for i in range(6)}
    options = {"uplink": "ef21:topk:fraction=0.1", "bucket_nbytes": 900}
    plain, started = mc.Aggregator(None, like, **options), mc.Aggregator(None, like, **options)
    for _ in range(4):
        g = {k: rng.standard_normal(v.shape) for k, v in like.items()}
        expected = plain.mean(g)
        futures = {k: started.start(k, g[k]) for k in reversed(g)}
        got = started.wait()
        for k in like:
            np.testing.assert_array_equal(got[k], expected[k])
            np.testing.assert_array_equal(futures[k].result(), expected[k])
    started.close()


def test_started_tensors_that_cannot_be():
    agg = mc.Aggregator(None, {"a": np.zeros(3), "b": np.zeros(3)})
    with pytest.raises(mc.ConfigError, match="nothing has been started"):
        agg.wait()
    agg.start("a", np.ones(3))
    with pytest.raises(mc.ConfigError, match="between start and wait"):
        agg.mean({"a": np.ones(3), "b": np.ones(3)})
    out = agg.wait()
    assert out["a"].all() and not out["b"].any()
    agg.start("a", np.ones(3))
    agg.start("a", np.ones(3))
    with pytest.raises(mc.AggregationError, match="'a' was started twice"):
        agg.wait()
    agg.start("c", np.ones(3))
    with pytest.raises(mc.AggregationError, match="'c' is not one of those"):
        agg.wait()
    agg.start("b", np.array([1.0, np.nan, 0.0]))
    with pytest.raises(mc.AggregationError, match="tensor 'b' holds nan at entry 1"):
        agg.wait()
    agg.start("b", np.ones(3))
    assert agg.wait()["b"].all()
    agg.close()
