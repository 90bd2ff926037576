"""The doctor: its pure parts, one process, two ranks, and ranks that do not find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpicomp.cluster.doctor import doctor, measure_links, notes, ranges

DOCTOR = [sys.executable, "-m", "mpicomp", "doctor"]


def record(host: str, binding: str = "0-1", cores: int = 2, writable: bool = True, warm: bool = True) -> dict:
    return {
        "host": host, "binding": binding, "cores": cores, "host_cores": 2,
        "cache_writable": writable, "cache_warm": warm,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([1, 0], "0-1"), ([0, 1, 2, 3, 8], "0-3,8"), ([0, 2, 4], "0,2,4")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([record("a"), record("b")], []),
        ([record("a")], ["one process"]),
        ([record("a")] * 3, ["a: 3 ranks share 2 cores"]),
        ([record("a", "0", 1), record("b", "0", 1)], []),
        ([record("a", "0", 1), record("a", "0", 1)], ["one and the same core: a core 0"]),
        ([record("a", warm=False), record("b")], ["cache is cold"]),
        ([record("a", writable=False, warm=False), record("b")], ["cannot be written"]),
    ],
)
def test_notes(ranks: list[dict], words: list[str]) -> None:
    hosts = {host: [r["host"] for r in ranks].count(host) for host in {r["host"] for r in ranks}}
    found = notes({"size": len(ranks), "hosts": hosts, "ranks": ranks, "mismatch": None})
    assert len(found) == len(words)
    assert all(word in note for word, note in zip(words, found, strict=True))


def examine(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    alone = {
        name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "MPI_", "SLURM_"))
    }
    return subprocess.run(command, env={**alone, **env}, capture_output=True, text=True, timeout=120)


@pytest.mark.process
def test_one_process_says_how_to_start_more() -> None:
    done = examine(*DOCTOR)
    assert done.returncode == 0, done.stderr
    assert "1 (nobody launched it)" in done.stdout and "mpicomp launch -n 5 -- doctor" in done.stdout


@pytest.mark.process
def test_two_ranks_measure_their_link() -> None:
    done = examine(sys.executable, "-m", "mpicomp", "launch", "-n", "2", "--", "doctor")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MPI library") == 1 and "16 MiB" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize(("rank", "printed"), [("0", 1), ("2", 0)])
def test_a_world_of_one_among_three_is_told_by_one_and_fails_in_all(rank: str, printed: int) -> None:
    """What srun without the right plugin gives: three singletons."""
    done = examine(*DOCTOR, SLURM_PROCID=rank, SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="3")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("PROBLEM") == printed
    assert done.stdout.count("srun --mpi=pmi2") == printed


@pytest.mark.process
def test_without_an_mpi_library_the_remedy_is_named(tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('libmpi.so.40: cannot open shared object file')")
    done = examine(*DOCTOR, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'mpicomp[mpi]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.mpi(min_size=2)
def test_links_of_rank_0_to_every_other_rank() -> None:
    from mpi4py import MPI

    links = measure_links(MPI.COMM_WORLD)
    if MPI.COMM_WORLD.Get_rank() > 0:
        assert links == []
        return
    assert [link["rank"] for link in links] == list(range(1, MPI.COMM_WORLD.Get_size()))
    assert all(value > 0 for link in links for value in link.values())


@pytest.mark.mpi(min_size=2)
def test_every_rank_is_in_the_report() -> None:
    from mpi4py import MPI

    report = doctor(MPI.COMM_WORLD)
    assert report["mismatch"] is None
    if MPI.COMM_WORLD.Get_rank() == 0:
        assert len(report["ranks"]) == sum(report["hosts"].values()) == report["declared"] == MPI.COMM_WORLD.Get_size()
