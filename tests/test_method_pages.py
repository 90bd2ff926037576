"""The pages of docs/methods and docs/derivations: one form, links that lead somewhere, and examples that run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.methods import methods

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page for page in (DOCS / "methods").glob("*.md") if page.name != "README.md")
DERIVATIONS = sorted((DOCS / "derivations").glob("*.md"))
HEADINGS = ["What it does", "Algorithm", "Step size", "Derivation", "Options", "Example command", "Reference"]
UNSURE = re.compile(
    r"recalled|remembered|not re-read|not seen|at hand|not sure|may be swapped|that we know of|not available"
)


def titles(page: Path) -> list[str]:
    return re.findall(r"(?m)^## (.*)$", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_form(page):
    expected = [h for h in HEADINGS if h in titles(page) or h != "Derivation"]
    assert titles(page) == expected
    text = page.read_text()
    derived = "erived here" in text.split("## Step size")[1].split("## Options")[0].split("## Derivation")[0]
    assert not derived or "## Derivation" in text, "a page that says 'derived here' has the derivation"


@pytest.mark.parametrize("page", [*PAGES, *DERIVATIONS, DOCS / "methods" / "README.md"], ids=lambda page: page.stem)
def test_links_and_words(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / target).exists(), f"{page}: {target}"
    assert not UNSURE.search(text)


def test_the_overviews_name_every_page():
    assert all(f"({page.name})" in (DOCS / "methods" / "README.md").read_text() for page in PAGES)
    shared = (DOCS / "derivations" / "README.md").read_text()
    assert all(f"({page.name})" in shared for page in DERIVATIONS if page.name != "README.md")


@pytest.mark.parametrize("name", [m for m in methods if "derived" in methods[m].formulas])
def test_a_derived_step_names_its_page(name):
    """The docstring of the method, or of one it builds on, names a page that has a derivation."""
    text = "".join(cls.__doc__ or "" for cls in methods[name].__mro__)
    named = [DOCS / "methods" / f"{stem}.md" for stem in re.findall(r"docs/methods/([\w-]+)\.md", text)]
    named += [DOCS / "derivations" / f"{stem}.md" for stem in re.findall(r"docs/derivations/([\w-]+)\.md", text)]
    assert any("∎" in page.read_text() for page in named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_example_commands_run(page):
    blocks = re.findall(r"(?s)## Example command\n\n```sh\n(.*?)```", page.read_text())
    assert len(blocks) == 1
    for line in blocks[0].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "mpicomp"
        result = CliRunner().invoke(app, [*arguments, "--rounds", "3", "-q"], catch_exceptions=False)
        assert result.exit_code == 0, result.output


def test_unsure_words_are_nowhere_in_the_package():
    for path in (DOCS.parent / "mpicomp").glob("methods/*.py"):
        assert not UNSURE.search(path.read_text()), path
