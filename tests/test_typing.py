"""What a type checker sees of mpicomp: a user's typed parts pass, mistakes are found, and nothing public hides its types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mpicomp"
PARTS, MISTAKES = (Path(__file__).parent / f"typed_{name}.py" for name in ("parts", "mistakes"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def complaints(path: Path, directory: Path) -> dict[int, set[str]]:
    """The codes of what `mypy --strict` finds in a copy of a file, by line."""
    copy = directory / path.name
    copy.write_text(path.read_text())
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        directory / "cache",
        copy.name,
    ]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[int, set[str]] = {}
    for file, line, code in re.findall(r"^(.*?):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE):
        assert file == copy.name, done.stdout
        found.setdefault(int(line), set()).add(code)
    assert bool(found) == bool(done.returncode), done.stdout
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A directory outside of the repository, with a cache for both checks."""
    return tmp_path_factory.mktemp("typing")


def test_typed_parts_pass(scratch):
    assert complaints(PARTS, scratch) == {}


def test_mistakes_are_found(scratch):
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    marked = {n: set(re.split(r", ", line.split("# error: ")[1])) for n, line in lines if "# error: " in line}
    assert len(marked) > 20
    assert complaints(MISTAKES, scratch) == marked


@pytest.mark.process
def test_typed_parts_run(mpi, tmp_path):
    mpi.run(3, ["-m", "mpi4py", PARTS, tmp_path / "run"], timeout=240).check()
    assert (tmp_path / "run" / "summary.json").exists()


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
    assert '"mpicomp" = ["py.typed"]' in (PACKAGE.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_hides_its_types(path):
    tree = ast.parse(path.read_text())
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for method in (node for node in cls.body if isinstance(node, ast.FunctionDef)):
            where = f"{path.relative_to(PACKAGE)}: {cls.name}.{method.name}"
            assert method.name != "__getattr__", f"{where} answers to every name"
            if method.name == "__init__":
                assert method.args.vararg is None and method.args.kwarg is None, f"{where} takes anything"
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert getattr(target, "attr", "") != "__class__", f"{path}:{node.lineno} swaps a class"
