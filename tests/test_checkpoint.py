"""A resumed run equals the uninterrupted one bit for bit: for every method, with other workers, after signals; and bad files are named."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soak_jobs
from lanes import shortened

import mpicomp as mc
from mpicomp.errors import CheckpointError
from mpicomp.methods import methods
from mpicomp.runtime import control
from mpicomp.runtime.checkpoint import Checkpoint

MPIRUN = Path(sys.executable).parent / "mpirun"
COMMON = {
    "problem": "logistic",
    "data": "mushrooms",
    "clients": 6,
    "rounds": 23,
    "step": "0.01",
    "eval_every": 5,
    "seed": 3,
}
ALL = [name for name in methods if name != "custom"]
COMPOSED = {
    "uplink": "ef21:topk:k=5",
    "downlink": "marina-p@p=0.3:permk",
    "smoothing": 0.5,
}


def run(out: Path | None = None, **options):
    return mc.run(**{**COMMON, **options, "out": None if out is None else str(out)})


def batch_of(**options) -> dict:
    """The options, with a minibatch where the method needs one."""
    try:
        run(**{**options, "rounds": 0})
    except mc.UserError:
        return {**options, "batch": 4}
    return options


def same(a, b) -> None:
    assert a.summary["iterate_sha256"] == b.summary["iterate_sha256"]
    assert a.summary["bytes"] == b.summary["bytes"]
    for row, again in zip(a.history, b.history, strict=True):
        timeless = {k: v for k, v in row.items() if not k.startswith("seconds")}
        assert timeless == {k: again[k] for k in timeless}


def drop_newest(out: Path) -> None:
    newest = sorted((out / "checkpoints").glob("round-*"))[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()


@pytest.mark.parametrize("name", ALL)
def test_every_method_goes_on_as_if_nothing_had_happened(name, tmp_path):
    options = batch_of(method=name)
    whole = run(**options)
    run(tmp_path, **options, checkpoint_every=8)
    drop_newest(tmp_path)
    again = run(tmp_path, **options, resume="auto")
    assert again.summary["resumed_at"] == 8
    same(whole, again)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 3, "method": "marina"},
        {"batch": 3, "method": "vr-marina", "method_options": {"sync": 20, "p": 0.2}},  # an oracle inside of another
        {"method": "custom", "method_options": COMPOSED},
        {"optimizer": "heavyball"},
    ],
)
def test_oracles_and_optimizers_are_restored(options, tmp_path):
    whole = run(**options)
    run(tmp_path, **options, rounds=10, checkpoint_every=3)
    same(whole, run(tmp_path, **options, resume="auto"))


def test_auto_without_a_checkpoint_starts_afresh(tmp_path):
    same(run(method="gd"), run(tmp_path, method="gd", resume="auto"))


def test_only_the_two_newest_are_kept(tmp_path):
    run(tmp_path, method="gd", checkpoint_every=4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["round-000000016", "round-000000020"]


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    """Of a clock that goes on by a second with each round."""
    seconds = itertools.count()
    monkeypatch.setattr(control, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    run(tmp_path, method="ef21", rounds=38, checkpoint_seconds=10)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["round-000000020", "round-000000030"]


def newest(out: Path) -> Path:
    return sorted((out / "checkpoints").glob("round-*"))[-1]


def truncate(folder: Path) -> None:
    shard = folder / "rank-00000.npz"
    shard.write_bytes(shard.read_bytes()[:-100])


def flip(folder: Path) -> None:
    shard = folder / "rank-00000.npz"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def remove_shard(folder: Path) -> None:
    (folder / "rank-00000.npz").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def garble_manifest(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{]")


def other_version(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


@pytest.mark.parametrize("damage", [truncate, flip, remove_shard, remove_manifest, garble_manifest, other_version])
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(damage, tmp_path, capfd):
    whole = run(method="ef21")
    run(tmp_path, method="ef21", rounds=17, checkpoint_every=8)
    damage(newest(tmp_path))
    again = run(tmp_path, method="ef21", resume="auto")
    assert again.summary["resumed_at"] == 8
    said = capfd.readouterr().out
    assert "round-000000016" in said and "older checkpoint" in said
    same(whole, again)


def test_no_bit_of_a_checkpoint_can_change_unnoticed(tmp_path):
    """A key of the history, a total, a round: whatever is altered is refused, or is what it was."""
    run(tmp_path, method="ef21", rounds=9, checkpoint_every=8)
    folder, rng = newest(tmp_path), np.random.default_rng(5)
    manifest = Checkpoint.open(folder).manifest
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for at in rng.integers(len(data), size=150):
            altered = bytearray(data)
            altered[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(altered)
            with pytest.raises(CheckpointError, match=str(folder)):
                Checkpoint.open(folder)
        file.write_bytes(data)
    assert Checkpoint.open(folder).manifest == manifest


def test_without_a_whole_checkpoint_the_error_says_so(tmp_path):
    run(tmp_path, method="ef21", rounds=9, checkpoint_every=8)
    flip(newest(tmp_path))
    with pytest.raises(CheckpointError, match=r"checksum differs.*drop resume"):
        run(tmp_path, method="ef21", resume="auto")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        run(tmp_path / "new", method="ef21", resume=str(tmp_path / "elsewhere"))


def test_a_first_checkpoint_that_was_never_finished_is_none(tmp_path, capfd):
    whole = run(tmp_path / "whole", method="ef21")
    run(tmp_path / "out", method="ef21", rounds=9, checkpoint_every=8)
    remove_manifest(newest(tmp_path / "out"))
    (tmp_path / "out/summary.json").unlink()
    again = run(tmp_path / "out", method="ef21", resume="auto")
    assert "round-000000008 was never finished" in capfd.readouterr().out and again.summary["resumed_at"] == 0
    same(whole, again)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    run(tmp_path, method="ef21", rounds=9, checkpoint_every=8)
    with pytest.raises(CheckpointError, match=r"seed=3.*seed=4"):
        run(tmp_path, method="ef21", resume="auto", seed=4)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    with pytest.raises(CheckpointError, match=r"checkpoints.*choose another out"):
        run(tmp_path, method="gd", checkpoint_every=5)


def test_checkpoints_of_another_run_are_not_mixed_with_new_ones(tmp_path):
    run(tmp_path, method="ef21", rounds=9, checkpoint_every=8)
    for resume in (None, str(tmp_path / "elsewhere")):
        with pytest.raises(
            mc.ConfigError, match=r"round-000000008 is a checkpoint of an earlier run: give resume='auto'"
        ):
            run(tmp_path, method="ef21", checkpoint_every=2, resume=resume)
    assert run(tmp_path, method="ef21", resume=str(tmp_path)).summary["resumed_at"] == 8


def test_a_damaged_newer_checkpoint_does_not_push_out_whole_ones(tmp_path):
    run(tmp_path, method="ef21", rounds=17, checkpoint_every=8)
    flip(newest(tmp_path))
    run(tmp_path, method="ef21", rounds=13, checkpoint_every=2, resume="auto")
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == ["refused-round-000000016", "round-000000010", "round-000000012"]


@pytest.mark.parametrize("damage", [flip, remove_shard, remove_manifest])
def test_a_damaged_older_checkpoint_does_not_count_as_one_that_is_kept(damage, tmp_path, capfd):
    """Two in a row: the run that went on from an older one wrote one more, which is damaged in its turn."""
    whole = run(method="ef21")
    run(tmp_path, method="ef21", rounds=14, checkpoint_every=4)
    damage(newest(tmp_path))
    run(tmp_path, method="ef21", rounds=17, checkpoint_every=16, resume="auto")
    damage(newest(tmp_path))
    again = run(tmp_path, method="ef21", resume="auto")
    assert again.summary["resumed_at"] == 8
    assert capfd.readouterr().out.count("is now refused-round-0000000") == (0 if damage is remove_manifest else 2)
    same(whole, again)


def test_shards_hold_plain_arrays(tmp_path):
    run(tmp_path, method="marina", rounds=9, checkpoint_every=8)
    with np.load(newest(tmp_path) / "rank-00000.npz", allow_pickle=False) as shard:
        assert all(shard[name].dtype.kind in "fiub" for name in shard.files)


class Evil:
    """What pickle would call when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (lambda evil: np.array([Evil(evil)], object), r"served/x is not a plain array: it holds object"),
        (lambda evil: np.zeros(3), r"round-000000008 does not hold the state of this run: .*served/x has shape \(3,\)"),
        (lambda evil: b"junk", r"rank-00000.npz is not an archive of arrays"),
    ],
)
def test_a_shard_that_somebody_made_runs_no_code(array, words, tmp_path):
    """Its digests are right, so nothing but its content speaks against it."""
    run(tmp_path / "out", method="ef21", rounds=9, checkpoint_every=8)
    folder, evil = newest(tmp_path / "out"), tmp_path / "evil"
    with np.load(folder / "rank-00000.npz") as shard:
        arrays = dict(shard)
    made = array(evil)
    if isinstance(made, bytes):
        (folder / "rank-00000.npz").write_bytes(made)
    else:
        np.savez(folder / "rank-00000.npz", **{**arrays, "served/x": made})
    manifest = json.loads((folder / "checkpoint.json").read_text())
    manifest.pop("sha256")
    manifest["shards"][0]["sha256"] = hashlib.sha256((folder / "rank-00000.npz").read_bytes()).hexdigest()
    seal = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps({**manifest, "sha256": seal}))
    with pytest.raises(CheckpointError, match=words):
        run(tmp_path / "out", method="ef21", resume="auto")
    assert not evil.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_each_signal_asks_for_a_checkpoint(number, tmp_path):
    before = signal.getsignal(number)  # of SIGINT, in a shell's background: to be ignored
    result = quadratic(tmp_path, {50: [number]}, rounds=200)
    assert result.interrupted and result.summary["rounds"] < 20
    assert newest(tmp_path).name == f"round-{result.summary['rounds']:09d}"
    same(quadratic(None, {}, rounds=200), quadratic(tmp_path, {}, rounds=200, resume="auto"))
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigint_ends_at_once_what_was_asked_before(first, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quadratic(tmp_path, {50: [first, signal.SIGINT]}, rounds=200)
    assert not list(tmp_path.glob("checkpoints/*"))


def quadratic(out: Path | None, signals: dict[int, list[int]], **options):
    """A run whose process gets signals in its n-th gradient."""
    calls = 0

    def gradient(i, x):
        nonlocal calls
        calls += 1
        for number in signals.get(calls, []):
            os.kill(os.getpid(), number)
        return x - i

    problem = mc.FunctionProblem(
        lambda i, x: 0.5 * float((x - i) @ (x - i)), gradient, 5, 4, mc.Smoothness.bounds(np.ones(4))
    )
    more = {
        "method": "marina",
        "compressor": "randk:k=2",
        "step": 0.1,
        "eval_every": 7,
        "out": None if out is None else str(out),
    }
    return mc.run(problem=problem, **more, **options)


def test_checkpoints_need_a_directory():
    with pytest.raises(mc.ConfigError, match="give out=DIR too"):
        run(method="gd", checkpoint_every=5)


# ---- processes --------------------------------------------------------------------------------------------------------
def command(ranks: int, *args: str) -> list[str]:
    prefix = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    return [*prefix, sys.executable, "-m", "mpicomp", "run", "-q", *args]


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


needs_mpirun = pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside this Python")
BASE = ["--clients", "7", "--rounds", "40", "--step", "0.01", "--eval-every", "10"]


@pytest.mark.process
@needs_mpirun
@pytest.mark.parametrize(
    "method",
    shortened(
        [
            ["--method", "m3"],
            ["--method", "cd-adam", "--compressor", "topk:k=5"],
            ["--method", "ef21-sgdm", "--batch", "3"],
        ],
        1,
        "three jobs each",
    ),
)
def test_other_workers_and_another_exchange(method, tmp_path):
    options = [*BASE, *method]
    subprocess.run(command(1, *options, "--out", str(tmp_path / "whole")), check=True, timeout=120, capture_output=True)
    part = ["--rounds", "25", "--checkpoint-every", "20", "--out", str(tmp_path / "part")]
    subprocess.run(command(3, *options, *part, "--exchange", "p2p"), check=True, timeout=120, capture_output=True)
    rest = ["--resume", "auto", "--out", str(tmp_path / "part")]
    subprocess.run(
        command(4, *options, *rest, "--exchange", "collective"), check=True, timeout=120, capture_output=True
    )
    assert summary(tmp_path / "part")["resumed_at"] == 20
    assert summary(tmp_path / "part")["iterate_sha256"] == summary(tmp_path / "whole")["iterate_sha256"]


@pytest.mark.process
@needs_mpirun
@pytest.mark.parametrize("ranks", [3])
def test_a_signal_checkpoints_and_ends_with_75(ranks, tmp_path):
    options = [
        "--clients",
        "7",
        "--step",
        "0.01",
        "--method",
        "ef21",
        "--eval-every",
        "500",
        "--out",
        str(tmp_path / "out"),
    ]
    long = subprocess.Popen(
        command(ranks, *options, "--rounds", "10000000", "--checkpoint-every", "200"), stdout=subprocess.DEVNULL
    )
    wait_for(lambda: list((tmp_path / "out").glob("checkpoints/*/checkpoint.json")))
    long.send_signal(signal.SIGUSR1)
    assert long.wait(timeout=20) == 75
    reached = int(newest(tmp_path / "out").name.split("-")[1])
    end = str(reached + 137)
    subprocess.run(
        command(ranks, *options, "--rounds", end, "--resume", "auto"), check=True, timeout=120, capture_output=True
    )
    whole = [*options[:-1], str(tmp_path / "whole"), "--rounds", end]
    subprocess.run(command(1, *whole), check=True, timeout=120, capture_output=True)
    assert summary(tmp_path / "out")["resumed_at"] == reached
    assert summary(tmp_path / "out")["iterate_sha256"] == summary(tmp_path / "whole")["iterate_sha256"]


@pytest.mark.full(reason="waits for the time limit")
@pytest.mark.process
@needs_mpirun
def test_the_time_limit_stops_all_ranks(tmp_path):
    options = ["--clients", "7", "--step", "0.01", "--rounds", "10000000", "--time-limit", "5", "--out", str(tmp_path)]
    done = subprocess.run(command(3, *options), timeout=60, capture_output=True)
    assert done.returncode == 75
    assert summary(tmp_path)["interrupted"] and newest(tmp_path).exists()


@pytest.mark.night
@pytest.mark.full(reason="test_restart.py has a killed job that goes on")
@pytest.mark.process
def test_a_killed_job_goes_on_from_its_last_checkpoint(mpi, tmp_path):
    """All ranks killed without warning, at moments that no round boundary knows of; then one of them while a checkpoint is written."""
    options = ["--clients", "7", "--step", "0.01", "--method", "marina", "--eval-every", "100", "--rounds", "4000"]
    out = ["--out", str(tmp_path / "out"), "--checkpoint-every", "25", "--resume", "auto"]

    def written() -> list[int]:
        return [
            path.stat().st_mtime_ns
            for path in sorted((tmp_path / "out").glob("checkpoints/*/checkpoint.json"))
            if path.exists()
        ]

    for moment in (0.03, 0.17, "*/*.part"):
        before = written()
        job = soak_jobs.Job(mpi, 3, ["-m", "mpicomp", "run", "-q", *options, *out])
        assert soak_jobs.wait_until(job, lambda seen=before: written() != seen)
        pids = job.pids()
        assert len(pids) == 3
        if isinstance(moment, str):
            assert soak_jobs.wait_until(job, lambda: any((tmp_path / "out" / "checkpoints").glob(moment)))  # noqa: B023
            pids = pids[-1:]
        else:
            time.sleep(moment)
        soak_jobs.kill(pids)
        code, _ = job.end(20.0)  # nothing is left: no process, no shared memory
        assert code not in (0, 75)
    subprocess.run(command(3, *options, *out), check=True, timeout=200, capture_output=True)
    subprocess.run(command(1, *options, "--out", str(tmp_path / "whole")), check=True, timeout=200, capture_output=True)
    assert summary(tmp_path / "out")["resumed_at"] > 0
    assert summary(tmp_path / "out")["iterate_sha256"] == summary(tmp_path / "whole")["iterate_sha256"]
    assert (
        summary(tmp_path / "out")["bytes"]["uplink"]["values_only"]
        == summary(tmp_path / "whole")["bytes"]["uplink"]["values_only"]
    )


# Children of one process that SIGKILL meets: first at each write, flush, rename and removal of a checkpoint in turn, then at random moments
# while checkpoints of some 10 MB are written, one a round. Each is gone on with, and has to become the whole run.
CRASHES = """
import builtins, io, json, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np
import mpicomp as mc
from mpicomp.runtime import checkpoint, files, history

out, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))

def problem(d):
    centres = np.arange(4)
    return mc.FunctionProblem(lambda i, x: 0.5 * float((x - i) @ (x - i)), lambda i, x: x - i, d, 4, mc.Smoothness.bounds(np.ones(4)))

def run(d, rounds, **more):
    return mc.run(problem=problem(d), method="ef21", compressor="topk:k=3", rounds=rounds, eval_every=4, step=0.1, **more)

def kill_at(event):
    count = 0
    def tick():
        nonlocal count
        count += 1
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)
    class Traced(io.FileIO):
        def write(self, data):
            view = memoryview(data).cast("B")
            done = super().write(view[: len(view) // 2])
            tick()
            return done + super().write(view[len(view) // 2 :])
    def traced(function):
        def call(*args, **how):
            tick()
            result = function(*args, **how)
            tick()
            return result
        return call
    save = checkpoint.Saver.save
    def at_round_12(self, t, record):
        if t == 12:
            files.open = history.open = lambda path, mode: (Traced if mode in ("wb", "r+b") else builtins.open)(path, mode)
            os.fsync, os.replace, shutil.rmtree = traced(os.fsync), traced(os.replace), traced(shutil.rmtree)
            os.link = traced(os.link)
        save(self, t, record)
        if t == 12:
            os._exit(0)
    checkpoint.Saver.save = at_round_12

def meets(whole, d, rounds, every, crash):
    "The child's end; what stood in its newest checkpoint's directory; whether the run that goes on is the whole one."
    shutil.rmtree(out, ignore_errors=True)
    child = os.fork()
    if not child:
        try:
            crash()
            run(d, rounds, out=str(out), checkpoint_every=every)
        finally:
            os._exit(1)
    if every == 1:
        time.sleep(rng.uniform(0.2, 1) * seconds)
        os.kill(child, signal.SIGKILL)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folders = sorted(out.glob("checkpoints/*"))
    files = sorted(path.name for path in folders[-1].iterdir()) if folders else []
    again = run(d, rounds, out=str(out), checkpoint_every=every, resume="auto")
    rows = [[{k: v for k, v in row.items() if not k.startswith("seconds")} for row in result.history] for result in (whole, again)]
    same = all(whole.summary[key] == again.summary[key] for key in ("iterate_sha256", "bytes")) and rows[0] == rows[1]
    return end, files, same, again.summary["resumed_at"]

sys.stdout, said = open(os.devnull, "w"), sys.stdout
met, event, whole = [], 0, run(50, 14)
while not met or met[-1][0]:
    event += 1
    met.append(meets(whole, 50, 14, 4, lambda: kill_at(event)))
whole = run(300_000, 10)
start = time.monotonic()
run(300_000, 10, out=f"{out}-timed", checkpoint_every=1)
seconds = time.monotonic() - start
large = [meets(whole, 300_000, 10, 1, lambda: None) for _ in range(8)]
print(json.dumps([met, large]), file=said)
"""


@pytest.mark.night
@pytest.mark.process
@pytest.mark.full(reason="kills a process at each of some dozen steps")
def test_sigkill_at_each_step_of_writing(tmp_path):
    """Where the manifest is not there yet, the older checkpoint is gone on with; where it is, the new one."""
    argv = [sys.executable, "-c", CRASHES, str(tmp_path / "out"), "5"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    met, large = json.loads(done.stdout)
    assert [end for end, *_ in met] == [-signal.SIGKILL] * (len(met) - 1) + [0]
    assert all(same for _, _, same, _ in met + large)
    assert {(tuple(files), at) for _, files, _, at in met} == {
        (("rank-00000.part",), 8), (("rank-00000.npz",), 8), (("history.jsonl", "rank-00000.npz"), 8),
        (("checkpoint.part", "history.jsonl", "rank-00000.npz"), 8),
        (("checkpoint.json", "history.jsonl", "rank-00000.npz"), 12),
    }  # fmt: skip
    assert any("checkpoint.json" not in files for _, files, _, _ in large)


# A disk of its own that is filled and emptied again, and then read-only.
FULL = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 77
out=$1/out; shift
"$@" --out $out --rounds 20 || exit 1
dd if=/dev/zero of=$out/filler bs=1k 2>/dev/null
truncate -s -8k $out/filler
echo FULL >&2
"$@" --out $out --rounds 40
echo "code $?" >&2
rm $out/filler
"$@" --out $out --rounds 40 || exit 2
cat $out/summary.json
mount -o remount,ro "$(dirname $out)"
"$@" --out $out --rounds 50
echo "code $?" >&2
"""


@pytest.mark.full(reason="a dozen jobs")
@pytest.mark.process
@needs_mpirun
def test_a_full_disk_and_a_read_only_one(tmp_path):
    job = [
        *command(3, *BASE[:2], *BASE[4:], "--method", "ef21"),
        "--checkpoint-every",
        "10",
        "--resume",
        "auto",
        "--no-table",
    ]
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(tmp_path / "disk"), *job],
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode in (77, 1) and "FULL" not in done.stderr:
        pytest.skip(f"no mounts of one's own here: {done.stderr.strip()[-200:]}")
    full, read_only = done.stderr.split("FULL")[1].split("code 2", 1)
    assert "round-000000030: No space left on device" in full and "free some space" in full and "Traceback" not in full
    assert "Read-only file system; choose another --out" in read_only and "code 2" in read_only
    found = json.loads(done.stdout[done.stdout.index("{") :])
    whole = run(method="ef21", clients=7, rounds=40, eval_every=10, seed=0)
    assert found["resumed_at"] == 20 and found["iterate_sha256"] == whole.summary["iterate_sha256"]


LIMITED = """
import resource, sys
import mpicomp as mc
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    mc.run(method="gd", clients=6, rounds=20, step=0.01, out=sys.argv[1], checkpoint_every=int(sys.argv[2]))
except mc.UserError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.full(reason="a full disk is in the quick lane")
@pytest.mark.process
@pytest.mark.parametrize(("every", "words"), [(5, "cannot write a checkpoint"), (0, "cannot write the results")])
def test_a_file_that_may_not_grow(every, words, tmp_path):
    argv = [sys.executable, "-c", LIMITED, str(tmp_path), str(every)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
    assert words in done.stdout and "File too large" in done.stdout and not list(tmp_path.rglob("*.part"))


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the job did not get that far"
        time.sleep(0.02)
