"""What a type checker sees of mpicomp: a user's typed parts pass, mistakes are found, and nothing public hides its types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, EXAMPLE = ROOT / "mpicomp", ROOT / "examples" / "own_parts.py"
PARTS, MISTAKES = (ROOT / "tests" / f"typed_{name}.py" for name in ("parts", "mistakes"))
PAGES = [
    page
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("how-to/*.md")),
        *sorted((ROOT / "docs").glob("tutorials/*.md")),
    ]
    if "```python" in page.read_text()
]
MODULES = sorted(PACKAGE.rglob("*.py"))


Found = dict[tuple[str, int], set[str]]


def complaints(directory: Path, *names: str) -> Found:
    """The codes of what `mypy --strict` finds in files of a directory, by file and line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", "../cache", *names]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Found = {}
    for file, line, code in re.findall(r"^(.*?):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE):
        assert file in names, done.stdout
        found.setdefault((file, int(line)), set()).add(code)
    assert bool(found) == bool(done.returncode), done.stdout
    return found


def listings(page: Path, directory: Path) -> list[str]:
    """Write a page's Python listings to files of a directory, under their titles where they have one; returns the names.

    Those that need PyTorch are left out: it is not there to be looked at.
    """
    names = []
    for k, (title, text) in enumerate(
        re.findall(r'^(?<!PyTorch -->\n)```python(?: title="([^"\n]*)")?\n(.*?)^```', page.read_text(), re.M | re.S)
    ):
        names.append(title or f"listing_{k}.py")
        (directory / names[-1]).write_text(text)
    return names


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A directory outside of the repository, beside the cache of all checks."""
    scratch = tmp_path_factory.mktemp("typing") / "files"
    scratch.mkdir()
    return scratch


@pytest.fixture
def directory(beside):
    """The same, empty."""
    for file in beside.iterdir():
        file.unlink()
    return beside


@pytest.mark.parametrize("path", [PARTS, EXAMPLE], ids=lambda p: p.name)
def test_typed_parts_pass(path, directory):
    (directory / path.name).write_text(path.read_text())
    assert complaints(directory, path.name) == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_listings_pass(page, directory):
    names = listings(page, directory)
    assert not names or complaints(directory, *names) == {}


def test_mistakes_are_found(directory):
    (directory / MISTAKES.name).write_text(MISTAKES.read_text())
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    marked = {
        (MISTAKES.name, n): set(line.split("# error: ")[1].split(", ")) for n, line in lines if "# error: " in line
    }
    assert len(marked) > 20
    assert complaints(directory, MISTAKES.name) == marked


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
                rest = method.args.kwarg
                typed = rest is None or ast.unparse(rest.annotation or ast.Constant(0)).startswith("Unpack[")
                assert method.args.vararg is None and typed, f"{where} takes anything"
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert getattr(target, "attr", "") != "__class__", f"{path}:{node.lineno} swaps a class"
