"""The keyed random numbers: uniform, every key bit matters, neighbours are independent, streams and clients differ."""

import numpy as np
import pytest
from scipy import stats

from mpicomp.kernels import njit
from mpicomp.kernels.random import (
    Stream,
    below,
    bits32,
    client_key,
    derive,
    downlink_keys,
    fill_normal,
    fill_uniform,
    permutation,
    uniform32,
    uplink_keys,
)

N = 1 << 16
SAFE = 1e-4  # the least p-value that passes; seeds are fixed, so a test that passes once passes always
GOLDEN_KEY = "0x87b2afb08b364163"
GOLDEN_BITS = [449902386, 411304993, 2571058659]
KEYS = [derive(0, Stream.TEST, 0), derive(0, Stream.TEST, 1), derive(1, Stream.TEST, 0), np.uint64(0), np.uint64(1)]


@njit
def fill_bits32(key, out):
    for i in range(out.shape[0]):
        out[i] = bits32(key, i)


@njit
def fill_uniform32(key, out):
    for i in range(out.shape[0]):
        out[i] = uniform32(key, i)


@njit
def fill_below(key, n, out):
    for i in range(out.shape[0]):
        out[i] = below(key, i, n)


@njit
def fill_client_keys(private, out):
    for i in range(out.shape[0]):
        out[i] = client_key(private, i)


def filled(fill, key, *args, dtype=np.float64, size=N):
    out = np.empty(size, dtype)
    fill(np.uint64(key), *args, out)
    return out


def words(key):
    return filled(fill_bits32, key, dtype=np.uint32)


def bits_of(a, width):
    """The bits of unsigned integers, shape (len(a), width)."""
    return (a[:, None] >> np.arange(width, dtype=a.dtype)) & a.dtype.type(1)


def uniform_p_value(u, cells=256):
    return stats.chisquare(np.bincount((np.asarray(u, np.float64) * cells).astype(int), minlength=cells)).pvalue


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("fill, dtype", [(fill_uniform32, np.float32), (fill_uniform, np.float64)])
def test_uniforms_are_uniform_on_the_half_open_interval(key, fill, dtype):
    u = filled(fill, key, dtype=dtype)
    assert u.min() >= 0 and u.max() < 1
    assert uniform_p_value(u) > SAFE
    assert uniform_p_value((u * 256) % 1) > SAFE  # the bits below the first eight


@pytest.mark.parametrize("key", KEYS)
def test_every_output_bit_is_fair(key):
    ones = bits_of(words(key), 32).sum(axis=0)
    assert np.abs(ones - N / 2).max() < 5 * np.sqrt(N) / 2


def test_element_avalanche():
    """Flipping one bit of the element's number flips every output bit half of the time."""
    a = words(KEYS[0])
    for bit in range(16):
        flips = bits_of(a ^ a[np.arange(N) ^ (1 << bit)], 32).mean(axis=0)
        assert np.abs(flips - 0.5).max() < 0.03, f"element bit {bit}"


def test_key_avalanche_of_derived_keys():
    """Seeds, rounds and clients that differ in one bit give keys that differ in half of their bits."""
    base = [derive(s, Stream.TEST, r, c) for s in range(8) for r in range(8) for c in range(8)]
    for ds, dr, dc in [(1, 0, 0), (4, 0, 0), (0, 1, 0), (0, 4, 0), (0, 0, 1), (0, 0, 4)]:
        other = [
            derive(s ^ ds, Stream.TEST, r ^ dr, c ^ dc) for s in range(8) for r in range(8) for c in range(8)
        ]  # fmt: skip
        flips = bits_of(np.array(base) ^ np.array(other), 64)
        assert abs(flips.mean() - 0.5) < 0.01
        assert np.abs(flips.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(base) / 2)


def test_neighbouring_elements_are_uncorrelated():
    u = filled(fill_uniform32, KEYS[0], dtype=np.float32).astype(np.float64) - 0.5
    for lag in (1, 2, 3, 4, 8, 16, 64, 123, 1024):
        z = np.mean(u[lag:] * u[:-lag]) * 12 * np.sqrt(N - lag)
        assert abs(z) < 4.5, f"lag {lag}"


def test_pairs_of_neighbours_fill_the_square():
    u = filled(fill_uniform32, KEYS[1], dtype=np.float32)
    cells = (u[0::2] * 64).astype(int) * 64 + (u[1::2] * 64).astype(int)
    assert stats.chisquare(np.bincount(cells, minlength=4096)).pvalue > SAFE


@pytest.mark.parametrize("step", [1, 2, 3, 1 << 16, 1 << 32, 1 << 48])
def test_clients_and_rounds_are_uncorrelated(step):
    """The streams of keys of neighbouring clients, rounds and seeds have no common pattern."""
    u = [filled(fill_uniform32, client_key(KEYS[0], c * step), dtype=np.float32) - 0.5 for c in range(4)]
    u += [filled(fill_uniform32, uplink_keys(0, r).shared, dtype=np.float32) - 0.5 for r in range(1, 4)]
    for i in range(len(u)):
        for j in range(i):
            assert abs(np.mean(u[i] * u[j], dtype=np.float64) * 12 * np.sqrt(N)) < 4.5


def test_first_element_over_keys_is_uniform():
    """One number each of many clients: what a mask's start is made of."""
    keys = filled(fill_client_keys, KEYS[0], dtype=np.uint64)
    starts = np.array([below(k, 0, 100) for k in keys[:20000]])
    assert stats.chisquare(np.bincount(starts, minlength=100)).pvalue > SAFE
    first = np.array([bits32(k, 0) for k in keys[:20000]], np.uint32)
    assert np.abs(bits_of(first, 32).mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(20000)


def test_keys_of_clients_are_distinct():
    keys = filled(fill_client_keys, KEYS[0], dtype=np.uint64)
    assert len(np.unique(keys)) == N


def test_streams_directions_rounds_and_seeds_differ():
    keys = [k for seed in range(3) for r in range(50) for k in (*uplink_keys(seed, r), *downlink_keys(seed, r))]
    assert len(set(map(int, keys))) == len(keys)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 65537])
def test_below_stays_below_and_is_uniform(n):
    draws = filled(fill_below, KEYS[0], n, dtype=np.int64)
    assert draws.min() >= 0 and draws.max() < n
    if 1 < n <= 1000:
        assert stats.chisquare(np.bincount(draws, minlength=n)).pvalue > SAFE


def test_normal_numbers_are_normal():
    x = filled(fill_normal, KEYS[0], size=20000)
    assert stats.kstest(x, "norm").pvalue > SAFE


def test_permutations_are_uniform():
    counts: dict[tuple, int] = {}
    out = np.empty(4, np.int64)
    for r in range(6000):
        permutation(uplink_keys(0, r).shared, out)
        assert sorted(out) == [0, 1, 2, 3]
        counts[tuple(out)] = counts.get(tuple(out), 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > SAFE


def test_the_numbers_never_change():
    """Checkpoints and golden frames depend on these values."""
    assert hex(derive(7, Stream.UPLINK_PRIVATE, 3, 2)) == GOLDEN_KEY
    assert [int(bits32(derive(7, Stream.TEST), i)) for i in range(3)] == GOLDEN_BITS
