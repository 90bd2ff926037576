"""LIBSVM text as people have it: byte order marks, other line ends, archives under other names, long decimals, wide files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import struct
import tracemalloc
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpicomp as mc
from mpicomp.data import load, parse_libsvm
from mpicomp.errors import DataError
from mpicomp.kernels import decimals
from mpicomp.problems.logistic import Logistic

ROWS = b"+1 1:0.5 3:1\n-1 2:1 3:-2.5\n+1 1:1\n-1 3:0.25\n"
VALUES = [0.5, 1, 1, -2.5, 1, 0.25]


# ---- text ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + ROWS,
        ROWS.replace(b"\n", b"\r\n"),
        ROWS.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r"),
        ROWS.replace(b":", b": "),
        ROWS.replace(b":", b": \t "),
        b"# a comment\r" + ROWS.replace(b"\n", b" # 7:7\r"),
    ],
    ids=["mark", "CRLF", "CR", "mark and CR", "space after colon", "spaces after colon", "comments and CR"],
)
def test_the_same_rows(text):
    rows = parse_libsvm(text, "text")
    assert rows.labels.tolist() == [1, -1, 1, -1] and rows.values.tolist() == VALUES
    assert rows.indices.tolist() == [0, 2, 1, 2, 0, 2] and rows.features == 3


def test_values_without_digits_before_the_point():
    rows = parse_libsvm(b"0   21:1.00   42:1.00   63: .50\n1 1:.5\n", "text")
    assert rows.values.tolist() == [1, 1, 0.5, 0.5] and rows.features == 63


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_are_counted_whatever_their_ends(end):
    text = end.join([b"1 1:1", b"", b"# comment", b"1 1:x", b""])
    with pytest.raises(DataError, match="text, line 4: the value of '1:x' is not a finite number"):
        parse_libsvm(text, "text")


def test_lines_that_reach_over_blocks(monkeypatch):
    """Also where a block ends within a CRLF, or a line is longer than a block."""
    import mpicomp.data.libsvm as libsvm

    rng = np.random.default_rng(0)
    rows = [f"{r % 2} " + " ".join(f"{j + 1}:{rng.normal():.17e}" for j in range(r % 40)) for r in range(200)]
    for end in ("\n", "\r\n", "\r"):
        text = end.join(rows).encode()
        whole = parse_libsvm(text, "text")
        for block in (64, 101, 1000):
            monkeypatch.setattr(libsvm, "BLOCK", block)
            for ours, theirs in zip(parse_libsvm(text, "text"), whole, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        monkeypatch.undo()


@pytest.mark.parametrize(
    "line", ["1 1: 2:3", "1 1:", "1 1: \t", "1 1:#", "1 1:1e", "1 1:1e+", "1 1:.", "1 1:-", "1 1:0x1p3", "1 1:1d5"]
)
def test_values_that_are_none(line):
    with pytest.raises(DataError, match=r"text, line 2: the value of '1:.*' is not a finite number"):
        parse_libsvm(f"1 1:1\n{line}\n1 1:1\n".encode(), "text")


# ---- archives -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
@pytest.mark.parametrize("name", ["a.svm", "a.svm.GZ", "a.svm.gz", "a.XZ", "a.svm.bz2"])
def test_archives_are_recognised_by_content(tmp_path, compress, name):
    (tmp_path / name).write_bytes(compress(ROWS))
    assert load(str(tmp_path / name)).values.tolist() == VALUES


@pytest.mark.parametrize(
    "text, message",
    [
        (b"\x28\xb5\x2f\xfd\x04", "zstd, which is not read; decompress it"),
        (b"PK\x03\x04", "a ZIP archive, which is not read; unpack it"),
        ("1 1:1\n".encode("utf-16"), "UTF-16, which is not read; save it as UTF-8"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, text, message):
    (tmp_path / "a.svm").write_bytes(text)
    with pytest.raises(DataError, match=rf"a\.svm is .*{message}"):
        load(str(tmp_path / "a.svm"))


# ---- numbers ----------------------------------------------------------------------------------------------------------------
def read(texts: list[str]) -> np.ndarray:
    entries = " ".join(f"{i}:{text}" for i, text in enumerate(["0", *texts], 1))
    return parse_libsvm(f"1 {entries}\n".encode(), "text").values[1:]


def same_as_float(texts: list[str]) -> None:
    finite = [text for text in texts if np.isfinite(float(text))]
    ours, theirs = read(finite), np.array([float(text) for text in finite])
    wrong = [
        text for text, a, b in zip(finite, ours, theirs, strict=True) if struct.pack("d", a) != struct.pack("d", b)
    ]
    assert not wrong, wrong[:5]
    for text in set(texts) - set(finite):
        with pytest.raises(DataError, match="overflows: float64 ends at"):
            read([text])


digits = st.text("0123456789", max_size=45)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda sign, whole, part, e: f"{sign}{whole or ('0' if not part else '')}.{part}{e}",
            st.sampled_from(["", "-", "+"]), digits, digits,
            st.one_of(st.just(""), st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "-", "+"]), st.integers(0, 400))),
        ),
        min_size=1, max_size=20,
    )
)  # fmt: skip
def test_any_decimal_is_read_as_float_reads_it(texts):
    same_as_float(texts)


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.integers(0, 40))
def test_any_number_with_any_digits(value, places):
    same_as_float([repr(value), f"{value:.{places}e}"])


def test_numbers_of_all_sizes():
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64)
    bits = bits[np.isfinite(bits)]
    same_as_float([repr(float(x)) for x in bits] + [f"{x:.18e}" for x in bits] + [f"{x:.30e}" for x in bits[:2000]])


def test_halves_between_two_numbers():
    """Where a digit more or less decides: the midpoints themselves, and the nearest decimals of 19 and 20 digits."""
    rng, texts = np.random.default_rng(1), []
    with localcontext() as context:
        context.prec = 1100
        for x in np.abs(rng.integers(0, 2**63, 1000, dtype=np.uint64).view(np.float64)):
            above = np.nextafter(x, np.inf)
            if np.isfinite(above):
                middle = (Decimal(float(x)) + Decimal(float(above))) / 2
                texts += [str(middle), f"{middle:.18e}", f"{middle:.19e}", f"{middle:.40e}"]
        texts += [str(Decimal(2.0**e) * k / 2) for e in range(-1074, -1020) for k in (1, 3)]
    texts += [str(m) for m in (rng.integers(2**53, 2**54, 1000) | 1)] + [
        f"{m}0e-1" for m in range(2**53 + 1, 2**53 + 9)
    ]
    same_as_float(texts)


BORDERS = [
    "0", "-0", "0.0e500", "1e308", "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "1e309", "1e999999999",
    "4.9e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2.2250738585072011e-308", "1e-400", "-1e-99999999999999999999",
    "1" + "0" * 308, "0." + "0" * 400 + "1", "18446744073709551616", "9007199254740993", "9007199254740992.99999999999999999999",
]  # fmt: skip


def test_borders_of_float64():
    same_as_float(BORDERS)


def test_powers_of_five():
    """Their first 128 bits, off by less than one in the last of them."""
    for q in range(decimals.LEAST, decimals.MOST + 1):
        bits, power = decimals._five(q), Fraction(5) ** q
        assert bits.bit_length() == 128
        scale = Fraction(2) ** round(math.log2(bits) - q * math.log2(5))
        assert abs(bits - power * scale) <= 1, q


def test_long_decimals_take_the_memory_of_short_ones():
    """The rows are twelve bytes an entry; reading takes at most as much again."""
    rng = np.random.default_rng(0)
    line = " ".join(f"{j}:{v:.18e}" for j, v in enumerate(rng.uniform(0, 2, 200), 1))
    text = f"1 {line}\n".encode() * 4000
    parse_libsvm(text[:100_000].rpartition(b"\n")[0], "text")
    tracemalloc.start()
    rows = parse_libsvm(text, "text")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows.values) == 800_000 and peak / len(rows.values) < 24


# ---- what the problems make of it ---------------------------------------------------------------------------------------------
def test_a_wide_file_costs_no_constants_that_the_run_does_not_use(tmp_path, monkeypatch):
    import mpicomp.problems.gram as gram

    def never(*args):
        raise AssertionError("a constant was computed")

    (tmp_path / "wide.svm").write_text("1 1:1 1048576:1\n-1 2:1\n1 3:1\n-1 5:1\n")
    monkeypatch.setattr(gram, "largest_eigenvalue", never)
    options = {"data": str(tmp_path / "wide.svm"), "clients": 2, "method": "gd", "rounds": 3}
    result = mc.run(step=0.1, **options)
    assert result.manifest["problem"]["dim"] == 1 << 20 and "L" not in result.manifest["problem"]
    with pytest.raises(AssertionError, match="a constant was computed"):
        mc.run(step="theory", **options)


@pytest.mark.parametrize(
    "value, options, message",
    [
        (
            "1e308",
            {"step": 0.1},
            r"the features overflow: the largest is 1e\+308, and a gradient needs its square; scale",
        ),
        (
            "1e100",
            {"step": "theory"},
            r"the features overflow: the largest is 1e\+100, and the smoothness constants need",
        ),
        (
            "1e60",
            {"step": 0.1, "dtype": "float32"},
            r"the features overflow: 1e\+60 is above what float32 holds, 3.4e\+38",
        ),
    ],
)
def test_features_that_overflow_are_named_as_that(tmp_path, value, options, message):
    (tmp_path / "huge.svm").write_text(f"1 1:{value} 2:1\n-1 1:{value}\n1 2:1\n-1 1:1\n")
    with pytest.raises(DataError, match=rf"huge\.svm: {message}"):
        mc.run(data=str(tmp_path / "huge.svm"), clients=2, method="gd", rounds=2, **options)


def test_a_test_class_that_training_lacks_names_the_test_file(tmp_path):
    (tmp_path / "train.svm").write_text("0 1:1\n1 2:1\n" * 5)
    (tmp_path / "test.svm").write_text("0 1:1\n7 2:1\n")
    from mpicomp.problems.mlp import MLP

    with pytest.raises(DataError, match=r"test\.svm: the test rows have the class 7, .* of .*train\.svm has; .* 0, 1$"):
        MLP(data=str(tmp_path / "train.svm"), test=str(tmp_path / "test.svm"), clients=2)


def test_test_rows_may_lack_the_last_columns(tmp_path):
    from mpicomp.problems.mlp import MLP

    (tmp_path / "train.svm").write_text("0 1:1\n1 9:1\n" * 5)
    (tmp_path / "test.svm").write_text("0 1:1\n1 2:1\n")
    assert MLP(data=str(tmp_path / "train.svm"), test=str(tmp_path / "test.svm"), clients=2, hidden=0).dim == 20


def test_rows_that_need_no_order_are_not_copied():
    problem = Logistic(data="mushrooms", clients=4)
    block = problem.block(np.arange(4), np.float64)
    for name in ("values", "indices"):
        assert np.shares_memory(getattr(block._terms[0], name), getattr(problem.rows, name))
    part = problem.block(np.array([1, 2]), np.float64)._terms[0]
    first, last = problem.rows.indptr[problem.rows.offsets[[1, 3]]]
    np.testing.assert_array_equal(part.indices, problem.rows.indices[first:last])
    assert np.shares_memory(part.values, problem.rows.values)
    assert not np.shares_memory(problem.block(np.array([0, 2]), np.float64)._terms[0].values, problem.rows.values)
