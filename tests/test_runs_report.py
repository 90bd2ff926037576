"""`mpicomp report` of any runs: its numbers against the files, and a page that is whole."""

from __future__ import annotations

import csv
import sys

import pytest
from test_plot_command import OPTIONS, invoke
from test_study_report import read

import mpicomp as mc
from mpicomp.errors import DataError, MpicompError

pytest.importorskip("matplotlib", reason="reports draw with matplotlib, the extra `plot`")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    mc.run(method="gd", out=str(out / "z-dense"), **OPTIONS)
    for seed in range(3):
        mc.run(method="marina", compressor="randk:k=6", seed=seed, out=str(out / f"marina-{seed}"), **OPTIONS)
    return out


def test_the_page_and_its_tables(runs, tmp_path):
    done = invoke("report", runs, "--out", tmp_path / "r")
    assert done.exit_code == 0 and "2 figures, 2 tables" in done.stdout
    page = read(tmp_path / "r" / "index.html")
    assert not {"script", "link", "iframe", "img", "object"} & page.tags and len(page.ids) == len(set(page.ids))
    assert {ref.removeprefix("#") for ref in page.refers if ref.startswith("#")} <= set(page.ids)
    assert "medians over up to 3 seeds" in page.text and "marina randk:k=6" in page.text
    rows = list(csv.reader((tmp_path / "r" / "target.csv").read_text().splitlines()))
    assert [row[:2] for row in rows[1:]] == [["gd", "1"], ["marina randk:k=6", "3"]]  # the dense one is the yardstick
    tables = {p.name: list(csv.DictReader((p / "rounds.csv").read_text().splitlines())) for p in runs.iterdir()}
    target = max(min(float(r["grad_norm_sq"]) for r in table) for table in tables.values())
    first = {
        name: next(int(r["round"]) for r in table if float(r["grad_norm_sq"]) <= target)
        for name, table in tables.items()
    }
    assert rows[1][2] == str(first["z-dense"]) and rows[2][2] == str(sorted(first[f"marina-{s}"] for s in range(3))[1])
    singles = list(csv.DictReader((tmp_path / "r" / "runs.csv").read_text().splitlines()))
    assert len(singles) == 4 and {row["seed"] for row in singles} == {"0", "1", "2"}
    for name in ("convergence", "bytes"):
        assert all((tmp_path / "r" / f"{name}.{ending}").stat().st_size > 1000 for ending in ("png", "svg", "csv"))


def test_it_lies_beside_the_runs_and_is_the_same_again(runs):
    invoke("report", runs / "z-dense", runs / "marina-0")
    first = (runs / "report" / "index.html").read_bytes()
    invoke("report", runs / "z-dense", runs / "marina-0")
    assert (runs / "report" / "index.html").read_bytes() == first


def test_damaged_runs_are_left_out_with_exit_code_1(runs, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "summary.json").write_text("{")
    done = invoke("report", runs / "z-dense", tmp_path / "bad", "--out", tmp_path / "r")
    assert (
        done.exit_code == 1 and "left out" in done.stderr and "Left out" in (tmp_path / "r" / "index.html").read_text()
    )


def test_different_problems_and_a_missing_extra(runs, tmp_path, monkeypatch):
    mc.run(method="gd", out=str(tmp_path / "other"), **{**OPTIONS, "clients": 5})
    with pytest.raises(DataError, match=r"clients 5, not 4.*--different-problems"):
        invoke("report", runs / "z-dense", tmp_path / "other")
    invoke("report", runs / "z-dense", tmp_path / "other", "--different-problems", "--out", tmp_path / "r")
    assert "Of different problems" in (tmp_path / "r" / "index.html").read_text()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MpicompError, match=r"pip install 'mpicomp\[plot\]'"):
        invoke("report", runs / "z-dense", "--out", tmp_path / "r")


def test_an_empty_directory_is_not_a_study(tmp_path):
    with pytest.raises(DataError, match="not the directory of a study"):
        invoke("report", tmp_path)
