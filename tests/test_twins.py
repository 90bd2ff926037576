"""The two forms of kernels: LLVM's instructions give the bits that the plain Python says, and one switch chooses between them."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from conftest import ROOT

from mpicomp.kernels import blocks, entropy, frequencies, intrinsics, llvm_blocks, llvm_entropy, llvm_words, twins
from mpicomp.kernels.sizes import BLOCK, LANES, PAIR, PARTIAL_SUMS

DTYPES = (np.float32, np.float64)
RNG = np.random.default_rng
WORDS32 = np.array(
    [0, 1, 2, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1, *RNG(0).integers(0, 2**32, 200)], np.uint32
)
WORDS64 = np.array(
    [0, 1, 2**63, 2**64 - 1, *(1 << n for n in range(64)), *RNG(1).integers(0, 2**64, 200, np.uint64)], np.uint64
)
KEY, COMMON = np.uint64(0xB5297A4D1F3C5E77), np.uint64(0x68E31DA4B5297A4D)


def forms(name: str):
    """(plain, fast): the kernel's two forms, callable from Python."""
    function = twins.plain[name]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    found = []
    for form in (function, {**vars(llvm_words), **vars(llvm_blocks), **vars(llvm_entropy)}[name]):
        own = name in ("bits_of", "float_of") or form is not function
        kernel = form if own else numba.njit(form, error_model="numpy")
        scope = {"kernel": kernel}
        exec(f"def call({', '.join(names)}): return kernel({', '.join(names)})", scope)
        found.append(numba.njit(scope["call"], error_model="numpy"))
    return found


def same(name: str, *cases: tuple) -> list[list]:
    """Both forms give and write the same bits; what the plain one wrote to its arguments, for each case."""
    plain, fast = forms(name)
    written = []
    for case in cases:
        results, arguments = [], []
        for form in (plain, fast):
            own = [a.copy() if isinstance(a, np.ndarray) else a for a in case]
            results.append(form(*own))
            arguments.append(own)
        assert results[0] is None or np.asarray(results[0]).tobytes() == np.asarray(results[1]).tobytes(), case
        for a, b in zip(*arguments, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)
                assert np.isnan(a).any() or a.tobytes() == b.tobytes()  # the bits of a NaN are the processor's affair
        written.append(arguments[0])
    return written


def test_every_fast_form_has_a_plain_one():
    fast = {
        name
        for module in (llvm_words, llvm_blocks, llvm_entropy)
        for name, value in vars(module).items()
        if type(value).__name__ == "_Intrinsic"
    }
    assert fast == set(twins.plain)
    assert all(hasattr(blocks, name) or hasattr(intrinsics, name) for name in fast)


@pytest.mark.parametrize("name", ["add32", "sub32", "mul32"])
def test_arithmetic_modulo_2_to_the_32(name):
    pairs = [(a, b) for a in WORDS32[:30] for b in WORDS32]
    same(name, *pairs)
    exact = {"add32": lambda a, b: a + b, "sub32": lambda a, b: a - b, "mul32": lambda a, b: a * b}[name]
    plain = forms(name)[0]
    assert all(int(plain(a, b)) == exact(int(a), int(b)) % 2**32 for a, b in pairs)


def test_words_of_32_bits():
    same("xorshift32", *((x, np.uint32(s)) for x in WORDS32 for s in (1, 15, 16, 31)))
    same("exchanged32", *((x,) for x in WORDS32))


def test_words_of_64_bits():
    same("trailing_zeros", *((x,) for x in WORDS64))
    same("ones", *((x,) for x in WORDS64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_floating_point_numbers(dtype):
    info = np.finfo(dtype)
    finite = [0.0, 1.0, 0.1, info.tiny, info.smallest_subnormal, info.max, *RNG(2).lognormal(size=50)]
    values = np.array([*finite, -0.0, -1.5, np.inf, -np.inf, np.nan], dtype)
    word = np.uint32 if dtype is np.float32 else np.uint64
    same("bits_of", *((x,) for x in values))
    same("float_of", *((x,) for x in values.view(word)))
    same("next_above", *((x,) for x in values[: len(finite)]))


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.int64])
@pytest.mark.parametrize("word", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_words_at_any_byte(kind, word):
    array = RNG(3).integers(0, 2**63, 40).astype(kind)
    places = range(0, array.nbytes - 8, 3)
    same("load_word", *((array, byte, word) for byte in places))
    for byte, (written, *_) in zip(places, same("store_word", *((array, b, word(201)) for b in places)), strict=True):
        octets = written.view(np.uint8)[byte : byte + np.dtype(word).itemsize]
        assert int.from_bytes(octets.tobytes(), "little") == 201


def test_bytes_that_are_not_zero():
    array = (RNG(4).integers(0, 3, 200) * 85).astype(np.uint8)
    same("nonzero_bytes", *((array, byte) for byte in (0, 1, 7, 64, 136)))


@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_fetching_changes_nothing(kind):
    array = np.arange(100).astype(kind)
    (written, _), *_ = same("fetch_byte", (array, 3), (array, 10**9))
    np.testing.assert_array_equal(written, array)


def vector(dtype, count, special=True):
    x = RNG(count).standard_normal(count).astype(dtype)
    if special and count > 40:
        x[[3, 17, 18, 33, 34, 35]] = [np.nan, np.inf, -np.inf, -0.0, 0.0, np.finfo(dtype).smallest_subnormal]
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["signs_of_blocks", "add_absolute_blocks", "add_square_blocks"])
@pytest.mark.parametrize("takes", ["x", "difference", "sum"])
def test_sums_and_signs(name, dtype, takes):
    cases = []
    for count in (0, 1, 3):
        for signs, pos in ((None, 0), (np.full(80, 171, np.uint8), 0), (np.full(80, 171, np.uint8), 13)):
            x, other = vector(dtype, PARTIAL_SUMS * count + 5), vector(dtype, PARTIAL_SUMS * count + 5, False)
            other, factor = (None if takes == "x" else other), (dtype(0.3) if takes == "sum" else None)
            cases.append((x, other, factor, count, RNG(5).random(PARTIAL_SUMS), signs, pos))
    for (x, *_), (start, other, _, count, *_) in zip(same(name, *cases), cases, strict=True):
        whole = PARTIAL_SUMS * count
        if takes == "sum":
            np.testing.assert_array_equal(x[:whole], (start + dtype(0.3) * other)[:whole])
        np.testing.assert_array_equal(x[whole:], start[whole:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_to_powers_of_two(dtype):
    x = vector(dtype, 32 * 7 + 5)
    x[40:44] = np.array([3e38, -3.4028235e38, 1e-40, -1e-44])
    cases = [(x, start, pairs, KEY, np.full(900, 171, np.uint8), 3, 501) for start, pairs in ((0, 7), (32, 5), (64, 0))]
    same("powers_of_blocks", *cases)
    tops = [
        (x, start, pairs, KEY, np.full(900, 171, np.uint8), 3, np.full(300, 171, np.uint8))
        for _, start, pairs, *_ in cases
    ]
    same("wide_powers_of_blocks", *tops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("levels", "binary", "codes"), [(1, 24, np.uint8), (7, 24, np.uint8), (100, 24, np.uint16), (30000, 16, np.uint16)]
)
def test_rounding_to_levels(dtype, levels, binary, codes):
    cases = []
    for start, pairs in ((0, 1), (5, 6), (37, 0)):
        x, limit = vector(dtype, 32 * 7 + 9), dtype(levels << binary)
        scale = dtype(0.4 * (levels << binary))  # some entries are beyond the levels
        cases.append((x, start, pairs, scale, limit, KEY, binary, levels, np.full(300, 7, codes), 3))
        tame = np.clip(vector(dtype, 32 * 7 + 9, False), -2.4, 2.4)
        cases.append((tame, start, pairs, scale, None, KEY, binary, levels, np.full(300, 7, codes), 3))
    for (*_, written, at), (_, _, pairs, *_) in zip(same("levels_of_blocks", *cases), cases, strict=True):
        assert (written[at : at + 32 * pairs] <= 2 * levels).all()


def test_nibbles():
    fields = RNG(6).integers(0, 16, 128 * 3).astype(np.uint8)
    *_, (_, _, out) = same("nibbles_of_blocks", *((fields, count, np.full(200, 171, np.uint8)) for count in (0, 1, 3)))
    np.testing.assert_array_equal(out[:192], fields[::2] + 16 * fields[1::2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 1 << 16])
def test_rounding_to_two_ends_differs_in_doubtful_entries_only(dtype, n):
    x, pairs = vector(dtype, PAIR * 40), 39
    margin, place = np.float32(n) * np.float32(2.0**-20), np.uint32(n // 2)
    numbers = np.uint32(n), place, np.float32(0.5 * n / 3), np.float32(0.5) * np.float32(n), margin
    found = []
    for form in forms("ends_of_blocks"):
        buf, clear = np.full(4 * pairs + 2, 171, np.uint8), np.full(4 * pairs + 2, 171, np.uint8)
        form(x, 32, pairs, *numbers, COMMON, KEY, buf, 1, clear)
        assert buf[0] == buf[-1] == clear[-1] == 171
        found.append((np.unpackbits(buf[1:-1], bitorder="little"), np.unpackbits(clear[:-2], bitorder="little")))
    (buf, clear), (fast_buf, fast_clear) = found
    sure = (buf == clear) & (fast_buf == fast_clear)
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(buf[sure], fast_buf[sure])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "symbols"), [(1, 2), (3, 4), (8, 16), (1000, 256), (1 << 16, 1024)])
def test_rounding_to_a_lattice_differs_in_doubtful_entries_only(dtype, n, symbols):
    x, pairs = vector(dtype, PAIR * 40), 39
    slope = np.float32((symbols - 2) / 2 if symbols > 2 else 0.5)
    numbers = np.float32(1 / 3), slope, np.float32(0.5), np.float32(0.5 * 2.0**-24), np.float32(symbols * 2.0**-20)
    found = []
    for form in forms("lattice_of_blocks"):
        codes, doubts = np.full(PAIR * pairs + 9, 7, np.uint16), np.full(4 * pairs + 1, 171, np.uint8)
        form(x, 3, pairs, 64, np.uint32(n), np.uint32(n - 1), *numbers, COMMON, KEY ^ COMMON, KEY, codes, 4, doubts)
        assert (codes[:4] == 7).all() and (codes[-5:] == 7).all() and doubts[-1] == 171
        found.append((codes[4:-5], np.unpackbits(doubts[:-1], bitorder="little") == 0))
    (codes, sure), (fast_codes, fast_sure) = found
    assert not sure[0] and not fast_sure[0]  # a NaN
    both = sure & fast_sure
    assert both.mean() > 0.98 and (sure != fast_sure).mean() < 0.001
    np.testing.assert_array_equal(codes[both], fast_codes[both])


@pytest.mark.covering()
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("symbols", [2, 32, 33, 64, 65, 255])
def test_coding_groups_of_symbols(symbols, kind):
    """Tables in registers and in memory; the decoder ends with the states that the encoder began with."""
    rng, precision = RNG(symbols), 12
    data = np.minimum(rng.geometric(min(0.5, 8 / symbols), LANES * 9) - 1, symbols - 1).astype(kind)
    _, spans, steps, multipliers, places, _ = entropy.scratch(symbols)
    frequencies.share_out(np.bincount(data, minlength=symbols), len(data), 1 << precision, spans)
    entropy.write_steps(spans, precision, steps, multipliers)
    for s in range(symbols):
        for place in range(spans[0, s]):
            places[spans[1, s] + place] = (s << 24) | ((int(spans[0, s]) - 1) << 12) | place
    tables = steps[:, : 32 if symbols <= 32 else 64 if symbols <= 64 else None]
    states = np.full(LANES, 1 << 16, np.uint32)
    cases = []
    for groups in (0, 1, 9):
        buf = np.full(2 * LANES * groups + 40, 171, np.uint8)
        cases.append((tables[0].copy(), tables[1].copy(), precision, states, data, groups, buf, 5))
    plain, fast = forms("encode_groups")
    for *given, buf, pos in cases:
        found = []
        for form in (plain, fast):
            own, out = given[3].copy(), buf.copy()
            end = form(*given[:3], own, *given[4:], out, pos)
            found.append((end, out[:end].tobytes(), own.tobytes()))
        assert found[0] == found[1] and (buf[found[0][0] + 32 :] == 171).all()
        end, words, coded = found[0]
        stored = np.frombuffer(words[5:], np.uint16)[::-1].tobytes() + bytes(2 * LANES * given[5] + 2 * LANES)
        case = places, precision, np.frombuffer(coded, np.uint32).copy(), np.frombuffer(stored, np.uint8).copy(), 0
        for form in forms("decode_groups"):
            table, fine, own, message, begin = case
            own, read = own.copy(), np.full(len(data) + 3, 7, kind)
            assert form(table, fine, own, message, begin, read, 0, given[5]) == end - 5
            whole = LANES * given[5]
            assert (own == 1 << 16).all() and (read[:whole] == data[:whole]).all() and (read[whole:] == 7).all()


def test_blocks_are_pairs():
    assert PAIR == 2 * BLOCK and PARTIAL_SUMS % PAIR == 0


# ---- the switch ------------------------------------------------------------------------------------------------------
def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MPICOMP_KERNELS", "NUMBA_CACHE_DIR"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **env}, cwd=ROOT, capture_output=True, text=True, timeout=280
    )


SAID = "from mpicomp.kernels import forms, twins, cache_directory; from mpicomp.kernels.random import bits32; import numpy as np; "
SAID += "print(forms.form, bool(twins.fast), cache_directory(), bits32(np.uint64(5), 7))"


@pytest.mark.process
def test_one_switch_chooses_the_form():
    said = {form: python(SAID, MPICOMP_KERNELS=form).stdout.split() for form in ("fast", "plain")}
    assert said["fast"][:2] == ["fast", "True"] and said["plain"][:2] == ["plain", "False"]
    assert said["fast"][2] != said["plain"][2], "they share a cache"
    assert said["fast"][3] == said["plain"][3]
    assert python(SAID).stdout.split() == said["fast"]
    wrong = python(SAID, MPICOMP_KERNELS="quick")
    assert wrong.returncode and "unknown MPICOMP_KERNELS 'quick'; known: fast, plain" in wrong.stderr


BREAKS = {
    "compile": """
from mpicomp.kernels import llvm
def fail(*_): raise AttributeError("no such instruction")
llvm.prefetch.__code__ = fail.__code__
""",
    "import": "import llvmlite.ir; del llvmlite.ir.VectorType\n",
}


@pytest.mark.process
@pytest.mark.parametrize("how", BREAKS)
def test_where_the_fast_form_does_not_compile_the_plain_one_is_taken(tmp_path, how):
    """With one warning; the next process does not try again; who asks for the fast form by name gets an error."""
    code = "import numba\n" + BREAKS[how] + SAID
    said = {0: python(code, XDG_CACHE_HOME=str(tmp_path)), 1: python(code, XDG_CACHE_HOME=str(tmp_path))}
    for job in said.values():
        assert job.returncode == 0, job.stderr
        assert job.stdout.split()[:2] == ["plain", "False"]
        assert job.stderr.count("RuntimeWarning: the kernels' fast forms do not compile here") == 1
    assert said[0].stdout.split()[3] == python(SAID).stdout.split()[3]
    (note,) = tmp_path.rglob("fast-forms.txt")
    assert "AttributeError" in note.read_text()
    asked = python(code, XDG_CACHE_HOME=str(tmp_path), MPICOMP_KERNELS="fast")
    assert asked.returncode and "MPICOMP_KERNELS=fast, but the kernels' fast forms do not compile" in asked.stderr


@pytest.mark.night
@pytest.mark.full(reason="compiles every codec once more; single kernels are compared above")
@pytest.mark.process
@pytest.mark.timeout(900)  # where nothing is in the cache
def test_golden_frames_in_the_plain_form():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_compressors.py",
        "-k",
        "frames_of_the_past",
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"MPICOMP_KERNELS": "plain"}
    job = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=840)
    assert job.returncode == 0 and " passed" in job.stdout, job.stdout + job.stderr


def test_the_size_of_a_number():
    assert [intrinsics.size_of(kind(1)) for kind in (np.uint8, np.uint16, np.uint32, np.uint64)] == [1, 2, 4, 8]
