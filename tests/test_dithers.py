"""Rounding with dithers, two of which come from one random word: NumPy's own account of it, and the law that proofs need."""

import numpy as np
import pytest
from scipy import stats

import mpicomp as mc
from mpicomp.kernels import njit
from mpicomp.kernels.quantize import round_to_grid
from mpicomp.kernels.random import Keys, Stream, client_key, derive, dither32

KEY = np.uint64(0xFEDCBA9876543210)
WORD = 0xFFFFFFFF
SAFE = 1e-4  # the least p-value that passes; seeds are fixed


def words(key, elements):
    """`bits32`, from its description."""
    low, high = int(key) & WORD, int(key) >> 32
    x = (elements.astype(np.uint64) * np.uint64(0x9E3779B9) + np.uint64(low)) & np.uint64(WORD)
    x = (x ^ x >> np.uint64(16)) * np.uint64(0x21F0AAAD) & np.uint64(WORD)
    x = ((x ^ x >> np.uint64(15)) + np.uint64(high)) * np.uint64(0xD35A2D97) & np.uint64(WORD)
    return x ^ x >> np.uint64(15)


def dithers(key, count, first=0):
    """The dithers of a part of a vector: 32 entries have 16 words, then the same words with their halves exchanged."""
    out = np.empty(-(-count // 32) * 32, np.uint64)
    for start in range(0, count, 32):
        block = words(key, first + start // 2 + np.arange(16))
        out[start : start + 16] = block
        out[start + 16 : start + 32] = (block << np.uint64(16) | block >> np.uint64(16)) & np.uint64(WORD)
    return out[:count]


@njit
def fill(key, first, out):
    for i in range(out.shape[0]):
        out[i] = dither32(key, i, first)


def drawn(key, count, first=0):
    out = np.empty(count, np.uint32)
    fill(np.uint64(key), first, out)
    return out


@pytest.mark.parametrize("first", [0, 5, 2048, 2**31])
def test_dithers_are_what_their_description_says(first):
    np.testing.assert_array_equal(drawn(KEY, 1000, first), dithers(KEY, 1000, first))


def test_parts_of_a_vector_share_no_word():
    """Word by word: the part from `first` on, of n entries, uses none outside first..first + n − 1, and the dithers of two parts differ."""
    seen = np.concatenate([drawn(KEY, count, first) for first, count in ((0, 37), (37, 512), (549, 2048))])
    assert len(np.unique(seen)) == len(seen)


def test_both_dithers_of_a_word_are_uniform_and_nearly_independent():
    u = drawn(KEY, 1 << 20).reshape(-1, 2, 16)
    first, second = (u[:, half].ravel() for half in (0, 1))
    for part in (first, second):
        assert stats.chisquare(np.bincount(part >> 20, minlength=4096)).pvalue > SAFE
    cells = (first >> 26).astype(int) * 64 + (second >> 26)
    assert stats.chisquare(np.bincount(cells, minlength=4096)).pvalue > SAFE
    centred = [part / 2.0**32 - 0.5 for part in (first, second)]
    assert abs(np.mean(centred[0] * centred[1])) * 12 * np.sqrt(len(first)) < 4.5


def test_dithers_of_two_clients_are_independent():
    """Also where one has a word and the other the same word's halves exchanged."""
    a, b = (drawn(client_key(derive(0, Stream.TEST), client), 1 << 18).reshape(-1, 2, 16) for client in (0, 1))
    for x in (0, 1):
        for y in (0, 1):
            cells = (a[:, x].ravel() >> 26).astype(int) * 64 + (b[:, y].ravel() >> 26)
            assert stats.chisquare(np.bincount(cells, minlength=4096)).pvalue > SAFE


# ---- the grid ---------------------------------------------------------------------------------------------------------
GRIDS = [(1, np.uint8), (7, np.uint8), (127, np.uint8), (7, np.uint16), (511, np.uint16), (32767, np.uint16)]


@pytest.mark.covering(2)
@pytest.mark.parametrize("levels, codes_dtype", GRIDS)
@pytest.mark.parametrize("unit", [0.3, 1e-38, 1e-44, 3e34, 0.0])
@pytest.mark.parametrize(
    "dtype, wire", [("float32", "float32"), ("float64", "float32"), ("float64", "float64"), ("float32", "float64")]
)
@pytest.mark.parametrize("cut", [False, True])
def test_grid(levels, codes_dtype, unit, dtype, wire, cut):
    """⌊x/unit + u⌋ + levels, but where x/unit + u is within rounding of an integer; never beyond the levels."""
    unit, start, stop = np.dtype(wire).type(unit), 37, 965
    with np.errstate(over="ignore"):
        edge = np.dtype(dtype).type(levels * np.float64(unit))
    if not np.isfinite(edge) or (np.float64(edge) > levels * np.float64(unit) and not cut):
        pytest.skip("no such entries in this precision")
    x = np.random.default_rng(levels).uniform(-1, 1, 1000).astype(dtype) * edge
    x[40], x[41], x[970] = edge, -edge, np.nan
    if cut:
        x[50:60] *= np.dtype(dtype).type(4)
    codes = np.full(2000, 99, codes_dtype)
    round_to_grid(x, start, stop, unit, levels, KEY, codes, 3, cut)
    assert (codes[:3] == 99).all() and (codes[3 + stop - start :] == 99).all()
    got = codes[3 : 3 + stop - start].astype(int) - levels
    ratio = np.clip(x[start:stop].astype(float) / float(unit), -levels, levels) if unit > 0 else np.zeros(stop - start)
    exact = ratio + dithers(KEY, stop - start, start) / 2.0**32
    q, margin = np.floor(exact), 2.0**-22 + levels * 2.0**-22 + 2.0 ** (levels.bit_length() - 30)
    doubtful = np.abs(exact - np.rint(exact)) < margin
    assert np.abs(got).max() <= levels and (np.abs(got - q) <= doubtful).all() and doubtful.mean() < 0.05
    if unit > 0:
        assert got[3] == levels and got[4] == -levels


@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("levels", [1, 3, 5, 127])
def test_no_entry_is_above_the_last_level(levels, wire):
    """The distance between levels is rounded up, so that the largest entry is at most `levels` of them."""
    V = np.random.default_rng(levels).standard_normal((100, 40)).astype(wire)
    codec, one = mc.compressor(f"qsgd:levels={levels},norm=max").bind(40, 1, np.dtype(wire)), np.zeros(1, np.int64)
    buf = np.zeros(codec.max_nbytes, np.uint8)
    for row, x in enumerate(V):
        codec.encode(V, one + row, one, Keys(KEY, KEY), buf, 0, np.zeros(2, np.int64))
        unit = float(buf[: np.dtype(wire).itemsize].view(wire)[0])
        assert 0 <= unit * levels - float(np.abs(x).max()) <= 4 * levels * np.spacing(np.dtype(wire).type(unit))


def test_the_grid_takes_a_nan_where_it_cuts():
    x, codes = np.full(70, np.nan, np.float32), np.zeros(70, np.uint8)
    round_to_grid(x, 0, 70, np.float32(1), 3, KEY, codes, 0, True)
    assert (codes == 0).all()


# ---- powers of two ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_two(dtype, wire):
    """The random bits are added to the mantissa; what carries into the exponent rounds up."""
    d, random = 5001, np.random.default_rng(3)
    x = (random.standard_normal(d) * 2.0 ** random.integers(-60, 60, d)).astype(dtype)
    info = np.finfo(wire)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 2.0, -1.0, info.tiny, info.max, -info.max, info.tiny / 8]
    with np.errstate(over="ignore"):
        x[100:111] = np.array(special, float).astype(dtype)
    codec = mc.compressor("natural").bind(d, 1, np.dtype(wire))
    one, buf, keys = np.zeros(1, np.int64), np.zeros(codec.max_nbytes, np.uint8), Keys(KEY, KEY)
    codec.encode(x[None], one, one, keys, buf, 0, np.zeros(2, np.int64))
    mantissa, wide = (23, np.uint32) if wire == "float32" else (52, np.uint64)
    with np.errstate(over="ignore"):
        bits = x.astype(wire).view(wide).astype(np.uint64)
    magnitude = bits & np.uint64(2 ** (8 * np.dtype(wire).itemsize - 1) - 1)
    u = dithers(client_key(KEY, 0), d)
    draw = u << np.uint64(20) if wire == "float64" else u >> np.uint64(9)
    top = np.uint64(((1 << (8 * np.dtype(wire).itemsize - mantissa - 1)) - 2) << mantissa)
    fields = np.where(magnitude < top, bits + draw, bits) >> np.uint64(mantissa)
    np.testing.assert_array_equal(buf[:d], fields & np.uint64(255))
    rest = np.unpackbits(buf[d:], bitorder="little")
    each = 1 if wire == "float32" else 4
    high = rest[: d * each].reshape(d, each) @ (1 << np.arange(each))
    np.testing.assert_array_equal(high, fields >> np.uint64(8))


# ---- the law of what arrives ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["qsgd:bits=2,norm=max,bucket=512", "qsgd:bits=6", "natural", "cq", "ternary"])
def test_errors_are_those_of_independent_entries(spec):
    """Unbiased in every entry, and so is their sum, whose variance is the sum of theirs: entries with a common word do not conspire."""
    d, draws = 1024, 3000
    x = np.random.default_rng(8).standard_normal((1, d)).astype(np.float32)
    codec = mc.compressor(spec).bind(d, 1, np.float32)
    one, buf, tally = np.zeros(1, np.int64), np.zeros(codec.max_nbytes + 8, np.uint8), np.zeros(2, np.int64)
    errors = np.empty((draws, d))
    for t in range(draws):
        keys = Keys(derive(1, Stream.UPLINK_SHARED, t), derive(1, Stream.UPLINK_PRIVATE, t))
        end, out = codec.encode(x, one, one, keys, buf, 0, tally), np.zeros((1, d))
        codec.decode_add(buf, 0, end, one, one, np.ones(1), keys, out)
        errors[t] = out[0] - x[0]
    variances = errors.var(axis=0)
    noisy = variances > 0
    z = errors.mean(axis=0)[noisy] / np.sqrt(variances[noisy] / draws)
    assert np.abs(z).max() < 5 and abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / noisy.sum())
    for signs in (np.ones(d), np.sign(x[0]), np.tile(np.repeat([1.0, -1.0], 16), d // 32)):
        assert abs((errors @ signs).var() / variances.sum() - 1) < 5 * np.sqrt(2 / draws)
