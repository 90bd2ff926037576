"""What surrounds the code says the same everywhere: version, address, licence, the workflow, the changelog's form."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mpicomp.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = dict(re.findall(r"^([\w-]+): +(\S.*)$", (ROOT / "CITATION.cff").read_text(), re.M))


def test_the_citation_agrees_with_the_package():
    assert CITATION["version"] == __version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Source"]
    assert [f"- name: {author['name']}" in (ROOT / "CITATION.cff").read_text() for author in PROJECT["authors"]] == [
        True
    ]


def test_every_address_of_the_project_is_below_its_source():
    assert all(url.startswith(PROJECT["urls"]["Source"]) for url in PROJECT["urls"].values())


def test_the_oldest_python_is_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    versions = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    tried = re.findall(r'"(3\.\d+)"', re.search(r"python: (\[.*\])", workflow()).group(1))
    assert versions[0] == tried[0] == oldest and versions[-1] == tried[-1]


def workflow() -> str:
    return (ROOT / ".github/workflows/ci.yml").read_text()


def test_the_workflow_does_what_ci_does():
    assert re.findall(r"- run: (.*)", workflow()) == [".ci/run"]
    for script in ("lint", "check_package", "test"):
        assert re.search(rf"^scripts/{script}\b", (ROOT / ".ci/run").read_text(), re.M), script


def test_the_changelog_keeps_its_form():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert "## [Unreleased]" in lines
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(re.match(r"- \S.*[.:]$", line) for line in lines if line.startswith("-"))


def test_contributing_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:tests|docs|mpicomp)/[\w/.]+)`", text):
        assert (ROOT / path).exists() or "NAME" in path, path
