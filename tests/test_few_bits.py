"""Values of sparse messages in few bits: the oracle, the constants, the sizes, and EF21 over them."""

from __future__ import annotations

import numpy as np
import pytest
from few_bits_oracle import at_random, nearest

import mpicomp as mc
from mpicomp.compressors.few_bits import FewBits
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.kernels.few_bits import HALF, SIGN, read_values, write_values
from mpicomp.kernels.random import Keys, Stream, derive

RNG = np.random.default_rng
BITS = [2, 4, 8, SIGN, HALF]
WIRES = pytest.mark.parametrize("wire", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)


def sent(coding: FewBits, v: np.ndarray, wire: np.dtype, key: int = 7) -> np.ndarray:
    """Values written and read by the kernels."""
    few = coding.scratch(v.size, wire)
    few[1][:] = v
    buf = np.zeros(coding.nbytes(v.size, wire) + 16, np.uint8)
    end = write_values(few, v.size, np.uint64(key), buf, 3, np.empty(0, wire))
    assert end == 3 + coding.nbytes(v.size, wire) and not buf[end:].any()
    assert read_values(few, v.size, buf, 3, end, np.empty(0, wire)) == end
    assert read_values(few, v.size, buf, 3, end - 1, np.empty(0, wire)) < 0
    return few[2][: v.size].astype(float)


def hard_values(m: int) -> list[np.ndarray]:
    """Vectors of values that coders of few bits find hard: spikes, halves of the largest, equal ones, all sizes, and random ones."""
    rng, ends = RNG(m), np.arange(m) % 2
    half = np.where(np.arange(m) == 0, 1.0, 0.4999)
    half[-1] = 0.0
    sparse = np.where(np.arange(m) < max(m // 5, 1), 0.4999, 0.0)
    sparse[-1] = 1.0
    return [
        np.eye(m)[0], np.ones(m), -np.ones(m), 1.0 + ends, half, half / 7, sparse, np.where(np.arange(m) == 0, 7.0, 0.4999),
        np.where(np.arange(m) == 0, 127.0, 0.4999), 2.0 ** -np.arange(m), np.zeros(m), rng.standard_normal(m),
        rng.standard_cauchy(m), np.sort(rng.standard_normal(50 * m))[-m:], 1e-30 * rng.standard_normal(m), 1e30 * rng.random(m),
    ]  # fmt: skip


@pytest.mark.covering()
@WIRES
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("m", "bucket"), [(1, 64), (2, 64), (3, 64), (64, 64), (65, 64), (100, 7)])
def test_values_are_those_of_the_oracle(bits, m, bucket, wire):
    for v in hard_values(m):
        v = v.astype(np.float32).astype(float)
        size = np.abs(v).max()
        got = sent(FewBits(bits, False, bucket), v, wire)
        np.testing.assert_allclose(got, nearest(v, bits, bucket, wire), rtol=1e-5, atol=2e-6 * size)
        got = sent(FewBits(bits, True, bucket), v, wire)
        expected = at_random(v, bits, bucket, wire, np.uint64(7))
        away = np.abs(got - expected) > 2e-6 * size
        assert away.sum() <= (1 if v.any() else 0), (v, got, expected)  # a number within rounding of its place


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("m", [1, 2, 3, 10, 64, 200])
def test_kappa_of_the_nearest(bits, m):
    """‖Q(v) − v‖² ≤ (1 − κ)‖v‖², over adversarial and random values; the error is orthogonal to what arrives."""
    coding = FewBits(bits, False, 64)
    assert 0 < coding.kappa(m) <= 1
    vectors = hard_values(m) + [RNG(s).standard_normal(m) ** RNG(s).integers(1, 9) for s in range(200)]
    for v in vectors[:-202] + [v for v in vectors if np.abs(v).max() < 1e29]:
        unit = np.abs(v).max() or 1.0
        v = v / unit
        y = sent(coding, v, np.dtype(np.float64))
        assert ((y - v) ** 2).sum() <= (1 - coding.kappa(m) + 1e-12) * (v @ v)
        if bits != HALF:
            assert y @ y <= (v @ v) * (1 + 1e-12) and y @ (y - v) == pytest.approx(0, abs=1e-12 * m)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("m", [3, 64])
def test_omega_at_random(bits, m):
    """E Q(v) = v and E‖Q(v) − v‖² ≤ ω‖v‖²; the worst case of the levels comes close to it."""
    coding, rounds, ratios = FewBits(bits, True, 64), 1500, []
    steps = 2 ** (bits - 1) - 1 if bits in (2, 4, 8) else 1
    r = np.sqrt(1 + max(m - 2, 0) / steps**2)
    worst = np.full(m, 1 / (steps * (1 + r)))
    worst[0], worst[-1] = 1.0, 0.0
    for v in (*hard_values(m)[:-2], worst):
        slack = (10 / rounds + 1e-12) * np.abs(v).max()  # of what is too rare to be seen
        Y = np.array([sent(coding, v, np.dtype(np.float64), key) for key in range(rounds)])
        assert (np.abs(Y.mean(axis=0) - v) <= 5.5 * Y.std(axis=0) / np.sqrt(rounds) + slack).all()
        errors = ((Y - v) ** 2).sum(axis=1)
        assert errors.mean() <= coding.omega(m) * (v @ v) + 5 * errors.std() / np.sqrt(rounds) + 1e-15
        ratios.append(errors.mean() / max(v @ v, 1e-300))
    if bits in (2, 4, 8):
        assert max(ratios) > 0.7 * coding.omega(m)


# ---- the compressors ------------------------------------------------------------------------------------------------
def key(round: int, client: int = 0, n: int = 1) -> mc.MessageKey:
    return mc.MessageKey.of(Keys(derive(0, Stream.TEST, round), derive(1, Stream.TEST, round)), client, n)


@pytest.mark.parametrize("values", ["values=2", "values=4", "values=8", "values=sign", "values=bfloat16"])
def test_alpha_of_topk(values):
    d, k = 300, 70
    c = mc.compressor(f"topk:k={k},{values}")
    assert c.contractive and c.deterministic and 0 < c.alpha(d) <= k / d
    for x in (*hard_values(d)[:-2], np.where(np.arange(d) < k, 1.0, 0.999)):
        error = c.apply(x) - x
        assert error @ error <= (1 - c.alpha(d) + 1e-9) * (x @ x)


def test_alpha_at_random():
    d, rounds = 300, 300
    c = mc.compressor("topk:k=70,values=4,rounding=stochastic")
    assert not c.deterministic and c.alpha(d) == (1 - c.coding.omega(64)) * 70 / 300
    for x in hard_values(d)[:-2]:
        errors = np.array([((c.apply(x, key(r)) - x) ** 2).sum() for r in range(rounds)])
        assert errors.mean() <= (1 - c.alpha(d)) * (x @ x) + 4 * errors.std() / np.sqrt(rounds) + 1e-12
    assert mc.compressor("topk:k=70,values=2,rounding=stochastic,bucket=9").alpha(d) > 0
    with pytest.raises(TheoryError, match="rounding=nearest, or a smaller bucket"):
        mc.compressor("topk:k=70,values=2,rounding=stochastic").alpha(d)


@pytest.mark.full(reason="thousands of draws")
@pytest.mark.parametrize(
    "spec",
    ["randk:k=30,values=4", "randk:k=30,values=sign,bucket=5,mask=shared", "randk:k=30,values=2,sampling=uniform",
     "randk:k=30,values=8,sampling=stratified", "permk:values=4", "permk:values=2,layout=uniform", "permk:values=sign"],
)  # fmt: skip
def test_omega_and_ab_of_randk_and_permk(spec):
    d, n, rounds = 100, 3, 2500
    c, V = mc.compressor(spec), RNG(1).standard_normal((n, d)) * np.array([[1.0], [3.0], [0.2]])
    V[0, 5:] *= 0.3
    A, B = c.ab(d, n)
    draws = np.array([[c.apply(V[i], key(r, i, n)) for i in range(n)] for r in range(rounds)])
    slack = 15 / rounds * np.abs(V).max(axis=1, keepdims=True)  # of what is too rare to be seen
    assert (np.abs(draws.mean(axis=0) - V) <= 5.5 * draws.std(axis=0) / np.sqrt(rounds) + slack).all()
    own = ((draws - V) ** 2).sum(axis=2)
    assert (own.mean(axis=0) <= c.omega(d, n) * (V**2).sum(axis=1) + 5 * own.std(axis=0) / np.sqrt(rounds)).all()
    mean = V.mean(axis=0)
    errors = ((draws.mean(axis=1) - mean) ** 2).sum(axis=1)
    assert errors.mean() <= A * (V**2).sum(axis=1).mean() - B * (mean @ mean) + 5 * errors.std() / np.sqrt(rounds)


def test_constants_of_exact_values_are_what_they_were():
    assert mc.compressor("topk:k=2").alpha(10) == 0.2 and mc.compressor("randk:k=5").omega(100) == 19.0
    assert mc.compressor("permk").ab(1000, 10) == (1.0, 1.0) and mc.compressor("permk:values=4").ab(10, 100)[0] < 0.1


@pytest.mark.covering()
@pytest.mark.parametrize(
    ("spec", "most"),
    [("topk:fraction=0.01,values=4", 0.16), ("topk:fraction=0.01,values=2", 0.14), ("topk:fraction=0.01,values=sign", 0.11),
     ("topk:fraction=0.01,values=4,rounding=stochastic", 0.16), ("chunked-topk:fraction=0.01,values=4", 0.16)],
)  # fmt: skip
@WIRES
def test_bits_of_an_entry_with_one_percent(spec, most, wire):
    d = 100_000
    x, codec, row = RNG(0).standard_normal((1, d)), mc.compressor(spec).bind(d, 1, wire), np.zeros(1, np.int64)
    keys, buf = Keys(derive(0, Stream.TEST), derive(1, Stream.TEST)), np.zeros(codec.max_nbytes, np.uint8)
    assert 8 * codec.encode(x, row, row, keys, buf, 0, np.zeros(2, np.int64)) / d <= most


@WIRES
@pytest.mark.parametrize("values", ["2", "4", "8", "sign", "bfloat16"])
def test_never_longer_than_exact_values(values, wire):
    for name, options in (("topk", "k=3"), ("topk", "k=100"), ("randk", "k=1"), ("randk", "k=100"), ("permk", "")):
        exact = mc.compressor(f"{name}:{options}".rstrip(":")).bind(128, 2, wire)
        few = mc.compressor(f"{name}:{options}{',' if options else ''}values={values}").bind(128, 2, wire)
        assert few.max_nbytes <= exact.max_nbytes
    assert mc.compressor("topk:k=100,values=4").bind(100, 1, wire).codec_id == 1
    assert mc.compressor("topk:k=1,values=4").bind(1, 1, wire).codec_id == 0


@pytest.mark.parametrize(
    "values", ["values=2", "values=4", "values=sign", "values=bfloat16", "values=4,rounding=stochastic"]
)
def test_ef21_converges_with_the_step_of_the_theory(values):
    result = mc.run(
        problem="quadratic", problem_options={"dim": 64, "reg": 0.2}, clients=4, method="ef21", rounds=3000, step="theory",
        compressor=f"topk:k=16,{values}",
    )  # fmt: skip
    assert result.summary["grad_norm_sq"] < 1e-3 * result.history[0]["grad_norm_sq"]


@pytest.mark.covering()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_arrives_as_such(bad, dtype):
    for values in ("2", "8", "sign", "bfloat16"):
        for name in ("topk:k=40", "randk:k=100", "chunked-topk:k=8,chunk=20"):
            x = np.arange(1, 101).astype(dtype)
            x[33] = bad
            c = mc.compressor(f"{name},values={values}")
            y = c.decompress(c.compress(x))
            assert not np.isfinite(y[33]) and y.dtype == dtype


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("topk:k=1,values=3", "known: 2, 4, 8, bfloat16, exact, sign"), ("randk:k=1,values=big", "bfloat16"),
        ("permk:values=true", "must be an integer or text"), ("topk:k=1,values=4,rounding=up", "nearest, stochastic"),
        ("topk:k=1,rounding=stochastic", "drop rounding=stochastic"), ("topk:k=1,bucket=8", "drop bucket=8"),
        ("randk:k=1,values=bfloat16,bucket=8", "drop bucket=8"), ("topk:k=1,values=4,bucket=0", "from 1 to 65535"),
        ("chunked-topk:k=1,bucket=8", "drop bucket=8"), ("chunked-topk:k=1,values=4,table=chunk", "drop table=chunk"),
        ("chunked-topk:k=1,values=5", "2bit"), ("randk:k=1,values=4,rounding=nearest", "rounding"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(spec, words):
    with pytest.raises(ConfigError, match=words):
        mc.compressor(spec)
