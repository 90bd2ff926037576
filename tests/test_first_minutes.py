"""What a new user meets: notices of compiling, plain logs, time left, completion, lists at 80 columns, and errors with their cure."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from typer.main import get_command
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp import streams
from mpicomp.cli import app
from mpicomp.cluster.environment import no_library
from mpicomp.console import show
from mpicomp.console.complete import KINDS, completed, names_of
from mpicomp.errors import ConfigError, option_wording
from mpicomp.units import duration

SMALL = ("--problem", "quadratic", "--set", "problem.dim=6", "--clients", "2", "--method", "gd")


def mpicomp(*words: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mpicomp", *words], env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=False)
    return result.output


# ---- compiling ------------------------------------------------------------------------------------------------------
OWN_KERNEL = """
import sys
from pathlib import Path
from mpicomp import streams
from mpicomp.kernels import njit
if "silent" in sys.argv:
    streams.be_silent()
sys.path.insert(0, str(Path(__file__).parent))
from own_kernel import twice, thrice
print(twice(2), thrice(2))
"""


@pytest.fixture
def program(tmp_path):
    """Calls two kernels, with a cache of its own."""
    (tmp_path / "own_kernel.py").write_text(
        "from mpicomp.kernels import njit\n"
        "@njit\ndef twice(x):\n    return 2 * x\n\n@njit\ndef thrice(x):\n    return 3 * x\n"
    )
    (tmp_path / "program.py").write_text(OWN_KERNEL)

    def run(*words: str, **env: str) -> str:
        """What it writes to stderr."""
        every = {
            **os.environ,
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
            "PYTHONPATH": str(ROOT),
            "MPICOMP_QUIET": "",
            **env,
        }
        done = subprocess.run(
            [sys.executable, str(tmp_path / "program.py"), *words],
            env=every,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and done.stdout == "4 6\n", done.stderr
        return done.stderr

    return run


def test_compiling_is_announced_once_and_only_when_there_is_something_to_compile(program, tmp_path):
    first = program()
    assert first.count("\n") == 1 and first.startswith("mpicomp: compiling kernels, once on this host, for ")
    assert str(tmp_path / "cache") in first
    assert program() == ""


@pytest.mark.parametrize(("words", "env"), [(("silent",), {}), ((), {"MPICOMP_QUIET": "1"})])
def test_other_ranks_and_quiet_users_hear_nothing_of_it(program, words, env):
    assert program(*words, **env) == ""


# ---- logs -----------------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("variable", ["NO_COLOR=1", "TERM=dumb", "OMPI_COMM_WORLD_RANK=0"])
def test_a_stream_is_live_unless_plain_text_is_asked_for_or_the_terminal_is_open_mpis(monkeypatch, variable):
    for name in ("NO_COLOR", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert streams.live(Terminal()) and not streams.live(io.StringIO()) and not streams.live(None)
    monkeypatch.setenv(*variable.split("="))
    assert not streams.live(Terminal())


@pytest.mark.parametrize("env", [{"OMPI_COMM_WORLD_RANK": "0"}, {"TERM": "xterm"}])
def test_a_run_on_a_terminal_writes_escape_codes_only_where_they_are_wanted(env):
    """A pseudo-terminal, as Open MPI gives one to each rank."""
    whole = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")} | {"TERM": "xterm"} | env
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mpicomp", "run", *SMALL, "--rounds", "3", "--track", "bar"], env=whole, cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    ) as job:  # fmt: skip
        os.close(theirs)
        text = b""
        while chunk := _read(ours):
            text += chunk
    os.close(ours)
    assert job.returncode == 0 and b"Result" in text, text
    wanted = env == {"TERM": "xterm"}
    assert (b"\x1b" in text) == wanted
    assert wanted or b"\r" not in text.replace(b"\r\n", b"\n")


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # nobody writes any more
        return b""


@pytest.mark.parametrize(("tol", "words"), [(0.0, "  16 s left"), (1e-9, "  at most 16 s left")])
def test_progress_says_how_long_it_will_take(monkeypatch, capsys, tol, words):
    now = 0.0
    monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: now))
    progress = show.Progress(mc.Config(method="gd", rounds=90, tol=tol))
    row = {"loss": 1.0, "grad_norm_sq": 1.0, "uplink_message": 8, "downlink_message": 8, "seconds_total": 0.1}
    for t in (0, 10, 90):
        now = t / 5
        progress({**row, "round": t})
    first, middle, last = capsys.readouterr().out.splitlines()
    assert "left" not in first and "left" not in last
    assert middle.endswith(words)  # 10 rounds took 2 s, 80 are left


@pytest.mark.parametrize(
    ("value", "text"), [(0.2, "1 s"), (59.2, "1 min 00 s"), (3599.5, "1 h 00 min"), (90061, "1 d 1 h")]
)
def test_durations(value, text):
    assert duration(value) == text


# ---- options --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "value"), [("1e3", 1000), ("12", 12), ("2.0", 2), ("9007199254740993", 2**53 + 1)])
def test_whole_numbers_may_be_written_with_an_exponent(text, value):
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    for option in ("rounds", "seed", "clients", "batch", "threads"):
        assert command.make_context("run", [f"--{option}", text]).params[option] == value


@pytest.mark.parametrize("text", ["3.5", "abc", "inf", "nan", "1e400", ""])
def test_what_is_no_whole_number_is_refused(text):
    result = CliRunner().invoke(app, ["run", "--rounds", text])
    assert result.exit_code == 2 and f"{text!r} is no whole number" in result.output


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("reg", 0.1, "problem 'logistic': give --reg 0.1"),
        ("p", 0.5, "method 'marina': give --set method.p=0.5"),
        ("k", 3, "compressor 'randk': give --compressor randk:k=3"),
    ],
)
def test_an_option_of_a_part_is_named_with_its_place(key, value, where):
    with option_wording():
        with pytest.raises(ConfigError) as refused:
            mc.Config.load(None, {"compressor": "randk:k=1"}, [f"{key}={value}"])
        assert str(refused.value) == f"unknown option {key!r}; it is one of {where}"


def test_in_python_it_is_named_in_pythons_words():
    with pytest.raises(ConfigError, match=r"it is one of problem 'logistic': give problem_options=\{'reg': 0.1\}"):
        mc.run(reg=0.1)  # type: ignore[call-arg]


# ---- completion -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mpicomp doc", {"doctor"}),
        ("mpicomp run --compressor chunk", {"chunked-topk"}),
        ("mpicomp run --exchange aut", {"auto"}),
        ("mpicomp list a9", {"a9a", "a9a.t"}),
    ],
)
def test_the_shell_completes_commands_and_names(line, words):
    env = {"_MPICOMP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    program = "import sys; sys.argv[:] = ['mpicomp']; from mpicomp.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == ""
    assert set(done.stdout.split()) == words


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_completed(kind):
    names = names_of(kind)
    assert names and completed(kind)("") == list(dict.fromkeys(names))
    assert completed(kind)(names[0]) >= [names[0]] and completed(kind)("no such part") == []


# ---- lists ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [80, 60])
def test_lists_fit_the_screen(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = invoke("list").splitlines()
    assert len(lines) > 200
    assert max(map(len, lines)) <= columns, max(lines, key=len)


def test_lists_have_defaults():
    text = invoke("list", "compressors")
    assert "k, fraction, values=exact, rounding=nearest" in text and "contractive; α = k/d" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_has_a_page(monkeypatch, kind):
    monkeypatch.setenv("COLUMNS", "80")
    for name in names_of(kind):
        text = invoke("list", name)
        assert name in text.splitlines()[0]
        assert max(map(len, text.splitlines())) <= 80 and ">>>" not in text


def test_a_page_shows_all_parts_of_the_name():
    text = invoke("list", "ef21")
    assert "method ef21: " in text and "uplink ef21: " in text
    assert "start=compressed" in text and "Richtárik, Sokolov and Fatkhullin 2021" in text
    with pytest.raises(ConfigError, match="unknown part 'topkk'; did you mean 'topk'"):
        invoke("list", "topkk")


# ---- batch scripts --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--", "--compressor", "topk:q=3"], "unknown option of compressor 'topk': 'q'"),
        (["run", "--", "--set", "problem.dimm=3"], "unknown option of problem 'logistic': 'dimm'"),
        (["run", "--", "--method", "marina", "--compressor", "sign"], "needs an unbiased compressor"),
        (["run", "--", "--rounds", "many"], "'many' is no whole number"),
        (["run", "--", "--step", "3x"], "step='3x'"),
        (["array", "--", "study.toml", "--out", "s"], "[grid] needs either"),
    ],
)
def test_a_script_is_not_written_for_a_run_that_cannot_be(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text('name = "s"\n')
    with pytest.raises(ConfigError, match=re.escape(message)):
        invoke("slurm", "script", words[0], "-o", "job.sbatch", *words[1:])
    assert not Path("job.sbatch").exists()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["run", "--", "run.toml", "--out", "r"], "run.toml"),
        (["run", "--", "--data", "rows.svm", "--out", "r"], "rows.svm"),
        (["scale", "--", "study.toml", "--out", "s"], "study.toml"),
        (["run", "--", "--data", "a9a", "--out", "r"], ""),
        (["run", "--", "--seed", "$SLURM_JOB_ID", "--out", "r"], ""),
    ],
)
def test_a_file_that_is_not_here_is_mentioned(tmp_path, monkeypatch, capsys, words, missing):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app,
        ["slurm", "script", words[0], "-o", "job.sbatch", *words[1:]],
        catch_exceptions=False,
        standalone_mode=False,
    )
    assert Path("job.sbatch").exists()
    assert (f"there is no {missing} in {tmp_path}" in result.stderr) == bool(missing)


# ---- MPI and modules of one's own -----------------------------------------------------------------------------------
def test_an_mpi_that_is_not_found_is_explained(tmp_path):
    """Of a Python with an mpi4py that finds no library."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("")
    (tmp_path / "mpi4py" / "MPI.py").write_text(
        'raise RuntimeError("cannot load MPI library\\nlibmpi.so.12: cannot open shared object file")\n'
    )
    code = (
        "from mpicomp.cluster.comm import world\nfrom mpicomp.errors import UserError\n"
        "try:\n    world()\nexcept UserError as error:\n    print(error)"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{no_library('cannot load MPI library')}\n", done.stderr
    assert "--no-binary mpi4py mpi4py" in done.stdout and "pip install 'mpicomp[mpi]'" in done.stdout


@pytest.mark.process
def test_modules_of_ones_own_hide_none_of_pythons(tmp_path):
    for module in ("random", "queue", "typing", "numpy"):
        (tmp_path / f"{module}.py").write_text('raise SystemExit("hidden")\n')
    done = mpicomp("launch", "-n", "2", "--", "run", *SMALL, "--rounds", "2", "--no-table", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_study_without_matplotlib_says_so_first(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("mpicomp.experiments.commands.scale"), "find_spec", lambda name: None)
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[run]\nrounds = 2\nproblem = "quadratic"\n[grid]\nworkers = [1]\nclients = [2]\ndim = [4]\n'
        '[[methods]]\nmethod = "gd"\n'
    )
    stopped = {"Walk.run": False}

    def stop(*_: object) -> None:
        stopped["Walk.run"] = True
        raise KeyboardInterrupt

    monkeypatch.setattr("mpicomp.experiments.study.scale.Walk.run", stop)
    result = CliRunner().invoke(app, ["scale", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out")])
    assert stopped["Walk.run"] and "no matplotlib here" in result.stderr and "mpicomp[plot]" in result.stderr
