"""README.md and docs/: every block that a reader may type works as printed, in a directory that looks like a fresh clone.

A page is the unit: its blocks run in order in one scratch directory, so that a later block may use what an earlier one wrote.

* `sh` blocks run line by line, `python` blocks as scripts, `toml` blocks are loaded as a run's or a study's configuration. A block with a
  title (```python title="mine.py"```) is written to that file first.
* `<!-- executed in the full lane -->` before a block: it takes more than a few seconds.
* `<!-- not executed: REASON -->` before a block: it cannot run here. The reasons are those of REASONS; the commands' options are still
  checked against the command line.

Of the blocks without a mark the quick lane runs those of README.md, the full lane all.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = {
    "needs SLURM",
    "needs SimGrid",
    "needs a cluster",
    "needs the network lab",
    "needs Open MPI 5",
    "needs PyTorch",
    "needs a file of your own",
    "needs root",
    "downloads data",
    "sets up an environment",
    "takes minutes",
    "takes hours",
    "serves until it is stopped",
}
FULL = "executed in the full lane"
TORCH = "not executed: needs PyTorch"
SECONDS = 600  # of one command; with an empty kernel cache the first one compiles
FENCE = re.compile(r"^( *)```(\w*) *(?:title=\"([^\"]+)\")?$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, file name and text, and what the comment before it says."""

    page: str
    line: int
    language: str
    title: str | None
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def executed(self) -> bool:
        return self.language in ("sh", "python", "toml") and not self.mark.startswith("not executed")


def blocks(page: Path) -> list[Block]:
    found, lines = [], page.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            end = next(k for k in range(number + 1, len(lines)) if lines[k].strip() == "```")
            above = next((line for line in reversed(lines[:number]) if line.strip()), "")
            mark = re.fullmatch(r"<!-- ((?:not )?executed.*) -->", above.strip())
            text = textwrap.dedent("\n".join(lines[number + 1 : end]) + "\n")
            name = str(page.relative_to(ROOT))
            # a process for each block: the quick lane has README's
            usual = "" if name == "README.md" or fence[2] in ("", "text") else FULL
            found.append(Block(name, number + 1, fence[2], fence[3], text, mark[1] if mark else usual))
            number = end
        elif lines[number].lstrip().startswith("```"):
            raise ValueError(f"{page}:{number + 1}: a fence that this test does not understand: {lines[number]}")
        number += 1
    return found


BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
ALL = [block for page in BLOCKS.values() for block in page]
LEFT_OUT = [block for block in ALL if block.mark.startswith("not executed")]


# ---- running --------------------------------------------------------------------------------------------------------
@pytest.fixture
def clone(tmp_path):
    """A directory with what a fresh clone has after `scripts/setup`."""
    for name in ("README.md", "docs", "examples", "jobs", "mpicomp", "pyproject.toml", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def execute(command: list[str], where: Path, label: str) -> None:
    """Run a command with a time limit; what it started ends with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "PMIX_", "OMPI_", "PYTHON"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(
        command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{label}: not over after {SECONDS} s\n{output}")
    assert process.returncode == 0, f"{label}: exit code {process.returncode}\n{output}"


def commands(text: str) -> list[str]:
    """The lines of an `sh` block that do something; lines that end in a backslash go on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_block(block: Block, where: Path) -> None:
    if block.title:
        (where / block.title).parent.mkdir(parents=True, exist_ok=True)
        (where / block.title).write_text(block.text)
    if block.language == "sh":
        for line in commands(block.text):
            execute(["bash", "-o", "pipefail", "-c", line], where, f"{block}: {line}")
    elif block.language == "python":
        script = where / (block.title or "block.py")
        script.write_text(block.text)
        start = (
            ["torchrun", "--nproc-per-node", "2"]
            if "init_process_group" in block.text
            else [sys.executable, "-W", "error"]
        )
        execute([*start, str(script)], where, str(block))
    else:
        file = where / (block.title or "block.toml")
        file.write_text(block.text)
        load_toml(file)


def load_toml(file: Path) -> None:
    """Refused with a ConfigError unless it is a run's configuration, or a study's: the one with a grid."""
    study = re.search(r"^\[grid\]", file.read_text(), re.MULTILINE) is not None
    code = (
        "import sys; from mpicomp.experiments.study.grid import Study; Study.load(sys.argv[1])"
        if study
        else "import sys; from mpicomp import Config; Config.load(sys.argv[1])"
    )
    execute([sys.executable, "-c", code, str(file)], file.parent, str(file))


@pytest.mark.process
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "page", [name for name, own in BLOCKS.items() if any(b.executed and b.mark != FULL for b in own)]
)
def test_blocks_of(page, clone):
    for block in BLOCKS[page]:
        if block.executed and block.mark != FULL:
            run_block(block, clone)


@pytest.mark.full(reason="takes more than a few seconds")
@pytest.mark.night
@pytest.mark.process
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("page", [name for name, own in BLOCKS.items() if any(b.mark == FULL for b in own)])
def test_all_blocks_of(page, clone):
    for block in BLOCKS[page]:
        if block.executed:
            run_block(block, clone)


@pytest.mark.torch
@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [
        page if page == "docs/how-to/torch-loop.md" else pytest.param(page, marks=pytest.mark.night)
        for page in sorted({block.page for block in LEFT_OUT if block.mark == TORCH})
    ],
)
def test_blocks_that_need_torch(page, clone):
    pytest.importorskip("torch")
    for block in BLOCKS[page]:
        if block.mark == TORCH:
            run_block(block, clone)


# ---- every block is executed, or says why not ----------------------------------------------------------------------
@pytest.mark.parametrize("page", BLOCKS)
def test_each_block_says_what_it_is(page):
    allowed = {"sh", "python", "toml", "text"} | ({""} if page.startswith("docs/methods/") else set())
    for block in BLOCKS[page]:
        assert block.language in allowed, f"{block}: one of {sorted(allowed)}, not {block.language!r}"
        known = {"", FULL} | {f"not executed: {reason}" for reason in REASONS}
        assert block.mark in known, f"{block}: unknown mark {block.mark!r}"
        assert not (block.mark and block.language in ("text", "")), f"{block}: nothing to execute, no mark"


@pytest.mark.parametrize("page", PAGES, ids=BLOCKS)
def test_no_command_hides_outside_of_a_block(page):
    hidden = re.findall(
        r"^ {4,}(?:mpicomp|mpirun|mpiexec|srun|sbatch|python3?|scripts/\w+) .*", page.read_text(), re.MULTILINE
    )
    assert not hidden


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: f"{block} {block.mark.removeprefix('not executed: ')}")
def test_what_is_not_executed_is_well_formed(block):
    if block.language == "sh":
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, capture_output=True)
        for line in commands(block.text):
            check_options(shlex.split(line, comments=True), str(block))
    elif block.language == "python":
        ast.parse(block.text)


def check_options(words: list[str], label: str) -> None:
    """The commands of mpicomp in a line exist, and have the options that it gives them."""
    import typer.main

    from mpicomp.cli import app

    while "mpicomp" in words:
        words = words[words.index("mpicomp") + 1 :]
        command, path = typer.main.get_command(app), "mpicomp"
        while words and hasattr(command, "commands"):
            if words[0].startswith("-"):
                break
            assert words[0] in command.commands, f"{label}: {path} has no command {words[0]!r}"
            command, path = command.commands[words[0]], f"{path} {words.pop(0)}"
        own = words[: words.index("--")] if "--" in words else words
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        for word in own:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{label}: {path} has no option {word}"
        words = words[len(own) + 1 :]
        if path in ("mpicomp launch", "mpicomp lab run") and words and words[0] != "mpicomp":
            words = ["mpicomp", *words] if words[0] in typer.main.get_command(app).commands else words


# ---- prose ---------------------------------------------------------------------------------------------------------
def prose(page: Path) -> list[tuple[int, str]]:
    """Numbered lines outside of fences, tables and indented blocks."""
    found, fenced = [], False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ", "<!--", "#", "![")):
            found.append((number, line))
    return found


WRITTEN = [page for page in PAGES if "methods" not in page.parts]
PRESENT = [page for page in WRITTEN if not {"notes", "reproductions"} & set(page.parts)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_one_sentence_a_line(page):
    several = re.compile(r"(?<!\bal)(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)[.?!][)*]* +[A-Z`\[(]")
    long = [f"{number}: {line}" for number, line in prose(page) if several.search(line)]
    assert not long


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_measurements_and_history_are_in_the_notes(page):
    told = re.compile(
        r"\bload (?:of )?\d|\bunder load\b|\bat a load\b|was tried|were tried|\bused to\b|\bBefore,|\b20\d\d-\d\d", re.I
    )
    assert not [f"{number}: {line}" for number, line in prose(page) if told.search(line)]


@pytest.mark.parametrize("folder", ["mpicomp", "tests", "scripts", "jobs"])
def test_pages_named_in_the_sources_exist(folder):
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and path.suffix in ("", ".py", ".sbatch", ".c") and "golden" not in path.parts:
            for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|toml|html)\b", path.read_text(errors="ignore")):
                if "NAME" not in page:
                    assert (ROOT / page).exists(), f"{path.relative_to(ROOT)} names {page}"


def test_the_page_of_commands_has_all():
    import typer.main

    from mpicomp.cli import app

    def leaves(command, path):
        below = getattr(command, "commands", {})
        return [leaf for name, own in below.items() for leaf in leaves(own, f"{path} {name}")] or [path]

    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert set(leaves(typer.main.get_command(app), "mpicomp")) == set(
        re.findall(r"^\| `(mpicomp [a-z -]+?)(?: -n N -- ARGS)?`", page, re.M)
    )


def test_the_readme_is_as_short_as_it_promises():
    listings = [block for block in BLOCKS["README.md"] if block.language == "python"]
    assert len(listings) == 3
    for block in listings:
        assert len([line for line in block.text.splitlines() if line.strip()]) < 22


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./-]+)\)", (ROOT / "README.md").read_text()))
def test_links_of_the_readme_lead_somewhere(path):
    assert (ROOT / path).exists()


# ---- the API reference ---------------------------------------------------------------------------------------------
def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_documented():
    assert load("public_names").problems(ROOT / "docs") == []


def test_a_public_name_without_docstring_or_place_is_found(tmp_path, monkeypatch):
    import mpicomp

    names = load("public_names")
    assert any("mpicomp.run" in text for text in names.problems(tmp_path))

    class Bare:
        def method(self):
            pass

    monkeypatch.setattr(mpicomp, "Bare", Bare, raising=False)
    assert names.undocumented(mpicomp, "Bare") == ["mpicomp.Bare", "mpicomp.Bare.method"]


def test_docstrings_in_numpy_style():
    pytest.importorskip("griffe")
    style = load("docstrings").numpy_style
    written = (
        "One.\n\nAttributes (of the class)\n---------\na, b : two things.\nc : text. d : more\n    text.\n\n>>> 1\n1"
    )
    assert style(written) == (
        "One.\n\nAttributes\n----------\na, b\n    two things.\nc\n    text.\nd\n    more\n    text.\n\n"
        "Examples\n--------\n>>> 1\n1"
    )
    written = "One.\n\nParameters\n----------\na, b : two\n    things.\n\nReturns\n-------\nint : the sum."
    assert style(written) == (
        "One.\n\nParameters\n----------\na\n    two\n    things.\nb\n    two\n    things.\n\nReturns\n-------\nint\n    the sum."
    )
