"""The two lanes: parts of products that cover them, faults that still apply, the table of durations."""

from __future__ import annotations

import itertools
import subprocess
import tomllib

import pytest
from conftest import ROOT
from durations import table
from lanes import covering_cases

MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]


def product(*sizes: int) -> list[frozenset]:
    """All cases of parameters with so many values each."""
    return [frozenset(enumerate(case)) for case in itertools.product(*map(range, sizes))]


@pytest.mark.parametrize("strength", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(1,), (7,), (5, 3), (66, 4), (4, 3, 2), (2, 2, 2, 2, 2)])
def test_a_part_has_what_the_whole_has(sizes, strength):
    """Every set of so many values that occurs together occurs in the part, and a part of strength 1 is as small as can be."""
    cases = product(*sizes)
    part = [cases[i] for i in covering_cases(cases, strength)]

    def together(chosen):
        return {s for case in chosen for s in itertools.combinations(sorted(case), min(strength, len(case)))}

    assert together(part) == together(cases)
    if strength == 1:
        assert len(part) == max(sizes)


def test_a_part_of_a_product_with_holes_and_equal_use():
    cases = [case for i, case in enumerate(product(8, 4)) if i % 3]
    part = [cases[i] for i in covering_cases(cases, 1)]
    uses = [sum((1, value) in case for case in part) for value in range(4)]
    assert len(part) == 8 and max(uses) - min(uses) <= 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_a_deliberate_fault_applies(mutant):
    """Its text is in the file once, in code that still is what the fault says, and the tests that see it first exist."""
    text = (ROOT / "mpicomp" / mutant["file"]).read_text()
    assert text.count(mutant["old"]) == 1 and mutant["old"] != mutant["new"] and mutant["breaks"]
    files = [word for word in mutant["tests"] if word.endswith(".py")]
    assert files and all((ROOT / file).exists() for file in files)
    compile(text.replace(mutant["old"], mutant["new"]), mutant["file"], "exec")


def test_there_are_faults_everywhere():
    rooms = {mutant["file"].partition("/")[0] for mutant in MUTANTS}
    assert len(MUTANTS) >= 30 and len({mutant["name"] for mutant in MUTANTS}) == len(MUTANTS)
    assert rooms >= {
        "kernels",
        "compressors",
        "mechanisms",
        "exchanges",
        "cluster",
        "runtime",
        "problems",
        "oracles",
        "optimizers",
    }


@pytest.mark.process
def test_a_wrong_word_is_refused():
    done = subprocess.run([ROOT / "scripts" / "test", "quick", "plane"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "'plane'" in done.stderr and "plain mpich openmpi torch bounds" in done.stderr


def test_durations_are_summed_by_file(tmp_path):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/plain.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="x[1]" time="2.5"/>'
        '<testcase classname="tests.test_a.TestB" name="y" time="1.0"/><testcase classname="tests.test_c" name="z" time="0.2"/>'
        '<testcase classname="mpicomp.errors" name="mpicomp.errors.unknown" time="4"/></testsuite></testsuites>'
    )
    lines = table(tmp_path).splitlines()
    assert lines[2] == "| quick/plain | examples of docstrings | 1 | 4.0 | 4.0 s mpicomp.errors.unknown |"
    assert lines[3] == "| quick/plain | test_a | 2 | 3.5 | 2.5 s x[1] |"
    assert lines[4:] == ["| | others | 1 | 0.2 | |", "| | all, one after another | 4 | 7.7 | |"]
