"""Data as people have them: arrays, CSV, archives of arrays, Parquet and Arrow, HDF5, and LIBSVM text as other readers accept it."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import pickle
import sys
import threading
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import mpicomp as mc
from mpicomp.data import Arrays, load, parse_libsvm
from mpicomp.data.tables import coded, from_coordinates
from mpicomp.errors import EnvironmentMismatch

pa = pytest.importorskip("pyarrow")
h5py = pytest.importorskip("h5py")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

N, D = 23, 5
rng = np.random.default_rng(5)
A = np.where(rng.random((N, D)) < 0.4, 0.0, rng.normal(size=(N, D)))
A[3] = 0.0  # a row without entries
A[:, 4] = np.rint(10 * A[:, 4])
b = np.where(rng.random(N) < 0.5, 3.0, 7.0)
NAMES = ["age", "height", "mass", "dose", "count"]
WORDS = {3.0: "no", 7.0: "yes"}


def dense(rows) -> np.ndarray:
    out = np.zeros((len(rows.labels), rows.features))
    for r in range(len(out)):
        entries = slice(rows.indptr[r], rows.indptr[r + 1])
        assert np.all(np.diff(rows.indices[entries]) > 0)
        out[r, rows.indices[entries]] = rows.values[entries]
    return out


def same(rows, matrix=A, labels=b) -> None:
    np.testing.assert_array_equal(dense(rows), matrix)
    np.testing.assert_array_equal(rows.labels, labels)
    assert [array.dtype for array in rows[:4]] == [np.int64, np.int32, np.float64, np.float64]


def refused(words: str, *args, error: type = mc.DataError, **options) -> str:
    with pytest.raises(error, match=words) as caught:
        load(*args, **options)
    return str(caught.value)


# ---- CSV and its relatives ----------------------------------------------------------------------------------------------------
def csv_text(names=NAMES, at: int = 2, delimiter: str = ",", words: bool = False, ends: str = "\n") -> str:
    """As Python's own writer has it, the label in column `at`."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=ends)
    if names:
        writer.writerow([*names[:at], "label", *names[at:]])
    for row, label in zip(A.tolist(), b.tolist(), strict=True):
        writer.writerow([*row[:at], WORDS[label] if words else label, *row[at:]])
    return file.getvalue()


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_tables_as_text(tmp_path, delimiter, ends):
    path = tmp_path / "t.txt"
    for text, options in (
        (csv_text(delimiter=delimiter, ends=ends), {}),
        (csv_text(delimiter=delimiter, ends=ends), {"label": 2}),
        (csv_text([], -1 + D + 1, delimiter, ends=ends), {"label": -1}),
        (csv_text([], 0, delimiter, ends=ends), {"label": 0}),
    ):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        same(load(str(path), **options))
    assert load(str(path), label=0).columns == ()
    path.write_text(csv_text(delimiter=delimiter, words=True))
    rows = load(str(path))
    assert rows.classes == ("no", "yes") and rows.columns == tuple(NAMES)
    same(rows, labels=(b == 7.0).astype(float))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_tables_may_be_compressed_and_quoted_and_have_comments(tmp_path, compress):
    text = csv_text().replace("\n", " \n").replace("label", '"label"')
    lines = text.splitlines()
    lines.insert(4, "")
    lines.insert(2, "# a remark")
    (tmp_path / "t").write_bytes(compress("\n".join(lines).encode()))
    same(load(str(tmp_path / "t")))


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        ("label,0,1,2\n5,0,0,1\n6,1,1,1\n", ("0", "1", "2")),  # names of pixels are numbers
        ("label,1x1\n5,0.5\n6,1\n", ("1x1",)),
        ("cat,0.5\ndog,1\n", ()),  # a class above a class
        ("1,2\n3,4\n", ()),
        ("NaN,2\n3,4\n", None),  # what is missing is no name
    ],
)
def test_whether_the_first_line_holds_names(tmp_path, head, columns):
    (tmp_path / "t.csv").write_text(head)
    if columns is None:
        assert "line 1, column 0 (from 0): the value is missing" in refused("missing", str(tmp_path / "t.csv"), label=1)
        return
    rows = load(str(tmp_path / "t.csv"), label=0)
    assert rows.columns == columns and len(rows.labels) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 5)), min_size=1, max_size=9))
def test_cells_have_the_bits_that_float_gives(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text("x,label\n" + "".join(f"{value!r},{label}\n" for value, label in cells))
    np.testing.assert_array_equal(dense(load(str(path)))[:, 0], [value for value, _ in cells])


GOOD = "age,mass,label\n1,2,a\n"
BAD_TABLES = {
    "an empty cell": (GOOD + "\n3,,b\n", "t.csv, line 4, column 'mass': the value is missing (''); fill it in"),
    "nan": (GOOD + "nan,1,b\n", "t.csv, line 3, column 'age': the value is missing ('nan')"),
    "infinite": (GOOD + "inf,1,b\n", "t.csv, line 3, column 'age': 'inf' is not a finite number"),
    "overflow": (GOOD + "1e999,1,b\n", "t.csv, line 3, column 'age': '1e999' is not a finite number"),
    "text": (GOOD + "# note\n1,tall,b\n", "t.csv, line 4, column 'mass': 'tall' is not a number; code text as numbers"),
    "missing label": (GOOD + "1,2,?\n", "t.csv, line 3, column 'label': the label is missing ('?')"),
    "short": (GOOD + "1,2,b\n1,b\n", "t.csv, line 4: the line has 2 cells, the first one has 3"),
    "long": (GOOD + "1,2,3,b\n", "t.csv, line 3: the line has 4 cells, the first one has 3"),
    "two names": ("age,age,label\n1,2,a\n", "the columns 0 and 1 (from 0) have the same name, 'age'"),
    "an index": (",age,label\n0,1,a\n", "the first column has no name, as where pandas writes the index"),
    "only names": ("age,label\n", "t.csv is empty: it has names of columns, 'age', 'label', and no row"),
    "commas": ("a;label\n0,5;1\n1,5;2\n", "t.csv, line 2, column 'a': '0,5' is not a number; write decimal points"),
    "one column": ("a,\n", "the first column"),
    "underscores": (GOOD + "1_0,1,b\n", "t.csv, line 3, column 'age': '1_0' is not a number"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_wrong_table_is_named_by_line_and_column(tmp_path, case):
    text, words = BAD_TABLES[case]
    (tmp_path / "t.csv").write_text(text)
    message = refused("t.csv", str(tmp_path / "t.csv"))
    assert words in message or case == "one column"
    assert "\n" not in message


def test_the_label_is_asked_for_where_no_column_is_named_so(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("age,mass,grade\n1,2,3\n4,5,6\n")
    assert "which column is the label? its columns are 'age', 'mass', 'grade'" in refused("label", str(path))
    assert "unknown column 'grad'; known: age, grade, mass; did you mean 'grade'?" in refused(
        "grad", str(path), label="grad"
    )
    assert "there is no column 3; it has 3 columns, 0 to 2" in refused("no column", str(path), label=3)
    np.testing.assert_array_equal(load(str(path), label="grade").labels, load(str(path), label=-1).labels)
    path.write_text("1,2,3\n4,5,6\n")
    assert "it has 3 columns without names" in refused("label", str(path))
    assert "no column 'grade', its columns have no names" in refused("grade", str(path), label="grade")
    path.write_text("y,target,z\n1,2,3\n4,5,6\n")
    refused("which column is the label", str(path))
    np.testing.assert_array_equal(load(write(path, "2019,2020\n1,2\n4,5\n"), label=0).labels, [2019, 1, 4])
    np.testing.assert_array_equal(load(write(path, "a,2020\n1,2\n4,5\n"), label=2020).labels, [2, 5])


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_table_out_of_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    for text in (csv_text(), "label,x\n1,nan\n"):
        if not pipe.exists():
            os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=(text,))
        writer.start()
        if "nan" in text:
            refused("a cell is not a finite number|value is missing", str(pipe))
        else:
            same(load(str(pipe)))
        writer.join()


def test_text_in_another_code_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("größe,label\n1,2\n".encode("latin-1"))
    assert "iconv -f latin1 -t utf-8" in refused("is not UTF-8", str(tmp_path / "t.csv"))


# ---- arrays in files ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("matrix", "labels"), [("A", "b"), ("X", "y"), ("data", "target"), ("features", "labels")])
def test_dense_archives(tmp_path, matrix, labels):
    path = str(tmp_path / "t.npz")
    np.savez(path, **{matrix: A, labels: b})
    same(load(path))
    np.savez_compressed(path, **{matrix: A.astype(np.float32), labels: b.astype(int)[:, None]})
    same(load(path), A.astype(np.float32))
    np.savez(path, **{matrix: A, labels: np.array([WORDS[label] for label in b])})
    assert load(path).classes == ("no", "yes")


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_archives_of_scipy_with_labels(tmp_path, kind):
    path = str(tmp_path / "t.npz")
    sp.save_npz(path, sp.csr_matrix(A).asformat(kind))
    message = refused("has no labels", path)
    assert "numpy.savez(FILE, format='csr'" in message
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays, b=b)
    same(load(path))
    same(load(path, label="b"))
    np.savez(path, **arrays, kind=b)
    same(load(path, label="kind"))
    assert "unknown array 'kin'" in refused("kin", path, label="kin")


def test_archives_need_no_scipy(tmp_path, monkeypatch):
    np.savez(
        tmp_path / "t.npz",
        b=b,
        **{k: getattr(sp.csr_matrix(A), k) for k in ("data", "indices", "indptr", "shape")},
        format="csr",
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    same(load(str(tmp_path / "t.npz")))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"A": A, "b": b[:-1]}, "b has shape (22,); the matrix has 23 rows, so a label for each, (23,)"),
        ({"A": A[0], "b": b}, "A has shape (5,); rows and columns are needed"),
        ({"A": A, "X": A, "b": b}, "which array is the matrix? It holds 'A', 'X', 'b'"),
        ({"A": A, "b": b, "y": b}, "has 'b', 'y': which are the labels?"),
        ({"A": A * 1j, "b": b}, "A holds complex numbers, not real numbers"),
        ({"A": np.where(np.arange(D) == 3, np.nan, A), "b": b}, "A[0, 3] is nan, not a finite number"),
        ({"A": A, "b": np.where(np.arange(N) == 7, np.inf, b)}, "row 8: the label in b is inf"),
        ({"A": np.full((N, 1), 2**53 + 1), "b": b}, "A holds the whole number 9007199254740993: float64 has all of them"),
        ({"A": np.zeros((0, 2)), "b": np.zeros(0)}, "is empty: it has no row"),
        ({"A": np.zeros((N, 0)), "b": b}, "0 columns of features"),
        ({"format": "csr", "shape": (N, 2), "b": b, "data": [1.0]}, "the sparse matrix lacks 'indices', 'indptr'"),
        (
            {"format": "csr", "shape": (2, 2), "b": b[:2], "data": [1.0, 1], "indices": [0, 2], "indptr": [0, 1, 2]},
            "a column is outside of 0 to 1",
        ),
        (
            {"format": "csr", "shape": (2, 2), "b": b[:2], "data": [1.0, 1], "indices": [0, 1], "indptr": [0, 2, 1]},
            "indptr does not rise",
        ),
        ({"format": "dia", "shape": (2, 2), "b": b[:2], "data": [1.0]}, "a sparse matrix of format dia; save A.tocsr()"),
    ],
)  # fmt: skip
def test_wrong_archives(tmp_path, arrays, words):
    np.savez(tmp_path / "t.npz", **arrays)
    message = refused("t.npz", str(tmp_path / "t.npz"))
    assert words in message and "t.npz" in message


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", A=np.array([[1, "a"]], object), b=b[:1])
    refused("cannot be read as an archive of arrays", str(tmp_path / "t.npz"))
    whole = (tmp_path / "t.npz").read_bytes()
    np.savez(tmp_path / "t.npz", A=A, b=b)
    whole = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(whole[: len(whole) // 2])
    refused("t.npz", str(tmp_path / "t.npz"))


def test_a_matrix_with_the_label_among_its_columns(tmp_path):
    path = str(tmp_path / "t.npy")
    np.save(path, np.column_stack([A, b]))
    same(load(path, label=-1))
    same(load(path, label=D))
    assert "which column is the label?" in refused("label", path)
    np.save(path, b)
    assert "an array of shape (23,)" in refused("shape", path)


@pytest.mark.parametrize("sparse", [False, True])
def test_hdf5(tmp_path, sparse):
    path, labels = str(tmp_path / "t.h5"), np.array([WORDS[label] for label in b], "S")
    with h5py.File(path, "w") as file:
        file["y"] = labels
        if sparse:
            csr = sp.csr_matrix(A)
            for name in ("data", "indices", "indptr"):
                file[f"X/{name}"] = getattr(csr, name)
            file["X"].attrs["shape"] = csr.shape
        else:
            file["X"] = A
            file["X"].attrs["made"] = "by a test"
    rows = load(path)
    assert rows.classes == ("no", "yes")
    same(rows, labels=(b == 7.0).astype(float))
    with h5py.File(path, "a") as file:
        del file["y"]
    assert "has no labels" in refused("labels", path)


# ---- Parquet and Arrow --------------------------------------------------------------------------------------------------------
def arrow_file(path, kind: str, columns: dict) -> str:
    table = pa.table(columns)
    parquet.write_table(table, path, row_group_size=7) if kind == "parquet" else feather.write_feather(table, str(path))
    return str(path)


COLUMNS = {
    "age": A[:, 0],
    "label": [WORDS[label] for label in b],
    "height": A[:, 1],
    "mass": A[:, 2],
    "dose": A[:, 3],
    "count": A[:, 4].astype(np.int32),
}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_arrow(tmp_path, kind):
    path = tmp_path / "t"
    rows = load(arrow_file(path, kind, COLUMNS))
    assert rows.classes == ("no", "yes") and rows.columns == tuple(NAMES)
    same(rows, labels=(b == 7.0).astype(float))
    same(load(arrow_file(path, kind, {**COLUMNS, "label": b.astype(np.int64)})))
    same(
        load(arrow_file(path, kind, {**COLUMNS, "label": pa.array(COLUMNS["label"]).dictionary_encode()})), A, b == 7.0
    )
    coin = load(arrow_file(path, kind, {"x": A[:, 0], "coin": b == 3.0, "target": b}))
    np.testing.assert_array_equal(dense(coin)[:, 1], b == 3.0)
    for columns, words in (
        ({**COLUMNS, "mass": [None, *A[1:, 2]]}, "column 'mass', row 1: the value is missing"),
        ({**COLUMNS, "label": [*COLUMNS["label"][:-1], None]}, "column 'label', row 23: the value is missing"),
        ({**COLUMNS, "mass": COLUMNS["label"]}, "column 'mass' holds string, not numbers; code text as numbers"),
        ({**COLUMNS, "mass": np.where(np.arange(N) == 4, np.nan, A[:, 2])}, "row 5, column 'mass' is nan"),
        ({**COLUMNS, "mass": np.full(N, 2**60 + 1)}, "column 'mass' holds the whole number 1152921504606846977"),
        ({name: [] for name in ("a", "label")}, "is empty"),
    ):
        assert words in refused("t", arrow_file(path, kind, columns))


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    np.savez(tmp_path / "t.npz", A=A, b=b)
    files = {"pyarrow": arrow_file(tmp_path / "t.parquet", "parquet", COLUMNS), "h5py": str(tmp_path / "t.h5")}
    with h5py.File(files["h5py"], "w") as file:
        file["A"], file["b"] = A, b
    for module, extra in (("pyarrow", "arrow"), ("h5py", "hdf5")):
        monkeypatch.setitem(sys.modules, module, None)
        refused(rf"install it by `pip install 'mpicomp\[{extra}\]'`", files[module], error=EnvironmentMismatch)
    same(load(str(tmp_path / "t.npz")))


# ---- what is not read, and what LIBSVM text may have ---------------------------------------------------------------------------
FOREIGN = {
    b"%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 1\n": "looks like a Matrix Market file",
    b"% iris\n@RELATION iris\n@ATTRIBUTE x REAL\n": "looks like ARFF",
    b'{"A": [[1, 2]]}': "looks like JSON",
    b"<!DOCTYPE html><html>": "looks like HTML or XML, perhaps the page that leads to the file",
    b"MATLAB 5.0 MAT-file": "looks like a MATLAB file",
    b"SQLite format 3\0": "looks like an SQLite database",
    b"version https://git-lfs.github.com/spec/v1\n": "looks like a pointer of Git LFS",
    pickle.dumps(b): "is a pickle, which is not read, since it can run any code",
    b"1 0.5 2\n2 0.25 3\n": "looks like a table whose cells stand between spaces",
}


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: content[:12].decode("latin-1"))
def test_other_formats_are_named(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    assert FOREIGN[content] in refused("t", str(tmp_path / "t"))


def test_a_workbook_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert "is an Excel workbook, which is not read; save the sheet as CSV" in refused("t", str(tmp_path / "t.xlsx"))


@pytest.mark.parametrize(
    "text",
    ["1 1:2.5 2:1\n-1 2:1\n", "1\t1:2.5\t2:1\n-1\t2:1\n", "1 1:2.5 2:1 # a,b,c\n-1\n", "1\n1\n-1 1:2,5 2:1\n1 1:1\n"],
)
def test_libsvm_text_is_not_taken_for_a_table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    if "2,5" in text:
        refused("t.csv, line 3: the value of '1:2,5' is not a finite number", str(tmp_path / "t.csv"))
    else:
        assert load(str(tmp_path / "t.csv")).features == 2


def test_qid_is_read_over():
    with_qid = parse_libsvm(b"1 qid:10 1:0.5 3:1 # x\n2 qid:10\n3  qid:4\t2:1\n", "t")
    without = parse_libsvm(b"1 1:0.5 3:1\n2\n3 2:1\n", "t")
    for ours, theirs in zip(with_qid, without, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_indices_may_count_from_zero(tmp_path):
    text = b"1 0:0.5 2:1\n2 1:1\n"
    rows = parse_libsvm(text, "t", zero_based=True)
    assert rows.indices.tolist() == [0, 2, 1] and rows.features == 3
    (tmp_path / "t.svm").write_bytes(text)
    same(load(str(tmp_path / "t.svm"), zero_based=True), [[0.5, 0, 1], [0, 1, 0]], [1, 2])
    assert "where they count from 0 give problem_options={'zero_based': True}" in refused(
        "below 1", str(tmp_path / "t.svm")
    )
    with pytest.raises(mc.DataError, match="the index of '-1:1' is below 0; indices count from 0"):
        parse_libsvm(b"1 -1:1\n", "t", zero_based=True)
    with pytest.raises(mc.DataError, match="is above the number of features, 3"):
        parse_libsvm(b"1 3:1\n", "t", 3, zero_based=True)
    with pytest.raises(mc.DataError, match="is not above the one before"):
        parse_libsvm(b"1 0:1 0:1\n", "t", zero_based=True)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_archives_of_several_streams(tmp_path, compress):
    parts = [b"1 1:0.5\n2 2:", b"1\n", b"", b"3 3:1\n"]
    (tmp_path / "t.svm").write_bytes(b"".join(map(compress, parts)))
    assert load(str(tmp_path / "t.svm")).labels.tolist() == [1, 2, 3]


def test_options_that_do_not_belong_to_a_format(tmp_path):
    refused(
        "zero_based is for LIBSVM text", write(tmp_path / "t.csv", csv_text()), zero_based=True, error=mc.ConfigError
    )
    refused("is for tables", write(tmp_path / "t.svm", "1 1:1\n"), label="y", error=mc.ConfigError)
    refused("are for files of your own", "a9a", label="y", error=mc.ConfigError)
    refused("has 5 columns of features, not 6", write(tmp_path / "t.csv", csv_text()), features=6)
    refused("expected the name of a set, a path, or a pair", 5, error=mc.ConfigError)


# ---- arrays of a program ------------------------------------------------------------------------------------------------------
class Frame:
    """What a data frame shows of itself."""

    def __init__(self, array, columns):
        self.array, self.columns = array, columns

    def to_numpy(self):
        return self.array


@pytest.mark.parametrize(
    "matrix",
    [
        A,
        A.tolist(),
        sp.csr_matrix(A),
        sp.csc_array(A),
        sp.coo_matrix(A),
        sp.lil_matrix(A),
        Frame(A, NAMES),
        np.asfortranarray(A),
    ],
    ids=lambda matrix: type(matrix).__name__,
)
def test_arrays_are_the_rows_of_a_file(matrix):
    same(Arrays(matrix, b).rows)
    same(load((matrix, Frame(b, ["y"]))))


def test_entries_of_one_place_are_added_up():
    rows = from_coordinates(np.array([1, 0, 1]), np.array([2, 1, 2]), np.array([1.0, 2.0, 4.0]), np.zeros(2), 3, "t")
    np.testing.assert_array_equal(dense(rows), [[0, 2, 0], [0, 0, 5]])
    twice = sp.csr_matrix((np.array([1.0, 4.0]), np.array([2, 2]), np.array([0, 0, 2])), shape=(2, 3))
    np.testing.assert_array_equal(dense(Arrays(twice, [1, 2]).rows), [[0, 0, 0], [0, 0, 5]])


@pytest.mark.parametrize(
    ("matrix", "labels", "words"),
    [
        (A, b[:-1], r"A has 23 rows and b has 22 labels"),
        (sp.csr_matrix(A), b[:-1], r"A has 23 rows and b has 22 labels"),
        (A[0], b, r"A has shape \(5,\)"),
        (A, A, r"b has shape \(23, 5\)"),
        (np.where(A == 0, np.nan, A), b, r"A\[\d+, \d\] is nan, not a finite number"),
        (sp.csr_matrix(np.where(A != 0, np.inf, 0)), b, r"A, row 0, column \d \(from 0\) is inf"),
        (A, np.where(b == 3, np.nan, b), r"b\[\d+\]: the label in b is nan"),
        (A, [None, *b[1:]], r"b\[0\]: the label in b is missing"),
        (A.astype(complex), b, "A holds complex numbers"),
        (np.full((N, 2), "x"), b, "A holds text"),
        (np.full((N, 2), object()), b, "A holds objects that are not numbers"),
        (np.full((N, 2), -(2**60) - 1), b, "A holds the whole number 1152921504606846977"),
        (Frame(A, ["a"] * D), b, "the columns 0 and 1 .* have the same name, 'a'"),
        (A[:0], b[:0], "A is empty"),
    ],
)
def test_wrong_arrays(matrix, labels, words):
    with pytest.raises(mc.DataError, match=words):
        Arrays(matrix, labels)


def test_small_integers_do_not_wrap_around():
    pixels = np.array([[200, 100], [255, 1]], np.uint8)
    assert dense(Arrays(pixels, [0, 1]).rows).tolist() == [[200, 100], [255, 1]]
    assert Arrays(pixels, np.array([True, False])).rows.labels.tolist() == [1, 0]


def test_text_that_is_a_number_everywhere_is_one():
    assert coded(["1", "2.5", "1"], "b", str) == (pytest.approx([1, 2.5, 1]), ())
    labels, classes = coded(["b", "a", "1"], "b", str)
    assert classes == ("1", "a", "b") and labels.tolist() == [2, 1, 0]


def test_a_problem_of_arrays_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "t.csv", csv_text())
    options = {"clients": 4, "partition": "shuffled", "reg": 0.2, "seed": 3}
    dealt = {"clients": 4, "partition": "shuffled", "seed": 3}
    for name in ("logistic", "least_squares", "multinomial"):
        ours = getattr(mc, name)(A, b, **options)
        theirs = {"problem": name, "data": path, "problem_options": {"reg": 0.2}, **dealt}
        runs = [
            mc.run(**more, method="ef21", compressor="topk:k=2", rounds=8, step=0.01)
            for more in ({"problem": ours}, theirs)
        ]
        assert runs[0].summary["iterate_sha256"] == runs[1].summary["iterate_sha256"]
        assert runs[0].summary["data"] == "arrays of shape (23, 5)"
    with pytest.raises(mc.ConfigError, match=r"unknown option of problem 'logistic': 'regg'.*did you mean 'reg'"):
        mc.logistic(A, b, regg=1)


ON_RANKS = """
import sys
import numpy as np
from mpi4py import MPI
import mpicomp as mc

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
A, b = rng.normal(size=(60, 5)), np.array(["a", "b", "c"])[rng.integers(0, 3, 60)]
made = {
    "logistic": mc.logistic(A, b, clients=6, positive="b", test=0.2),
    "multinomial": mc.multinomial(A, b, clients=6, reg=0.01, scale="unit"),
    "matrix_factorization": mc.matrix_factorization(np.where(A > 0, A, 0), clients=6, rank=2, test=0.1),
}
for name, problem in made.items():
    options = dict(method="ef21", compressor="topk:k=2", rounds=9, step=0.1)
    result = mc.run(problem=problem, comm=comm if comm.size > 1 else None, **options)
    if result.summary:
        sys.stdout.write(f"{name} {result.summary['iterate_sha256']} {result.summary['measures']}\\n")
if comm.size > 1:
    try:
        mc.run(problem=mc.logistic(A + (comm.rank == 2), b, clients=6, positive="a"), method="gd", rounds=2, comm=comm)
    except mc.DataError as error:
        if comm.rank == 0:
            sys.stdout.write(f"refused: {error}\\n")
sys.stdout.flush()
"""


@pytest.mark.process
@pytest.mark.full(reason="starts two jobs")
def test_arrays_on_ranks(mpi, tmp_path):
    """The same bits as in one process; arrays that differ between ranks are named."""
    (tmp_path / "job.py").write_text(ON_RANKS)
    one, three = (sorted(mpi.run(n, [tmp_path / "job.py"], timeout=200).check().out.splitlines()) for n in (1, 3))
    assert [line for line in three if "refused" not in line] == one and len(one) == 3
    assert "refused: rank 2 on" in three[-1] and "sees other rows of client" in three[-1]
