"""`mpicomp launch` and `mpicomp lab run` with a program that is not mpicomp: its variables, its end, its signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_alone

import mpicomp as mc
from mpicomp.cluster.program import first_node, guarded, launcher_for, master, rank_environment, resolve
from mpicomp.cluster.script import main

TRAIN = """
import json, os, sys
from pathlib import Path
from mpi4py import MPI

comm, out = MPI.COMM_WORLD, Path(sys.argv[1])
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
seen = {name: os.environ.get(name) for name in names}
seen |= {"mpi": [comm.Get_rank(), comm.Get_size()], "argv": sys.argv[1:], "name": __name__, "first": sys.path[0]}
seen["host"] = os.uname().nodename
(out / f"{comm.Get_rank()}.json").write_text(json.dumps(seen))
comm.Barrier()
"""
# Rank 1 fails in the way that the first argument names, while the others wait for it.
FAILING = """
import sys
from mpi4py import MPI

comm = MPI.COMM_WORLD
if comm.Get_rank() == 1:
    exec(sys.argv[1])
comm.Barrier()
"""
WAITING = """
import os, sys, time
from mpi4py import MPI

MPI.COMM_WORLD.Barrier()
open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
time.sleep(60)
"""
COMMANDS = ("run", "doctor", "launch")


def mpicomp(*words: object, timeout: float = 60, **env: str):
    return run_alone([sys.executable, "-m", "mpicomp", *map(str, words)], timeout=timeout, **env)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


# ---- what is a program ------------------------------------------------------------------------------------------------
def test_own_commands_come_before_programs_of_their_name(tmp_path, monkeypatch):
    tool = written(tmp_path, "run", "#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert resolve(["run", "--rounds", "3"], COMMANDS) is None
    assert resolve(["--version"], COMMANDS) is None
    assert resolve([str(tool), "3"], COMMANDS) == [str(tool), "3"]


def test_a_python_file_is_run_by_this_python(tmp_path):
    script = written(tmp_path, "train.py", "")
    assert resolve([str(script), "--lr", "1"], COMMANDS) == [sys.executable, str(script), "--lr", "1"]


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(mc.ConfigError, match=r"'doctr' is no program.*unknown command 'doctr'.*doctor"):
        resolve(["doctr"], COMMANDS)
    text = written(tmp_path, "notes.txt", "")
    with pytest.raises(mc.ConfigError, match=r"cannot be executed: chmod \+x"):
        resolve([str(text)], COMMANDS)


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        (["train.py", "-u"], 0),
        (["-u", "train.py"], 1),
        (["-W", "error", "-Xdev", "-m", "pkg.train"], 3),
        (["-c", "print(1)"], 0),
    ],
)
def test_programs_of_this_python_end_together(words, inside):
    runner = ["-P", "-m", "mpicomp.cluster.script"]
    assert guarded([sys.executable, *words]) == [sys.executable, *words[:inside], *runner, *words[inside:]]


@pytest.mark.parametrize(
    "words", [[sys.executable], [sys.executable, "-V"], [sys.executable, "-I", "x.py"], ["sh", "-c", "x"], ["no such"]]
)
def test_others_are_themselves(words):
    assert guarded(words) == words


# ---- the variables ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (
            {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "9"},
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
             "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "mine", "MASTER_PORT": "7"},
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        ),
        ({"HOME": "/"}, {}),
    ],
)  # fmt: skip
def test_the_variables_of_torch_distributed(env, expected):
    assert rank_environment("h", "9", env) == expected


def test_the_variables_in_a_step_of_slurm():
    env = {
        "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    }  # fmt: skip
    expected = {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "9",
    }
    assert rank_environment("-", "9", env) == expected
    unknown = {k: v for k, v in env.items() if k != "SLURM_STEP_NODELIST"}
    assert "MASTER_ADDR" not in rank_environment("-", "9", unknown)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("n1,n2", "n1"), ("n[3,5]", "n3"), ("n[003-010]-ib,x", "n003-ib"), ("", "")],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_node(nodes) == first


def test_where_rank_0_is(tmp_path):
    hosts = written(tmp_path, "hosts", "# my cluster\n\nb:4 slots=4\na\n")
    assert master(["x:2", "y"], "", [], {})[0] == "x"
    assert master([], str(hosts), [], {})[0] == "b"
    assert master([], "", [], {})[0] == "127.0.0.1"
    assert master([], "", ["-hosts", "a,b"], {})[0] == master([], "", [], {"SLURM_JOB_ID": "1"})[0] == ""
    assert 1024 <= master([], "", [], {})[1] < 65536


def test_a_python_without_mpi4py_gets_this_ones_launcher(tmp_path, mpi):
    other = written(tmp_path, "python3", "#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert launcher_for([str(other)]) == launcher_for(["sh"]) == mpi.launcher


# ---- real ranks -------------------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize("start", [[sys.executable], [], [sys.executable, "-u"]], ids=["python", "file", "switches"])
def test_a_script_finds_its_rank_in_mpi_and_in_the_environment(mpi, tmp_path, start):
    script = written(tmp_path, "train.py", TRAIN)
    mpicomp("launch", "-n", 3, "--", *start, script, tmp_path, "--lr", "0.1").check()
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    ports = {rank["MASTER_PORT"] for rank in seen}
    assert len(ports) == 1 and ports.pop().isdigit()
    for rank, found in enumerate(seen):
        assert found["mpi"] == [rank, 3]
        assert [found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == [
            str(rank),
            "3",
            str(rank),
            "3",
        ]
        assert found["MASTER_ADDR"] == "127.0.0.1"
        assert (
            found["argv"] == [str(tmp_path), "--lr", "0.1"]
            and found["name"] == "__main__"
            and found["first"] == str(tmp_path)
        )


@pytest.mark.process
def test_a_program_that_knows_no_mpi(mpi):
    job = mpicomp("launch", "-n", 2, "--", "sh", "-c", "echo $RANK of $WORLD_SIZE").check()
    assert sorted(job.out.split("\n")) == ["", "0 of 2", "1 of 2"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        ("raise ValueError('no such layer')", 1, "ValueError: no such layer"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('no data')", 1, "no data"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, ""),
    ],
)
def test_a_rank_that_fails_ends_all(mpi, tmp_path, failure, code, says):
    script = written(tmp_path, "train.py", FAILING)
    job = mpicomp("launch", "-n", 3, "--", sys.executable, script, failure)
    assert job.code == code if code is not None else job.code != 0
    assert says in job.err and job.seconds < 30
    if "ValueError" in failure:
        assert "rank 1 on" in job.err and "runpy" not in job.err


@pytest.mark.process
def test_a_rank_that_fails_before_mpi_ends_all(mpi, tmp_path):
    script = written(tmp_path, "train.py", 'import os\nif os.environ["RANK"] == "0": import no_such_module\n' + FAILING)
    job = mpicomp("launch", "-n", 2, "--", script, "pass")
    assert job.code != 0 and "No module named 'no_such_module'" in job.err and job.seconds < 30


@pytest.mark.process
def test_options_of_the_program_are_its_own(mpi, tmp_path):
    """`--on-failure` is mpicomp's only after a command of mpicomp."""
    script = written(tmp_path, "train.py", "import sys\nprint(sys.argv[1:])\n")
    job = mpicomp("launch", "-n", 2, "--", script, "--on-failure", "continue").check()
    assert job.out.splitlines() == ["['--on-failure', 'continue']"] * 2


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_what_ends_the_launch_ends_the_program(mpi, tmp_path, number):
    script, marks = written(tmp_path, "train.py", WAITING), tmp_path / "marks"
    marks.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "mpicomp", "launch", "-n", "2", "--", sys.executable, script, marks]
    )
    deadline = time.monotonic() + 30
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(path.name) for path in marks.iterdir()]
    assert len(pids) == 2
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(20) != 0
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.process
def test_a_program_is_started_again_after_a_failure(mpi, tmp_path):
    text = "import sys, pathlib\nf = pathlib.Path(sys.argv[1])\nif not f.exists():\n    f.touch()\n    sys.exit(5)\n"
    script = written(tmp_path, "train.py", text)
    job = mpicomp("launch", "-n", 1, "--restarts", 2, "--", script, tmp_path / "there").check()
    assert "restart 1 of 2" in job.err and "restart 2" not in job.err


def test_a_program_that_is_not_there_starts_nothing():
    job = run_alone([sys.executable, "-m", "mpicomp", "launch", "-n", "2", "--", "trian.py"])
    assert job.code == 2 and "'trian.py' is no program" in job.err


def test_lab_run_takes_any_program(lab_here, tmp_path):
    script = written(tmp_path, "train.py", TRAIN)
    mpicomp("lab", "run", "--nodes", 2, "--", sys.executable, script, tmp_path, timeout=120).check()
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [found["host"] for found in seen] == ["node1", "node2"]
    for rank, found in enumerate(seen):
        assert [found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]] == [str(rank), "2", "0"]
        assert found["MASTER_ADDR"] == "node1" and found["GLOO_SOCKET_IFNAME"] == "eth0"


# ---- the runner -------------------------------------------------------------------------------------------------------
def test_a_text_and_a_module_run_as_python_runs_them(tmp_path):
    written(tmp_path, "mine.py", "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\n")
    runner = [sys.executable, "-P", "-m", main.__module__]
    said = subprocess.run([*runner, "-m", "mine", "a"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == f"__main__ ['a'] {tmp_path}\n"
    said = subprocess.run(
        [*runner, "-c", "import sys; print(sys.argv, __name__)", "b"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "['-c', 'b'] __main__\n"
    failed = subprocess.run([*runner, "-c", "1 / 0"], capture_output=True, text=True)
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr
