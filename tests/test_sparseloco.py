"""SparseLoCo without PyTorch: its compressor, the proof of its constant, and its error memory that fades, against plain NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from compressor_table import chunked_oracle

import mpicomp as mc
from mpicomp.compressors.chunked_topk import ChunkedTopK
from mpicomp.errors import ConfigError, WireError
from mpicomp.problems.quadratic import Quadratic

RNG = np.random.default_rng(5)


def squares(x) -> float:
    return float((np.asarray(x, float) ** 2).sum())


def hard_vectors(m: int) -> list[np.ndarray]:
    """Values that four bins serve badly: two clusters, one giant, opposite pairs, heavy tails, equal ones, a ramp."""
    giant = np.full(m, -1.0 / m)
    giant[: max(1, int(np.sqrt(m)))] = 0.75
    giant[0] = np.sqrt(m)
    alternating = np.where(np.arange(m) % 2, 1.0, -1.0)
    vectors = [giant, alternating, np.ones(m), np.linspace(-1, 1, m), np.exp(np.linspace(0, 30, m))]
    vectors += [RNG.standard_normal(m), RNG.standard_t(1, m), alternating * RNG.pareto(1, m)]
    vectors.append(np.where(np.arange(m) < m // 2, 0.7499, -0.7499))
    return vectors


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 8, 12, 33, 100, 1000])
def test_the_constant_of_two_bits_holds(m):
    """docs/derivations/chunked-topk.md: the error is orthogonal to C(x), and C(x) has κ(m) of the squares, whatever the values are."""
    compressor = ChunkedTopK(fraction=1.0, chunk=m)
    padded = ChunkedTopK(k=m, chunk=50 * m)  # so that a message is shorter than the vector
    for v in hard_vectors(m):
        x = np.zeros(50 * m)
        x[RNG.permutation(50 * m)[:m]] = v
        for order in (1, -1):
            y = padded.apply(order * x)
            assert squares(y - order * x) == pytest.approx(squares(x) - squares(y), rel=1e-9, abs=1e-12 * squares(x))
            assert squares(y) >= compressor.kappa(m) * squares(x) * (1 - 1e-12)
            if m <= 4:
                np.testing.assert_array_equal(y, order * x)


def test_the_bins_of_the_proof():
    """Each step of the derivation: what bins 0 to 3 keep of S_b = Σ c² over random and hard values."""
    for m in (5, 9, 40, 300):
        for v in [*hard_vectors(m), *RNG.standard_t(1.5, (200, m))]:
            c = v - v.mean()
            sigma = np.sqrt(squares(c) / (m - 1))
            if sigma == 0:
                continue
            bins = np.clip(np.rint(c / (1.5 * sigma) + 2), 0, 3)
            S = [squares(c[bins == b]) for b in range(4)]
            kept = [(bins == b).sum() * c[bins == b].mean() ** 2 if (bins == b).any() else 0.0 for b in range(4)]
            tiny = 1e-9 * squares(c)
            assert S[2] <= 9 / 16 * m * sigma**2 + tiny
            assert kept[1] >= S[1] / 2 - tiny
            assert all(kept[b] >= 0.75 * S[b] / np.sqrt(m - 1) - tiny for b in (0, 3))
            assert sum(kept) >= ChunkedTopK(k=1).kappa(m) * squares(c) - tiny


def test_kappa_falls_with_the_number_of_values():
    """So that a chunk with fewer entries than k, or zeros that are not sent, cannot be worse than κ(k)."""
    kappa = [ChunkedTopK(k=1).kappa(m) for m in range(1, 3000)]
    assert all(a >= b > 0 for a, b in pairwise(kappa))
    assert kappa[:4] == [1.0] * 4
    assert ChunkedTopK(k=32, values="exact").alpha(10**6) == 32 / 4096
    assert ChunkedTopK(k=32, table="chunk").alpha(10**6) == pytest.approx(32 / 4096 * kappa[31])


@pytest.mark.parametrize("spec", ["chunked-topk:k=3,chunk=64,values=exact", "chunked-topk:k=7,chunk=64,table=chunk"])
def test_alpha_holds_for_whole_vectors(spec):
    compressor = mc.compressor(spec)
    for d in (640, 655, 700):
        for x in (
            RNG.standard_normal(d),
            np.ones(d),
            RNG.standard_t(1, d),
            np.repeat(RNG.standard_normal(d // 5 + 1), 5)[:d],
        ):
            assert squares(compressor.apply(x) - x) <= (1 - compressor.alpha(d)) * squares(x) * (1 + 1e-12)


def test_chunks_of_very_different_sizes_want_tables_of_their_own():
    """One table for all makes small chunks vanish in a bin; `table=chunk` keeps what their own four means keep."""
    x = RNG.standard_normal(20 * 512) * np.repeat(10.0 ** np.arange(0, -20, -1), 512)
    one, each = (mc.compressor(f"chunked-topk:k=20,chunk=512,table={t}").apply(x) for t in ("vector", "chunk"))
    for lo in range(0, x.size, 512):
        part = slice(lo, lo + 512)
        assert squares(each[part]) > 0.9 * squares(np.sort(np.abs(x[part]))[-20:])
    assert squares(one[-512:] - x[-512:]) > squares(x[-512:])


def test_a_message_is_shorter_than_twelve_bits_an_index_and_two_a_value():
    """An index takes 12 bits within a chunk of 4096; Rice's code takes about log2 C(4096, k)/k."""
    x = RNG.standard_normal(1 << 18).astype(np.float32)
    for k in (32, 64, 128):
        compressor = ChunkedTopK(k=k)
        codec, kept = compressor.bind(x.size, 1, np.float32), compressor.count(x.size)
        buf, tally = np.zeros(codec.max_nbytes + 8, np.uint8), np.zeros(2, np.int64)
        rows = np.zeros(1, np.int64)
        nbytes = codec.encode(x[None], rows, rows, mc.MessageKey.seeded(0), buf, 0, tally)  # type: ignore[arg-type]
        assert kept == k * 64 and tally[0] == 8 * nbytes and tally[1] == 2 * kept + 4 * 32
        assert 8 * nbytes / kept < {32: 10.8, 64: 9.8, 128: 8.8}[k]


def test_messages_that_nobody_writes_are_refused():
    x = RNG.standard_normal(600)
    compressor = mc.compressor("chunked-topk:k=3,chunk=64")
    data = compressor.compress(x)
    with pytest.raises(WireError):
        compressor.decompress(data[:-1])
    with pytest.raises(WireError):
        compressor.decompress(data + b"\0")
    # 9 chunks of 3 and one of 24 entries that keeps 2: 29 values of 2 bits, so the last byte has six bits that must be zero
    with pytest.raises(WireError, match="bits that must be zero"):
        compressor.decompress(data[:-1] + bytes([data[-1] | 0x80]))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("chunked-topk", "either k or fraction"),
        ("chunked-topk:k=65,chunk=64", "k=65 must be an integer from 1 to the dimension, 64"),
        ("chunked-topk:k=1,chunk=0", "chunk=0 must be a positive integer"),
        (
            "chunked-topk:k=1,values=3bit",
            "values of compressor 'chunked-topk': '3bit'; known: 2, 2bit, 4, 8, bfloat16, exact, sign; did you mean '2bit'",
        ),
        ("chunked-topk:k=1,table=tensor", "known: chunk, vector"),
        ("chunked-topk:k=1,values=exact,table=chunk", "values=exact has no table"),
    ],
)
def test_options_that_cannot_work_are_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        mc.compressor(spec)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("spec", ["topk:k=3", "chunked-topk:k=6,chunk=16"])
def test_a_memory_that_fades_is_that_of_sparseloco(decay, spec):
    """e_i ← βe_i + Δ_i;  w_i = C(e_i);  e_i ← e_i − w_i;  x ← x − γ mean w_i (Sarfi et al. 2025), for five clients."""
    problem = Quadratic(dim=50, clients=5, noise=0.3, reg=1e-2, seed=1)
    options = {"uplink": f"ef14@decay={decay}:{spec}"}
    result = mc.run(problem=problem, method="custom", method_options=options, step=0.5, rounds=40, init="ones")
    compressor, x, e = mc.compressor(spec), np.ones(50), np.zeros((5, 50))
    for _ in range(40):
        gradient = np.zeros(50)
        for i in range(5):
            problem.gradient(i, x, gradient)
            e[i] = decay * e[i] + 0.5 * gradient
        sent = np.array([chunked_oracle(compressor, v) if "chunked" in spec else compressor.apply(v) for v in e])
        e -= sent
        x = x - sent.mean(axis=0)
    np.testing.assert_allclose(result.x, x, rtol=1e-10, atol=1e-12)


def test_a_decay_that_is_none_is_refused():
    for decay in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=f"ef14: decay={decay} is not in"):
            mc.Aggregator(None, 10, uplink=f"ef14@decay={decay}:topk:k=1")
