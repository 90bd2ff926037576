"""Checkpoints that somebody made, or that a file system spoilt: each is refused in one line before anything is assigned, and none hangs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.errors import CheckpointError
from mpicomp.runtime import resume as resuming
from mpicomp.runtime.checkpoint import Checkpoint
from mpicomp.runtime.states import state_arrays

OPTIONS = {
    "method": "ef21",
    "data": "mushrooms",
    "clients": 4,
    "rounds": 14,
    "step": 0.01,
    "eval_every": 2,
    "batch": 3,
    "seed": 3,
}
MANIFEST, SHARD, HISTORY = "checkpoint.json", "rank-00000.npz", "history.jsonl"
D = 112
Arrays = dict[str, np.ndarray]


def run(out: Path | None, **options):
    return mc.run(**{**OPTIONS, **options}, out=None if out is None else str(out))


def folders(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("round-*"))


def sealed(manifest: dict[str, Any]) -> str:
    plain = {k: v for k, v in manifest.items() if k != "sha256"}
    return json.dumps({**plain, "sha256": hashlib.sha256(json.dumps(plain).encode()).hexdigest()})


def forge(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Alter a manifest, with all its digests right: nothing but its content speaks against it."""
    manifest = json.loads((folder / MANIFEST).read_text())
    shard, history = (folder / SHARD).read_bytes(), (folder / HISTORY).read_bytes()
    manifest["shards"][0]["sha256"] = hashlib.sha256(shard).hexdigest()
    manifest["history"] |= {"bytes": len(history), "sha256": hashlib.sha256(history).hexdigest()}
    change(manifest)
    (folder / MANIFEST).write_text(sealed(manifest))


def forge_arrays(folder: Path, change: Callable[[Arrays], object]) -> None:
    with np.load(folder / SHARD) as shard:
        arrays = dict(shard)
    change(arrays)
    np.savez(folder / SHARD, **arrays)
    forge(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A run with one checkpoint, after round 8."""
    out = tmp_path_factory.mktemp("one")
    run(out, rounds=8, checkpoint_every=8)
    return out


@pytest.fixture
def copied(one, tmp_path) -> Path:
    """The same, in a directory of the test's own."""
    folder = tmp_path / "checkpoints" / "round-000000008"
    folder.mkdir(parents=True)
    for path in folders(one)[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def refused(folder: Path, words: str) -> None:
    """The run that would go on ends with one line, and its session is as fresh as before."""
    seen: list[tuple[Arrays, Any]] = []
    restore = Checkpoint.restore

    def watched(self, session):
        seen.append(({k: v.copy() for k, v in state_arrays(session).items()}, session))
        restore(self, session)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(CheckpointError, match=words) as caught:
        patch.setattr(resuming.Checkpoint, "restore", watched)
        run(folder.parent.parent, resume="auto")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    for before, session in seen:
        after = state_arrays(session)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


# ---- arrays -----------------------------------------------------------------------------------------------------------
G_I, CURRENT, X, POINTS = (
    "worker/clients/uplink/g_i",
    "worker/points/oracle0/current",
    "served/x",
    "worker/points/points",
)


def put(name: str, array: Any) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.__setitem__(name, np.asarray(array))


def drop(name: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(G_I), f"{G_I} is missing"),
        (drop(CURRENT), f"{CURRENT} is missing"),  # the oracle makes it in the first round
        (drop(X), f"{X} is missing"),
        (drop(POINTS), f"{POINTS} is missing"),
        (put(G_I, np.zeros((1, D))), rf"{G_I} has shape \(1, 112\), not \(4, 112\)"),  # one row for all
        (put(G_I, np.zeros((5, D))), rf"{G_I} has shape \(5, 112\)"),
        (put(G_I, np.zeros((4, D + 1))), rf"{G_I} has shape \(4, 113\)"),
        (put(G_I, np.zeros((4, 1))), rf"{G_I} has shape \(4, 1\)"),
        (put(G_I, np.zeros((4, D, 1))), rf"{G_I} has shape \(4, 112, 1\)"),
        (put(G_I, np.float64(1.0)), rf"{G_I} has shape \(\)"),
        (put(G_I, np.zeros((4, D), np.float32)), f"{G_I} is of dtype float32, not float64"),
        (put(G_I, np.zeros((4, D), bool)), f"{G_I} is not a plain array: it holds bool"),
        (put(G_I, np.zeros((4, D), "U3")), f"{G_I} is not a plain array: it holds <U3"),
        (put(G_I, np.zeros((4, D), complex)), f"{G_I} is not a plain array: it holds complex128"),
        (put(G_I, np.zeros((4, D), "i8")), f"{G_I} is of dtype int64"),
        (put(CURRENT, np.zeros((1, 1))), rf"{CURRENT} has shape \(1, 1\)"),
        (put(CURRENT, np.zeros((2, D))), rf"{CURRENT} has shape \(2, 112\)"),
        (put(CURRENT, np.zeros((1, D), np.float32)), f"{CURRENT} is of dtype float32"),
        (put(X, np.full((1, D), np.nan)), f"{X} holds NaN or Inf"),
        (put(POINTS, np.full((1, D), np.inf)), f"{POINTS} holds NaN or Inf"),
        (put("worker/points/oracle0/move", np.zeros((1, D))), "worker/points/oracle0/move is not declared"),
        (put("worker/shared/uplink/link", np.zeros((1, D))), "worker/shared/uplink/link is not declared"),
        (put("server/optimizer/step_size", np.zeros((1, 1))), "server/optimizer/step_size is not declared"),
        (put("other", np.zeros(1)), "other is no part of a run's state"),
    ],
)
def test_arrays_that_are_not_what_is_declared(change, words, copied):
    forge_arrays(copied, change)
    refused(copied, words)


def test_what_is_not_altered_goes_on(copied):
    forge_arrays(copied, lambda arrays: None)
    assert run(copied.parent.parent, resume="auto").summary["iterate_sha256"] == run(None).summary["iterate_sha256"]


# ---- manifests --------------------------------------------------------------------------------------------------------
def entry(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(entry("round", value=value) for value in (-1, True, 8.0, "8", None)),
        *(entry("step", value=value) for value in (0.0, float("nan"), "0.01")),
        *(entry("data", value=value) for value in (None, 1)),
        entry("config", value=[]),
        *(entry("shards", value=value) for value in ([], {}, [1], "abc", None)),
        *(entry("shards", 0, "clients", value=value) for value in (-4, 5, 0, True, "4")),
        *(entry("shards", 0, "first", value=value) for value in (-1, 1, 0.0)),
        *(entry("shards", 0, "served", value=value) for value in ([0], [0, D - 1], [D, 0], [-1, D], "ab")),
        *(entry("shards", 0, "server", value=value) for value in (1, False, None)),
        entry("shards", 0, "other", value=1),
        *(entry("totals", "traffic", value=value) for value in ([], [1], [[-1] * 4] * 2, "a")),
        *(entry("totals", "seconds", value=value) for value in ([], [float("nan")] * 7, [-1.0] * 7)),
        entry("totals", value=None),
        *(entry("history", "rows", value=value) for value in (-1, 4, "5", True)),
        *(entry("history", "bytes", value=value) for value in (-1, 3, 10**12, None)),
        entry("history", value=None),
    ],
)
def test_manifests_that_no_run_writes(change, copied):
    forge(copied, change)
    refused(copied, ".")


def test_a_checkpoint_of_another_version_says_so(copied):
    forge(copied, entry("format", value=5))
    refused(copied, "is of version 5; this build reads version 8")


def test_a_deep_manifest_is_one_line(copied):
    (copied / MANIFEST).write_text("[" * 100_000)
    refused(copied, "is not a checkpoint's manifest")


# ---- files ------------------------------------------------------------------------------------------------------------
def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_socket(path: Path) -> None:
    path.unlink()
    where = os.getcwd()
    os.chdir(path.parent)  # a socket's path may only be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(where)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [fifo, link, dangling, directory, a_socket, empty, half])
@pytest.mark.parametrize("name", [MANIFEST, SHARD, HISTORY])
def test_files_that_are_none_are_named_and_the_older_checkpoint_used(damage, name, tmp_path, capfd):
    run(tmp_path, rounds=9, checkpoint_every=4)
    damage(folders(tmp_path)[-1] / name)
    again = run(tmp_path, resume="auto")
    said = capfd.readouterr().out
    assert again.summary["resumed_at"] == 4 and f"round-000000008/{name}" in said
    assert again.summary["iterate_sha256"] == run(None).summary["iterate_sha256"]


def npz(arrays: Arrays, how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, array in arrays.items():
            plain = io.BytesIO()
            np.lib.format.write_array(plain, array)
            archive.writestr(f"{name}.npy", plain.getvalue())
    return buffer.getvalue()


def encrypted(arrays: Arrays) -> bytes:
    data = bytearray(npz(arrays))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 1)
    return bytes(data)


def twice(arrays: Arrays) -> bytes:
    buffer = io.BytesIO(npz(arrays))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{X}.npy", b"")
    return buffer.getvalue()


def huge(arrays: Arrays) -> bytes:
    """A head that asks for more memory than there is."""
    plain = io.BytesIO()
    np.lib.format.write_array_header_1_0(plain, {"descr": "<f8", "fortran_order": False, "shape": (4, 2**50)})
    return with_member(arrays, plain.getvalue())


def with_member(arrays: Arrays, member: bytes) -> bytes:
    buffer = io.BytesIO(npz({k: v for k, v in arrays.items() if k != G_I}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"{G_I}.npy", member)
    return buffer.getvalue()


def spoilt(arrays: Arrays) -> bytes:
    """A bit of the data altered: the archive's own checksum differs."""
    data = bytearray(npz(arrays))
    data[data.find(arrays[G_I].tobytes()) + 5] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (encrypted, "is encrypted"),
        (lambda arrays: npz(arrays, zipfile.ZIP_DEFLATED), "is compressed"),
        (twice, "its members are not arrays of different names"),
        (huge, f"{G_I} is not a plain array: it is not as long as"),
        (spoilt, f"{G_I} .*Bad CRC-32"),
        (lambda arrays: with_member(arrays, b""), f"{G_I} is not a plain array"),
        (lambda arrays: with_member(arrays, b"\x93NUMPY\x09\x00"), f"{G_I} is not a plain array"),
        (lambda arrays: npz(arrays)[:-30], "is not an archive of arrays"),
        (lambda arrays: b"PK\x05\x06" + b"\0" * 18, "is missing"),
        (lambda arrays: b"\0" * 1000, "is not an archive of arrays"),
    ],
)
def test_archives_that_no_run_writes(made, words, copied):
    with np.load(copied / SHARD) as shard:
        arrays = dict(shard)
    (copied / SHARD).write_bytes(made(arrays))
    forge(copied)
    refused(copied, words)


# ---- the history ------------------------------------------------------------------------------------------------------
def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def test_the_history_is_added_to_and_not_written_anew(tmp_path, monkeypatch):
    """Two files take turns; each checkpoint adds the lines since the last but one, whatever their number has become."""
    written, opened, inodes = [], open, []

    def counting(path, mode):
        file = opened(path, mode)
        write = file.write
        if Path(path).name == HISTORY:

            class Counted:
                def __getattr__(self, name):
                    return getattr(file, name)

                def __enter__(self):
                    return self

                def __exit__(self, *error):
                    file.close()

                def write(self, data):
                    written.append(data.count(b"\n"))
                    return write(data)

            inodes.append(os.fstat(file.fileno()).st_ino)
            return Counted()
        return file

    from mpicomp.runtime import history

    monkeypatch.setattr(history, "open", counting, raising=False)
    result = run(tmp_path, rounds=40, eval_every=1, checkpoint_every=5)
    assert written == [6, 11, 10, 10, 10, 10, 10, 10]
    assert len(set(inodes)) == 2 and inodes[::2] == inodes[:1] * 4 and inodes[1::2] == inodes[1:2] * 4
    assert [len(lines(folder)) for folder in folders(tmp_path)] == [36, 41]
    assert lines(folders(tmp_path)[-1]) == [json.loads(json.dumps(row)) for row in result.history]


def test_a_manifest_does_not_grow_with_the_history(tmp_path):
    sizes = []
    for rounds in (4, 200):
        run(tmp_path / str(rounds), rounds=rounds, eval_every=1, checkpoint_every=rounds)
        sizes.append((folders(tmp_path / str(rounds))[-1] / MANIFEST).stat().st_size)
    assert sizes[1] < sizes[0] + 100


def test_without_hard_links_the_history_is_whole_as_well(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    result = run(tmp_path, checkpoint_every=2)
    assert [len(lines(folder)) for folder in folders(tmp_path)] == [7, 8]
    rest = run(tmp_path, rounds=20, resume="auto")
    assert [row["loss"] for row in rest.history[:8]] == [row["loss"] for row in result.history]


def test_each_checkpoint_has_its_own_history(tmp_path):
    """A damage of one costs that one, and lines that the newer one added to a common file do not disturb the older one."""
    whole = run(None)
    run(tmp_path, rounds=12, checkpoint_every=3)
    old, new = folders(tmp_path)
    with open(old / HISTORY, "a") as file:
        file.write('{"round": 99}\nhalf a li')
    (new / HISTORY).write_text("")
    again = run(tmp_path, resume="auto", checkpoint_every=2)
    assert again.summary["resumed_at"] == 9
    strip = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in again.history]
    assert strip == [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in whole.history]
    assert [row["round"] for row in lines(folders(tmp_path)[-1])] == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(
    "text",
    ["", "x\n", "[1]\n", '{"round": 0}\n', '{"round": 0, "loss": "a", "grad_norm_sq": 1.0}\n', "[" * 10**5 + "\n"],
)
def test_histories_that_no_run_writes(text, copied):
    (copied / HISTORY).write_text(text)
    forge(copied, entry("history", "rows", value=text.count("\n")))
    refused(copied, "history.jsonl (is not a history|does not lead)")


def test_rows_out_of_order(copied):
    rows = (copied / HISTORY).read_text().splitlines(keepends=True)
    (copied / HISTORY).write_text("".join(rows[::-1]))
    forge(copied)
    refused(copied, "are not evaluations one after the other")


# ---- shards that rank 0 does not see ------------------------------------------------------------------------------------
NODE_LOCAL = """
import os, sys
import numpy as np
from mpi4py import MPI
import mpicomp as mc
from mpicomp.runtime import checkpoint

checkpoint.VISIBLE_SECONDS = 0.5
rank = MPI.COMM_WORLD.Get_rank()
os.chdir(sys.argv[1])
for name in ("0", "1", "2"):
    os.makedirs(name, exist_ok=True)

def gradient(i, x):
    if rank == 2 and os.path.exists("out/checkpoints/round-000000004/checkpoint.json"):
        os.chdir("2")  # from now on its --out is a directory that no other rank sees
    return x - i

problem = mc.FunctionProblem(lambda i, x: 0.5 * float((x - i) @ (x - i)), gradient, 5, 4, mc.Smoothness.bounds(np.ones(4)))
try:
    mc.run(comm=MPI.COMM_WORLD, problem=problem, method="ef21", compressor="topk:k=2", step=0.1, rounds=20, eval_every=100,
           checkpoint_every=4, out="out")
except mc.UserError as error:
    if rank == 0:
        print(type(error).__name__, error)
"""


@pytest.mark.process
def test_a_shard_that_rank_0_does_not_see_is_noticed_before_the_older_checkpoint_goes(mpi, tmp_path):
    (tmp_path / "job.py").write_text(NODE_LOCAL)
    said = mpi.run(3, [tmp_path / "job.py", tmp_path], timeout=60).check().out
    assert "CheckpointError cannot write a checkpoint (rank 2 on" in said
    assert "does not see: out is to be on a file system that all hosts share" in said
    whole = [folder for folder in folders(tmp_path / "out") if (folder / MANIFEST).exists()]
    assert [folder.name for folder in whole] == ["round-000000004"]
    assert Checkpoint.open(whole[0]).round == 4
