"""Correlated quantization: the exact variance, the constants of each variant, messages, the common radius, mean estimation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

import mpicomp as mc
from mpicomp.compressors import Codec
from mpicomp.compressors.lattice import Lattice, largest_square
from mpicomp.errors import ConfigError, TheoryError, WireError
from mpicomp.experiments.study.estimation import mean_errors
from mpicomp.kernels import hadamard
from mpicomp.kernels.entropy import decode_symbols, encode_symbols, scratch
from mpicomp.kernels.lattice import OFFSETS, SHIFTS, round_exactly, round_to_ends, round_to_lattice
from mpicomp.kernels.random import Keys, Stream, bits32, bits64, client_key, derive, dither32, permutation
from mpicomp.mechanisms.direct import DirectUplink

RNG = np.random.default_rng


def keys_of(round: int) -> Keys:
    return Keys(derive(0, Stream.TEST, round), derive(1, Stream.TEST, round))


def agree(codec: Codec, V: np.ndarray, keys: Keys) -> None:
    """What the link does before an exchange: the largest radius."""
    if codec.round_maximum is not None:
        everybody = np.arange(len(V))
        codec.round_maximum[0] = codec.measure(V, everybody, everybody, keys).max()


def estimates(codec: Codec, V: np.ndarray, rounds: int, first: int = 0) -> np.ndarray:
    """mean C_i(V_i) in each of many rounds, shape (rounds, d)."""
    n, out = len(V), np.zeros((rounds, codec.dim))
    everybody, weights = np.arange(n), np.full(n, 1.0 / n)
    buf, tally = np.zeros(n * codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
    for t in range(rounds):
        keys = keys_of(first + t)
        agree(codec, V, keys)
        end = codec.encode(V, everybody, everybody, keys, buf, 0, tally)
        codec.decode_add(buf, 0, end, np.full(n, t), everybody, weights, keys, out)
    return out


def bind(spec: str, d: int, n: int, wire=np.float64) -> Codec:
    codec = mc.compressor(spec).bind(d, n, wire)
    assert codec.codec_id >= 16, "the dense fallback would make the test empty"
    return codec


def near(sample: np.ndarray, expected, deviations: float = 5.0, slack: float = 1e-12) -> None:
    """The mean over axis 0 is the expected one, to so many standard deviations."""
    spread = sample.std(axis=0) / np.sqrt(len(sample))
    assert (np.abs(sample.mean(axis=0) - expected) <= deviations * spread + slack).all()


# ---- the exact variance ---------------------------------------------------------------------------------------------
def correlated_variance(z: np.ndarray) -> float:
    """Var((1/n) Σ round(z_i)) for thresholds U_i = (π_i + γ_i)/n (marina-family.md §3), as printed there, for any lattice."""
    n, f = len(z), z - np.floor(z)
    if n == 1:
        return float(f[0] * (1 - f[0]))
    stratum = np.floor(n * f)
    rest = n * f - stratum
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                gap = abs(f[i] - f[j])
                total += gap * (1 - gap) / (2 * n**2 * (n - 1))
                if stratum[i] == stratum[j]:
                    total += min(rest[i], rest[j]) * (1 - max(rest[i], rest[j])) / (n**3 * (n - 1))
    return total


def independent_variance(z: np.ndarray) -> float:
    f = z - np.floor(z)
    return float(np.sum(f * (1 - f))) / len(z) ** 2


def positions(spec: str, x: np.ndarray, r: float, grid: int = 400) -> list[np.ndarray]:
    """z_i of a coordinate on the lattice in units of its spacing, for each offset that may be drawn (written from the paper)."""
    c = mc.compressor(spec)
    if c.variant == "sign-magnitude":
        return [x / r * (c.levels - 1)]
    y = (x + r) / (2 * r)
    if c.levels == 2:
        return [y]
    k = c.levels
    beta = (k + 1) / (k * (k - 1))
    return [(y + (u + 0.5) / grid / k) / beta for u in range(grid)]  # c_1 = −u/k


def spacing(spec: str) -> float:
    """Distance of neighbours in units of r."""
    c = mc.compressor(spec)
    if c.variant == "sign-magnitude":
        return 1 / (c.levels - 1)
    return 2.0 if c.levels == 2 else 2 * (c.levels + 1) / (c.levels * (c.levels - 1))


def exact(spec: str, V: np.ndarray, formula=correlated_variance) -> np.ndarray:
    """The variance of each coordinate of the mean, all clients having the common radius max‖V_i‖."""
    r = np.linalg.norm(V, axis=1).max()
    return np.array([np.mean([formula(z) for z in positions(spec, x, r)]) * (spacing(spec) * r) ** 2 for x in V.T])


LATTICES = ["levels=2", "levels=3", "levels=4", "variant=sign-magnitude", "variant=sign-magnitude,levels=4"]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_exact_variance_of_one_bit(n):
    V = RNG(n).standard_normal((n, 6)) * RNG(n).random((n, 1))
    errors = (estimates(bind("cq:radius=common", 6, n), V, 6000) - V.mean(axis=0)) ** 2
    near(errors, exact("cq:radius=common", V))


@pytest.mark.parametrize("options", LATTICES[1:])
def test_exact_variance_of_other_lattices(options):
    V = RNG(5).standard_normal((5, 16)) + 0.4
    errors = (estimates(bind(f"cq:{options},radius=common", 16, 5), V, 6000) - V.mean(axis=0)) ** 2
    near(errors, exact(f"cq:{options}", V), slack=2e-5)


@pytest.mark.parametrize("options", LATTICES)
def test_independent_quantizers_are_the_control(options):
    V = RNG(6).standard_normal((4, 16)) + 0.4
    errors = (estimates(bind(f"iq:{options},radius=common", 16, 4), V, 6000) - V.mean(axis=0)) ** 2
    near(errors, exact(f"iq:{options}", V, independent_variance), slack=2e-5)


def test_never_worse_than_independent_and_the_corollaries():
    """Pairwise covariances are never positive; MSE ≤ σ_md (r−l)/n + (r−l)²/(4n²); f(1−f)(r−l)²/n² for equal inputs."""
    rng = RNG(0)
    for _ in range(300):
        n = int(rng.integers(2, 12))
        y = rng.random(n) ** rng.integers(1, 4)
        value = correlated_variance(y)
        assert value <= independent_variance(y) + 1e-15
        assert value <= np.abs(y - y.mean()).mean() / n + 1 / (4 * n**2) + 1e-15
        f = n * y[0] - np.floor(n * y[0])
        assert correlated_variance(np.full(n, y[0])) == pytest.approx(f * (1 - f) / n**2, abs=1e-14)


@pytest.mark.parametrize("spec", [f"cq:{options}" for options in LATTICES])
def test_own_radii_are_never_worse_than_independent(spec):
    """Also with inputs of different sizes and signs, where the lattices differ."""
    V = RNG(8).standard_normal((5, 16)) * np.array([1, 3, 0.2, 1, 2])[:, None]
    correlated = ((estimates(bind(spec, 16, 5), V, 6000) - V.mean(axis=0)) ** 2).sum(axis=1)
    control = ((estimates(bind(spec.replace("cq", "iq"), 16, 5), V, 6000) - V.mean(axis=0)) ** 2).sum(axis=1)
    assert correlated.mean() <= control.mean() + 5 * np.hypot(correlated.std(), control.std()) / np.sqrt(6000)


def test_thresholds_have_the_law_of_fresh_permutations():
    """One permutation and shifts: in every coordinate each pair of clients holds each pair of strata equally often."""
    n, d, rounds = 4, 3, 6000
    seen = np.zeros((d, n, n))
    places = np.empty(n, np.int64)
    for t in range(rounds):
        shared = keys_of(t).shared
        permutation(np.uint64(bits64(shared, 0)), places)
        for j in range(d):
            shift = (int(dither32(np.uint64(bits64(shared, 2)), j)) * n) >> 32
            pi = (places + shift) % n
            assert sorted(pi) == list(range(n))
            seen[j, pi[0], pi[1]] += 1
    assert (seen[:, np.arange(n), np.arange(n)] == 0).all()
    off = seen[:, ~np.eye(n, dtype=bool)]
    expected = rounds / (n * (n - 1))
    assert (np.abs(off - expected) < 5 * np.sqrt(expected)).all()


def test_one_bit_messages_are_what_the_documentation_says():
    n, d, keys = 5, 40, keys_of(3)
    V = RNG(1).standard_normal((n, d))
    codec, everybody = bind("cq", d, n), np.arange(n)
    buf = np.zeros(n * codec.max_nbytes, np.uint8)
    end = codec.encode(V, everybody, everybody, keys, buf, 0, np.zeros(2, np.int64))
    assert end == n * (8 + 5)
    places = np.empty(n, np.int64)
    permutation(np.uint64(bits64(keys.shared, 0)), places)
    for i, message in enumerate(buf.reshape(n, 13)):
        r = message[:8].view(np.float64)[0]
        assert r == pytest.approx(np.linalg.norm(V[i]), rel=1e-14)
        for j, bit in enumerate(np.unpackbits(message[8:], bitorder="little")):
            shift = (int(dither32(np.uint64(bits64(keys.shared, 2)), j)) * n) >> 32
            gamma = (int(dither32(np.uint64(client_key(keys.private, i)), j)) >> 8) / 2**24
            U = ((places[i] + shift) % n + gamma) / n
            y = (V[i, j] + r) / (2 * r)
            assert bit == (y > U)


# ---- constants ------------------------------------------------------------------------------------------------------
SPECS = [
    *(f"cq:{options}" for options in (*LATTICES, "levels=16")),
    *(f"cq:{options},norm=max" for options in ("levels=2", "levels=5", "variant=sign-magnitude")),
    "cq:rotate=true", "cq:rotate=true,levels=5", "cq:rotate=true,variant=sign-magnitude", "iq", "iq:levels=3",
    "permk-cq", "permk-cq:parts=2", "permk-cq:parts=3,levels=4", "permk-cq:parts=2,variant=sign-magnitude",
]  # fmt: skip


@pytest.mark.covering()
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("similar", [True, False])
def test_ab_inequality_and_theta(spec, similar):
    n, d, rounds = 5, 24, 3000
    V = RNG(4).standard_normal((n, d)) * np.arange(1, n + 1)[:, None]
    if similar:
        V[:] = V[0]
    mean = V.mean(axis=0)
    codec = bind(spec, d, n)
    c = codec.compressor
    sample = estimates(codec, V, rounds)
    near(sample, mean, slack=1e-6)
    errors = ((sample - mean) ** 2).sum(axis=1)
    slack = 5 * errors.std() / np.sqrt(rounds) + 1e-9
    A, B = c.ab(d, n)
    assert errors.mean() <= A * (V**2).sum(axis=1).mean() - B * (mean @ mean) + slack
    if similar:
        assert errors.mean() <= c.theta(d, n) * (mean @ mean) + slack
        assert c.theta(d, n) <= max(A - B, 0) + 1e-12


@pytest.mark.parametrize(
    "spec", ["cq", "cq:levels=4", "cq:levels=5", "cq:variant=sign-magnitude", "cq:rotate=true", "iq"]
)
@pytest.mark.parametrize("n", [2, 10])
def test_ab_inequality_of_a_common_radius(spec, n):
    spec = spec + ("," if ":" in spec else ":") + "radius=common"
    d, rounds = 24, 3000
    codec = bind(spec, d, n)
    A, B = codec.compressor.ab(d, n)
    for scale in (np.ones(n), np.eye(n)[0] + 0.01, np.where(np.arange(n) % 2, -1.0, 1.0)):
        V = (RNG(2).standard_normal(d) + 0.1 * RNG(3).standard_normal((n, d))) * scale[:, None]
        mean = V.mean(axis=0)
        errors = ((estimates(codec, V, rounds) - mean) ** 2).sum(axis=1)
        assert errors.mean() <= A * (V**2).sum(axis=1).mean() - B * (mean @ mean) + 5 * errors.std() / np.sqrt(rounds)


def test_the_published_constant_of_the_two_level_quantizer_is_four_times_too_small():
    """d/(4n) (IQ) and d/(4n²) (CQ, equal inputs) belong to the sign-magnitude quantizer; two levels have (d−1)/n and d/n²."""
    d, n, rounds = 32, 10, 4000
    x = RNG(7).standard_normal(d)
    V = np.repeat(x[None], n, axis=0)
    error = {
        spec: ((estimates(bind(spec, d, n), V, rounds) - x) ** 2).sum(axis=1).mean() / (x @ x)
        for spec in ("iq", "cq", "cq:variant=sign-magnitude", "iq:variant=sign-magnitude")
    }
    assert error["iq"] == pytest.approx((d - 1) / n, rel=0.05) and error["iq"] > 3 * d / (4 * n)
    assert d / (4 * n**2) < 0.5 * error["cq"] and error["cq"] <= d / n**2
    assert error["cq:variant=sign-magnitude"] <= d / (4 * n**2)
    assert error["iq:variant=sign-magnitude"] <= (np.sqrt(d) - 1) / n <= d / (4 * n)
    c = mc.compressor
    assert c("iq").ab(d, n) == c("cq").ab(d, n) == ((d - 1) / n, 0.0) and c("cq").theta(d, n) == d / n**2
    assert c("cq:variant=sign-magnitude").theta(d, n) == d / (4 * n**2)


def test_two_levels_reach_omega_and_odd_lattices_come_close():
    x = np.full(64, 1.0)
    for spec, part in (("cq", 0.999), ("cq:levels=3", 0.9), ("cq:levels=4", 0.85), ("cq:variant=sign-magnitude", 0.95)):
        errors = ((estimates(bind(spec, 64, 1), x[None], 3000) - x) ** 2).sum(axis=1) / 64
        omega = mc.compressor(spec).omega(64)
        assert part * omega <= errors.mean() <= omega + 5 * errors.std() / np.sqrt(3000)


def test_rotation_makes_spikes_cheap():
    """E‖Q(x) − x‖² = O(ln d)‖x‖² with rotation, (d − 1)‖x‖² without; ω says so."""
    d = 1024
    x = np.eye(d)[:1] + 0.5 * np.eye(d)[1:2]
    plain, turned = mc.compressor("cq"), mc.compressor("cq:rotate=true")
    assert turned.omega(d) < 20 < plain.omega(d)
    errors = ((estimates(bind("cq:rotate=true", d, 1), x, 200) - x[0]) ** 2).sum(axis=1)
    assert errors.mean() < turned.omega(d) * 1.25


def test_clipping_is_biased_by_less_than_stated():
    """Algorithm 3: nothing is clipped in practice; C, not clipped, would have ω = d − 1, and here it is 8 ln(dn)."""
    d, n, spec = 1024, 4, "cq:rotate=true,clip=true"
    c = mc.compressor(spec)
    assert not c.unbiased
    with pytest.raises(TheoryError, match="biased"):
        c.omega(d, n)
    with pytest.raises(ConfigError, match="rotate"):
        mc.compressor("cq:clip=true")
    V = RNG(0).standard_normal((n, d)) * np.eye(d)[0] + RNG(1).standard_normal((n, d)) * 0.01
    errors = ((estimates(bind(spec, d, n), V, 200) - V.mean(axis=0)) ** 2).sum(axis=1)
    beta, A = c.bias_variance(d, n)
    assert beta < 1e-9
    np.testing.assert_allclose(A, 8 * np.log(d * n) / n, rtol=1e-6)
    assert errors.mean() <= A * (V**2).sum(axis=1).mean()


def test_a_common_radius_has_no_omega():
    c = mc.compressor("cq:radius=common")
    assert c.omega(10, 1) == 9.0
    with pytest.raises(TheoryError, match="largest vector"):
        c.omega(10, 2)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cq:levels=1", "2 to"), ("cq:variant=x", "interval"), ("cq:norm=l1", "max"), ("cq:radius=big", "common"),
        ("iq:levels=2000,entropy=true", "at most"), ("permk-cq:parts=0", "positive"), ("permk-cq:norm=l1", "max"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(spec, words):
    with pytest.raises(ConfigError, match=words):
        mc.compressor(spec)


def test_permk_cq_at_its_ends():
    """One part is CQ's variance; with n > d a part is one coordinate, and plain PermK is shorter."""
    assert mc.compressor("permk-cq:parts=1").ab(24, 5) == mc.compressor("cq").ab(24, 5)
    assert mc.compressor("permk-cq").bind(4, 12).codec_id == 3
    assert mc.compressor("permk-cq").ab(4, 12) == mc.compressor("permk").ab(4, 12)


# ---- sizes ----------------------------------------------------------------------------------------------------------
def message_bits(spec: str, x: np.ndarray, wire=np.float32) -> tuple[int, int]:
    """(payload bits, bits that the papers count) of one message."""
    codec, tally, row = bind(spec, x.size, 4, wire), np.zeros(2, np.int64), np.zeros(1, np.int64)
    agree(codec, x[None], keys_of(0))
    codec.encode(x[None], row, row, keys_of(0), np.zeros(codec.max_nbytes, np.uint8), 0, tally)
    return int(tally[0]), int(tally[1])


def test_messages_have_the_promised_sizes():
    x = RNG(0).standard_normal(1000)
    assert message_bits("cq", x) == (32 + 1000, 32 + 1000)
    assert message_bits("cq:radius=common", x) == (1000, 1000)
    assert message_bits("cq:levels=5", x) == (32 + 3000, 32 + 3000)
    assert message_bits("cq:rotate=true", x) == (32 + 1000, 32 + 1000)
    assert message_bits("cq:variant=sign-magnitude", x) == (32 + 2000, 32 + 2000)
    assert message_bits("permk-cq", x) == (32 + 256, 32 + 250)


def test_the_entropy_code_is_near_the_entropy():
    """Sign-magnitude with ‖x‖₂ is nearly all zeros: the expected number of others is ‖x‖₁/‖x‖₂ ≤ √d."""
    x = RNG(0).standard_normal(10_000)
    packed, coded = (message_bits(f"cq:variant=sign-magnitude{end}", x)[0] for end in ("", ",entropy=true"))
    p = np.abs(x).sum() / np.linalg.norm(x) / x.size
    entropy = -(1 - p) * np.log2(1 - p) - p * np.log2(p / 2)
    assert coded < packed / 10
    assert coded == pytest.approx(40 + x.size * entropy, rel=0.25)
    level = message_bits("cq:levels=32,norm=max,entropy=true", x)[0]
    assert level < 0.92 * message_bits("cq:levels=32,norm=max", x)[0]
    assert message_bits("cq:entropy=true", x)[0] <= message_bits("cq", x)[0] + 8  # a fair bit cannot be compressed


def coded(data: np.ndarray, symbols: int) -> tuple[np.ndarray, int]:
    """A buffer with the code of an array from byte 5 on, and where it ends."""
    buf = np.zeros(4 * len(data) + 4 * symbols + 64, np.uint8)
    return buf, encode_symbols(data, scratch(symbols), buf, 5, len(buf))


@pytest.mark.covering()
@pytest.mark.parametrize("symbols", [2, 3, 16, 1000])
@pytest.mark.parametrize("length", [1, 7, 4095, 70_000])
def test_entropy_code(symbols, length):
    rng = RNG(symbols)
    for data in (
        rng.integers(0, symbols, length),
        np.minimum(rng.geometric(0.6, length) - 1, symbols - 1),
        np.zeros(length),
        np.full(length, symbols - 1),
        rng.random(length) < 0.001,
    ):
        data = data.astype(np.uint16)
        (buf, end), got = coded(data, symbols), np.empty_like(data)
        assert decode_symbols(buf, 5, end, scratch(symbols), got) == end
        np.testing.assert_array_equal(got, data)
        assert decode_symbols(buf, 5, end - 1, scratch(symbols), got) < 0
        assert encode_symbols(data, scratch(symbols), buf, 5, end) == -1
        share = np.bincount(data) / length
        entropy = -(share[share > 0] @ np.log2(share[share > 0])) * length / 8
        table, states = (25 * np.count_nonzero(share) + symbols) / 8, 128
        assert end - 5 <= 1.002 * entropy + table + states + 8


def ans_in_words(data: list[int], symbols: int) -> bytes:
    """The layout of `docs/reference/wire.md`, in Python's integers."""
    N = len(data)
    L = min(N.bit_length(), 12 if symbols <= 256 else 11)
    counts = [data.count(s) for s in range(symbols)]
    freq = [max(c * 2**L // N, 1) if c else 0 for c in counts]
    while sum(freq) != 2**L:
        for s in range(symbols):
            step = (sum(freq) < 2**L and freq[s] > 0) - (sum(freq) > 2**L and freq[s] > 1)
            freq[s] += step
    weight = N * (2**L + 128 * (2**L - max(freq)))
    K = 0 if max(freq) == 2**L else 32 if weight >= 2 ** (L + 21) else 4 if weight >= 2 ** (L + 16) else 1
    bits = "".join("0" * ((f + 1).bit_length() - 1) + "1" + bin(f + 1)[3:][::-1] for f in freq)
    table = int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
    states, words = [2**16] * K, []
    first = [sum(freq[:s]) for s in range(symbols)]
    for i in reversed(range(N if K else 0)):
        f, x = freq[data[i]], states[i % K]
        if x >= f << (32 - L):
            words.append(x % 2**16)
            x >>= 16
        states[i % K] = (x // f << L) + x % f + first[data[i]]
    return (
        table
        + b"".join(x.to_bytes(4, "little") for x in states)
        + b"".join(w.to_bytes(2, "little") for w in words[::-1])
    )


@pytest.mark.parametrize(
    ("symbols", "length"),
    [(2, 1), (3, 17), (40, 300), (300, 200), (7, 5000), (5, 17_000), (60, 16_999), (90, 40_000), (300, 20_001)],
)
def test_entropy_code_is_what_the_wire_format_says(symbols, length):
    data = np.minimum(RNG(length).geometric(min(0.6, 3.0 / symbols), length) - 1, symbols - 1).astype(np.uint16)
    buf, end = coded(data, symbols)
    assert bytes(buf[5:end]) == ans_in_words(data.tolist(), symbols)


def test_entropy_code_refuses_what_no_encoder_writes():
    """Any byte changed: refused, or other symbols in the same number of bytes, never more than there are."""
    data = np.minimum(RNG(1).geometric(0.4, 500) - 1, 15).astype(np.uint16)
    (buf, end), got, refused = coded(data, 16), np.zeros_like(data), 0
    for at in range(5, end):
        for flip in (1, 128, 255):
            buf[at] ^= flip
            code = decode_symbols(buf, 5, end, scratch(16), got)
            refused += code < 0
            assert code <= end and (code < 0 or got.max() < 16)
            buf[at] ^= flip
    assert refused > 0.99 * 3 * (end - 5)


def test_hadamard():
    H = np.ones((1, 1))
    for power in range(13):
        N = 2**power
        if N <= 1024:
            x = RNG(power).standard_normal(N)
            y = x.copy()
            hadamard.transform(y)
            np.testing.assert_allclose(y, H @ x, atol=1e-11)
            H = np.block([[H, H], [H, -H]])
        x = RNG(power).standard_normal(N)
        y = x.copy()
        hadamard.rotate(y, np.uint64(3))
        assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x))
        hadamard.rotate_back(y, np.uint64(3))
        np.testing.assert_allclose(y, x, atol=1e-12)


# ---- the common radius over an exchange -----------------------------------------------------------------------------
def common_radius_run(**options):
    return mc.run(
        problem="mean", problem_options={"dim": 50, "sigma": 0.1}, clients=6, method="dcgd", compressor="cq:radius=common",
        **{"rounds": 3, "step": 1.0, "eval_every": 1, **options},
    )  # fmt: skip


def test_the_radius_is_agreed_and_counted():
    result = common_radius_run(wire_dtype="float32")
    bits = result.summary["bytes"]
    # a round: 6 clients send 50 bits and, beforehand, one value; the server sends one value and the model to all
    assert bits["uplink"]["payload_bits"] == 3 * 6 * (32 + 56)
    assert bits["uplink"]["values_only"] == -(-3 * 6 * (32 + 50) // 8)
    assert bits["downlink"]["payload_bits"] == 3 * (32 + 50 * 32)


def test_a_common_radius_is_the_largest_of_all(monkeypatch):
    import mpicomp.exchanges.base as exchange

    expected = common_radius_run()
    monkeypatch.setattr(exchange, "GROUP_NBYTES", 40)
    assert common_radius_run().summary["iterate_sha256"] == expected.summary["iterate_sha256"]
    V = -mc.problems.problems.build("mean", {"dim": 50, "sigma": 0.1, "clients": 6}).vectors
    r = np.linalg.norm(V, axis=1).max()
    first = common_radius_run(rounds=1).x
    np.testing.assert_allclose(np.abs(6 * first / r - np.round(6 * first / r)), 0, atol=1e-9)  # a sum of six ±r


@pytest.mark.parametrize(
    "compressor", ["cq:radius=common", "iq:radius=common,rotate=true", "cq:radius=common,levels=5,rotate=true"]
)
def test_a_common_radius_on_the_way_down(compressor):
    """The server announces its vector's radius; MARINA-P converges to the same point as gradient descent."""
    options = {
        "problem": "quadratic",
        "problem_options": {"dim": 16, "reg": 0.1},
        "clients": 4,
        "rounds": 300,
        "step": 0.2,
    }
    result = mc.run(method="marina-p", compressor=compressor, method_options={"p": 0.3}, allow_unsafe=True, **options)
    assert result.summary["grad_norm_sq"] < 1e-6 * result.history[0]["grad_norm_sq"]
    assert result.summary["bytes"]["downlink"]["message"] > 0


def test_nan_of_one_client_reaches_everybody():
    codec = bind("cq:radius=common", 20, 3)
    V = np.ones((3, 20))
    V[1, 3] = np.nan
    assert np.isnan(estimates(codec, V, 1)).all()


def test_messages_of_another_radius_mode_are_refused():
    codec, other = bind("cq:radius=common", 64, 2), bind("cq", 64, 2)
    V, everybody = np.ones((2, 64)), np.arange(2)
    agree(codec, V, keys_of(0))
    buf = np.zeros(200, np.uint8)
    end = codec.encode(V, everybody, everybody, keys_of(0), buf, 0, np.zeros(2, np.int64))
    with pytest.raises(WireError):
        other.decode_add(buf, 0, end, everybody, everybody, np.ones(2), keys_of(0), np.zeros((2, 64)))


# ---- distributed mean estimation ------------------------------------------------------------------------------------
def test_mean_estimation_as_a_problem():
    """x¹ = mean C_i(a_i) after one round of dcgd with step 1; ‖∇f(x¹)‖² is its squared error."""
    run = {
        "problem": "mean",
        "problem_options": {"dim": 64, "sigma": 0.04, "seed": 0},
        "clients": 10,
        "method": "dcgd",
        "rounds": 1,
        "step": 1.0,
    }
    exact_run = mc.run(compressor="identity", **run)
    a = mc.problems.problems.build("mean", {"dim": 64, "sigma": 0.04, "clients": 10}).vectors
    np.testing.assert_allclose(exact_run.x, a.mean(axis=0), rtol=1e-12)
    assert exact_run.summary["grad_norm_sq"] < 1e-28
    errors = [mc.run(compressor="cq", seed=s, **run).summary["grad_norm_sq"] for s in range(5)]
    direct = mean_errors(mc.compressor("cq"), -a, 5)
    np.testing.assert_allclose(
        errors, [mean_errors(mc.compressor("cq"), -a, 1, seed=s)[0] for s in range(5)], rtol=1e-9
    )
    assert 0.3 < np.mean(errors) / np.mean(direct) < 3


def test_figure_two_of_the_paper_in_small():
    """RMSE falls with σ_md for CQ and not for IQ; with n it falls as 1/n for equal vectors; rotation helps spikes."""

    def rmse(spec, **options):
        problem = mc.problems.problems.build("mean", {"dim": 128, "clients": 50, **options})
        return np.sqrt(mean_errors(mc.compressor(spec), problem.vectors, 20).mean())

    correlated = [rmse("cq:radius=common,norm=max", sigma=s) for s in (0.005, 0.02, 0.08)]
    control = [rmse("iq:radius=common,norm=max", sigma=s) for s in (0.005, 0.02, 0.08)]
    assert correlated[0] < correlated[1] < correlated[2] < control[2]
    assert correlated[0] < control[0] / 3 and control[0] > 0.5 * control[2]
    few, many = (rmse("cq:radius=common", sigma=0.0, clients=n) for n in (10, 100))
    assert few / many > 5
    assert rmse("cq:rotate=true", means="spikes", sigma=0.001) < 0.5 * rmse("cq:norm=max", means="spikes", sigma=0.001)


def test_direct_needs_nothing_of_it():
    """Mechanisms know nothing of the common radius: the link does it."""
    assert "agreed" not in DirectUplink.transmit.__code__.co_names


@pytest.mark.covering()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strata", [1, 7, 100, 1 << 16])
def test_two_levels_in_blocks_are_those_of_the_definition(dtype, strata):
    """A million entries, of which a thousand are in doubt in float32, some at the ends, some beyond them."""
    count, radius, key = 1 << 20, 2.5, np.uint64(0xFEDCBA9876543210)
    x = np.random.default_rng(strata).uniform(-radius, radius, count).astype(dtype)
    x[:4] = radius, -radius, 3 * radius, -3 * radius
    place, common, buf = strata // 3, np.uint64(17), np.zeros(count // 8, np.uint8)
    for j in range(4, 1000):  # at their thresholds, as near as the numbers allow
        shift = int(dither32(bits64(common, SHIFTS), j)) * strata >> 32
        x[j] = radius * (2.0 * ((place + shift) % strata + (int(dither32(key, j)) >> 8) / 2**24) / strata - 1.0)
    expected, codes, again = np.zeros(count, np.uint8), np.zeros(2048, np.uint8), np.zeros(2048, np.uint8)
    round_exactly(x, radius, (0.5, 0.5, 0.0, 2), (common, key, place, strata), 0, expected)
    for start in range(0, count, 2048):
        round_to_ends(x, start, start + 2048, radius, common, key, place, strata, buf, start // 8, codes, again)
    assert np.array_equal(np.unpackbits(buf, bitorder="little"), expected) and 0.4 < expected.mean() < 0.6


@pytest.mark.covering()
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strata", [1, 7, 100, 1 << 16, 1 << 17])
@pytest.mark.parametrize(
    "lattice",
    [Lattice("interval", k) for k in (2, 3, 4, 300, 2000)] + [Lattice("sign-magnitude", k) for k in (2, 5)],
    ids=str,
)
def test_many_levels_in_blocks_are_those_of_the_definition(lattice, strata, dtype):
    """Thousands of entries at their thresholds, as near as the numbers allow; some at the ends, some beyond them; parts of any length."""
    radius, key, common, place = 2.5, np.uint64(0xFEDCBA9876543210), np.uint64(17), strata // 3
    count, (base, spread) = 1 << 14, lattice.offset
    levels, draws = (lattice.slope, base, spread, lattice.symbols), (common, key, place, strata)
    rng = np.random.default_rng(strata)
    shifts, offsets = np.uint64(bits64(common, SHIFTS)), np.uint64(bits64(common, OFFSETS))
    doubts = np.zeros(count // 8, np.uint8)
    for element, size in ((0, count), (7, count), (32, 40), (61, 1), (64, 33), (95, 32)):
        x = rng.uniform(-radius, radius, size).astype(dtype)
        for j in range(min(size // 2, 2000)):
            shift = int(dither32(shifts, element + j)) * strata >> 32
            threshold = ((place + shift) % strata + (int(dither32(key, element + j)) >> 8) / 2**24) / strata
            offset = base + spread * ((int(bits32(offsets, element + j)) >> 8) + 1) / 2**24
            x[j] = radius * (rng.integers(lattice.symbols) + threshold - offset) / lattice.slope
        x[size - 1 :: 50] = 3 * radius * rng.choice([-1, 1])
        expected, codes = np.zeros(size, np.uint16), np.full(size, 9999, np.uint16)
        round_exactly(x, radius, levels, draws, element, expected)
        round_to_lattice(x, radius, levels, draws, element, codes, doubts)
        assert np.array_equal(codes, expected) and (size < count or len(set(expected)) >= min(lattice.symbols, 1000))


# ---- the largest entry after a rotation -----------------------------------------------------------------------------
@pytest.mark.parametrize(("vectors", "d"), [(1, 64), (1, 1024), (5, 256)])
def test_the_bound_of_the_largest_entry(vectors, d):
    """It is the least value over λ of the bound that it names, to the width of its grid, and rotated vectors stay below it."""
    from scipy.optimize import minimize_scalar

    def bound(rate):
        return (np.log(vectors * d) - 0.5 * np.log(1 - 2 * rate)) / rate

    found = largest_square(vectors, d)
    assert 0 <= found - minimize_scalar(bound, bounds=(1e-3, 0.5 - 1e-6), method="bounded").fun < 0.02
    x = RNG(0).standard_normal((vectors, d))
    x[0] = 1.0  # and one whose rotation has a large entry more often than a Gaussian's
    x /= np.linalg.norm(x, axis=1)[:, None]
    matrix = linalg.hadamard(d) / np.sqrt(d)
    signs = RNG(1).choice([-1.0, 1.0], (300, 1, d))
    largest = d * (((signs * x) @ matrix.T) ** 2).max(axis=(1, 2))
    assert largest.mean() < found
