"""Reports: figures against hand computed ones from a small set of cells; the page; and cells that failed, run, differ or are alone."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest
from study_cells import Numbers, write_study
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.errors import DataError
from mpicomp.experiments.study.cells import ENOUGH, Interval, Results
from mpicomp.experiments.study.rules import Observations, check
from mpicomp.experiments.study.scale import FAILED, RUNNING, write_record
from mpicomp.experiments.study.style import MissingExtra, inline
from mpicomp.experiments.study.tables import all_tables

FILE = """
name = "by hand <&>"
repetitions = 2
warmup = 0.2
target = 0.5
baselines = ["dense"]
[run]
problem = {name = "quadratic", dim = 1000}
[grid]
nodes = [2, 3]
per_node = [2]
clients = [6]
[[methods]]
method = "ef21"
compressor = "topk:k=2"
"""
PHASES = {"compute": (0.0, 0.5), "wait": (1.0, 0.5), "decode": (1.0, 0.0)}


def by_hand(cell) -> Numbers | None:
    """Dense: 10 rounds of 8 s on 2 nodes, of 6 s on 3 nodes. The method: 4 s and 2 s, half the bytes up, and it needs 4 rounds, dense 2.
    The first two rounds, 100 s each, are warm-up; the second repetition takes a hundredth more."""
    method = not cell.baseline
    seconds = {(False, 2): 8.0, (False, 3): 6.0, (True, 2): 4.0, (True, 3): 2.0}[method, cell.nodes] * (
        1 + 0.01 * cell.repetition
    )
    norms = [1.0] * 11
    norms[4 if method else 2 :] = [0.4] * (11 - (4 if method else 2))
    up = 300 if method else 600
    return Numbers([100.0, 100.0] + [seconds] * 8, norms, up, 900, PHASES)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    directory = tmp_path_factory.mktemp("by_hand") / "study"
    write_study(directory, FILE, by_hand)
    return Results.load(directory)


def group(results, baseline, nodes):
    return next(g for g in results.groups if g.cell.baseline == baseline and g.cell.nodes == nodes)


# ---- numbers --------------------------------------------------------------------------------------------------------
def test_rounds_without_their_warm_up(results):
    g = group(results, "dense", 2)
    assert g.seconds.samples == 16 and g.seconds.median == pytest.approx(8.04)
    assert (g.seconds.low, g.seconds.high) == pytest.approx((8.0, 8.08))
    assert g.repetition_medians == pytest.approx([8.0, 8.08])
    assert g.processors == 3 and g.bytes("uplink") == 600


def test_efficiency_of_strong_scaling(results):
    # T₁ p₁/(T p), p = 3 workers on 2 nodes, 5 on 3
    assert results.efficiency(group(results, "dense", 3)) == pytest.approx(8.0 * 3 / (6.0 * 5))
    assert results.efficiency(group(results, "", 3)) == pytest.approx(4.0 * 3 / (2.0 * 5))
    assert results.efficiency(group(results, "dense", 2)) == 1


def test_to_the_target(results):
    g, dense = group(results, "", 3), group(results, "dense", 3)
    assert g.to_target(0.5, "round").median == 4 and dense.to_target(0.5, "round").median == 2
    assert g.to_target(0.5, "seconds_total").low == pytest.approx(204.0)
    assert g.to_target(0.5, "uplink_message").median == 4 * 300
    assert g.to_target(0.1, "round") is None


def test_levels_of_the_network(results):
    run = group(results, "", 2).runs[0]  # ranks 0, 1 on node1; 2, 3 on node2
    assert run.level("inter_node") == pytest.approx(2 / 3) and run.level("intra_node") == pytest.approx(1 / 3)


def test_faster_needs_both_intervals_and_repetitions_apart(results):
    assert group(results, "", 2).distinguishable(group(results, "dense", 2))
    table = all_tables(results)["rounds"]
    row = next(r for r in table.rows if r[0].startswith("ef21") and "2 × 2" in r)
    assert "2.00× faster" in row


def test_an_interval_of_few_samples_is_only_a_range():
    assert not Interval.of([1.0] * (ENOUGH - 1)).enough and Interval.of([1.0] * ENOUGH).enough
    assert Interval.of([1, 2, 3, 9]).high == 9


def test_weak_scaling_efficiency_is_a_ratio_of_times(tmp_path):
    text = FILE.replace('name = "by', 'mode = "weak"\nname = "by').replace("clients = [6]", "clients = [2]")
    write_study(tmp_path / "weak", text, by_hand)
    weak = Results.load(tmp_path / "weak")
    assert weak.efficiency(group(weak, "dense", 3)) == pytest.approx(8.0 / 6.0)


# ---- the twelve rules -----------------------------------------------------------------------------------------------
def test_rules_are_answered_from_the_data(results, tmp_path):
    answers = check(Observations(results, [], ["scaling"]))
    assert len(answers) == 12 and all(a.why for a in answers)
    assert "3 ranks that compute" in answers[0].why and "8.04 s" in answers[0].why
    assert answers[6].verdict == "holds" and "2 of 2 comparisons" in answers[6].why

    write_study(tmp_path / "one", FILE.replace("repetitions = 2", "repetitions = 1"), by_hand)
    alone = check(Observations(Results.load(tmp_path / "one"), [], []))
    assert alone[6].verdict == "not met" and alone[10].verdict == "not met" and alone[11].verdict == "not applicable"


def test_few_blocks_are_admitted(tmp_path):
    write_study(
        tmp_path / "s", FILE.replace("repetitions = 2", "repetitions = 1"), lambda c: Numbers([1.0] * 4, [1.0] * 5)
    )
    assert check(Observations(Results.load(tmp_path / "s"), [], []))[4].verdict == "not met"


# ---- the page -------------------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """Checks that tags close in order, and collects ids and what is referred to."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.refers, self.tags, self.text = [], [], [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "data", "action") or "url(" in (value or ""):
                self.refers.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page) -> Page:
    parser = Page()
    parser.feed(page.read_text())
    parser.close()
    assert not parser.open
    return parser


def report(directory):
    pytest.importorskip("matplotlib", reason="reports draw with matplotlib, the extra `plot`")
    from mpicomp.experiments.study.page import write_report

    return write_report(directory)


def test_the_page_is_whole_and_needs_nothing_from_outside(results):
    written = report(results.directory)
    page, text = read(written.page), written.page.read_text()
    assert not {"script", "link", "iframe", "img", "object"} & page.tags
    assert all(ref.startswith("#") or re.fullmatch(r".*url\(#[^)]+\).*", ref) for ref in page.refers)
    assert not re.search(r"https?://", text) and "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    targets = {ref.removeprefix("#") for ref in page.refers if ref.startswith("#")}
    assert targets <= set(page.ids)
    assert {"scaling", "efficiency", "convergence", "phases", "pareto", "link"} <= set(written.figures)
    for name in written.figures:
        assert (written.page.parent / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (written.page.parent / f"{name}.svg").read_text()
    assert (written.page.parent / "rounds.csv").read_text().count("\n") == 1 + len(results.groups)
    assert "by hand <&>" in page.text and "8.04 s" in page.text and "2.00× faster" in page.text
    assert written.page.stat().st_size < 1e6


def test_the_command_gives_the_same_page_again(results):
    first = report(results.directory).page.read_bytes()
    out = (
        CliRunner()
        .invoke(app, ["report", str(results.directory)], catch_exceptions=False, standalone_mode=False)
        .output
    )
    assert "index.html" in out and "figures" in out
    assert (results.directory / "report" / "index.html").read_bytes() == first


def test_ids_of_inlined_figures_are_their_own():
    assert (
        inline('<svg id="a"><g clip-path="url(#b)"/></svg>', "f2") == '<svg id="f2-a"><g clip-path="url(#f2-b)"/></svg>'
    )


# ---- studies that are not as one would wish -------------------------------------------------------------------------
def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(DataError, match="not the directory of a study"):
        Results.load(tmp_path)
    write_study(tmp_path / "none", FILE, lambda cell: None)
    with pytest.raises(DataError, match="no finished cell yet \\(8 are not started"):
        report(tmp_path / "none")


def test_a_study_of_one_cell(tmp_path):
    text = (
        FILE.replace("nodes = [2, 3]", "nodes = [2]")
        .replace("repetitions = 2", "repetitions = 1")
        .replace('["dense"]', "[]")
    )
    write_study(tmp_path / "one", text, by_hand)
    written = report(tmp_path / "one")
    assert "scaling" not in written.figures and "phases" in written.figures
    read(written.page)


def test_all_cells_failed(tmp_path):
    study = write_study(tmp_path / "s", FILE, lambda cell: None)
    for cell in study.cells():
        where = tmp_path / "s" / "cells" / cell.name
        where.mkdir()
        write_record(where, {"state": FAILED, "reason": "exit code 9: out of memory"})
    with pytest.raises(DataError, match=r"8 are failed; the first says: exit code 9: out of memory\).*--retry-failed"):
        report(tmp_path / "s")


def test_what_has_no_result_is_listed(tmp_path):
    study = write_study(tmp_path / "s", FILE, lambda cell: by_hand(cell) if cell.repetition == 0 else None)
    states = iter(
        [
            {"state": FAILED, "reason": "not over after 5 s"},
            {"state": RUNNING, "started": "2026-02-03T04:05:06"},
        ]
    )
    missing = [c for c in study.cells() if c.repetition == 1]
    for cell, record in zip(missing, states, strict=False):
        where = tmp_path / "s" / "cells" / cell.name
        where.mkdir()
        write_record(where, record)
    damaged = tmp_path / "s" / "cells" / missing[2].name
    damaged.mkdir()
    (damaged / "cell.json").write_text("{")
    text = read(report(tmp_path / "s").page).text
    assert "not complete: 1 damaged, 1 failed, 1 not started, 1 running" in text
    assert "not over after 5 s" in text and "since 2026-02-03T04:05:06" in text and missing[3].name in text


def test_cells_of_several_versions_and_cells_that_diverged_are_pointed_out(tmp_path):
    def numbers(cell):
        n = by_hand(cell)
        n.version = f"0.{cell.repetition}"
        n.diverged = not cell.baseline
        return n

    write_study(tmp_path / "s", FILE, numbers)
    text = read(report(tmp_path / "s").page).text
    assert "different versions of the program: 0.0, 0.1" in text and "Diverged" in text


def test_without_matplotlib_the_error_names_the_extra(results, monkeypatch):
    from mpicomp.experiments.study.page import write_report

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'mpicomp[plot]'")):
        write_report(results.directory)
