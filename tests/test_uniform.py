"""The uniform quantizer: its messages read by code of its own, its errors, its sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors.base import _HEAD
from mpicomp.errors import ConfigError, TheoryError, WireError
from mpicomp.kernels.random import dither32

RNG = np.random.default_rng
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


# ---- the wire format, in Python's integers ------------------------------------------------------------------------------
class Reader:
    def __init__(self, data: bytes):
        self.data, self.pos = data, 0

    def take(self, count: int) -> bytes:
        self.pos += count
        assert self.pos <= len(self.data)
        return self.data[self.pos - count : self.pos]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def fields(self, count: int, symbols: int, width: int) -> list[int]:
        """`count` numbers below `symbols`: a packed array of fields of `width` bits or an entropy code."""
        mode = self.number(1)
        assert mode in (0, 2)
        if mode == 0:
            assert width <= 8
            if width == 8:
                return list(self.take(count))
            bits = self.number((count * width + 7) // 8)
            return [bits >> (i * width) & ((1 << width) - 1) for i in range(count)]
        L = min(count.bit_length(), 12 if symbols <= 256 else 11)
        bits, have, freq = 0, 0, []
        for _ in range(symbols):
            zeros = 0
            while True:
                if have == 0:
                    bits, have = self.number(1), 8
                bit, bits, have = bits & 1, bits >> 1, have - 1
                if bit:
                    break
                zeros += 1
            rest = 0
            for i in range(zeros):
                if have == 0:
                    bits, have = self.number(1), 8
                rest, bits, have = rest | (bits & 1) << i, bits >> 1, have - 1
            freq.append((1 << zeros) + rest - 1)
        assert sum(freq) == 1 << L and bits == 0
        most = max(freq)
        if most == 1 << L:
            return [freq.index(most)] * count
        weight = count * (2**L + 128 * (2**L - most))
        K = 32 if weight >= 2 ** (L + 21) else 4 if weight >= 2 ** (L + 16) else 1
        states, first = [self.number(4) for _ in range(K)], np.cumsum([0, *freq])
        found = []
        for i in range(count):
            x = states[i % K]
            s = int(np.searchsorted(first, x % 2**L, side="right")) - 1
            x = freq[s] * (x >> L) + x % 2**L - int(first[s])
            states[i % K] = x if x >= 2**16 else x << 16 | self.number(2)
            found.append(s)
        assert states == [2**16] * K
        return found


def read_by_hand(data: bytes, d: int, dtype: str, key: np.uint64 | None) -> np.ndarray:
    """The vector of a message as docs/reference/wire.md has it; key : of the dither, or None for rounding to the nearest."""
    kind, reader = np.dtype(dtype).type, Reader(data)
    step = np.frombuffer(reader.take(np.dtype(dtype).itemsize), dtype)[0]
    if not step > 0:
        assert reader.pos == len(data)
        return np.full(d, step)
    shifts = [0.0] if key is not None else [0.0, *(np.frombuffer(reader.take(2), np.int8) / 256.0)]
    head = reader.number(1)
    rest = int.from_bytes(reader.take(reader.number(8)), "little") if head & 0x80 else 0
    groups, classes = -(-d // 32), (head & 0x7F) + 1
    labels = reader.fields(groups, 16, (classes - 1).bit_length()) if classes > 1 else [0] * groups
    assert max(labels) == classes - 1
    sizes = [min(32, d - 32 * g) for g in range(groups)]
    tokens: list[list[int]] = []
    for c in range(classes):
        count, below = sum(s for s, label in zip(sizes, labels, strict=True) if label == c), reader.number(1) + 1
        tokens.append(reader.fields(count, below, (below - 1).bit_length()) if below > 1 else [0] * count)
    assert reader.pos == len(data)
    q = []
    for size, label in zip(sizes, labels, strict=True):
        mine, tokens[label] = tokens[label][:size], tokens[label][size:]
        for token in mine:
            k = (token + 1) // 2
            if k >= 32:
                e = (k - 32) // 4 + 5
                k, rest = (4 + (k - 32) % 4 << e - 2) | rest & (1 << e - 2) - 1, rest >> e - 2
            q.append(k if token % 2 else -k)
    assert rest == 0
    q = np.array(q)
    if key is not None:
        u = np.array([(int(dither32(key, j)) >> 8) * 2.0**-24 + 2.0**-25 - 0.5 for j in range(d)])
        value = step * (q.astype(kind) - u.astype(kind))
    else:
        s = np.array(shifts)[np.minimum(np.abs(q), 2)].astype(kind)
        value = np.where(q < 0, -1, 1).astype(kind) * (step * (np.abs(q).astype(kind) - s))
    return value


def layers(d: int) -> np.ndarray:
    """A vector whose parts differ in size, with zeros, and one large entry."""
    x = RNG(4).standard_normal(d) * np.repeat(10.0 ** RNG(5).integers(-3, 2, -(-d // 100)), 100)[:d]
    x[d // 3 : d // 2], x[5 % d] = 0, 300.0
    return x


@BOTH
@pytest.mark.parametrize(
    "spec",
    ["uniform", "uniform:error=0.002", "uniform:error=4", "uniform:bits=3", "uniform:error=0.1,rounding=nearest",
     "uniform:error=0.0005,rounding=nearest", "uniform:bits=1,rounding=nearest"],
)  # fmt: skip
def test_messages_are_what_the_wire_format_says(spec, dtype):
    for d in (65, 700, 3001):
        for x in (RNG(d).standard_normal(d), layers(d), np.eye(d)[3], np.zeros(d)):
            x, key = x.astype(dtype), mc.MessageKey.seeded(3, 2, 5, d)
            compressor = mc.compressor(spec)
            data = compressor.compress(x, key)
            found = read_by_hand(data[_HEAD.size :], d, dtype, key.private if compressor.unbiased else None)
            np.testing.assert_array_equal(found, compressor.decompress(data))


# ---- what the quantizer does ----------------------------------------------------------------------------------------------
@BOTH
def test_with_dither_the_error_is_uniform_and_independent_of_the_vector(dtype):
    d, error = 20_000, 0.3
    x = layers(d).astype(dtype)
    half = error * np.linalg.norm(x.astype(float)) * math.sqrt(3 / d)
    e = (
        np.array([mc.compressor(f"uniform:error={error}").apply(x, mc.MessageKey.seeded(s)) - x for s in range(20)])
        / half
    )
    assert np.abs(e).max() <= 1 + 1e-5
    flat = np.sort(e.ravel())
    assert np.abs(flat - np.linspace(-1, 1, flat.size)).max() < 2 * 2.0 / math.sqrt(flat.size)  # Kolmogorov and Smirnov
    assert np.abs(np.mean(e**2, axis=1) - 1 / 3).max() < 0.02
    assert np.abs(e.mean(axis=0)).max() < 5.5 / math.sqrt(3 * 20)  # of each entry
    assert abs(np.corrcoef(np.abs(e).ravel(), np.abs(np.tile(x, 20)))[0, 1]) < 0.01
    assert abs(np.corrcoef(e[0], e[1])[0, 1]) < 0.04


def hostile(dtype: str):
    """Vectors that are hard to bound the error of."""
    tiny, huge, d = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max, 300
    yield from (np.ones(d), np.eye(d)[7] * 1e20, RNG(0).standard_cauchy(d) ** 3, layers(d), np.arange(d) % 2 + 0.5)
    yield from (np.full(d, tiny), tiny * RNG(1).integers(0, 9, d), tiny * RNG(1).integers(0, 10**6, d))
    huge = huge / 100 if dtype == "float64" else huge  # of which the norm is finite
    yield from (np.full(d, huge), huge * RNG(2).uniform(-1, 1, d), np.finfo(dtype).tiny * RNG(3).standard_normal(d))
    yield np.where(np.arange(d) == 0, huge, tiny)


@BOTH
@pytest.mark.parametrize("error", [0.9, 0.3, 0.01, 0.0001])
def test_rounding_to_the_nearest_keeps_its_word_for_every_vector(error, dtype):
    compressor = mc.compressor(f"uniform:error={error},rounding=nearest")
    for x in hostile(dtype):
        x = x.astype(dtype)
        scale = np.abs(x).max().astype(np.longdouble)
        e = compressor.apply(x).astype(np.longdouble) / scale - x.astype(np.longdouble) / scale
        assert np.linalg.norm(e) <= error * np.linalg.norm(x / scale) * (1 + 1e-6), x[:3]


@BOTH
@pytest.mark.parametrize(
    "spec", ["uniform", "uniform:error=0.001", "uniform:bits=2", "uniform:bits=2,rounding=nearest"]
)
def test_every_finite_vector_arrives_finite(spec, dtype):
    compressor = mc.compressor(spec)
    for x in hostile(dtype):
        found = compressor.apply(x.astype(dtype))
        assert np.isfinite(found).all()
    for d in (1, 2, 3):
        assert np.isfinite(compressor.apply(np.ones(d, dtype))).all()


def test_what_the_wire_cannot_hold_arrives_as_nan():
    for x, wire in ((np.full(100, 1e300), "float32"), (np.full(100, 1.7e308), "float64")):
        assert np.isnan(mc.compressor("uniform").apply(x, wire_dtype=wire)).all()


# ---- sizes ------------------------------------------------------------------------------------------------------------------
def bits_of(spec: str, x: np.ndarray) -> float:
    return 8 * (len(mc.compressor(spec).compress(x)) - _HEAD.size) / x.size


def entropy_of_a_rounded_normal(step: float, shift: float) -> float:
    """Bits of ⌊x/Δ + shift⌉ for a standard normal x."""
    edges = (np.arange(-400, 400) + 0.5 - shift) * step
    below = np.array([0.5 * math.erfc(-e / math.sqrt(2)) for e in edges])
    p = np.diff(below)
    return float(-(p[p > 0] @ np.log2(p[p > 0])))


@pytest.mark.parametrize("error", [0.9, 0.222, 0.05])
def test_a_normal_vector_takes_little_more_than_its_entropy(error):
    """The ideal: the entropy of each integer given its dither, at Δ = error √12; or of rounding to the nearest with as large an error."""
    x = RNG(0).standard_normal(1 << 16).astype(np.float32)
    dithered = np.mean([entropy_of_a_rounded_normal(error * math.sqrt(12), u) for u in np.linspace(-0.5, 0.5, 51)[:-1]])
    loss = 0.01 if error < 0.5 else 0.25  # a coarse dither says much of the integer, which the code does not know
    assert dithered - 0.01 < bits_of(f"uniform:error={error}", x) < 1.03 * dithered + loss
    grid = np.linspace(-6, 6, 24_001)
    weight = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    steps = np.geomspace(2 * error, 8 * error, 400)
    errors = [weight @ (grid - s * np.rint(grid / s)) ** 2 for s in steps]
    step = max(s for s, e in zip(steps, errors, strict=True) if e <= error**2)
    assert bits_of(f"uniform:error={error},rounding=nearest", x) < 1.03 * entropy_of_a_rounded_normal(step, 0.0) + 0.01


def test_parts_of_different_size_do_not_spoil_each_other():
    """Half of the entries a thousand times as small as the others: those take next to nothing, and the others what they take alone."""
    x = RNG(0).standard_normal(1 << 16).astype(np.float32)
    both = np.concatenate([x, x / 1000]).astype(np.float32)
    alone = bits_of("uniform:error=0.1", x)
    mixed = bits_of(f"uniform:error={0.1 * math.sqrt(2)}", both)  # the same step
    assert mixed < 0.5 * alone * 1.01 + 0.04
    mixed = bits_of("uniform:error=0.1,rounding=nearest", both)
    assert mixed < 0.5 * bits_of("uniform:error=0.1,rounding=nearest", x) * 1.01 + 0.02


def test_zeros_cost_next_to_nothing():
    x = np.zeros(1 << 18, np.float32)
    assert len(mc.compressor("uniform").compress(x)) == _HEAD.size + 4
    x[[5, 70_000]] = 1, -2
    for rounding in ("dither", "nearest"):
        assert (
            8 * (len(mc.compressor(f"uniform:error=0.01,rounding={rounding}").compress(x)) - _HEAD.size)
            < 0.005 * x.size
        )
    x[1000:3000] = RNG(0).standard_normal(2000)
    assert bits_of("uniform:error=0.1,rounding=nearest", x) < 4.5 * 2000 / x.size + 0.003


VECTORS = {
    "normal": RNG(0).standard_normal(30_000), "cauchy": RNG(0).standard_cauchy(30_000), "layers": layers(30_000),
    "sparse": RNG(0).standard_normal(30_000) * (RNG(1).random(30_000) < 0.05),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("bits", [0.3, 2, 5.5])
@pytest.mark.parametrize("rounding", ["dither", "nearest"])
def test_a_budget_of_bits_is_used_and_kept(rounding, bits, name):
    """But where the step is as large as the constants of the theory allow, or a sparse vector takes less."""
    x = VECTORS[name].astype(np.float32)
    compressor = mc.compressor(f"uniform:bits={bits},rounding={rounding}")
    found = bits_of(compressor.spec, x)
    assert found <= 1.05 * bits
    if (name == "normal" and bits < 5) or (name == "cauchy" and bits < 3):
        assert found >= 0.95 * bits
    if math.isfinite(compressor._square):
        error = np.linalg.norm(compressor.apply(x) - x) / np.linalg.norm(x)
        assert error <= math.sqrt(compressor._square) * 1.02


@BOTH
@pytest.mark.parametrize("spec", ["uniform:error=0.00002", "uniform:bits=16", "uniform:error=0.5,rounding=nearest"])
def test_no_message_is_longer_than_the_vector(spec, dtype):
    for d in (1, 5, 16, 17, 64, 65, 1000, 5000):
        codec = mc.compressor(spec).bind(d, 1, dtype)
        assert codec.max_nbytes <= d * np.dtype(dtype).itemsize
        for x in (RNG(d).standard_normal(d), layers(d)):
            assert len(mc.compressor(spec).compress(x.astype(dtype))) - _HEAD.size <= codec.max_nbytes


# ---- errors -----------------------------------------------------------------------------------------------------------------
def test_no_changed_byte_does_harm():
    """Each is refused, or gives other numbers."""
    for spec in ("uniform:error=0.01", "uniform:bits=2,rounding=nearest"):
        compressor = mc.compressor(spec)
        data, refused, rng = bytearray(compressor.compress(layers(900))), 0, RNG(0)
        for at in range(_HEAD.size, len(data)):
            for flip in (1, 128, int(rng.integers(1, 256))):
                data[at] ^= flip
                try:
                    with np.errstate(all="ignore"):
                        compressor.decompress(bytes(data))
                except WireError:
                    refused += 1
                data[at] ^= flip
        assert refused > 0.5 * 3 * (len(data) - _HEAD.size)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("uniform:error=0.1,bits=2", "either error or bits"), ("uniform:error=0", "from 1.52588e-05 to 16"),
        ("uniform:bits=17", "from 0.05 to 16"),
        ("uniform:error=x", "must be a number"), ("uniform:rounding=up", "known: dither, nearest"),
        ("uniform:error=1,rounding=nearest", "must be below 1 with rounding=nearest"), ("uniform:bits=true", "must be a number"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(spec, words):
    with pytest.raises(ConfigError, match=words):
        mc.compressor(spec)


def test_theory():
    γ = math.pi * math.e / 6
    assert mc.compressor("uniform").omega(50) == pytest.approx(0.04)
    assert mc.compressor("uniform:bits=2").omega(50) == pytest.approx(γ / (16 - 4 * γ))
    assert mc.compressor("uniform:bits=2,rounding=nearest").alpha(50) == pytest.approx(1 - γ / (16 - γ))
    with pytest.raises(TheoryError, match="bound the error of no vector"):
        mc.compressor("uniform:bits=0.2").omega(50)
    with pytest.raises(TheoryError, match="bound the error of no vector"):
        mc.compressor("uniform:bits=0.5,rounding=nearest").alpha(50)
    with pytest.raises(TheoryError, match="biased"):
        mc.compressor("uniform:rounding=nearest").omega(50)


def test_messages_of_an_earlier_entropy_code_are_refused():
    compressor = mc.compressor("qsgd:levels=1,entropy=true")
    data = bytearray(compressor.compress(RNG(0).standard_normal(2000)))
    assert data[_HEAD.size + 8] == 2
    data[_HEAD.size + 8] = 1
    with pytest.raises(WireError, match="the coding named in the message does not exist"):
        compressor.decompress(bytes(data))
