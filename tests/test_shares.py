"""Ranks that host some clients of a data file have these clients' rows, and no more; the bits are those of a rank that has all."""

from __future__ import annotations

import os
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.data import (
    Outline,
    SparseRows,
    formats,
    needs_entries,
    parse_libsvm,
    partitions,
    read_libsvm,
    shared_reading,
    shares,
    text,
)
from mpicomp.data.libsvm import Reader
from mpicomp.problems import problems
from mpicomp.problems.rows import some_clients
from mpicomp.problems.subset import SubsetProblem

ENTRY_NBYTES = 12  # a column and a value
CLIENTS, ROWS, WIDE = 8, 4000, 50
PARTITIONS = ["contiguous", "shuffled", "sorted", "sorted:key=norm", "dirichlet:0.1", "heterogeneous"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of 200,000 entries."""
    return written(tmp_path_factory.mktemp("data") / "rows.svm", ROWS, 400)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """One of 12,000 entries, whose constants are found at once."""
    return written(tmp_path_factory.mktemp("few") / "rows.svm", 240, 60)


def written(path: Path, rows: int, features: int) -> Path:
    rng = np.random.default_rng(5)
    with open(path, "w") as file:
        for _ in range(rows):
            columns = np.sort(rng.choice(features, WIDE, replace=False)) + 1
            values = rng.normal(size=WIDE).round(3)
            row = " ".join(f"{j}:{v}" for j, v in zip(columns, values, strict=True))
            file.write(f"{rng.integers(0, 2)} {row}\n")
    return path


def options(data: Path, **more) -> dict:
    return {"data": str(data), "clients": CLIENTS, **more}


@pytest.fixture
def large(monkeypatch):
    """Files of more than 10,000 entries count as large; of text 16 kB are read at a time, for which there is room for half a megabyte."""
    monkeypatch.setattr(shares, "MOST_ENTRIES", 10_000)
    monkeypatch.setattr(text, "BLOCK", 1 << 14)


def hosting(name: str, hosted: np.ndarray, more: dict):
    with shared_reading():
        problem = problems.build(name, more)
    problem.keep_clients(hosted)
    return problem


def outlined(path: Path) -> SparseRows | Outline:
    return shares.outline_or_rows(Reader(text.blocks_of(path), str(path), None))


def evaluated(problem, clients: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    block = problem.block(clients, dtype)
    x = np.random.default_rng(0).normal(size=(1, problem.dim)).astype(dtype)
    losses, gradients, some = np.zeros(len(clients)), *np.zeros((2, len(clients), problem.dim), dtype)
    block.losses(x, losses)
    block.gradients(x, gradients)
    block.batch_gradients(x, np.zeros((len(clients), 3), np.int64), some)
    return losses, gradients, some


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("bias", shortened([False, True], 1, "with a bias"))
def test_a_share_has_the_bits_of_the_whole(large, data, partition, bias):
    more = options(data, partition=partition, bias=bias, seed=3)
    whole = problems.build("logistic", more)
    for clients in (np.array([0]), np.array([2, 3, 4]), np.array([7, 1]), np.arange(CLIENTS)):
        part = hosting("logistic", clients, more)
        assert part.dim == whole.dim and part.digests(clients) == whole.digests(clients)
        assert [part.n_samples(i) for i in range(CLIENTS)] == [whole.n_samples(i) for i in range(CLIENTS)]
        for dtype in ("float32", "float64"):
            for ours, theirs in zip(evaluated(part, clients, dtype), evaluated(whole, clients, dtype), strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["logistic", "least_squares", "mlp"])
def test_what_is_asked_of_all_clients_is_answered_all_the_same(large, few, name):
    whole, part = problems.build(name, options(few)), hosting(name, np.array([1, 2]), options(few))
    assert part.describe() == whole.describe()
    np.testing.assert_array_equal(part.rows.values, whole.rows.values)
    np.testing.assert_array_equal(part.rows.labels, whole.rows.labels)
    if name == "mlp":
        np.testing.assert_array_equal(part.paper_start(), whole.paper_start())
    else:
        assert part.smoothness().to_dict() == whole.smoothness().to_dict()
        np.testing.assert_array_equal(part.sample_smoothness(), whole.sample_smoothness())
    everybody = np.arange(CLIENTS)
    for ours, theirs in zip(evaluated(part, everybody, "float64"), evaluated(whole, everybody, "float64"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rare_features_are_counted_over_all_clients(large, data):
    counts = [problem.feature_counts() for problem in (
        problems.build("least_squares", options(data)), hosting("least_squares", np.array([3]), options(data))
    )]  # fmt: skip
    np.testing.assert_array_equal(counts[0].clients, counts[1].clients)
    np.testing.assert_array_equal(counts[0].coordinates, counts[1].coordinates)


def test_clients_that_are_left_keep_theirs(large, data):
    with shared_reading():
        whole = problems.build("logistic", options(data))
    part = SubsetProblem(whole, np.array([0, 2, 5, 7]))
    part.keep_clients(np.array([1, 2]))
    assert whole._dealt._kept.tolist() == [2, 5]
    assert part.digests(np.array([1, 2])) == problems.build("logistic", options(data)).digests(np.array([2, 5]))


# ---- memory: what NumPy has allocated, not what the system has given ----------------------------------------------------
@pytest.mark.parametrize(
    ("partition", "whole_at_first"), [(name, needs_entries(name)) for name in PARTITIONS if name != "heterogeneous"]
)
def test_a_rank_never_has_more_than_its_share_of_the_entries(large, data, partition, whole_at_first):
    """Two of eight clients; sixteen bytes a row and some blocks of text, a megabyte, are allowed beside the entries of a quarter."""
    clients = np.array([2, 3])
    hosting("logistic", clients, options(data, partition=partition))  # compiles what is to be compiled
    tracemalloc.start()
    try:
        part = hosting("logistic", clients, options(data, partition=partition))
        part.block(clients, np.float64)
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    share = ENTRY_NBYTES * WIDE * sum(part.n_samples(i) for i in clients)
    assert share < 0.5 * ENTRY_NBYTES * WIDE * ROWS
    assert now < share + 16 * ROWS + 100_000
    assert (most > ENTRY_NBYTES * WIDE * ROWS) == whole_at_first
    if not whole_at_first:
        assert most < share + 48 * ROWS + 1_200_000


def test_a_block_of_clients_in_a_row_copies_no_rows(data):
    problem = problems.build("logistic", options(data))
    whole = problem.rows
    for clients, common in (([2, 3], True), ([5], True), (range(CLIENTS), True), ([3, 2], False), ([1, 4], False)):
        mine = problem.hosted_rows(np.array(clients), np.dtype(np.float64))
        assert np.shares_memory(mine.values, whole.values) == common
        for ours, theirs in zip(mine, some_clients(whole, np.array(clients)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    problem.keep_clients(np.array([2, 3]))
    assert not np.shares_memory(problem._dealt._rows.values, whole.values)  # or nothing would be freed


def test_a_rank_that_hosts_nobody_keeps_nothing(data):
    problem = problems.build("logistic", options(data))
    problem.keep_clients(np.arange(0))
    assert len(problem._dealt._rows.values) == 0


MEASURED = """
import sys, tracemalloc
from mpi4py import MPI
import mpicomp as mc
from mpicomp.data import shares, text

shares.MOST_ENTRIES, text.BLOCK = 10_000, 1 << 14
data, partition, exchange = sys.argv[1:]
options = dict(data=data, clients=8, partition=partition, exchange=exchange, method="ef21", compressor="topk:k=9", rounds=10)
comm = MPI.COMM_WORLD
mc.run(comm=comm, **options, step=0.1)  # compiles what is to be compiled
tracemalloc.start()
result = mc.run(comm=comm, **options, step="theory")
now, most = tracemalloc.get_traced_memory()
iterate = result.summary.get("iterate_sha256", "-")
sys.stdout.write(f"rank {comm.rank}: {iterate} {most}\\n")  # at once: the lines of the ranks must not mix
sys.stdout.flush()
"""


@pytest.mark.process
@pytest.mark.parametrize("partition", shortened(["contiguous", "shuffled", "dirichlet:0.5"], 1, "another partition"))
@pytest.mark.parametrize("exchange", shortened(["p2p", "sharded"], 1, "another exchange"))
def test_ranks_of_a_job_share_the_entries(mpi, tmp_path, data, partition, exchange):
    """Rank 0, which computes the constants, has all for a while; the others never."""
    (tmp_path / "measured.py").write_text(MEASURED)
    job = mpi.run(5, [tmp_path / "measured.py", data, partition, exchange], timeout=100).check()
    whole = mc.run(**options(data, partition=partition), method="ef21", compressor="topk:k=9", rounds=10)
    found = {int(rank): (iterate, int(most)) for rank, iterate, most in re.findall(r"rank (\d): (\S+) (\d+)", job.out)}
    everything = ENTRY_NBYTES * WIDE * ROWS
    assert [found[rank][1] > everything for rank in range(5)] == [True, False, False, False, False], found
    assert found[0][0] == whole.summary["iterate_sha256"]


# ---- reading ----------------------------------------------------------------------------------------------------------------
def test_a_small_file_is_read_once(data, monkeypatch):
    read = []
    monkeypatch.setattr(formats, "blocks_of", lambda path: read.append(path) or iter([path.read_bytes()]))
    with shared_reading():
        problem = problems.build("logistic", options(data))
    problem.keep_clients(np.array([1]))
    problem.digests(np.array([1]))
    assert len(read) == 1 and not isinstance(outlined(data), Outline)


def test_an_outline_is_what_the_rows_say(large, data):
    outline, rows = outlined(data), read_libsvm(data)
    assert isinstance(outline, Outline) and outline.features == rows.features
    assert outline.largest == np.abs(rows.values).max()
    np.testing.assert_array_equal(outline.indptr, rows.indptr)
    np.testing.assert_array_equal(outline.labels, rows.labels)
    order = np.random.default_rng(1).permutation(ROWS)[:100]
    some = shares.read_some(data, outline, order)
    for k, r in enumerate(order):
        ours, theirs = slice(*some.indptr[k : k + 2]), slice(*rows.indptr[r : r + 2])
        np.testing.assert_array_equal(some.indices[ours], rows.indices[theirs])
        np.testing.assert_array_equal(some.values[ours], rows.values[theirs])
    np.testing.assert_array_equal(some.labels, rows.labels[order])


@pytest.mark.parametrize(
    "lines", [b"# nothing\n\n1 1:2 3:4\n" * 3, b"1\n-1\n1 5:1\n", b"\xef\xbb\xbf1 1:1\r-1 2:2\r1\r"]
)
def test_rows_without_entries_and_comments(monkeypatch, tmp_path, lines):
    monkeypatch.setattr(shares, "MOST_ENTRIES", 0)
    (tmp_path / "t.svm").write_bytes(lines)
    outline, rows = outlined(tmp_path / "t.svm"), parse_libsvm(lines, "t")
    np.testing.assert_array_equal(outline.indptr, rows.indptr)
    order = np.arange(len(rows.labels))[::-1]
    some = shares.read_some(tmp_path / "t.svm", outline, order)
    np.testing.assert_array_equal(np.diff(some.indptr), np.diff(rows.indptr)[::-1])


@pytest.mark.parametrize(
    ("lines", "words"), [(b"", "is empty"), (b"1\n1\n", "no features"), (b"1 1:1\n1 1:x\n", "line 2")]
)
def test_what_cannot_be_read_is_said_as_ever(monkeypatch, tmp_path, lines, words):
    monkeypatch.setattr(shares, "MOST_ENTRIES", -1)
    (tmp_path / "t.svm").write_bytes(lines)
    with shared_reading(), pytest.raises(mc.DataError, match=words):
        problems.build("logistic", {"data": str(tmp_path / "t.svm"), "clients": 1})


@pytest.mark.parametrize("change", ["fewer", "more", "other"])
def test_a_file_that_changes_between_the_two_passes_is_noticed(large, data, tmp_path, change):
    path = tmp_path / "copy.svm"
    path.write_bytes(data.read_bytes())
    with shared_reading():
        problem = problems.build("logistic", options(path))
    lines = data.read_bytes().splitlines(keepends=True)
    changed = {"fewer": lines[:-1], "more": [*lines, lines[0]], "other": [*lines[:9], b"1 1:1\n", *lines[10:]]}[change]
    path.write_bytes(b"".join(changed))
    with pytest.raises(mc.DataError, match="has changed while it was read"):
        problem.keep_clients(np.array([1]))


def test_a_file_that_changes_later_is_noticed_where_all_rows_are_asked_for(large, data, tmp_path):
    path = tmp_path / "copy.svm"
    path.write_bytes(data.read_bytes())
    problem = hosting("logistic", np.array([0]), options(path))
    lines = data.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(mc.DataError, match="have changed since they were read"):
        problem.smoothness()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_pipe_in_place_of_a_file_is_read_once(tmp_path):
    """`--data <(zcat rows)`: a single process reads it once, as ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"1 1:1\n-1 2:1\n" * 5,))
    writer.start()
    assert problems.build("logistic", {"data": str(pipe), "clients": 2}).dim == 2
    writer.join()


def test_partitions_that_need_entries_are_known():
    assert set(partitions) == {"contiguous", "shuffled", "sorted", "dirichlet", "heterogeneous"}
    assert [name for name in PARTITIONS if needs_entries(name)] == ["sorted:key=norm", "heterogeneous"]
