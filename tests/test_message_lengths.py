"""Bits an entry do not depend on whether a length is a power of two; the rotation in two windows that sees to it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

import mpicomp as mc
from mpicomp.compressors import compressors
from mpicomp.compressors.eden import CENTROIDS
from mpicomp.compressors.lattice import largest_square
from mpicomp.errors import WireError
from mpicomp.kernels import hadamard
from mpicomp.kernels.random import Keys, Stream, bits64, derive

RNG = np.random.default_rng
CLIENTS = 4


def key(round: int, client: int = 0, n: int = 1) -> mc.MessageKey:
    return mc.MessageKey.of(Keys(derive(0, Stream.TEST, round), derive(1, Stream.TEST, round)), client, n)


# ---- bits an entry --------------------------------------------------------------------------------------------------
SPECS = [
    "identity", "topk:fraction=0.01", "chunked-topk:fraction=0.01", "chunked-topk:k=4,chunk=64,table=chunk",
    "randk:fraction=0.01", "randk:fraction=0.01,sampling=uniform", "permk", "permk:layout=uniform", "sign", "qsgd:bits=4",
    "qsgd:bits=4,bucket=64", "qsgd:bits=4,norm=max,entropy=true", "dynamic:bits=4", "ternary", "natural", "cq", "cq:levels=5",
    "cq:rotate=true", "cq:rotate=true,levels=4,radius=common", "cq:rotate=true,clip=true", "iq:rotate=true", "permk-cq",
    "natural-dithering", "eden", "eden:bits=2", "eden:bits=4,scale=mse", "drive", "cast", "integers:levels=3", "uniform:bits=2",
]  # fmt: skip
POWER = 2**16
LENGTHS = [POWER - 1, POWER + 1, POWER + POWER // 2, 3 * POWER, 283_786]


def bits_per_entry(spec: str, d: int, wire: type) -> float:
    """Mean length of a round's messages for Gaussian vectors over d; only where lengths vary is one encoded."""
    codec = mc.compressor(spec).bind(d, CLIENTS, wire)
    if codec.fixed:
        return 8 * codec.max_nbytes / d
    keys, everybody = Keys(derive(0, Stream.TEST), derive(1, Stream.TEST)), np.arange(CLIENTS)
    buf, x = np.zeros(CLIENTS * codec.max_nbytes, np.uint8), RNG(0).standard_normal((1, d)).astype(np.float32)
    end = codec.encode(x, np.zeros(CLIENTS, np.int64), everybody, keys, buf, 0, np.zeros(2, np.int64))
    return 8 * end / d / CLIENTS


def test_every_codec_is_in_the_sweep():
    own = {name for name in compressors if compressors[name].__module__.startswith("mpicomp.")}
    assert {mc.compressor(spec).name for spec in SPECS} == own


@pytest.mark.covering()
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("wire", [np.float32, np.float64])
def test_bits_per_entry_are_those_of_the_next_power_of_two(spec, wire):
    expected = bits_per_entry(spec, POWER, wire)
    for d in LENGTHS:
        assert 0.95 < bits_per_entry(spec, d, wire) / expected <= 1.01, (
            d
        )  # fewer by chance, where the length depends on the entries


@pytest.mark.parametrize("spec", ["drive", "eden:bits=2", "cq:rotate=true", "iq:rotate=true,levels=4"])
def test_a_rotated_vector_of_any_length_is_not_padded(spec):
    """Its entries' own bits, one or two scales, and less than a byte."""
    bits = {"drive": 1, "eden:bits=2": 2, "cq:rotate=true": 1, "iq:rotate=true,levels=4": 2}[spec]
    for d in (*range(17, 200), 2**14 + 1, 2**20 - 1):
        assert mc.compressor(spec).bind(d, 1, np.float64).max_nbytes <= 16 + (bits * d + 7) // 8


# ---- the rotation in two windows ------------------------------------------------------------------------------------
def signs(word_key: np.uint64, n: int) -> np.ndarray:
    return np.array([-1.0 if (int(bits64(word_key, j >> 6)) >> (j & 63)) & 1 else 1.0 for j in range(n)])


def matrix(d: int, last: int, seed: np.uint64) -> np.ndarray:
    """The map of `hadamard.turn` as the text of docs/reference/wire.md has it: dense, in NumPy."""
    N = 2 ** int(np.log2(d))
    first, second = np.eye(d), np.eye(d)
    first[:N, :N] = linalg.hadamard(N) / np.sqrt(N) * signs(seed, N)
    if last:
        second[-last:, -last:] = linalg.hadamard(last) / np.sqrt(last) * signs(np.uint64(bits64(seed, -1)), last)
    return second @ first


@pytest.mark.parametrize(("d", "last"), [(1, 0), (64, 0), (65, 1), (65, 64), (100, 64), (127, 64), (96, 32), (3, 1)])
def test_the_rotation_is_orthogonal_and_what_the_page_says(d, last):
    seed, x = np.uint64(12345), RNG(d).standard_normal(d)
    R, y = matrix(d, last, seed), x.copy()
    np.testing.assert_allclose(R @ R.T, np.eye(d), atol=1e-12)
    hadamard.turn(y, last, seed)
    np.testing.assert_allclose(y, R @ x, atol=1e-12)
    hadamard.turn_back(y, last, seed)
    np.testing.assert_allclose(y, x, atol=1e-12)


def eden_oracle(x: np.ndarray, bits: int, nearest: bool, seed: np.uint64) -> np.ndarray:
    """EDEN from its definition: each window has a scale of its own."""
    d, N = x.size, 2 ** int(np.log2(x.size))
    last = 0 if d == N else min(N, max(2 ** int(np.ceil(np.log2(d - N))), 4096))
    R, c = matrix(d, last, seed), np.array(CENTROIDS[bits])
    z, split = R @ x, d - last
    decoded = np.zeros(d)
    for part, share in ((slice(0, split), split / N), (slice(split, d), 1.0)):
        v = z[part]
        if not v.size or not v.any():
            continue
        first = part.start == 0 and last > 0
        sigma = np.linalg.norm(x[:N]) * np.sqrt(share / v.size) if first and nearest else np.sqrt(np.mean(v**2))
        Q = np.where(v >= 0, 1, -1) * c[np.abs(np.abs(v / sigma)[:, None] - c).argmin(axis=1)]
        decoded[part] = Q * ((v @ Q) / (Q @ Q) if nearest else (v @ v) / (v @ Q))
    return R.T @ decoded


@pytest.mark.parametrize("bits", CENTROIDS)
@pytest.mark.parametrize("scale", ["mse", "unbiased"])
@pytest.mark.parametrize("d", [17, 21, 64, 100, 127])
def test_eden_is_its_definition(bits, scale, d):
    message = key(bits)
    x = RNG(d).standard_normal(d) * np.exp(RNG(1).standard_normal(d))
    got = mc.compressor(f"eden:bits={bits},scale={scale}").apply(x, message)
    np.testing.assert_allclose(got, eden_oracle(x, bits, scale == "mse", message.private), rtol=1e-9, atol=1e-12)


def hard_vectors(d: int) -> list[np.ndarray]:
    """All in the second window, all in the first, in one entry or few, one sign, of every size."""
    N = 2 ** int(np.log2(d))
    tail, head = np.arange(d) >= N, np.arange(d) < d - N
    return [
        np.eye(d)[-1], np.eye(d)[0], np.eye(d)[0] + np.eye(d)[-1], tail * 1.0, head * 1.0, np.ones(d), np.arange(d) ** 5.0,
        np.where(tail, 1000.0, 1.0), np.eye(d)[N - 1] + 0.5 * np.eye(d)[0] + 0.5 * np.eye(d)[-2], RNG(d).standard_cauchy(d),
    ]  # fmt: skip


@pytest.mark.parametrize("spec", ["drive:scale=mse", *(f"eden:bits={b},scale=mse" for b in (2, 3, 4))])
@pytest.mark.parametrize("d", [17, 31, 96, 100])
def test_alpha_does_not_depend_on_the_length(spec, d):
    c = mc.compressor(spec)
    assert c.alpha(d) == c.alpha(64)
    for x in hard_vectors(d):
        errors = np.array([((c.apply(x, key(r)) - x) ** 2).sum() for r in range(200)]) / (x @ x)
        assert errors.mean() <= 1 - c.alpha(d) + 4 * errors.std() / np.sqrt(200) + 1e-12
        assert (errors <= 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("spec", "expected"), [("drive", 0.571), ("eden:bits=2", 0.133), ("eden:bits=3", 0.036), ("eden:bits=4", 0.0096)]
)
@pytest.mark.parametrize("d", [4095, 4097, 6144, 10_000])
def test_the_error_of_a_long_vector_does_not_depend_on_its_length(spec, expected, d):
    c = mc.compressor(spec)
    for x in (RNG(0).lognormal(0, 1, d), np.where(np.arange(d) >= d // 2, 30.0, 1.0) * RNG(1).standard_normal(d)):
        Y = np.array([c.apply(x, key(r), np.float32) for r in range(20)])
        assert (((Y - x) ** 2).sum(axis=1) / (x @ x)).mean() == pytest.approx(expected, rel=0.04)
        np.testing.assert_allclose(Y @ x, x @ x, rtol=1e-6)


@pytest.mark.parametrize(
    "spec", ["cq:rotate=true", "cq:rotate=true,levels=5", "cq:rotate=true,norm=l2", "iq:rotate=true"]
)
@pytest.mark.parametrize("d", [65, 96, 127])
def test_omega_of_rotated_quantizers_of_any_length(spec, d):
    """Unbiased, with the stated variance, also where all of x lies outside of the first window."""
    c, rounds = mc.compressor(spec), 600
    assert c.omega(d) + 1 <= 1.3 * d / 64 * (c.omega(64) + 1)
    for x in hard_vectors(d)[:8]:
        Y = np.array([c.apply(x, key(r)) for r in range(rounds)])
        mean, spread = Y.mean(axis=0), Y.std(axis=0)
        assert (np.abs(mean - x) <= 5.5 * spread / np.sqrt(rounds) + 1e-6 * np.abs(x).max()).all()
        errors = ((Y - x) ** 2).sum(axis=1) / (x @ x)
        assert errors.mean() <= c.omega(d) + 5 * errors.std() / np.sqrt(rounds)


@pytest.mark.parametrize("d", [65, 100, 127, 1000])
def test_the_bound_of_the_largest_entry_in_two_windows(d):
    N = 2 ** int(np.log2(d))
    for x in hard_vectors(d):
        largest = []
        for seed in range(200):
            z = x / np.linalg.norm(x)
            hadamard.turn(z, N, np.uint64(seed))
            largest.append(d * (z**2).max())
        assert np.mean(largest) <= largest_square(1, d)


def test_clipping_at_other_lengths():
    d, n = 1500, 4
    c = mc.compressor("cq:rotate=true,clip=true")
    beta, A = c.bias_variance(d, n)
    assert beta < 1e-9 and pytest.approx(8 * np.log(d * n) * d / 1024 / n, rel=1e-6) == A
    x = np.eye(d)[-1] + 0.01 * RNG(0).standard_normal(d)
    errors = np.array([((c.apply(x, key(r, 0, n)) - x) ** 2).sum() for r in range(100)]) / (x @ x)
    assert errors.mean() <= A * n


# ---- messages of another layout are refused -------------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["eden:bits=3", "drive", "cq:rotate=true", "iq:rotate=true"])
def test_messages_that_pad_are_refused(spec):
    """The number of the codec is another than that of messages of 2^k fields, in a frame as in a message of `compress`."""
    c = mc.compressor(spec)
    assert c.bind(64, 2).codec_id == c.codec_id and c.bind(65, 2).codec_id == c.codec_id + 128
    data = bytearray(c.compress(np.arange(65.0)))
    assert data[2] == c.codec_id + 128
    data[2] = c.codec_id
    with pytest.raises(WireError, match=f"codec {c.codec_id}, .* has codec {c.codec_id + 128}"):
        c.decompress(bytes(data))
