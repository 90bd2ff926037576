"""SLURM: scripts against stored records, its words parsed, and jobs on a real SLURM of this project's own, in a network lab."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, DataError, LabError, SlurmError
from mpicomp.experiments.lab.slurm import SlurmLab, configuration
from mpicomp.experiments.slurm import queue
from mpicomp.experiments.slurm.collect import collect, to_csv
from mpicomp.experiments.slurm.script import Batch, seconds, write

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "golden" / "script.sbatch"
FULL = Batch(
    kind="array",
    args=("my study.toml", "--out", "studies/a"),
    name="weak",
    nodes=4,
    tasks=32,
    tasks_per_node=8,
    cpus_per_task=2,
    time="1-12:00",
    margin=300,
    partition="cpu",
    account="proj42",
    qos="long",
    constraint="milan",
    mem="16G",
    array="0-15%4",
    log="logs/%x-%A_%a.out",
    directives=("--exclusive", "--mail-type=END"),
    setup=("module load mpich", "source /home/me/venv/bin/activate"),
    mpicomp="/home/me/venv/bin/mpicomp",
)


# ---- scripts ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "file"), [("run", "run"), ("scale", "scaling"), ("array", "array")])
def test_the_scripts_in_jobs_are_what_the_defaults_give(kind: str, file: str) -> None:
    assert (ROOT / "jobs" / f"{file}.sbatch").read_text() == write(Batch(kind))


def test_a_script_with_every_option_is_as_recorded() -> None:
    assert write(FULL) == RECORD.read_text()


@pytest.mark.parametrize("batch", [Batch("run"), Batch("scale"), FULL])
def test_a_script_is_bash(batch: Batch) -> None:
    subprocess.run(["bash", "-n"], input=write(batch), text=True, check=True, timeout=30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "runn"}, "unknown kind of script 'runn'.*did you mean 'run'"),
        ({"margin": 60}, "margin of 60 s.*120 or more"),
        ({"time": "00:03:00"}, "00:03:00 is shorter than the margin of 300 s"),
        ({"time": "soon"}, "'soon'.*hours:minutes:seconds"),
        ({"nodes": -1}, "nodes = -1.*1 or more"),
        ({"array": "1,2"}, "'1,2'.*0-7%4"),
        ({"kind": "run"}, "'0-15%4' is for scripts of the kind array"),
        ({"directives": ("exclusive",)}, "'exclusive'.*--exclusive"),
    ],
)
def test_options_that_cannot_work(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write(replace(FULL, **change))


def test_time_limits() -> None:
    assert [seconds(t) for t in ("90", "1:30", "2:00:00", "1-2", "1-2:30", "1-0:0:5")] == [
        5400, 90, 7200, 93600, 95400, 86405,
    ]  # fmt: skip


# A command in place of mpicomp: notes its signals, and ends with the code that a stopped run has.
FAKE = """#!/bin/bash
trap 'echo signalled; exit 75' USR1
echo "started $*"
for k in $(seq 100); do sleep 0.1; done
exit ${CODE:-0}
"""


def shell(tmp_path: Path, signals: tuple[float, ...] = (), **env: str) -> tuple[int, str]:
    """Run jobs/run.sbatch without SLURM, signalling the shell after so many seconds; its exit code and output."""
    for name, text in {"mpicomp": FAKE, "scontrol": "#!/bin/bash\necho scontrol $*\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        ["bash", ROOT / "jobs" / "run.sbatch", "a b", "--out", "x"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "MPICOMP_SETTLE": "1", **env},
        stdout=subprocess.PIPE,
        text=True,
    )
    begin = time.monotonic()
    for moment in signals:
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        process.send_signal(10)
    out, _ = process.communicate(timeout=30)
    return process.returncode, out


@pytest.mark.process
@pytest.mark.parametrize("moments", [(0.3,), (0.3, 0.6), (1.5,)])
def test_the_shell_passes_the_signal_on_and_requeues(tmp_path: Path, moments: tuple[float, ...]) -> None:
    """Also a signal that comes before the command had time to start, and one that comes twice."""
    code, out = shell(tmp_path, moments)
    assert code == 75
    assert "started launch -- run a b --out x --checkpoint-seconds 600 --resume auto" in out
    assert out.splitlines()[-2:] == ["signalled", "scontrol requeue 7"]


@pytest.mark.process
@pytest.mark.parametrize("code", [0, 75, 3])
def test_the_shell_has_the_code_of_its_command(tmp_path: Path, code: int) -> None:
    """Code 75 without a signal to the shell is a job that was cancelled: it is not put back."""
    (tmp_path / "seq").write_text("#!/bin/sh\necho 1\n")
    (tmp_path / "seq").chmod(0o755)
    assert shell(tmp_path, CODE=str(code)) == (
        code,
        "started launch -- run a b --out x --checkpoint-seconds 600 --resume auto\n",
    )


# ---- what SLURM says ----------------------------------------------------------------------------------------------------
SQUEUE = """\
2_0|mpicomp|RUNNING|0:12|1:00:00|4|node[1-4]
2_1|mpicomp|PENDING|0:00|1:00:00|4|(Resources)
1|a|b|FAILED|0:03|1:00:00|1|node1
"""
SCONTROL = (
    "JobId=2 JobName=mpicomp UserId=root(0) GroupId=root(0) MCS_label=N/A Requeue=1 Restarts=1 BatchFlag=1 ExitCode=75:0 "
    "TRES=cpu=4,node=4 Command=/a dir/run.sbatch --problem quadratic WorkDir=/a dir StdOut=/a dir/mpicomp-2.log Power= \n"
)


def test_words_of_squeue_and_scontrol() -> None:
    first, second = queue.parse_jobs("\n".join(SQUEUE.splitlines()[:2]))
    assert (first.id, first.state, first.where, first.over) == ("2_0", "RUNNING", "node[1-4]", False)
    assert (second.state, second.where) == ("PENDING", "(Resources)")
    told = queue.parse_details(SCONTROL)
    assert told["ExitCode"] == "75:0" and told["Restarts"] == "1"
    assert told["StdOut"] == "/a dir/mpicomp-2.log" and told["Command"] == "/a dir/run.sbatch --problem quadratic"


def test_without_slurm_the_message_says_where_to_go(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"squeue is not on PATH.*login node.*mpicomp lab slurm"):
        queue.jobs()
    with pytest.raises(SlurmError, match=r"no script nowhere\.sbatch"):
        queue.submit(Path("nowhere.sbatch"))


def test_what_runs_have_left(tmp_path: Path) -> None:
    common = {"problem": "quadratic", "clients": 3, "rounds": 12, "method": "marina", "compressor": "permk"}
    done = mc.run(**common, out=str(tmp_path / "a" / "done"))
    mc.run(**common, out=str(tmp_path / "a" / "half"), checkpoint_every=5)
    (tmp_path / "a" / "half" / "summary.json").unlink()
    finished, half = collect([tmp_path])
    assert (finished.state, finished.rounds, finished.loss) == ("finished", 12, done.summary["loss"])
    assert finished.iterate_sha256 == done.summary["iterate_sha256"]
    assert finished.up == done.summary["bytes"]["uplink"]["message"]
    assert (half.state, half.rounds, half.iterate_sha256) == ("unfinished", 10, "")
    to_csv([finished, half], tmp_path / "runs.csv")
    assert (tmp_path / "runs.csv").read_text().splitlines()[2].startswith(f"{half.directory},unfinished,,,,,10,")
    with pytest.raises(DataError, match="no run has left anything"):
        collect([tmp_path / "nowhere"])


def test_configuration_of_the_lab() -> None:
    lines = configuration(3, 2).splitlines()
    assert "NodeName=node3 NodeAddr=10.77.0.3 CPUs=2 RealMemory=1000 State=UNKNOWN" in lines
    assert "PartitionName=lab Nodes=node[1-3] Default=YES MaxTime=60 State=UP OverSubscribe=NO" in lines


@pytest.mark.full(reason="needs a SLURM of its own")
@pytest.mark.process
def test_a_slurm_for_one_command() -> None:
    """Its nodes are there, and its exit code is the command's."""
    command = [sys.executable, "-m", "mpicomp", "lab", "slurm", "--nodes", "2", "--"]
    done = subprocess.run([*command, "sh", "-c", "sinfo -h -o %D; exit 7"], capture_output=True, text=True, timeout=120)
    if "no SLURM lab" in done.stderr or "no network lab" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stdout) == (7, "2\n")


# ---- a real SLURM -------------------------------------------------------------------------------------------------------
RUN = ["--method", "marina", "--compressor", "permk", "--clients", "6", "--problem", "quadratic"]
RUN += ["--set", "problem.dim=5000", "--seed", "3"]


class Cluster:
    """Commands on node1 of a SLURM lab, in a directory of their own."""

    def __init__(self, lab: SlurmLab, directory: Path):
        self.lab, self.directory = lab, directory

    def ask(self, *argv: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command on node1."""
        named = [f"{name}={value}" for name, value in {"MPICOMP_SETTLE": "8", **env}.items()]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(self.directory), "env", *named, *argv]
        return subprocess.run(self.lab.command(inside), capture_output=True, text=True, timeout=timeout)

    def mpicomp(self, *argv: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `mpicomp ARGV` on node1."""
        return self.ask(sys.executable, "-m", "mpicomp", *argv, timeout=timeout, **env)

    def submit(self, script: str | Path, options: str, *args: str, wait: bool = True, **env: str):
        """Submit a script; the job's number, and the exit code and messages of `mpicomp slurm submit`."""
        waiting = ["--wait", "--poll=0.3"] if wait else []
        path = self.directory / "mpicomp"
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mpicomp "$@"\n')
        path.chmod(0o755)
        done = self.mpicomp(
            "slurm",
            "submit",
            str(script),
            *waiting,
            f"--sbatch={options}",
            "--",
            *args,
            **{"MPICOMP": str(path), **env},
        )
        assert done.stdout.strip().isdigit(), done.stdout + done.stderr
        return done.stdout.strip(), done.returncode, done.stderr

    def log(self, number: str) -> str:
        """What a job printed."""
        return "".join(path.read_text() for path in sorted(self.directory.glob(f"*-{number}*.log")))

    def summary(self, name: str) -> dict:
        """The summary of a run."""
        return json.loads((self.directory / name / "summary.json").read_text())

    def state(self, number: str) -> str:
        """A job's state."""
        return self.ask("squeue", "-h", "-t", "all", "-j", number, "-o", "%T").stdout.strip()

    def until(self, number: str, *states: str, seconds: float = 180) -> str:
        """Wait until a job is in one of these states."""
        deadline = time.monotonic() + seconds
        while (state := self.state(number)) not in states:
            assert time.monotonic() < deadline, f"job {number} is {state}\n{self.log(number)}"
            time.sleep(0.3)
        return state


@pytest.fixture(scope="module")
def slurm_lab() -> Iterator[SlurmLab]:
    try:
        lab = SlurmLab(nodes=4, cpus=2)
    except LabError as error:
        pytest.skip(str(error))
    with lab:
        yield lab


@pytest.fixture
def cluster(slurm_lab: SlurmLab, mpi, tmp_path: Path) -> Cluster:
    if mpi.is_open_mpi:
        pytest.skip("srun starts Open MPI by PMIx, which Debian's SLURM has no library for")
    return Cluster(slurm_lab, tmp_path)


@pytest.fixture(scope="module")
def alone() -> dict:
    """The summary of the same run in this process."""
    return mc.run(
        method="marina", compressor="permk", clients=6, problem="quadratic:dim=5000", seed=3, rounds=ROUNDS
    ).summary


ROUNDS = 1500


@pytest.mark.process
def test_four_nodes_through_srun(cluster: Cluster, alone: dict) -> None:
    number, code, said = cluster.submit(
        ROOT / "jobs" / "run.sbatch", "--nodes=4 --ntasks=4", *RUN, "--rounds", str(ROUNDS), "--out", "a"
    )
    assert code == 0, said + cluster.log(number)
    assert f"job {number} COMPLETED, log in {cluster.directory / f'mpicomp-{number}.log'}" in said
    assert "srun --mpi=pmi2 --kill-on-bad-exit=1" in cluster.log(number)
    assert cluster.summary("a")["iterate_sha256"] == alone["iterate_sha256"]
    manifest = json.loads((cluster.directory / "a" / "manifest.json").read_text())
    assert [rank["host"] for rank in manifest["ranks"]] == ["node1", "node2", "node3", "node4"]
    assert number in cluster.mpicomp("slurm", "status").stdout
    collected = cluster.mpicomp("slurm", "collect", ".")
    assert collected.returncode == 0 and "finished" in collected.stdout


@pytest.mark.process
def test_mpirun_inside_the_allocation(cluster: Cluster, mpi) -> None:
    script = cluster.directory / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --output=%x-%j.log\n{mpi.launcher.program} {sys.executable} -m mpicomp doctor\nexit $?\n"
    )
    number, code, said = cluster.submit(script, "--nodes=4 --ntasks=4")
    assert code == 0, said + cluster.log(number)
    assert "4 (the launcher says 4)" in cluster.log(number)
    assert "node1: 1, node2: 1, node3: 1, node4: 1" in cluster.log(number)


@pytest.mark.process
def test_a_job_array_shares_the_work_out(cluster: Cluster) -> None:
    """The command of each task: the shares are numbered from 0, wherever the array begins."""
    tell = cluster.directory / "tell"
    tell.write_text("#!/bin/sh\necho $*\n")
    tell.chmod(0o755)
    number, code, said = cluster.submit(
        ROOT / "jobs" / "array.sbatch", "--nodes=1 --array=5-7%2", "s.toml", "--out", "d", MPICOMP=str(tell)
    )
    assert code == 0, said + cluster.log(number)
    assert sorted(cluster.log(number).splitlines()) == [f"scale s.toml --out d --task {k} --tasks 3" for k in range(3)]


STUDY = """
name = "small"
mode = "strong"
repetitions = 1
baselines = []
[run]
problem = {name = "quadratic", dim = 5000}
rounds = 20
[grid]
nodes = [2, 3]
clients = [6]
[[methods]]
method = "marina"
compressor = ["permk"]
"""


@pytest.mark.process
def test_a_study_as_an_array(cluster: Cluster) -> None:
    """Its two cells, on two and on three nodes, are a task each."""
    (cluster.directory / "study.toml").write_text(STUDY)
    number, code, said = cluster.submit(
        ROOT / "jobs" / "array.sbatch", "-N3 --ntasks-per-node=1 --array=0-1", "study.toml", "--out", "a"
    )
    assert code == 0, said + cluster.log(number)
    assert cluster.log(number).count("all 1 cells are finished") == 2
    assert sorted(run.ranks for run in collect([cluster.directory])) == [2, 3]


@pytest.mark.process
@pytest.mark.timeout(600)
def test_the_time_limit_a_checkpoint_the_queue_and_the_same_bits(cluster: Cluster, alone: dict) -> None:
    """A job that its time limit stops goes on after a requeue, and has the bits of the uninterrupted run.

    Links of 5 Mbit/s make it last; SLURM signals it within half a minute, as the limit is a minute and the signal half a minute before it.
    """
    cluster.lab.network.set_rate("5mbit")
    try:
        number, _, _ = cluster.submit(
            ROOT / "jobs" / "run.sbatch", "--nodes=4 --ntasks=4 --time=1 --signal=B:USR1@30",
            *RUN, "--rounds", str(ROUNDS), "--out", "a", wait=False, MPICOMP_SETTLE="25",
        )  # fmt: skip
        cluster.until(number, "RUNNING")
        cluster.until(number, "PENDING", "COMPLETED", "FAILED", "TIMEOUT")
        cluster.ask("scontrol", "update", f"JobId={number}", "TimeLimit=10")  # one stop is enough here
    finally:
        cluster.lab.network.set_rate(None)
    assert cluster.summary("a")["interrupted"], cluster.log(number)
    assert cluster.mpicomp("slurm", "collect", ".").returncode == 1
    assert cluster.until(number, "COMPLETED", "FAILED", "TIMEOUT") == "COMPLETED", cluster.log(number)
    summary = cluster.summary("a")
    assert 0 < summary["resumed_at"] < ROUNDS
    assert summary["iterate_sha256"] == alone["iterate_sha256"]
    assert "Restarts=1 " in cluster.ask("scontrol", "show", "job", "-o", number).stdout


@pytest.mark.process
def test_a_cancelled_job_is_not_put_back(cluster: Cluster) -> None:
    """Its ranks write a checkpoint on the way out."""
    number, _, _ = cluster.submit(
        ROOT / "jobs" / "run.sbatch", "--nodes=2 --ntasks=3", *RUN, "--rounds", "10000000", "--out", "a", wait=False
    )
    deadline = time.monotonic() + 90
    while "‖∇f‖²" not in cluster.log(number) and time.monotonic() < deadline:  # a first round is done
        time.sleep(0.3)
    cluster.ask("scancel", number)
    cluster.until(number, "CANCELLED")
    time.sleep(1)
    assert cluster.state(number) == "CANCELLED"
    assert cluster.summary("a")["interrupted"], cluster.log(number)
    watched = cluster.mpicomp("slurm", "status", number)
    assert "CANCELLED" in watched.stdout


@pytest.mark.process
def test_a_wrong_pmi_is_detected(cluster: Cluster) -> None:
    """`srun --mpi=none` starts four worlds of one rank each; none of them runs."""
    done = cluster.ask("srun", "-N4", "-n4", "--mpi=none", sys.executable, "-m", "mpicomp", "run", *RUN, "--out", "a")
    assert done.returncode == 2
    assert done.stderr.count("MPI's world has size 1") == 1
    assert "srun --mpi=pmi2" in done.stderr
    assert not (cluster.directory / "a").exists()


@pytest.mark.process
def test_a_job_that_fails_is_failed_in_slurms_books_too(cluster: Cluster) -> None:
    """The code is 2, or 143 where rank 0 left while the other was still starting, and srun ended it."""
    number, code, said = cluster.submit(ROOT / "jobs" / "run.sbatch", "-N1 -n2", "--method", "marinara", "--out", "a")
    assert code in (2, 143) and f"job {number} FAILED" in said
    assert cluster.log(number).count("unknown method 'marinara'") == 1
    unknown = cluster.mpicomp("slurm", "status", "4242")
    assert unknown.returncode == 2 and "know a job 4242" in unknown.stderr
