"""Importing mpicomp, and a run by the library, leave the process as it was: its environment, Numba's settings, handlers, `os._exit`."""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from conftest import ROOT

from mpicomp.cluster.comm import take_names_away

pytestmark = pytest.mark.process

LOOK = """
import os, signal, sys, warnings
import numba, numpy as np

def state():
    import locale, threading
    return {
        "environment": dict(os.environ),
        "_exit": id(os._exit),
        "excepthook": id(sys.excepthook),
        "numba": {name: repr(value) for name, value in vars(numba.config).items() if name.isupper()},
        "handlers": {int(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "path": list(sys.path),
        "filters": [repr(entry) for entry in warnings.filters],
        "errstate": np.geterr(),
        "cwd": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
        "threads": threading.active_count(),
        "locale": locale.setlocale(locale.LC_ALL),
    }
"""

HOST = (
    LOOK
    + """
import json
before = state()
import mpicomp as mc
[getattr(mc, name) for name in mc.__all__]
loaded = state()
result = mc.run(problem="quadratic", clients=3, rounds=5, problem_options={"dim": 40}, compressor="permk")
after = state()
assert result.summary["rounds"] == 5

import users
users.double(np.ones(3))
print(json.dumps([before, loaded, after, users.double._cache.cache_path]))
"""
)

USERS = """
import numba

@numba.njit(cache=True)
def double(x):
    return 2 * x
"""


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "MPICOMP_"))} | {"PYTHONPATH": str(ROOT)}


def test_a_run_leaves_the_process_as_it_was(tmp_path):
    (tmp_path / "users.py").write_text(USERS)
    (tmp_path / "host.py").write_text(HOST)
    command = [sys.executable, tmp_path / "host.py"]
    job = subprocess.run(command, env=clean(), cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True)
    before, loaded, after, cached = json.loads(job.stdout)
    assert before == loaded
    assert before == after
    assert before["numba"]["CACHE_DIR"] == "''" and before["numba"]["CPU_FEATURES"] == "None"
    assert Path(cached) == tmp_path / "__pycache__" and list((tmp_path / "__pycache__").glob("users.double-*.nbi"))


def test_a_users_numba_cache_dir_is_ours_too(tmp_path):
    code = "from mpicomp.kernels.random import uplink_keys; uplink_keys(0, 0)"
    env = clean() | {"NUMBA_CACHE_DIR": str(tmp_path / "here"), "XDG_CACHE_HOME": str(tmp_path / "elsewhere")}
    subprocess.run([sys.executable, "-c", code], env=env, timeout=200, check=True)
    assert list(tmp_path.glob("here/mpicomp-*/random.*.nbc")) and not (tmp_path / "elsewhere").exists()


RANK = (
    LOOK
    + """
from pathlib import Path
from mpi4py import MPI
import mpicomp as mc

leave, seen = os._exit, []

class Looking(mc.Problem):
    n_clients, dim = 4, 10

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        seen.append(os._exit is leave)

def named():
    return sorted({line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines()
                   if "/dev/shm/" in line and not line.endswith("(deleted)")})

start, files = state(), named()
mc.run(comm=MPI.COMM_WORLD, problem=Looking(), method="gd", rounds=3, step=0.1)
end = state()
assert all(seen) and (seen or MPI.COMM_WORLD.rank == 0)
assert set(files) <= set(named()), "a file of MPI's lost its name"
assert start == end, [(k, start[k], end[k]) for k in start if start[k] != end[k]]
print("unchanged", flush=True)
"""
)


def test_ranks_of_a_program_are_left_as_they_were(each_mpi, tmp_path):
    """During the run, too, `os._exit` is Python's own, and no file of MPI's shared memory loses its name."""
    (tmp_path / "rank.py").write_text(RANK)
    job = each_mpi.run(3, [tmp_path / "rank.py"], timeout=120).check()
    assert job.out.count("unchanged") == 3


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_only_files_that_this_process_has_mapped_lose_their_names():
    """Not one that another job has made, nor one that took the name of ours meanwhile."""
    mine, replaced, foreign = (Path(f"/dev/shm/mpich_shm_{uuid.uuid4().hex[:8]}_0") for _ in range(3))
    maps = []
    try:
        for path in (mine, replaced, foreign):
            path.write_bytes(bytes(4096))
        for path in (mine, replaced):
            with path.open("r+b") as file:
                maps.append(mmap.mmap(file.fileno(), 4096))
        replaced.unlink()
        replaced.write_bytes(bytes(4096))
        take_names_away()
        assert not mine.exists() and replaced.exists() and foreign.exists()
    finally:
        for path in (mine, replaced, foreign):
            path.unlink(missing_ok=True)


WIDTHS = """
import json, re, sys
import llvmlite.binding as llvm

features = sys.argv[1].split(",")
llvm.get_host_cpu_name = lambda: "icelake-server"  # a processor for which LLVM takes 256 bits by itself; nothing runs on it
llvm.get_host_cpu_features = lambda: llvm.FeatureMap({name: True for name in features})

import numba
from mpicomp.kernels import njit

def double(x, y):
    for i in range(x.shape[0]):
        y[i] = x[i] + x[i]

widths = []
for kernel in (njit(double), numba.njit(double)):
    signature = (numba.float32[::1], numba.float32[::1])
    kernel.compile(signature)
    widths.append(sorted(set(re.findall(r"%([yz]mm)[0-9]+", "".join(kernel.inspect_asm().values())))))
print(json.dumps(widths))
"""
AVX512 = "sse2,sse4.2,avx,avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="registers of another processor")
def test_only_our_kernels_have_vectors_of_512_bits(tmp_path):
    (tmp_path / "widths.py").write_text(WIDTHS)
    env = clean() | {"XDG_CACHE_HOME": str(tmp_path), "MPICOMP_KERNELS": "plain"}
    command = [sys.executable, tmp_path / "widths.py", AVX512]
    job = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=True)
    ours, users = json.loads(job.stdout)
    assert "zmm" in ours and "zmm" not in users and "ymm" in users
