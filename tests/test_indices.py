"""Packed arrays, index coders and exact selection against one-line oracles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpicomp.kernels.bits import CHUNK, bit_length, pack_all, packed_nbytes, padding_is_zero, unpack_all
from mpicomp.kernels.indices import FIXED, choose_coding, read_indices, write_indices
from mpicomp.kernels.select import argmax_magnitude, candidate_capacity, largest
from mpicomp.kernels.status import BAD_INDEX, BAD_PADDING, TRUNCATED

TOP = np.empty(CHUNK, np.uint8)
CANARY = 0xAB
few = settings(max_examples=100, deadline=None)


# ---- packed arrays ---------------------------------------------------------------------------------------------------
def packed_oracle(fields, width):
    """The format as `bits.py` states it: planes of low bytes, then the rest as one little-endian bit string."""
    planes = [((fields >> (8 * p)) & 255).astype(np.uint8) for p in range(width // 8)]
    rest = (fields >> (8 * (width // 8)))[:, None] >> np.arange(width % 8, dtype=np.uint32) & 1
    return np.concatenate([*planes, np.packbits(rest.astype(np.uint8).ravel(), bitorder="little")])


@few
@given(st.integers(0, 32), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_packed_arrays(width, total, seed):
    check_packed_array(width, total, seed)


@pytest.mark.parametrize("total", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("width", [1, 4, 7, 8, 9, 16, 20])
def test_packed_arrays_of_several_chunks(width, total):
    check_packed_array(width, total, seed=0)


def check_packed_array(width, total, seed):
    fields = np.random.default_rng(seed).integers(0, 2**width, total).astype(np.uint32)
    nbytes = packed_nbytes(total, width)
    buf = np.full(nbytes + 20, CANARY, np.uint8)
    assert pack_all(fields, total, width, buf, 3, TOP) == 3 + nbytes
    np.testing.assert_array_equal(buf[3 : 3 + nbytes], packed_oracle(fields, width))
    assert (buf[:3] == CANARY).all() and (buf[3 + nbytes :] == CANARY).all()
    assert padding_is_zero(buf, 8 * 3 + total * width)
    back = np.full(total, 7, np.uint32)
    assert unpack_all(buf, 3, total, width, back, TOP) == 3 + nbytes
    np.testing.assert_array_equal(back, fields)


# ---- index coding ----------------------------------------------------------------------------------------------------
def written(indices, dim, coding=None):
    """The bytes of a set of indices, in the given coding or the shortest."""
    indices = np.asarray(indices, np.int64)
    count = len(indices)
    if coding is None:
        coding = choose_coding(indices, count, dim)
    buf = np.full(4 * dim + 8 * count + 64, CANARY, np.uint8)
    end = write_indices(indices, count, dim, coding, buf, 1, np.empty(count, np.uint32), TOP)
    assert buf[0] == CANARY and (buf[end:] == CANARY).all()
    return coding, buf[1:end].copy()


def read(data, count, dim, coding):
    """(status or length, indices) of an attempt to read `count` indices from `data`; bytes around must not matter."""
    results = []
    for canary in (0x00, 0xFF):
        buf = np.full(len(data) + 32, canary, np.uint8)
        buf[16 : 16 + len(data)] = data
        indices = np.full(count + 1, -7, np.int64)
        got = read_indices(
            buf, 16, 16 + len(data), count, dim, coding, indices[:count], np.empty(count, np.uint32), TOP
        )
        assert indices[count] == -7
        results.append((got if got < 0 else got - 16, indices[:count].tolist() if got >= 0 else None))
    assert results[0] == results[1]
    return results[0]


sets = st.integers(1, 300).flatmap(lambda d: st.tuples(st.just(d), st.sets(st.integers(0, d - 1)).map(sorted)))
codings = st.one_of(st.none(), st.integers(0, 9), st.just(FIXED))


@few
@given(sets, codings)
def test_every_coding_returns_the_set(case, coding):
    dim, indices = case
    coding, data = written(indices, dim, coding)
    assert read(data, len(indices), dim, coding) == (len(data), indices)


@few
@given(sets)
def test_the_shortest_coding_is_not_longer_than_fixed_width_or_bitmap(case):
    dim, indices = case
    _, data = written(indices, dim)
    assert len(data) <= math.ceil(min(len(indices) * math.ceil(math.log2(dim)), dim) / 8)


@few
@given(sets, codings)
def test_truncated_at_every_length(case, coding):
    dim, indices = case
    coding, data = written(indices, dim, coding)
    for length in range(len(data)):
        assert read(data[:length], len(indices), dim, coding)[0] == TRUNCATED


@few
@given(sets, codings, st.data())
def test_flipped_bits_are_refused_or_give_another_set(case, coding, data):
    dim, indices = case
    coding, message = written(indices, dim, coding)
    if len(message) == 0:
        return
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    status, got = read(message, len(indices), dim, coding)
    if status >= 0:
        assert got == sorted(set(got)) and got[-1] < dim and got != indices
    else:
        assert status in (TRUNCATED, BAD_INDEX, BAD_PADDING)


@few
@given(st.integers(1, 300), st.integers(0, 20), st.sampled_from([*range(12), FIXED]), st.binary(max_size=60))
def test_random_bytes_never_read_outside(dim, count, coding, data):
    status, got = read(np.frombuffer(data, np.uint8), count, dim, coding)
    assert status < 0 or (status <= len(data) and got == sorted(set(got)) and all(0 <= i < dim for i in got))


@pytest.mark.parametrize("coding", [*range(8), FIXED])
@pytest.mark.parametrize("indices", [[100], [3, 100], [99, 100], list(range(101))], ids=["one", "two", "next", "all"])
def test_every_coding_refuses_an_index_one_too_far(coding, indices):
    """Of a set below 101, read as one below 100."""
    coding, data = written(indices, 101, coding)
    assert read(data, len(indices), 101, coding) == (len(data), indices)
    assert read(data, len(indices), 100, coding)[0] == BAD_INDEX


def test_fixed_width_detects_order_range_and_padding():
    two = lambda a, b: packed_oracle(np.array([a, b], np.uint32), 7)  # noqa: E731
    assert read(two(5, 9), 2, 100, FIXED) == (2, [5, 9])
    assert read(two(9, 5), 2, 100, FIXED)[0] == BAD_INDEX
    assert read(two(5, 5), 2, 100, FIXED)[0] == BAD_INDEX
    assert read(two(5, 100), 2, 100, FIXED)[0] == BAD_INDEX
    assert read(two(5, 9) | np.array([0, 0x80], np.uint8), 2, 100, FIXED)[0] == BAD_PADDING


@pytest.mark.parametrize(
    "dim, k, excess", [(123, 2, 2), (1000, 10, 0.6), (20958, 209, 0.2), (100000, 100, 0.2), (1 << 20, 10485, 0.15)]
)
def test_index_cost_is_near_the_entropy(dim, k, excess):
    """Bits an index above log2 C(d, k) / k, on average over sets; whole bytes cost up to 7/k."""
    rng = np.random.default_rng(0)
    cost = np.mean([8 * len(written(np.sort(rng.choice(dim, k, replace=False)), dim)[1]) / k for _ in range(10)])
    least = (math.lgamma(dim + 1) - math.lgamma(k + 1) - math.lgamma(dim - k + 1)) / math.log(2) / k
    assert least < cost < least + excess


def test_bit_length():
    assert [bit_length(n) for n in (0, 1, 2, 3, 4, 255, 256, 2**31)] == [
        n.bit_length() for n in (0, 1, 2, 3, 4, 255, 256, 2**31)
    ]


# ---- selection -------------------------------------------------------------------------------------------------------
def selected(x, k):
    capacity = candidate_capacity(x.size, k)
    indices, keys = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
    return indices[: largest(x, k, indices, keys, np.empty(256, np.int64), TOP)].tolist()


def selection_oracle(x, k):
    """Sort by magnitude, NaN first, lower index first; drop zeros."""
    order = np.argsort(-np.where(np.isnan(x), np.inf, np.abs(x)), kind="stable")[:k]
    return sorted(order[x[order] != 0].tolist())


values = st.one_of(
    st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, math.inf, -math.inf])
)


@few
@given(st.lists(values, min_size=1, max_size=80), st.data())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selection_is_exact(dtype, x, data):
    x = np.array(x, dtype)
    k = data.draw(st.integers(1, x.size))
    assert selected(x, k) == selection_oracle(x, k)


LONG = 30000
SHAPES = {
    "normal": lambda r: r.standard_normal(LONG),
    "sorted": lambda r: np.sort(r.standard_normal(LONG)),
    "all equal": lambda r: np.ones(LONG),
    "all zero": lambda r: np.zeros(LONG),
    "few values": lambda r: r.integers(-2, 3, LONG).astype(float),
    "mostly zero": lambda r: r.standard_normal(LONG) * (r.random(LONG) < 0.003),
    "one spike": lambda r: np.where(np.arange(LONG) == LONG - 1, 1e30, 1e-30),
    "heavy tail": lambda r: r.standard_cauchy(LONG) ** 3,
    "subnormal": lambda r: r.standard_normal(LONG) * 1e-42,
    "with infinities": lambda r: np.where(r.random(LONG) < 1e-3, -np.inf, r.standard_normal(LONG)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_selection_of_long_vectors_is_exact(shape, dtype):
    """With a sample that tells the truth, and with one that does not: ties, spikes that the sample misses, zeros."""
    x = SHAPES[shape](np.random.default_rng(0)).astype(dtype)
    for k in (1, 2, 7, LONG // 100, LONG // 10, LONG // 3, LONG - 1):
        assert selected(x, k) == selection_oracle(x, k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_not_a_number_is_the_largest(dtype):
    x = np.arange(1000, dtype=dtype)
    x[17], x[18] = np.nan, -np.nan
    assert selected(x, 2) == [17, 18]
    assert argmax_magnitude(x) == 17
