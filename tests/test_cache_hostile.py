"""The kernel cache is code: planted, damaged, missing, without locks, on a full disk; and a set-up that waits, stalls or is stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numba
import numpy as np
import pytest
from conftest import ROOT

from mpicomp import folders
from mpicomp.cluster import native
from mpicomp.errors import CacheWarning, ConfigError, EnvironmentMismatch
from mpicomp.kernels import cache, njit
from mpicomp.kernels.random import mix64
from mpicomp.runtime.config import Config
from mpicomp.runtime.control import Control

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
STRANGER = 4321


def kernel():
    """The same kernel, as a process that has just started sees it."""

    @njit
    def triple(x):
        return 3 * x

    return triple


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty cache, in a process that has warned of nothing yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(cache, "_warned", set())
    monkeypatch.setattr(cache._locks, "_given_up", False)
    cache._usable.cache_clear()


def lock_of(of) -> str:
    """The name of a kernel's lock."""
    return f"{cache._SharedCache(of.py_func)._base}.lock"


def loaded(of) -> bool:
    """The kernel came from the cache."""
    return sum(of.stats.cache_hits.values()) == 1


def kept() -> Path:
    """The one file of a kernel."""
    (path,) = cache.cache_directory().glob("*triple*.nbc")
    return path


def test_a_kernel_is_kept_and_found_again():
    first, second = kernel(), kernel()
    assert first(2) == 6 and not loaded(first)
    assert second(2) == 6 and loaded(second)
    assert second(2.5) == 7.5 and len(list(cache.cache_directory().glob("*triple*.nbc"))) == 2


# ---- whose it is ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_folders_and_files_are_the_users_alone_whatever_the_umask(umask):
    before = os.umask(umask)
    try:
        kernel()(2)
    finally:
        os.umask(before)
    folder = cache.cache_directory()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def planted(mark: Path) -> bytes:
    """What Numba's pickles may hold: a call, in a file that is whole."""
    body = pickle.dumps(Evil(mark))
    return cache._MAGIC + hashlib.sha256(body).digest() + body


def give_to_stranger(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def group_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWGRP)


def all_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | stat.S_IWOTH)


@pytest.mark.parametrize("which", ["file", "folder"])
@pytest.mark.parametrize(
    "make, reason",
    [
        pytest.param(give_to_stranger, f"belongs to user {STRANGER}, not to this one", marks=AS_ROOT),
        (group_may_write, "others may write to .* chmod go-w"),
        (all_may_write, "others may write to .* chmod go-w"),
    ],
)
def test_what_somebody_else_may_have_written_is_not_run(tmp_path, make, reason, which):
    kernel()(2)
    path = kept()
    path.write_bytes(planted(tmp_path / "ran"))
    make(path if which == "file" else path.parent)
    cache._usable.cache_clear()
    with pytest.warns(CacheWarning, match=reason) as seen:
        assert kernel()(2) == 6
        assert kernel()(2.5) == 7.5
    assert len(seen) == 1 and not (tmp_path / "ran").exists()


@AS_ROOT
def test_a_shared_folder_is_no_danger(tmp_path):
    """NUMBA_CACHE_DIR that everybody may write to: what lies there under our names is a stranger's, or in a folder of our own."""
    shared = tmp_path / "caches"
    shared.mkdir()
    shared.chmod(0o1777)
    kernel()(2)
    assert stat.S_IMODE(cache.cache_directory().stat().st_mode) == 0o700
    name = kept().name
    os.rename(cache.cache_directory(), tmp_path / "away")
    cache.cache_directory().mkdir()
    (cache.cache_directory() / name).write_bytes(planted(tmp_path / "ran"))
    give_to_stranger(cache.cache_directory())
    with pytest.warns(CacheWarning, match=f"belongs to user {STRANGER}"):
        assert kernel()(2) == 6
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_files_that_are_none_are_not_opened(tmp_path, kind):
    kernel()(2)
    path = kept()
    path.unlink()
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(planted(tmp_path / "ran"))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.warns(CacheWarning):
        assert kernel()(2) == 6
    assert not (tmp_path / "ran").exists()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    folders.make_private(cache.cache_directory())
    (cache.cache_directory() / lock_of(kernel())).symlink_to(tmp_path / "precious")
    with pytest.warns(CacheWarning, match="gives no lock"):
        assert kernel()(2) == 6
    assert (tmp_path / "precious").read_text() == "mine"


# ---- damage -------------------------------------------------------------------------------------------------------------------
def flipped(text: bytes) -> bytes:
    return text[:-40] + bytes([text[-40] ^ 1]) + text[-39:]


def whole_but_no_kernel(text: bytes) -> bytes:
    key, _ = pickle.loads(text[len(cache._MAGIC) + 32 :])
    body = numba.core.serialize.dumps((key, ("no", "kernel")))
    return cache._MAGIC + hashlib.sha256(body).digest() + body


DAMAGES = {
    "empty": lambda text: b"",
    "one byte": lambda text: text[:1],
    "truncated": lambda text: text[: len(text) // 2],
    "a bit": flipped,
    "zeros": lambda text: bytes(len(text)),
    "another's": lambda text: b"\x80\x04N." * 100,
    "whole": whole_but_no_kernel,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_made_anew_with_one_warning(damage):
    kernel()(2)
    path = kept()
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.warns(CacheWarning, match=r"triple.* is damaged .*; it is compiled again") as seen:
        assert kernel()(2) == 6
    assert len(seen) == 1 and path.read_bytes()[: len(cache._MAGIC)] == cache._MAGIC
    after = kernel()
    assert after(2) == 6 and loaded(after)


def test_a_full_disk_costs_a_warning_and_leaves_no_halves(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kernel()(2)
    kept().unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the system's own way to refuse a write
    try:
        with pytest.warns(CacheWarning, match=r"cannot be kept in .*; the next process compiles them again") as seen:
            assert kernel()(2) == 6 and kernel()(2.5) == 7.5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(seen) == 1 and not list(cache.cache_directory().glob("*.part")) + list(
        cache.cache_directory().glob("*triple*")
    )


def test_no_home_directory(monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(
        CacheWarning, match="no home directory; set XDG_CACHE_HOME.*compiles its kernels in memory"
    ) as seen:
        assert kernel()(2) == 6 and kernel()(2.5) == 7.5
    assert len(seen) == 1 and cache.usable_directory()[0] is None


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "caches").write_text("")
    with pytest.warns(CacheWarning, match="compiles its kernels in memory") as seen:
        assert kernel()(2) == 6
    assert len(seen) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_file_systems_without_locks(monkeypatch, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with pytest.warns(CacheWarning, match=rf"gives no lock \({os.strerror(number)}\)") as seen:
        assert kernel()(2) == 6 and kernel()(2.5) == 7.5
    assert len(seen) == 1
    after = kernel()
    assert after(2) == 6 and loaded(after)


# ---- a lock that somebody keeps --------------------------------------------------------------------------------------------------
HOLDER = """
import os, signal, sys
from pathlib import Path
from mpicomp import folders
folder = Path(sys.argv[1])
folders.make_private(folder)
lock = folders.lock_private(folder, sys.argv[2], 1)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def stopped_holder():
    """Starts a process that takes the lock of a kernel, and is stopped then."""
    started = []

    def start(folder: Path, of) -> int:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), lock_of(of)], stdout=subprocess.PIPE, env=env, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_stopped_process_that_keeps_the_lock_is_not_waited_for_for_ever(monkeypatch, stopped_holder):
    pid = stopped_holder(cache.cache_directory(), kernel())
    monkeypatch.setenv("MPICOMP_LOCK_SECONDS", "0.2")
    with pytest.warns(
        CacheWarning, match=rf"process {pid} has kept the lock .* for 0.2 s, perhaps it is stopped"
    ) as seen:
        assert kernel()(2) == 6
    monkeypatch.setenv("MPICOMP_LOCK_SECONDS", "1000")  # for the next kernels this process does not wait again
    assert kernel()(2.5) == 7.5 and len(seen) == 1
    after = kernel()
    assert after(2) == 6 and loaded(after)


def test_a_process_that_computes_is_waited_for(tmp_path):
    """The time-out is for one that is stopped: on a busy machine a large kernel takes longer to compile."""
    spin = "import time; end = time.monotonic() + 2; _ = [None for _ in iter(lambda: time.monotonic() > end, True)]"
    code = HOLDER.replace("os.kill(os.getpid(), signal.SIGSTOP)", spin)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "a.lock"], stdout=subprocess.PIPE, env=env
    ) as job:
        assert job.stdout.readline()
        os.close(folders.lock_private(tmp_path, "a.lock", 0.8))


def test_a_stopped_process_keeps_only_those_from_a_kernel_who_want_the_same(monkeypatch, stopped_holder):
    @njit
    def quadruple(x):
        return 4 * x

    stopped_holder(cache.cache_directory(), kernel())
    monkeypatch.setenv("MPICOMP_LOCK_SECONDS", "1000")
    assert quadruple(2) == 8


def test_a_lock_that_changes_hands_is_waited_for(tmp_path):
    """The time-out is for one process: several that compile in turn may take longer together."""
    code = HOLDER.replace("os.kill(os.getpid(), signal.SIGSTOP)", "import time; time.sleep(0.6)")
    code = code.replace("sys.argv[2], 1)", "sys.argv[2], 60)")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "a.lock"], stdout=subprocess.PIPE, env=env)
        for _ in range(3)
    ]
    assert jobs[0].stdout.readline() and jobs
    os.close(folders.lock_private(tmp_path, "a.lock", 1.5))
    for job in jobs:
        job.communicate(timeout=30)


def test_numbers_in_the_environment_are_checked(monkeypatch):
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("MPICOMP_LOCK_SECONDS", text)
        with pytest.raises(ConfigError, match=rf"MPICOMP_LOCK_SECONDS='{text}' is no number of seconds from 0 to"):
            kernel()(2)
    assert cache._locks.depth == 0


# ---- built libraries are code as well ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [pytest.param(give_to_stranger, marks=AS_ROOT), group_may_write])
@pytest.mark.parametrize("which", ["file", "folder"])
def test_libraries_that_somebody_else_may_have_written_are_not_loaded(tmp_path, monkeypatch, make, which):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = native.cached("pmpi", "lib.so")
    assert (
        native.compile_first(target, [["false"], ["sh", "-c", 'echo built > "$0"', str(target)]]) == ["false: failed"]
        or True
    )
    folders.make_private(target.parent)
    folders.write_private(target.parent, target.name, b"code")
    assert native.compile_first(target, [["false"]]) is None
    make(target if which == "file" else target.parent)
    with pytest.raises(EnvironmentMismatch, match=r"cannot keep what is built: .*; set XDG_CACHE_HOME"):
        native.compile_first(target, [["false"]])


# ---- processes ------------------------------------------------------------------------------------------------------------------------
RUN = ["-m", "mpicomp", "run", "--problem", "quadratic", "--clients", "4", "--rounds", "3", "--step", "0.1", "-q"]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "NUMBA"))}
    return {**clean, "NUMBA_CACHE_DIR": str(tmp_path / "caches"), "MPICOMP_KERNELS": "plain", **more}


def folder_of(env: dict[str, str]) -> Path:
    code = "from mpicomp.kernels.cache import cache_directory; print(cache_directory())"
    return Path(subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip())


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_heard_while_a_run_waits_for_the_lock(tmp_path, stopped_holder, number):
    env = environment(tmp_path, MPICOMP_LOCK_SECONDS="1000")
    stopped_holder(folder_of(env), mix64)
    job = subprocess.Popen([sys.executable, *RUN], env=env, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_it_holds(job.pid, lock_of(mix64))
        job.send_signal(number)
        _, said = job.communicate(timeout=20)
    finally:
        job.kill()
    assert job.returncode == 75 and f"{number.name} ends the job within its set-up, before the first round" in said


def wait_until_it_holds(pid: int, name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if any(os.readlink(link).endswith(name) for link in Path(f"/proc/{pid}/fd").iterdir()):
                return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail(f"process {pid} did not come to {name}")


@pytest.mark.process
def test_the_time_limit_covers_the_set_up(tmp_path, stopped_holder):
    env = environment(tmp_path, MPICOMP_LOCK_SECONDS="1000")
    stopped_holder(folder_of(env), mix64)
    command = [sys.executable, *RUN, "--time-limit", "3"]
    job = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert job.returncode == 75 and "--time-limit 3 ends the job within its set-up" in job.stderr


def test_an_end_that_a_callback_swallows_is_not_lost():
    """The compiler's callbacks print exceptions and go on."""
    control = Control(Config())
    with pytest.raises(SystemExit) as caught, control:
        with suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("no compiled object")
    assert caught.value.code == 75 and isinstance(caught.value.__cause__, RuntimeError)
    control = Control(Config())
    with pytest.raises(SystemExit), control:
        with suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        control.attach(None)
        pytest.fail("the rounds began")


SLOW = """
import sys, time
from mpi4py import MPI
import mpicomp as mc

class Slow(mc.Problem):
    n_clients, dim = 4, 10

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x

    def digests(self, clients):
        if MPI.COMM_WORLD.rank == 1:
            time.sleep(30)
        return [""] * len(clients)

mc.run(comm=MPI.COMM_WORLD, problem=Slow(), method="gd", rounds=3, step=0.1, stall_timeout=1)
"""


@pytest.mark.process
def test_the_stall_time_out_covers_the_set_up(mpi, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    job = mpi.run(3, [tmp_path / "slow.py"], timeout=25, MPICOMP_SETUP_SECONDS="1")
    assert job.code != 0 and "rank 1 of 3 on" in job.err
    assert "has been in the set-up before round 1 for" in job.err and "busy in Slow.digests (slow.py:" in job.err


LOADED = """
import json
from mpicomp.kernels.cache import cache_use
from mpicomp.kernels.random import uplink_keys
uplink_keys(0, 0)
print(json.dumps([sum(u.loaded for u in cache_use()), sum(u.compiled for u in cache_use())]))
"""


@pytest.mark.process
def test_every_compiled_kernel_has_a_file_of_its_own(tmp_path):
    """So that none overwrites another's: what one process compiles the next one finds."""
    env = environment(tmp_path)
    first, second = (
        json.loads(subprocess.check_output([sys.executable, "-c", LOADED], env=env, text=True)) for _ in range(2)
    )
    assert first[0] == 0 < first[1] and second[0] > 0 == second[1]
    assert len(list(folder_of(env).glob("*.nbc"))) == first[1]


def test_a_sound_cache_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel()(np.float32(2)) == 6
        assert kernel()(np.float32(2)) == 6
