"""The command line, in this process where that is enough, as processes where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp.cli import app
from mpicomp.console.show import experimental_notes
from mpicomp.errors import ConfigError, DataError, UserError
from mpicomp.methods import methods
from mpicomp.version import __version__

SMALL = [
    "--problem",
    "quadratic",
    "--set",
    "problem.dim=20",
    "--set",
    "problem.reg=0.1",
    "--clients",
    "4",
    "--rounds",
    "60",
]


def invoke(*args: str):
    """The command's output; exceptions pass through as they do to `main`."""
    result = CliRunner().invoke(app, list(args), catch_exceptions=False, standalone_mode=False)
    return result.output


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_version():
    assert invoke("--version").strip() == f"mpicomp {__version__}"


def test_every_command_has_help():
    text = invoke("--help")
    for command in ("run", "launch", "doctor", "list", "compare", "theory", "quickstart", "bench"):
        assert command in text
        assert "Usage" in invoke(command, "--help")


def test_run_shows_progress_and_a_table_and_writes_results(tmp_path):
    text = invoke("run", *SMALL, "--method", "ef21", "--compressor", "topk:k=2", "--out", str(tmp_path / "r"))
    assert "round 60/60" in text and "bytes up (payload)" in text and "seconds in rounds" in text
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["method"] == "ef21" and summary["compressor"] == "topk:k=2" and summary["rounds"] == 60


def test_the_options_of_a_run_live_in_the_file_too(tmp_path):
    invoke("run", *SMALL, "--seed", "3", "--method", "marina:p=0.25", "-q", "--out", str(tmp_path / "a"))
    again = ["run", str(tmp_path / "a" / "config.toml"), "-q", "--out", str(tmp_path / "b")]
    invoke(*again)
    a, b = (json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab")
    assert a["iterate_sha256"] == b["iterate_sha256"] and a["seed"] == 3
    assert (tmp_path / "a" / "config.toml").read_text().replace("/a", "/b") == (
        tmp_path / "b" / "config.toml"
    ).read_text()


def test_an_option_beats_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('method = "gd"\nrounds = 5\n[problem]\nname = "quadratic"\ndim = 10\n')
    invoke("run", str(tmp_path / "c.toml"), "--rounds", "7", "-q", "--out", str(tmp_path / "o"))
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["rounds"] == 7


def test_compare_names_the_break_even_link(tmp_path):
    for method, step in (("gd", "theory"), ("marina", "theory*2")):
        invoke(
            "run", *SMALL, "--method", method, "--step", step, "--rounds", "300", "-q", "--out", str(tmp_path / method)
        )
    text = invoke("compare", str(tmp_path / "gd"), str(tmp_path / "marina"))
    assert "To reach" in text and "bytes total" in text and "marina permk:" in text
    with pytest.raises(UserError, match="never reached"):
        invoke("compare", str(tmp_path / "gd"), str(tmp_path / "marina"), "--target", "1e-300")


def test_compare_wants_finished_runs(tmp_path):
    with pytest.raises(DataError, match="does not hold a finished run"):
        invoke("compare", str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("methods", "marina-p"), ("compressors", "  topk: "), ("problems", "quadratic"), ("data", "a9a.t")],
)
def test_list(kind, expected):
    assert expected in invoke("list", kind)


def test_list_names_formulas_and_papers():
    text = invoke("list", "methods")
    assert "γ = 1/(L + L_QM ξ(α)" in text and "Richtárik, Sokolov and Fatkhullin" in text


def test_theory_promises_and_refuses():
    text = invoke("theory", *SMALL, "--method", "ef21", "--compressor", "topk:k=2")
    assert "rounds to" in text and "ω" not in text.split("Promise")[0].split("Compressor")[1]
    assert "A safe start is --step" in invoke("theory", *SMALL, "--method", "custom")


def test_custom_composition():
    text = invoke(
        "run", *SMALL, "--method", "custom", "--uplink", "ef21:topk:k=2", "--downlink", "marina-p@p=0.3:permk", "--smoothing", "0.5",
        "--optimizer", "heavyball:momentum=0.5", "--step", "0.05", "-q",
    )  # fmt: skip
    assert "custom" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compressor", "topkk"], "did you mean 'topk'"),
        (["--compressor", "topk:k=1000", "--method", "ef21"], "k=1000"),
        (["--compressor", "topk:kk=3"], "kk"),
        (["--method", "dcgd", "--compressor", "topk:k=1"], "needs an unbiased compressor"),
        (["--set", "problm.dim=3"], "problem"),
        (["--set", "rounds"], "key=value"),
        (["--step", "-1"], "positive number"),
        (["--dtype", "float16"], "float32"),
        (["--init", "two"], "zero, ones"),
        (["--out", "/proc/nowhere"], "cannot write"),
        (["--method", "custom", "--uplink", "ef21", "--step", "1"], "names no compressor"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        invoke("run", *SMALL, *options, "-q")


def test_features_widen_the_data_and_limit_its_indices(tmp_path):
    (tmp_path / "small.svm").write_text("+1 1:1 3:0.5\n-1 2:1\n" * 4)
    options = ["run", "--data", str(tmp_path / "small.svm"), "--clients", "2", "--rounds", "3", "-q"]
    invoke(*options, "--features", "9", "--out", str(tmp_path / "o"))
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["dim"] == 9
    with pytest.raises(
        DataError, match=r"small\.svm, line 1: the index of '3:0\.5' is above the number of features, 2"
    ):
        invoke(*options, "--features", "2")
    with pytest.raises(DataError, match="features must be a number from 1"):
        invoke(*options, "--features", "0")


def test_a_missing_data_file_is_named():
    with pytest.raises(DataError, match=r"no/such/file\.libsvm"):
        invoke("run", "--data", "no/such/file.libsvm", "-q")


@pytest.mark.full(reason="test_abort.py has it")
@pytest.mark.process
@pytest.mark.parametrize(
    ("args", "line"), [(["--compressor", "nope"], "mpicomp: unknown compressor"), (["--nope"], "No such option")]
)
def test_errors_that_all_ranks_see_are_printed_once(args, line):
    mpirun = Path(sys.executable).parent / "mpirun"
    if not mpirun.exists():
        pytest.skip("no mpirun beside this Python")
    command = [str(mpirun), "-n", "3", sys.executable, "-m", "mpicomp", "run", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count(line) == 1


class TestExperimental:
    """What stands on no theorem is marked in `list` and `theory`, and when a run takes the theory's step."""

    def test_listed_with_the_reason(self):
        text = invoke("list", "methods")
        for name in ("ef14", "adaqs"):
            assert f"{name} *" in text and f"* {name} is experimental: {methods[name].experimental}" in text
        assert "ef21 *" not in text and "* ef21 " not in text
        assert "experimental" not in invoke("list", "compressors")

    def test_named_by_theory(self):
        assert "'ef14' is experimental" in invoke("theory", *SMALL, "--method", "ef14", "--compressor", "topk:k=2")
        assert "experimental" not in invoke("theory", *SMALL, "--method", "ef21", "--compressor", "topk:k=2")

    @pytest.mark.parametrize(("step", "times"), [("theory*2", 1), ("0.01", 0)])
    def test_said_once_when_a_run_takes_the_step(self, step, times):
        options = ["--method", "ef14", "--compressor", "topk:k=2", "--step", step, "-q"]
        result = CliRunner().invoke(app, ["run", *SMALL, *options], catch_exceptions=False)
        assert result.exit_code == 0 and result.stderr.count("is experimental") == times

    def test_a_compressor_may_be_experimental(self, monkeypatch):
        monkeypatch.setattr(type(mc.compressor("topk:k=1")), "experimental", "no α is known", raising=False)
        assert "* topk is experimental: no α is known" in invoke("list", "compressors")
        notes = experimental_notes(mc.Config(method="ef21", compressor="topk:k=2"))
        assert notes == ["compressor 'topk' is experimental: no α is known"]

    def test_unknown_names_are_left_to_the_run(self):
        assert experimental_notes(mc.Config(method="ef12")) == []
        assert experimental_notes(mc.Config(method="ef21", compressor="topkk:k=2")) == []
