"""EDEN, DRIVE, natural dithering and casts: what the conformance suite does not say of them."""

from __future__ import annotations

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors.eden import ALPHA, CENTROIDS
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.kernels.random import Keys, Stream, derive

RNG = np.random.default_rng


def key(round: int, client: int = 0, n: int = 1) -> mc.MessageKey:
    return mc.MessageKey.of(Keys(derive(0, Stream.TEST, round), derive(1, Stream.TEST, round)), client, n)


def draws(spec: str, x: np.ndarray, count: int, wire=np.float64) -> np.ndarray:
    c = mc.compressor(spec)
    return np.array([c.apply(x, key(r), wire) for r in range(count)])


def relative_errors(Y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ((Y - x) ** 2).sum(axis=-1) / (x @ x)


# ---- EDEN and DRIVE ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "expected"),
    [("drive", 0.571), ("eden:bits=1", 0.571), ("eden:bits=2", 0.133), ("eden:bits=3", 0.036), ("eden:bits=4", 0.0096)],
)
@pytest.mark.parametrize("kind", ["normal", "lognormal", "sparse"])
def test_error_of_large_vectors(spec, expected, kind):
    """vNMSE 0.571 (π/2 − 1), 0.133, 0.036, 0.0096 (ef-family.md §8), whatever the distribution of the entries."""
    d, rng = 4096, RNG(0)
    x = {
        "normal": rng.standard_normal(d),
        "lognormal": rng.lognormal(0, 1, d),
        "sparse": rng.binomial(1, 0.05, d) * rng.standard_normal(d),
    }[kind]
    Y = draws(spec, x, 30, np.float32)
    assert relative_errors(Y, x).mean() == pytest.approx(expected, rel=0.03)
    np.testing.assert_allclose(Y @ x, x @ x, rtol=1e-6)  # exactly so, in every draw


def test_centroids_are_those_of_lloyd_and_max():
    """Each centroid is the mean of N(0, 1) over its cell, the midpoints being the cells' ends: a stationary point, and the only one."""
    from scipy.stats import norm

    for bits, positive in CENTROIDS.items():
        c = np.concatenate([-np.array(positive)[::-1], positive])
        assert len(c) == 2**bits and (np.diff(c) > 0).all()
        ends = np.concatenate([[-np.inf], (c[1:] + c[:-1]) / 2, [np.inf]])
        means = (norm.pdf(ends[:-1]) - norm.pdf(ends[1:])) / (norm.cdf(ends[1:]) - norm.cdf(ends[:-1]))
        np.testing.assert_allclose(c, means, atol=1e-9)


def test_with_uniform_rotations_the_scheme_is_unbiased():
    """The exact statement behind scale=unbiased, in plain NumPy with Haar rotations of R^4."""
    rng, x, c = RNG(0), np.array([1.0, -0.3, 0.1, 2.0]), np.array(CENTROIDS[2])
    Y = []
    for _ in range(40000):
        q, r = np.linalg.qr(rng.standard_normal((4, 4)))
        R = q * np.sign(np.diag(r))
        z = R @ x * 2 / np.linalg.norm(x)
        Q = np.sign(z) * c[np.abs(np.abs(z)[:, None] - c).argmin(axis=1)]
        Y.append(R.T @ Q * (x @ x) / (Q @ (R @ x)))
    Y = np.array(Y)
    assert (np.abs(Y.mean(axis=0) - x) <= 5 * Y.std(axis=0) / np.sqrt(len(Y))).all()


@pytest.mark.parametrize("spec", ["drive", "eden:bits=2"])
def test_the_bias_of_hadamard_rotations_is_small_and_orthogonal(spec):
    x = RNG(4).standard_normal(128) ** 3
    mean = draws(spec, x, 4000).mean(axis=0)
    assert mean @ x == pytest.approx(x @ x, rel=1e-9)
    noise = np.sqrt(relative_errors(draws(spec, x, 200), x).mean() / 4000)
    assert np.linalg.norm(mean - x) / np.linalg.norm(x) <= 3 * noise


def test_private_rotations_average_out_and_shared_ones_agree():
    x, n = RNG(0).standard_normal(1024), 16
    for rotation, expected in (("private", 0.571 / n), ("shared", 0.571)):
        c = mc.compressor(f"drive:rotation={rotation}")
        assert c.same_for_all == (rotation == "shared")
        means = [np.mean([c.apply(x, key(r, i, n)) for i in range(n)], axis=0) for r in range(8)]
        assert relative_errors(np.array(means), x).mean() == pytest.approx(expected, rel=0.15)


# Coefficients of 1, z², z⁴, z⁶ with (z − Q(z))² ≤ their polynomial; the last two are not negative. Solutions of a linear programme.
CERTIFICATES = {
    2: (0.20501, 0.0757607, 0.0, 0.00183322),
    3: (0.0600712, 0.0203930, 0.002461, 0.000624469),
    4: (0.0164853, 0.00627788, 0.0, 0.000369122),
}


@pytest.mark.parametrize("bits", CERTIFICATES)
def test_the_certificates_of_alpha(bits):
    """For a Rademacher sum z of variance 1: E z² = 1, E z⁴ ≤ 3, E z⁶ ≤ 15, hence E(z − Q(z))² ≤ a + b + 3c + 15e ≤ 1 − α."""
    a, b, c, e = CERTIFICATES[bits]
    z = np.linspace(0, 60, 600001)
    error = np.min((z[:, None] - np.array(CENTROIDS[bits])) ** 2, axis=1)
    assert (error <= a + b * z**2 + c * z**4 + e * z**6 + 1e-4).all() and c >= 0 and e > 0
    assert a + b + 3 * c + 15 * e + 1e-4 <= 1 - ALPHA[bits]


@pytest.mark.parametrize(
    "spec", ["drive:scale=mse", "eden:bits=2,scale=mse", "eden:bits=3,scale=mse", "eden:bits=4,scale=mse"]
)
@pytest.mark.parametrize("d", [16, 100])
def test_contraction_in_expectation(spec, d):
    """Also where rotated entries are far from Gaussian: few nonzeros."""
    alpha = mc.compressor(spec).alpha(d)
    for x in (
        np.eye(d)[3],
        np.eye(d)[0] + np.eye(d)[1],
        np.eye(d)[0] + 0.5 * np.eye(d)[1] + 0.5 * np.eye(d)[2],
        np.arange(d) ** 5.0,
    ):
        errors = relative_errors(draws(spec, x, 300), x)
        assert errors.mean() <= 1 - alpha + 4 * errors.std() / np.sqrt(300) + 1e-12
        assert (errors <= 1 + 1e-12).all()


def test_sizes():
    c = mc.compressor("eden:bits=3")
    assert c.bind(1024, 1, np.float32).max_nbytes == 4 + 3 * 128
    assert c.bind(1025, 1, np.float32).max_nbytes == 8 + 3 * 128 + 1  # a scale for each of two windows
    assert mc.compressor("drive").bind(1024, 1, np.float32).max_nbytes == 4 + 128
    assert mc.compressor("natural-dithering:levels=3").bind(1000, 1, np.float32).max_nbytes == 4 + 375
    assert mc.compressor("cast").bind(1000, 1, np.float64).max_nbytes == 2000


def test_where_there_is_no_theory():
    for spec in ("drive", "eden:bits=3"):
        with pytest.raises(TheoryError, match="scale=mse"):
            mc.compressor(spec).alpha(100)
        with pytest.raises(ConfigError, match="biased"):
            mc.run(data="mushrooms", method="dcgd", compressor=spec, rounds=0)
    step = mc.run(data="mushrooms", method="ef21", compressor="drive:scale=mse", rounds=0).summary["step"]
    assert step == pytest.approx(1 / (2.786214 + 3.493226 * (1 + 2**0.5)), rel=1e-4)


# ---- natural dithering ------------------------------------------------------------------------------------------------
def test_natural_dithering_rounds_to_powers_of_two():
    x = np.array([1.0, -0.3, 0.26, 0.01, 0.0])
    Y = draws("natural-dithering:levels=4,norm=max", x, 4000)
    for j, neighbours in enumerate([{1.0}, {-0.25, -0.5}, {0.25, 0.5}, {0.0, 0.125}, {0.0}]):
        assert set(np.unique(Y[:, j])) == neighbours
    assert (np.abs(Y.mean(axis=0) - x) <= 5 * Y.std(axis=0) / np.sqrt(4000)).all()


def test_natural_dithering_constant():
    c = mc.compressor("natural-dithering:levels=8")
    assert c.omega(100) == 1 / 8 + 10 * 2**-7 * min(1, 10 * 2**-7)
    assert mc.compressor("natural-dithering:levels=1").omega(100) == 1 / 8 + 10


# ---- casts ------------------------------------------------------------------------------------------------------------
def test_float16_is_ieee_half_precision():
    """Against NumPy: every half-precision number, the midpoints between neighbours and what lies just beside them, and random bits."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:-1] + halves[:-2]) / 2
    single = np.concatenate([halves, middles, [65519.99, 65520.0, 65536.0, 1e30, np.inf]]).astype(np.float32)
    single = np.concatenate([single, np.nextafter(single, np.float32(0)), np.nextafter(single, np.float32(np.inf))])
    single = np.concatenate([single, -single, RNG(0).integers(0, 2**32, 100000, np.uint32).view(np.float32)])
    single = single[~np.isnan(single)]
    with np.errstate(over="ignore"):
        expected = single.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(mc.compressor("cast").apply(single), expected)


def test_bfloat16_is_the_nearest_number_of_8_significant_bits():
    single = RNG(1).integers(0, 2**32, 100000, np.uint32).view(np.float32)
    single = single[np.isfinite(single) & (np.abs(single) > 1.2e-38) & (np.abs(single) < 3.3e38)]
    mantissa, exponent = np.frexp(single)
    expected = np.ldexp(np.round(mantissa * 256) / 256, exponent)  # round: ties to even
    np.testing.assert_array_equal(mc.compressor("cast:to=bfloat16").apply(single), expected)


def test_casts_keep_what_is_not_finite():
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    for to in ("float16", "bfloat16"):
        got = mc.compressor(f"cast:to={to}").apply(odd)
        np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf, 0, 0])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("eden:bits=5", "1 to 4"), ("eden:rotation=x", "private"), ("drive:scale=x", "mse"), ("drive:bits=2", "bits"),
        ("natural-dithering:levels=0", "1 to 1000"), ("natural-dithering:norm=l1", "max"), ("cast:to=int8", "bfloat16"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(spec, words):
    with pytest.raises(ConfigError, match=words):
        mc.compressor(spec)
