"""Output that cannot be written or spelt, text of users on screens and in tables, and what a part of one's own may raise."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_alone
from lanes import shortened
from misbehaving import problem_that

import mpicomp as mc
from mpicomp import streams
from mpicomp.cli import main
from mpicomp.console.show import Progress, table
from mpicomp.errors import PartFailure
from mpicomp.runtime.abort import guard

RUN = [
    "-m",
    "mpicomp",
    "run",
    "--problem",
    "quadratic",
    "--set",
    "problem.dim=20",
    "--method",
    "gd",
    "--clients",
    "4",
    "--rounds",
    "5",
]


def shell(words: list[str], redirect: str, **env: str):
    """This Python with these arguments, by a shell that redirects its streams."""
    text = f'"$0" "$@" {redirect}'
    return run_alone(["bash", "-c", text, sys.executable, *words], timeout=120, **env)


# ---- output never decides about a run ---------------------------------------------------------------------------------
SINKS = {
    "full": (">/dev/full", "No space left on device"),
    "closed": (">&-", "(closed)"),
    "a broken pipe": ("| true; exit ${PIPESTATUS[0]}", "a pipe that nobody reads"),
    "full, and stderr too": (">/dev/full 2>/dev/full", ""),
    "all closed": ("<&- >&- 2>&-", ""),
}


@pytest.mark.process
@pytest.mark.parametrize("sink", shortened([*SINKS], 2, "another sink"))
def test_a_run_goes_on_without_its_output(tmp_path, sink):
    redirect, words = SINKS[sink]
    job = shell([*RUN, "--out", str(tmp_path / "r")], redirect)
    assert job.code == 0, job.err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["rounds"] == 5
    assert job.err.count("is dropped") == bool(words) and words in job.err and "Traceback" not in job.err


@pytest.mark.process
@pytest.mark.parametrize("sink", shortened(["full", "closed"], 1, "another sink"))
def test_a_command_that_only_prints_fails_without_its_output(sink):
    redirect, words = SINKS[sink]
    job = shell(["-m", "mpicomp", "list", "exchanges"], redirect)
    assert job.code == 1 and words in job.err


@pytest.mark.process
@pytest.mark.parametrize("redirect", shortened([">/dev/full", ">&- 2>&-"], 1, "another sink"))
def test_a_launched_job_goes_on_without_its_output(mpi, tmp_path, redirect):
    """MPICH's launcher ends the job where it cannot write; so `mpicomp launch` reads what it prints."""
    job = shell(["-m", "mpicomp", "launch", "-n", "3", "--", *RUN[2:], "--out", str(tmp_path / "r")], redirect)
    assert job.code == 0, job.err
    assert (tmp_path / "r" / "summary.json").exists()


ENCODINGS = {
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "ASCII, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "ISO-8859-1": {"PYTHONIOENCODING": "latin-1"},
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.process
@pytest.mark.parametrize("encoding", shortened([*ENCODINGS], 1, "another encoding"))
def test_a_run_prints_in_any_encoding(tmp_path, encoding):
    out = tmp_path / "höhe ‖"
    words = [sys.executable, *RUN, "--out", out]
    job = subprocess.run(
        [str(w) for w in words], env={**os.environ, **ENCODINGS[encoding]}, capture_output=True, timeout=120
    )
    text = job.stdout.decode("latin-1")
    assert job.returncode == 0, job.stderr
    assert "||grad f||" in text and "gamma" in text and "results in" in text
    assert (out / "summary.json").exists()


@pytest.mark.parametrize("path", sorted(Path(mc.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_files_have_an_encoding_of_their_own(path):
    """The locale's would make a file unreadable in another one, or a name impossible to write after the last round. What programs print is
    in the locale's, but may hold anything."""
    for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        named = {word.arg: word.value for word in call.keywords}
        text = ast.unparse(call)
        if name in ("read_text", "write_text"):
            assert len(call.args) > (name == "write_text") or "encoding" in named, text
        elif text.startswith(("open(", "os.fdopen(")) and "b'" not in text:
            assert "encoding" in named, text
        elif "text" in named and text.startswith("subprocess."):
            assert "errors" in named, text


def test_bytes_of_names_come_out_as_they_are():
    assert "a\udce9é∇".encode("ascii", "mpicomp.spelt") == b"a\xe9\\xe9grad "
    assert "é²".encode("latin-1", "mpicomp.spelt") == b"\xe9\xb2"


def test_a_stream_that_does_not_wait_loses_nothing():
    """stdout is a pipe that another program has made non-blocking."""
    code = "from mpicomp import streams; streams.harden(); print('x' * 300_000)"
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    with open(ours) as file:
        text = file.read()
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
    assert len(text) == 300_001


def test_progress_without_a_stdout(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    row = {
        "round": 1,
        "loss": 1.0,
        "grad_norm_sq": 1.0,
        "uplink_message": 1,
        "downlink_message": 1,
        "seconds_total": 1.0,
    }
    progress = Progress(mc.Config())
    progress(row)
    progress.finish()


# ---- text of users ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["set[x].svm", "[/x]", "[bold]", "a[red]b[/red]", ":smile:", "\\[x]"])
def test_text_of_users_is_no_markup(capsys, text):
    table(f"Problem {text}", ["", f"method {text}"], [["data", text]], text=True)
    assert capsys.readouterr().out.count(text) == 3


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\rb", "a\x9b31mb", "a\u202eb", "a\x07b"])
def test_text_of_users_does_not_steer_the_terminal(capsys, text):
    table("Runs", ["", "data"], [["data", text]])
    out = capsys.readouterr().out
    assert text[1] not in out and "\\" in out


def test_defaults_in_brackets_are_in_the_help():
    job = run_alone([sys.executable, "-m", "mpicomp", "run", "--help"], COLUMNS="200").check()
    assert "[marina]" in job.out and "[logistic]" in job.out and "[1000]" in job.out


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", " =1", "\t=1", "-x", "=-1.5"]
NUMBERS = ["-1.5", "+3", "-1e-05", "1", "-inf", "nan", "-0.35 %", "-2 MB", "", "a=b", "x"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_quoted(text):
    assert streams.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_and_plain_text_are_not(text):
    assert streams.csv_cell(text) == text and streams.csv_cell(-1.5) == -1.5


def test_tables_as_files_hold_no_formulas(tmp_path):
    from mpicomp.experiments.slurm.collect import Found, to_csv
    from mpicomp.experiments.study.tables import Table

    to_csv([Found("=cmd()", "finished", loss=-1.5)], tmp_path / "runs.csv")
    Table("t", "", ["@a", "b"], [["=cmd()", "-1.5"]]).write_csv(tmp_path / "table.csv")
    with open(tmp_path / "runs.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["directory"] == "'=cmd()" and float(row["loss"]) == -1.5
    assert list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text()))) == [["'@a", "b"], ["'=cmd()", "-1.5"]]


# ---- exceptions of every kind ---------------------------------------------------------------------------------------------
RAISING = problem_that(
    "raising",
    """
    if rank == "2" and self.calls > 200:
        raise eval(os.environ["RAISES"])
    """,
    imports="import typer",
)
MUTE = "type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()"  # has no text
KINDS = {
    "EOFError()": 1, "StopIteration(3)": 1, "GeneratorExit()": 1, "SystemExit(0)": 1, "SystemExit(7)": 7, "SystemExit('enough')": 1,
    "KeyboardInterrupt()": 130, "BrokenPipeError(32, 'x')": 1, "typer.Exit(0)": 1, "typer.Abort()": 1, "StopAsyncIteration()": 1,
    "type('Own', (BaseException,), {})()": 1, MUTE: 1,
}  # fmt: skip


def raising(tmp_path: Path) -> list[str]:
    (tmp_path / "raising.py").write_text(RAISING)
    return [
        "-m", "mpicomp", "run", "--import", str(tmp_path / "raising.py"), "--problem", "raising", "--method", "ef21", "--compressor",
        "topk:k=2", "--step", "0.1", "--rounds", "100000", "--quiet",
    ]  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("kind", shortened([*KINDS], 3, "another exception"))
def test_every_exception_of_a_part_is_reported(tmp_path, kind):
    job = run_alone([sys.executable, *raising(tmp_path)], timeout=120, RAISES=kind)
    assert job.code == KINDS[kind]
    assert "Traceback" in job.err and "client 0" in job.err and "in round " in job.err


@pytest.mark.process
@pytest.mark.parametrize(
    "kind", shortened(["EOFError()", "SystemExit(0)", "typer.Exit(0)", MUTE], 2, "another exception")
)
def test_every_exception_of_one_rank_ends_the_job(mpi, tmp_path, kind):
    job = mpi.run(4, raising(tmp_path), timeout=120, RAISES=kind)
    assert job.code == 1 and "rank 2 of 4" in job.err and job.err.count("Traceback") == 1
    assert "client 2" in job.err or "client 3" in job.err


@pytest.mark.process
@pytest.mark.parametrize("redirect", shortened(["2>/dev/full", "2>&-", ">&- 2>&-"], 1, "another sink"))
def test_a_rank_that_cannot_say_why_it_fails_ends_the_job(mpi, tmp_path, redirect):
    words = ["-c", f'exec "$0" "$@" {redirect}', mpi.python, *raising(tmp_path)]
    command = mpi.launcher.command(4, ["bash", *words])
    job = run_alone(command, timeout=120, RAISES="ZeroDivisionError()")
    assert job.code == 1


LIBRARY = """
import os, sys
from mpi4py import MPI
import mpicomp as mc
from raising import Raising

class Stuck:
    def write(self, text):
        while True: pass
    def flush(self):
        while True: pass

if sys.argv[1] == "stuck":
    sys.stderr = Stuck()
mc.run(comm=MPI.COMM_WORLD, problem=Raising(), method="ef21", compressor="topk:k=2", step=0.1, rounds=100000)
"""


@pytest.mark.process
@pytest.mark.parametrize(("how", "redirect"), shortened([("full", "2>/dev/full"), ("stuck", "")], 1, "another stderr"))
def test_neither_does_a_program_that_calls_the_library(mpi, tmp_path, how, redirect):
    raising(tmp_path)
    (tmp_path / "program.py").write_text(LIBRARY)
    words = ["-c", f'exec "$0" "$@" {redirect}', mpi.python, str(tmp_path / "program.py"), how]
    assert run_alone(mpi.launcher.command(4, ["bash", *words]), timeout=120, RAISES="ZeroDivisionError()").code == 1


@pytest.mark.process
def test_a_failure_of_one_rank_before_its_run_ends_the_job(mpi, tmp_path):
    """Here of rank 0 alone, once MPI has started: the others would wait for it."""
    (tmp_path / "failing.py").write_text(
        "import mpicomp.console.show as show\ndef fail(config): raise LookupError('no such note')\nshow.experimental_notes = fail\n"
    )
    job = mpi.run(3, ["-m", "mpicomp", "run", "--import", str(tmp_path / "failing.py"), *RUN[3:]], timeout=120)
    assert job.code == 1 and "rank 0 of 3" in job.err and "LookupError: no such note" in job.err


def test_an_import_that_exits_is_an_error(tmp_path):
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(mc.ConfigError, match=r"cannot import .*exits\.py: SystemExit: 0"):
        mc.run(imports=[str(tmp_path / "exits.py")], rounds=1)


def test_in_a_program_of_ones_own_exceptions_pass(monkeypatch):
    """Only the command line's own process gets another exception in their place."""
    with pytest.raises(StopIteration), guard(None):
        raise StopIteration
    monkeypatch.setattr("mpicomp.cluster.process._owned", True)
    with pytest.raises(PartFailure) as caught, guard(None):
        raise SystemExit(0)
    assert caught.value.code == 1 and isinstance(caught.value.__cause__, SystemExit)


def test_the_command_line_leaves_a_programs_own_streams_alone(monkeypatch):
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    monkeypatch.setattr(sys, "argv", ["mpicomp", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0 and own.getvalue().startswith("mpicomp ") and sys.stdout is own
