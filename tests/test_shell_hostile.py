"""Batch scripts from hostile strings: nothing but the value that was given reaches sbatch or the shell, or it is refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.errors import ConfigError
from mpicomp.experiments.slurm import queue
from mpicomp.experiments.slurm.options import quoted, taken
from mpicomp.experiments.slurm.script import Batch, write

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOSTILE = [
    "$(touch x)", "`touch x`", "a b", "o'brien", 'say "x"', "a\\", "#1", "x # y", "a;b", "${HOME}", "--x", "it's $(id)", "hetjob",
    "PackJob 1", "é ü", "x\\ny", "}", "{args}", "%x-%j", "a&b|c", "!", "~", "*", "'", '"', "\u00a0",
]  # fmt: skip
# no control characters and no line ends, which are refused
LINE = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30),
    st.text("ab'\"\\$`#{}() ;&|!~*%=-", min_size=1, max_size=12),
)
TEXTS = ["name", "partition", "account", "qos", "constraint", "mem", "log"]
FLAG = {"name": "job-name", "log": "output"}


def sbatch_words(script: str) -> list[str]:
    """The options that sbatch finds in a script, by the rules of its manual and of its reader: lines before the first command; words end at
    blanks; both quotes; a backslash keeps the next character, also in quotes; a # outside of quotes begins a comment."""
    words = []
    for line in script.split("\n")[1:]:
        if line.startswith("#SBATCH"):
            words += line_words(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.startswith("#"):
            break
    return words


def line_words(line: str) -> list[str]:
    for border in ("packjob", "hetjob"):  # sbatch takes these out, once each, wherever they stand
        if (at := line.lower().find(border)) >= 0:
            line = line[:at] + " " * len(border) + line[at + len(border) :]
    words: list[str] = []
    word: str | None = None
    quote, escaped = "", False
    for character in line:
        if escaped:
            word, escaped = (word or "") + character, False
        elif character == "\\":
            escaped = True
        elif quote:
            quote, word = ("", word or "") if character == quote else (quote, (word or "") + character)
        elif character in "'\"":
            quote, word = character, word or ""
        elif character == "#":
            break
        elif character in " \t\v\f\r":
            words, word = [*words, *([word] if word is not None else [])], None
        else:
            word = (word or "") + character
    assert not quote and not escaped, f"sbatch would refuse the line {line!r}"
    return [*words, *([word] if word is not None else [])]


def bash(script: str, directory: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script with an environment of its own, in which `scontrol` and the like are not found."""
    return subprocess.run(
        ["bash", "-s", *args], input=script.encode("utf-8", "surrogateescape"), cwd=directory, capture_output=True, timeout=30,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def parses(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script.encode(), capture_output=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr


@FEW
@given(name=st.sampled_from(TEXTS), text=LINE)
@example("name", "a\\")
@example("mem", '"')
@example("constraint", "hetjob")
def test_each_value_reaches_sbatch_as_it_was_given(name, text):
    script = write(replace(Batch(), **{name: text}))
    parses(script)
    words = sbatch_words(script)
    assert f"--{FLAG.get(name, name)}={text}" in words
    assert len(words) == len(sbatch_words(write(Batch()))) + (name not in ("name", "log")), words


@FEW
@given(values=st.lists(LINE, min_size=3, max_size=3))
def test_directives_reach_sbatch_as_they_were_given(values):
    given_ = tuple(f"--{name}={value}" for name, value in zip(("comment", "gres", "mail-user"), values, strict=True))
    script = write(Batch(directives=given_))
    parses(script)
    assert sbatch_words(script)[-3:] == list(given_)


@settings(FEW, max_examples=30)
@given(args=st.lists(LINE, min_size=1, max_size=4))
def test_arguments_reach_the_command_as_they_were_given(tmp_path, args):
    """The command is a program that prints its arguments, at a path that is hostile, too."""
    folder = tmp_path / 'o\'brien $(touch bad) "x" \\ #'
    folder.mkdir(exist_ok=True)
    command = folder / "mpicomp"
    command.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    script = write(Batch("scale", args=tuple(args), mpicomp=str(command)))
    parses(script)
    done = bash(script, tmp_path)
    assert done.stdout.decode().split("\n")[:-1] == ["scale", *args], done.stderr
    assert not (tmp_path / "bad").exists() and not (tmp_path / "x").exists()


CONTROLS = ["\n", "\r", "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\t", "a\n#SBATCH --uid=0"]
PLACES = [*TEXTS, "mpicomp", "args", "directives", "setup"]


@pytest.mark.parametrize("control", [*CONTROLS])
@pytest.mark.parametrize("place", PLACES)
def test_control_characters_are_refused_by_name(place, control):
    text = f"--comment=a{control}" if place == "directives" else f"a{control}b"
    value = (text,) if place in ("args", "directives", "setup") else text
    if place == "setup" and control == "\t":  # a shell line may well have one
        parses(write(Batch(setup=(text,))))
        return
    with pytest.raises(ConfigError, match=f"^{place} .*control character"):
        write(replace(Batch(), **{place: value}))


@FEW
@given(st.text(max_size=20))
def test_no_text_adds_a_line(text):
    lines = len(write(Batch()).split("\n"))
    try:
        script = write(Batch(name=text or "x"))
    except ConfigError:
        assert any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text)
        return
    assert len(script.split("\n")) == lines


@pytest.mark.parametrize("directive", ["exclusive", "--", "--a b=1", "--x;y", "", "-", "--=1"])
def test_directives_that_are_none(directive):
    with pytest.raises(ConfigError, match="is none"):
        write(Batch(directives=(directive,)))


def test_the_reader_of_these_tests_reads_as_sbatch_does():
    assert line_words(' --a="b c" --d=e\\ # f') == ["--a=b c", "--d=e "]
    assert line_words(" --a='b\\'c' --d #e") == ["--a=b'c", "--d"]
    assert line_words(" --a=hetjob") == ["--a="]
    assert line_words(f" --a={quoted('hetjob')}") == ["--a=hetjob"]


@pytest.mark.full(reason="each waits for a controller that is not there")
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no SLURM here")
@pytest.mark.parametrize("text", ["a b", 'say "x"', "o'brien", "x # y", "a\\b", "$(id)", "hetjob"])
def test_sbatch_itself_finds_no_fault_in_the_lines(tmp_path, text):
    """It has no controller to ask here, but reads the script first, and would speak of an unmatched quote or an unknown option."""
    (tmp_path / "job.sbatch").write_text(write(Batch(name=text, directives=(f"--comment={text}",))))
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=x\nSlurmctldHost=localhost\nNodeName=x\nPartitionName=p Nodes=x\n"
    )
    env = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf"), "SLURM_TIME_FORMAT": "standard"}
    done = subprocess.run(
        ["timeout", "3", "sbatch", "--test-only", tmp_path / "job.sbatch"], capture_output=True, text=True, env=env
    )
    for word in ("Unmatched", "unrecognized", "nvalid option", "Unexpected"):
        assert word not in done.stderr


# ---- sbatch's own options --------------------------------------------------------------------------------------------------
def script(*words: str) -> str:
    result = CliRunner().invoke(app, ["slurm", "script", *words], catch_exceptions=False, standalone_mode=False)
    return result.stdout


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--gres=gpu:1"], ["--gres=gpu:1"]),
        (["--gres", "gpu:1"], ["--gres=gpu:1"]),
        (["-w", "node1", "-xnode2"], ["--nodelist=node1", "--exclude=node2"]),
        (["--exclusive", "--hold"], ["--exclusive", "--hold"]),
        (["--exclusive=user"], ["--exclusive=user"]),
        (["--mail-user", "a@b", "--comment", "two words"], ["--mail-user=a@b", "--comment=two words"]),
        (["-J", "mine"], ["--job-name=mine"]),
        (["--job-name=mine"], ["--job-name=mine"]),
        (["-N2", "-n", "8", "-p", "cpu", "-A", "me"], ["--nodes=2", "--ntasks=8", "--partition=cpu", "--account=me"]),
    ],
)
def test_options_of_sbatch_become_lines_of_the_script(words, lines):
    for before in (["run", *words], [*words, "run"]):
        text = script(*before, "--", "run.toml", "--out", "a")
        found = sbatch_words(text)
        assert [line for line in lines if line not in found] == []
        assert sum(word.startswith("--job-name=") for word in found) == 1
        assert "launch -- run run.toml --out a --checkpoint-seconds" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--gress=1"], "unknown option '--gress'.*did you mean '--gres'"),
        (["run", "--out", "a"], "unknown option '--out'.*behind --"),
        (["run", "-Z"], "unknown option '-Z'"),
        (["run", "--gres"], "--gres needs a value"),
        (["run", "--hold=1"], "--hold takes no value"),
        (["run", "--signal=USR1@10"], "give the margin"),
        (["run", "--output", "log-%j.txt"], "--log log-%j.txt"),
        (["run", "--", "--gres=gpu:1"], "mpicomp run: No such option: --gres"),
        (["run", "--", "a.toml", "--ouut", "x"], "mpicomp run: No such option: --ouut"),
        (["scale", "--", "a.toml", "--rounds", "3"], "mpicomp scale: No such option: --rounds"),
        (["run", "--setup", 'echo "a'], "cannot parse the script.*--setup"),
        (["run", "--command", "a\nb"], "mpicomp 'a.nb' has the control character"),
    ],
)
def test_options_that_nobody_has_are_refused_when_the_script_is_written(words, message):
    with pytest.raises(ConfigError, match=message):
        script(*words)


def test_the_words_of_the_command_keep_their_order():
    directives, rest = taken(["run", "a.toml", "-w", "n1", "-N", "2", "--wait-all-nodes", "1", "b"], {"-N": True})
    assert rest == ["run", "a.toml", "-N", "2", "b"] and directives == ["--nodelist=n1", "--wait-all-nodes=1"]


def test_submit_hands_options_to_sbatch_and_arguments_to_the_script(monkeypatch, tmp_path):
    given_ = []
    monkeypatch.setattr(queue, "submit", lambda *what: given_.append(what) or "7")
    words = ["slurm", "submit", "job.sbatch", "--nodes=2", "-w", "n1", "--sbatch", "-n 3", "--", "--out", "a"]
    CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False)
    ((path, args, options),) = given_
    assert (str(path), list(args), options) == ("job.sbatch", ["--out", "a"], ["-n", "3", "--nodes=2", "--nodelist=n1"])
    with pytest.raises(ConfigError, match="unknown option '--nodess'"):
        CliRunner().invoke(
            app, ["slurm", "submit", "job.sbatch", "--nodess=2"], catch_exceptions=False, standalone_mode=False
        )
    with pytest.raises(ConfigError, match="--sbatch"):
        CliRunner().invoke(
            app, ["slurm", "submit", "job.sbatch", "--sbatch", "'"], catch_exceptions=False, standalone_mode=False
        )


def test_the_path_of_this_python_is_quoted(monkeypatch, tmp_path):
    home = tmp_path / "o'brien $(touch bad)"
    home.mkdir()
    (home / "mpicomp").touch()
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    text = script("run", "--", "a.toml")
    parses(text)
    line = next(line for line in text.splitlines() if line.startswith("mpicomp="))
    assert bash(f'{line}\nprintf %s "$mpicomp"', tmp_path).stdout.decode() == str(home / "mpicomp")
    assert not (tmp_path / "bad").exists()


def test_a_tilde_before_the_command_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert "mpicomp=/home/me/bin/mpicomp\n" in script("run", "--command=~/bin/mpicomp")
