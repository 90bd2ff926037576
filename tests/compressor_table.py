"""The table of the conformance suite: one row for each compressor. `test_compressors.py` runs what all of them promise over it.

A row says how decoded vectors are checked and which options, dimensions and numbers of clients are tried.
A compressor from outside of this repository brings its own: a Python file that registers it and has a `TABLE` like the
one below (names and tuples (check, cases)), named by MPICOMP_TEST_TABLE. Then `pytest tests/test_compressors.py -k NAME` runs its rows.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from few_bits_oracle import assert_values, nearest

from mpicomp.compressors import Codec, Compressor, compressors
from mpicomp.errors import WireError

Check = Callable[[Compressor, Codec, np.ndarray, np.ndarray], None]
"""Compares decoded vectors, shape (m, d), with those that were encoded: check(compressor, codec, V, Y)."""


class Row(NamedTuple):
    """One compressor as it is tried: its spec, the dimension and the number of clients."""

    spec: str
    d: int
    n: int = 4

    def __str__(self) -> str:
        return f"{self.spec}/d={self.d}/n={self.n}"


class Entry(NamedTuple):
    """What the suite knows of one compressor.

    Attributes
    ----------
    check : decoded vectors against a few lines of NumPy: equal, or where random one of the values that may come out.
    cases : (options, dimension) or (options, dimension, number of clients).
    any_size : options that fit every dimension; by default those of `cases`.
    joint : the clients' messages are drawn together, so that equal vectors of different clients may or may not differ.
    """

    check: Check
    cases: tuple[tuple[str, int] | tuple[str, int, int], ...]
    any_size: tuple[str, ...] | None = None
    joint: bool = False


HALF = {8: np.float32, 4: np.float16}  # a type of half the size


class Bernoulli(Compressor):
    """A user's compressor, in the simple contract: entries are kept with probability p and divided by p."""

    summary = formulas = paper = "of this test"
    unbiased = True
    homogeneous = False  # only up to the rounding of what it sends

    def __init__(self, p: float = 0.5):
        self.p = p

    def omega(self, d, n=1):
        return 1 / self.p - 1

    def density(self, d, n=1):
        return self.p * d

    def max_nbytes(self, d, dtype):
        return d * dtype.itemsize // 2

    def encode(self, x, out, key):
        kept = x[key.uniform(x.size) < self.p]
        message = kept.astype(HALF[x.dtype.itemsize]).view(np.uint8)
        out[: message.size] = message
        return message.size

    def decode(self, buf, out, key):
        keep = key.uniform(out.size) < self.p
        kind = np.dtype(HALF[out.dtype.itemsize])
        if buf.size != kind.itemsize * keep.sum():
            raise WireError("a message of the wrong length")
        out[:] = 0
        out[keep] = np.ascontiguousarray(buf).view(kind) / self.p


compressors.register("bernoulli")(Bernoulli)


# ---- what is decoded --------------------------------------------------------------------------------------------------
def close(codec: Codec, V: np.ndarray) -> dict[str, float]:
    """Tolerances of `assert_allclose`: a few roundings of the coarsest precision on the way."""
    coarsest = np.float32 if np.float32 in (V.dtype, codec.wire_dtype) else np.float64
    return {"rtol": 4 * float(np.finfo(coarsest).eps), "atol": 0.0}


def check_identity(compressor, codec, V, Y):
    np.testing.assert_array_equal(Y, V.astype(codec.wire_dtype).astype(V.dtype))


def top_oracle(x, k):
    keep = np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
    y = np.zeros_like(x)
    y[keep] = x[keep]
    return y


def check_topk(compressor, codec, V, Y):
    if not compressor.coding.exact:
        for x, y in zip(V, Y, strict=True):
            kept = np.flatnonzero(top_oracle(x, compressor.count(x.size)))
            assert_values(compressor.coding, x[kept], y[kept], codec.wire_dtype)
            assert not np.delete(y, kept).any()
        return
    oracle = [top_oracle(x, compressor.count(codec.dim)).astype(codec.wire_dtype) for x in V]
    np.testing.assert_array_equal(Y, np.array(oracle).astype(V.dtype))


def chunked_oracle(compressor, x, wire=np.float64):
    """C(x) in NumPy, with the formulas of the quantizer in docs/derivations/chunked-topk.md."""
    y, kept, owner = np.zeros(x.size), [], []
    for number, lo in enumerate(range(0, x.size, compressor.chunk)):
        part = x[lo : lo + compressor.chunk]
        k = int(np.ceil(compressor.per_chunk * part.size / compressor.chunk))
        chosen = lo + np.sort(np.argsort(-np.abs(part), kind="stable")[:k])
        kept += list(chosen[x[chosen] != 0])
        owner += [number] * int((x[chosen] != 0).sum())
    owner = np.array(owner) if compressor.table == "chunk" else np.zeros(len(owner), int)
    y[kept] = x[kept]
    if compressor.values not in ("2bit", "exact"):
        y[kept] = nearest(x[kept], compressor.coding.bits, compressor.coding.bucket, np.dtype(wire))
    for number in np.unique(owner) if compressor.values == "2bit" else ():
        places = np.array(kept)[owner == number]
        v = x[places].astype(float)
        if v.size > 4:
            centred = v - v.mean()
            scale = 6 * np.sqrt((centred**2).sum() / (v.size - 1)) / 4 or 1.0
            codes = np.clip(np.rint(centred / scale + 2), 0, 3)
            y[places] = [v[codes == code].mean() for code in codes]
    return y


def check_chunked(compressor, codec, V, Y):
    """The oracle's bins; a value on the edge of one may be in the next."""
    wire = codec.wire_dtype if compressor.values == "exact" else V.dtype
    oracle = np.array([chunked_oracle(compressor, x.astype(wire).astype(V.dtype), codec.wire_dtype) for x in V])
    single = np.float32 in (codec.wire_dtype, V.dtype)
    few = compressor.values not in ("2bit", "exact")  # a line by least squares, whose value is a sum of two numbers
    rtol = (3e-6 if single else 1e-11) if few else (1e-6 if single else 1e-13)
    np.testing.assert_allclose(Y, oracle, rtol=rtol, atol=rtol if few else 0.0)


def check_randk(compressor, codec, V, Y):
    d, k = codec.dim, compressor.count(codec.dim)
    if not compressor.coding.exact:
        sizes = np.diff(np.arange(k + 1) * d // k)
        check_sparse(compressor, codec, V, Y, np.repeat(sizes, sizes) if compressor.sampling == "stratified" else d / k)
        assert ((Y != 0).sum(axis=1) <= k).all()
        return
    assert ((Y != 0).sum(axis=1) == k).all()
    if compressor.sampling == "stratified":
        bounds = np.arange(k + 1) * d // k
        scale = np.repeat(np.diff(bounds), np.diff(bounds))
        assert (np.add.reduceat(Y != 0, bounds[:-1], axis=1) == 1).all()
    else:
        scale = d / k
    np.testing.assert_allclose(Y, np.where(Y != 0, scale * V.astype(codec.wire_dtype), 0), **close(codec, V))


def check_sparse(compressor, codec, V, Y, scale):
    """A value that arrives is within two steps, the range of magnitudes being the vector's at most; signs, however, are signs."""
    coding = compressor.coding
    assert coding.bits != 1 or (np.abs(Y / scale) <= np.abs(V).max(axis=1, keepdims=True) * (1 + 1e-6)).all()
    if coding.bits != 1:
        most = np.abs(V).max(axis=1, keepdims=True) / (2 ** (min(coding.bits, 8) - 1) - 1)
        assert ((Y == 0) | (np.abs(Y / scale - V) <= most * (1 + 1e-5))).all()


def check_permk(compressor, codec, V, Y):
    d, n = codec.dim, codec.n_clients
    if not compressor.coding.exact:
        check_sparse(compressor, codec, V, Y, min(n, d))
        assert ((Y != 0).sum(axis=0) <= -(-n // d)).all() and (Y != 0).any()
        return
    owners = (Y != 0).sum(axis=0)
    assert owners.min() >= n // d and owners.max() <= -(-n // d)
    parts = (Y != 0).sum(axis=1)
    assert parts.min() >= max(1, d // n) and parts.max() <= -(-d // n)
    np.testing.assert_allclose(Y, np.where(Y != 0, min(n, d) * V.astype(codec.wire_dtype), 0), **close(codec, V))


def check_sign(compressor, codec, V, Y):
    scale = np.abs(V).mean(axis=1) if compressor.norm == "l1" else np.sqrt((V.astype(float) ** 2).mean(axis=1))
    np.testing.assert_allclose(Y, np.where(V < 0, -1, 1) * scale[:, None], **close(codec, V))


def check_levels(compressor, codec, V, Y):
    """One of the two multiples of (size of the bucket)/s beside the entry."""
    check_grid(V, Y, compressor.bucket or codec.dim, compressor.s, compressor.norm)


def check_ternary(compressor, codec, V, Y):
    check_grid(V, Y, codec.dim, 1, "max")


def check_grid(V, Y, bucket, s, norm):
    for start in range(0, V.shape[1], bucket):
        x, y = V[:, start : start + bucket].astype(float), Y[:, start : start + bucket]
        size = np.abs(x).max(axis=1) if norm == "max" else np.linalg.norm(x, axis=1)
        q = y / (size[:, None] / s)
        np.testing.assert_allclose(q, np.round(q), atol=s * 1e-6)
        assert (np.abs(q - x / (size[:, None] / s)) < 1 + s * 1e-6).all()
        assert (np.abs(q) < s + 0.5).all()


def check_lattice(compressor, codec, V, Y):
    """Every entry is one of the two lattice points beside the input's; rotated, no entry is further away than the lattice is long."""
    for x, y in zip(V.astype(float), Y.astype(float), strict=True):
        parts = compressor._cut(x.size, len(V))[0] if compressor.name == "permk-cq" else 1
        if parts > 1:
            kept = y != 0 if not compressor.lattice.signed else np.abs(y) > 0
            x, y = x[kept], y[kept] / parts
        elif getattr(compressor, "rotate", False):
            assert np.linalg.norm(y - x) <= 2 * np.sqrt(x.size) * np.linalg.norm(x)
            continue
        radius = np.linalg.norm(V, axis=1).max()  # at least the part's
        if parts == 1:
            use_max = compressor.norm == "max"
            radius = np.abs(x).max() if use_max else np.linalg.norm(x)
        assert (np.abs(y - x) <= 2 * compressor.lattice.spacing * radius * (1 + 1e-5)).all()


def check_natural(compressor, codec, V, Y):
    low = 2.0 ** np.floor(np.log2(np.abs(V.astype(codec.wire_dtype))))
    assert (np.sign(Y) == np.sign(V)).all()
    assert ((np.abs(Y) == low) | (np.abs(Y) == 2 * low)).all()


def check_natural_dithering(compressor, codec, V, Y):
    size = np.abs(V).max(axis=1) if compressor.norm == "max" else np.linalg.norm(V, axis=1)
    share, levels = np.abs(Y) / size[:, None], np.append(0, 2.0 ** np.arange(1 - compressor.levels, 1))
    nearest = np.abs(share[..., None] - levels).argmin(axis=-1)
    np.testing.assert_allclose(share, levels[nearest], rtol=1e-5)
    below = np.searchsorted(levels, np.abs(V) / size[:, None] * (1 - 1e-6), side="right") - 1
    assert ((nearest == below) | (nearest == below + 1)).all() and (V * Y >= 0).all()


def check_rotated(compressor, codec, V, Y):
    products, squares = (V * Y).sum(axis=1, dtype=float), (V * V).sum(axis=1, dtype=float)
    if compressor.scale == "unbiased":
        np.testing.assert_allclose(products, squares, rtol=1e-5)
    else:
        assert (((V - Y) ** 2).sum(axis=1, dtype=float) <= squares).all()


def check_cast(compressor, codec, V, Y):
    single = V.astype(np.float32)
    if compressor.to == "float16":
        np.testing.assert_array_equal(Y, single.astype(np.float16).astype(V.dtype))
    else:  # 8 significant bits
        mantissa, exponent = np.frexp(single)
        np.testing.assert_array_equal(Y, np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(V.dtype))


def check_uniform(compressor, codec, V, Y):
    """tests/test_uniform.py decodes the messages by code of its own; here are the bounds of the error."""
    norms, error = np.linalg.norm(V.astype(float), axis=1), (Y - V).astype(float)
    relative = compressor._square**0.5
    tiny = 4 * float(np.finfo(codec.wire_dtype).eps) * norms
    if compressor.unbiased:
        half = relative * norms * np.sqrt(3 / V.shape[1])
        assert (np.abs(error).max(axis=1) <= half * (1 + 1e-6) + tiny).all()
    elif compressor.contractive:
        assert (np.linalg.norm(error, axis=1) <= relative * norms).all()


def check_bernoulli(compressor, codec, V, Y):
    sent = V.astype(codec.wire_dtype).astype(HALF[codec.wire_dtype.itemsize])
    np.testing.assert_allclose(Y, np.where(Y != 0, sent / compressor.p, 0), **close(codec, V))


# ---- the table --------------------------------------------------------------------------------------------------------
TABLE: dict[str, Entry] = {
    "bernoulli": Entry(check_bernoulli, (("p=0.3", 9),), any_size=()),  # one entry is half of nothing
    "identity": Entry(check_identity, (("", 9),)),
    "topk": Entry(
        check_topk,
        (
            ("k=1", 123), ("k=5", 64), ("fraction=0.3", 1000), ("k=70,values=4", 300), ("k=40,values=2,bucket=8", 200),
            ("k=100,values=sign", 1000), ("k=200,values=4,rounding=stochastic", 500), ("k=9,values=bfloat16", 65),
        ),
        any_size=("k=1", "fraction=0.25", "fraction=0.25,values=4", "fraction=0.25,values=sign,bucket=7"),
    ),
    "chunked-topk": Entry(
        check_chunked,
        (
            ("k=1,chunk=16", 123), ("k=5,chunk=64", 1000), ("k=300,chunk=4096", 9000), ("fraction=0.1,chunk=100,table=chunk", 1033),
            ("k=4,chunk=64,values=exact", 200), ("fraction=0.05", 777), ("k=10,chunk=64,values=4", 1000),
        ),
        any_size=("k=2,chunk=16", "fraction=0.05,values=exact", "k=9,chunk=100,table=chunk"),
    ),
    "randk": Entry(
        check_randk,
        (
            ("k=3", 7), ("k=65,mask=shared", 1000), ("k=3,sampling=stratified", 8),
            ("k=5,sampling=stratified,mask=shared", 63), ("k=3,sampling=uniform", 9),
            ("fraction=0.5,sampling=uniform,mask=shared", 65), ("k=70,values=4", 200),
            ("fraction=0.5,sampling=uniform,values=sign,bucket=9", 100), ("k=30,sampling=stratified,mask=shared,values=bfloat16", 100),
        ),
        any_size=("fraction=0.5,values=8", "k=1", "fraction=0.25", "fraction=0.25,sampling=stratified", "fraction=0.25,sampling=uniform"),
    ),
    "permk": Entry(
        check_permk,
        (("", 64), ("", 10), ("", 4, 4), ("", 4, 12), ("", 4, 11), ("layout=uniform", 65), ("layout=uniform", 3, 7),
         ("values=4", 301), ("layout=uniform,values=sign", 200, 3), ("values=bfloat16", 33), ("values=2", 4, 12)),
        joint=True,
    ),
    "sign": Entry(check_sign, (("", 63), ("", 1000), ("norm=l2", 65))),
    "qsgd": Entry(
        check_levels,
        (
            ("bits=2", 63), ("bits=4", 8), ("bits=8,norm=max", 65), ("bits=16", 9), ("levels=1,norm=max,bucket=5", 13),
            ("levels=5,bucket=64", 1000), ("levels=1,entropy=true", 1000),
            ("bits=9,norm=max,bucket=64,entropy=true", 1000),
        ),
    ),
    "dynamic": Entry(check_levels, (("bits=2", 64), ("bits=7,norm=l2,bucket=5", 13), ("bits=16,norm=l2", 65))),
    "ternary": Entry(check_ternary, (("", 8), ("", 63), ("", 2060))),
    "natural": Entry(check_natural, (("", 1), ("", 64), ("", 1000))),
    "cq": Entry(
        check_lattice,
        (
            ("", 64), ("", 65, 7), ("norm=max", 63), ("levels=3", 65), ("levels=16,norm=max", 33, 5),
            ("levels=5,entropy=true", 65), ("variant=sign-magnitude", 65),
            ("variant=sign-magnitude,levels=4,norm=max,entropy=true", 1000), ("rotate=true", 65),
            ("rotate=true,levels=4", 64), ("rotate=true,clip=true", 1000),
        ),
        joint=True,
    ),
    "iq": Entry(
        check_lattice,
        (("", 64), ("levels=4", 65), ("variant=sign-magnitude,entropy=true", 63), ("rotate=true", 33)),
    ),
    "permk-cq": Entry(
        check_lattice,
        (("", 64), ("parts=3,levels=4", 65, 7), ("variant=sign-magnitude,parts=2", 65, 5)),
        joint=True,
    ),
    "natural-dithering": Entry(check_natural_dithering, (("", 63), ("levels=3,norm=max", 9), ("levels=20", 1000))),
    "eden": Entry(check_rotated, (("bits=2", 64), ("bits=3,rotation=shared", 65), ("bits=4,scale=mse", 1000))),
    "drive": Entry(check_rotated, (("", 63), ("scale=mse", 65))),
    "cast": Entry(check_cast, (("", 65), ("to=bfloat16", 1000))),
    "uniform": Entry(
        check_uniform,
        (
            ("error=0.5", 63), ("error=0.001", 65), ("error=3", 1000), ("bits=2", 1000),
            ("error=0.3,rounding=nearest", 65), ("bits=1.5,rounding=nearest", 1000),
        ),
    ),
}  # fmt: skip

if os.environ.get("MPICOMP_TEST_TABLE"):
    _theirs = runpy.run_path(os.environ["MPICOMP_TEST_TABLE"])["TABLE"]
    TABLE.update({name: Entry(*entry) for name, entry in _theirs.items()})


def spec_of(name: str, options: str) -> str:
    return f"{name}:{options}" if options else name


def _any_size(name: str, entry: Entry) -> list[str]:
    chosen = entry.any_size if entry.any_size is not None else tuple(case[0] for case in entry.cases)
    return sorted({spec_of(name, options) for options in chosen})


ROWS = [Row(spec_of(name, options), *sizes) for name, entry in TABLE.items() for options, *sizes in entry.cases]
ANY_SIZE = [spec for name, entry in TABLE.items() for spec in _any_size(name, entry)]


def check_values(compressor: Compressor, codec: Codec, V: np.ndarray, Y: np.ndarray) -> None:
    """Compare decoded vectors with those that were encoded, as the compressor's row says."""
    TABLE[compressor.name].check(compressor, codec, V, Y)
