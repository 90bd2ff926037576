"""Messages name arguments to Python's users and options to the command line's."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, full_text, option_wording, unknown, worded

PACKAGE = Path(__file__).parent.parent / "mpicomp"
COMMAND_LINE = {"cli", "console", "experiments"}
ARGUMENTS = {field.name for field in dataclasses.fields(mc.Config)}
OF_FIGURES = {*inspect.signature(mc.Result.plot).parameters, "text"}  # `mpicomp plot` has options of these names


def messages() -> list[tuple[str, str]]:
    """(file, text) of every string of the library that is no docstring."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE)
        if where.parts[0] in COMMAND_LINE or where.name == "errors.py":
            continue
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and ast.get_docstring(node)
        }
        strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found += [(str(where), node.value) for node in strings if id(node) not in docs]
    return found


def test_the_library_names_no_option_of_a_run():
    options = "|".join(name.replace("_", "-") for name in ARGUMENTS)
    for where, text in messages():
        outside = re.sub(r"`[^`]*`", "", text)  # a command to type is one
        assert not re.search(rf"(\s|\(|;)--({options})\b|--({options})\b.*\s", outside), f"{where}: {text}"


def test_what_is_marked_is_an_argument():
    names = {(where, name) for where, text in messages() for name in re.findall(r"«([^»=]+)", text)}
    assert len(names) > 20
    assert {name for _, name in names} <= ARGUMENTS | OF_FIGURES, names


@pytest.mark.parametrize(
    ("marked", "python", "options"),
    [
        ("«rounds»", "rounds", "--rounds"),
        ("«eval_every=10»", "eval_every=10", "--eval-every 10"),
        ("«step=0.05»", "step=0.05", "--step 0.05"),
        ("«step='theory*8'»", "step='theory*8'", "--step 'theory*8'"),
        ("«exchange='p2p'»", "exchange='p2p'", "--exchange p2p"),
        ("«allow_unsafe=True»", "allow_unsafe=True", "--allow-unsafe"),
        ("«out=DIR»", "out=DIR", "--out DIR"),
        ("«problem_options={'reg': 0.1}»", "problem_options={'reg': 0.1}", "--reg 0.1"),
        ("«method_options={'uplink': 'ef21:sign'}»", "method_options={'uplink': 'ef21:sign'}", "--uplink ef21:sign"),
        ("«Guillemets» and «a b» stay", "«Guillemets» and «a b» stay", "«Guillemets» and «a b» stay"),
    ],
)
def test_wording(marked, python, options):
    error = ConfigError(f"give {marked}, please")
    error.add_note(f"or {marked}")
    assert worded(marked) == python
    assert str(error) == f"give {python}, please" and full_text(error) == f"{error}\n  or {python}"
    with option_wording():
        assert worded(marked) == options
        assert full_text(error) == f"give {options}, please\n  or {options}"
    assert str(error) == f"give {python}, please"


def test_the_wording_holds_in_all_threads_and_ends_with_an_error():
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError), option_wording():
        thread = threading.Thread(target=lambda: seen.append(worded("«step=1»")))
        thread.start()
        thread.join()
        raise ZeroDivisionError
    assert seen == ["--step 1"] and worded("«step=1»") == "step=1"


def test_a_name_that_is_near():
    assert (
        str(unknown("option", "rouns", ["rounds", "seed"], brief=True))
        == "unknown option 'rouns'; did you mean 'rounds'?"
    )
    assert str(unknown("option", "xyz", ["rounds", "seed"], brief=True)) == "unknown option 'xyz'; known: rounds, seed"


def test_an_option_that_is_unknown(tmp_path):
    (tmp_path / "a.toml").write_text("rouns = 3\n")
    with pytest.raises(ConfigError, match=r"unknown option 'rouns' in .*a\.toml; did you mean 'rounds'\?"):
        mc.Config.load(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"^unknown option 'rouns'; did you mean 'rounds'\?$"):
        mc.Config().set("rouns", 3)
    with pytest.raises(ConfigError, match=r"^rounds='x': expected int$"):
        mc.Config().set("rounds", "x")


def test_both_tongues_say_the_same():
    with pytest.raises(ConfigError, match=r"give out=DIR too"):
        mc.Config.load(options={"resume": "auto"})
    done = subprocess.run(
        [sys.executable, "-m", "mpicomp", "run", "--resume", "auto"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == "mpicomp: checkpoints are written under the results: give --out DIR too\n"
