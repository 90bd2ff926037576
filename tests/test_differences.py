"""Messages of a difference that is never formed: the same bytes as of one that is; and mechanisms that use it take the same steps."""

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors import Codec, compressors
from mpicomp.compressors.codec import Difference, Sum
from mpicomp.kernels.random import uplink_keys
from mpicomp.kernels.rows import add_scaled

SPECS = ["sign", "sign:norm=l2", "sign:norm=unit", "topk:fraction=0.01", "topk:fraction=0.3", "topk:k=1", "topk:k=7"]


def pairs(d, dtype):
    """Vectors and states: unrelated; equal but for a few entries; and of very different magnitudes, with a NaN."""
    rng = np.random.default_rng(1)
    V, state = rng.standard_normal((2, 3, d)).astype(dtype)
    yield V, state
    few = V.copy()
    few[0, :5] += 1
    yield V, few
    wild = V.copy()
    wild[:, : d // 3] *= 1e4
    wild[1, 7] = np.nan
    yield wild, state


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [257, 5000, 100_003])  # one block and a rest; whole chunks; where top-k guesses
def test_a_difference_is_encoded_to_the_same_bytes(spec, dtype, d):
    codec, rows, keys = compressors.create(spec).bind(d, 3, np.float32), np.array([2, 0]), uplink_keys(0, 0)
    assert codec.takes_difference and codec.scaled(0.5).takes_difference
    for V, state in pairs(d, dtype):
        results = []
        for vectors in (V - state, Difference(V, state, np.empty_like(V))):
            buf, tally = np.zeros(3 * codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
            end = codec.encode(vectors, rows, rows, keys, buf, 0, tally)
            results.append((end, buf.tobytes(), tally.tolist()))
        assert results[0] == results[1]


@pytest.mark.parametrize("norm", ["l1", "l2", "unit"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [257, 5000])
def test_a_sum_is_encoded_to_the_same_bytes_and_left_in_the_state(norm, dtype, d):
    codec, keys = compressors.create(f"sign:norm={norm}").bind(d, 3, np.float32), uplink_keys(0, 0)
    assert codec.takes_sum and not compressors.create("topk:k=1").bind(d, 3).takes_sum
    for V, start in pairs(d, dtype):
        results = []
        for fused in (False, True):
            state, buf, tally = start.copy(), np.zeros(3 * codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
            end = 0
            if not fused:
                add_scaled(state, V, 0.3)
            for rows in (np.array([2, 0]), np.array([1])):  # each row once
                end = codec.encode(Sum(state, V, 0.3) if fused else state, rows, rows, keys, buf, end, tally)
            results.append((end, buf.tobytes(), tally.tolist(), state.tobytes()))
        assert results[0] == results[1]


@pytest.mark.parametrize("compressor", ["topk:fraction=0.1", "sign"])
@pytest.mark.parametrize("method", ["ef21", "ef14"])
def test_a_run_is_the_same_whether_differences_and_sums_are_formed(method, compressor, monkeypatch):
    options = {
        "method": method,
        "compressor": compressor,
        "data": "mushrooms",
        "clients": 5,
        "rounds": 10,
        "step": "0.01",
    }
    fused = mc.run(**options).x
    monkeypatch.setattr(Codec, "takes_difference", False)
    monkeypatch.setattr(Codec, "takes_sum", False)
    assert np.array_equal(mc.run(**options).x, fused) and np.any(fused)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_scaled_rounds_the_product_first(dtype):
    state, V = np.random.default_rng(0).standard_normal((2, 3, 1001)).astype(dtype)
    expected = state + dtype(0.3) * V
    add_scaled(state, V, 0.3)
    assert np.array_equal(state, expected)
