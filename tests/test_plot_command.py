"""`mpicomp plot`, and what a Result shows of itself."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
from study_cells import write_study
from test_study_report import FILE, by_hand
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp.cli import app
from mpicomp.errors import ConfigError, DataError, EnvironmentMismatch, MpicompError
from mpicomp.experiments.study.runs import load_runs

OPTIONS = {"problem": "quadratic", "problem_options": {"dim": 30, "reg": 0.1, "seed": 5}, "clients": 4, "rounds": 40}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Gradient descent, EF21 with two steps, and MARINA with three seeds."""
    out = tmp_path_factory.mktemp("runs")
    mc.run(method="gd", out=str(out / "gd"), **OPTIONS)
    for step in ("theory", "theory*4"):
        mc.run(method="ef21", compressor="topk:k=3", step=step, out=str(out / f"ef21-{step[6:] or 1}"), **OPTIONS)
    for seed in range(3):
        mc.run(method="marina", compressor="randk:k=3", seed=seed, out=str(out / f"marina-{seed}"), **OPTIONS)
    return out


def invoke(*args):
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    if isinstance(done.exception, MpicompError):
        raise done.exception
    return done


def test_a_figure_of_a_directory_of_runs(runs, tmp_path):
    pytest.importorskip("matplotlib")
    done = invoke(
        "plot",
        runs,
        "--x",
        "rounds,bits",
        "--y",
        "loss-gap",
        "--f-star",
        "compute",
        "-o",
        tmp_path / "f.pdf",
        "--width",
        "page",
    )
    assert done.exit_code == 0, done.output
    assert (
        "medians over up to 3 seeds" in done.stdout
        and "f* = " in done.stdout
        and str(tmp_path / "f.csv") in done.stdout
    )
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {
        "gd",
        "ef21 topk:k=3, step theory",
        "ef21 topk:k=3, step theory*4",
        "marina randk:k=3",
    }
    # the points by another way: straight from the runs' files
    tables = [list(csv.DictReader((runs / f"marina-{s}" / "rounds.csv").read_text().splitlines())) for s in range(3)]
    best = next(b.summary for b in load_runs([runs])[0] if b.summary["method"] == "gd")
    problem = mc.Config.load(runs / "gd" / "config.toml")
    assert problem.problem_options["seed"] == 5 and best["dim"] == 30
    mine = [row for row in rows if row["label"].startswith("marina") and row["x_axis"] == "bits"]
    for row in mine:
        at = [next(r for r in t if r["round"] == row["round"]) for t in tables]
        assert float(row["x"]) == np.median([8 * int(r["uplink_payload"]) / 4 for r in at])
        losses = sorted(float(r["loss"]) for r in at)
        assert float(row["maximum"]) - float(row["minimum"]) == pytest.approx(losses[-1] - losses[0], abs=1e-15)


def test_without_a_file_it_is_drawn_in_the_terminal(runs):
    done = invoke("plot", runs / "gd", runs / "ef21-1", "--x", "bytes")
    assert done.exit_code == 0 and "A  gd" in done.stdout and "B  ef21 topk:k=3" in done.stdout
    assert "bytes, both directions" in done.stdout and "\x1b" not in done.stdout


def test_the_terminal_needs_no_matplotlib_and_a_file_names_the_extra(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert invoke("plot", runs / "gd").exit_code == 0
    with pytest.raises(MpicompError, match=r"pip install 'mpicomp\[plot\]'"):
        invoke("plot", runs / "gd", "-o", tmp_path / "f.png")


def test_each_seed_and_labels_of_ones_own(runs):
    done = invoke("plot", *(runs / f"marina-{s}" for s in range(3)), "--each-seed")
    assert all(f"seed {s}" in done.stdout for s in range(3))
    done = invoke("plot", runs / "gd", runs / "ef21-1", "--label", "GD", "--label", "EF21, Top-3")
    assert "A  GD" in done.stdout and "B  EF21, Top-3" in done.stdout
    with pytest.raises(ConfigError, match="1 labels for 2 curves, which are: gd; ef21 topk:k=3"):
        invoke("plot", runs / "gd", runs / "ef21-1", "--label", "GD")


def test_runs_of_different_problems_are_refused_unless_asked(runs, tmp_path):
    other = {**OPTIONS, "problem_options": {"dim": 30, "reg": 0.2, "seed": 5}}
    mc.run(method="gd", out=str(tmp_path / "other"), **other)
    for command in ("plot", "compare"):
        with pytest.raises(DataError, match=r"other: reg 0\.2, not 0\.1.*--different-problems"):
            invoke(command, runs / "gd", tmp_path / "other")
        assert invoke(command, runs / "gd", tmp_path / "other", "--different-problems").exit_code == 0


def test_a_study_gives_its_cells(tmp_path):
    write_study(tmp_path / "s", FILE, by_hand)
    found, broken = load_runs([tmp_path / "s", tmp_path / "s"])
    assert len(found) == 8 and not broken
    done = invoke("plot", tmp_path / "s")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--y", "loss-gap"], "needs f\\*.*--f-star compute|f_star='compute'"),
        (["-o", "f.jpg"], r"\.pdf, \.svg, \.png"),
        (["--x", "minutes"], "unknown axis 'minutes'"),
        (["--y", "accuracy"], "which column is the accuracy"),
        (["--f-star", "5", "--y", "loss-gap"], "below f\\* = 5"),
    ],
)
def test_mistakes_have_one_clear_error(runs, args, said):
    with pytest.raises(MpicompError, match=said):
        invoke("plot", runs / "gd", *args)


# ---- Result ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def result():
    return mc.run(method="ef21", compressor="topk:k=3", **OPTIONS)


def test_a_result_says_in_three_lines_what_it_is(result):
    lines = repr(result).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Result of ef21 topk:k=3, step ") and "d = 30, n = 4" in lines[0]
    assert "after 40 rounds: f = " in lines[1] and "up," in lines[2]
    assert "rank 0" in repr(mc.Result(result.config))


def test_a_notebook_shows_text_and_the_curve(result, monkeypatch):
    pytest.importorskip("matplotlib")
    assert "<pre" in result._repr_html_() and "<svg" in result._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<svg" not in result._repr_html_() and "after 40 rounds" in result._repr_html_()


def test_a_result_is_a_table_of_pandas(result, monkeypatch):
    pytest.importorskip("pandas")
    table = result.to_pandas()
    assert list(table.columns) == list(result.history[0]) and len(table) == len(result.history)
    assert table["grad_norm_sq"].tolist() == [row["grad_norm_sq"] for row in result.history]
    assert table.attrs["method"] == "ef21"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EnvironmentMismatch, match=r"pip install 'mpicomp\[pandas\]'"):
        result.to_pandas()


def test_results_are_plotted_together(result, tmp_path):
    pytest.importorskip("matplotlib")
    gd = mc.run(method="gd", **OPTIONS)
    drawn = gd.plot(result, x=["rounds", "bits"], labels=["GD", "EF21"])
    assert [c.label for c in drawn.panels[1].curves] == ["GD", "EF21"]
    assert list(drawn.panels[0].curves[1].y) == [row["grad_norm_sq"] for row in result.history]
    assert drawn.save(tmp_path / "f.svg")[0].exists() and drawn._repr_svg_().startswith("<?xml")
    other = mc.run(method="gd", **{**OPTIONS, "clients": 5})
    with pytest.raises(ConfigError, match=r"different problems.*clients 5, not 4"):
        gd.plot(other)
    with pytest.raises(ConfigError, match="rank 0"):
        mc.Result(result.config).plot()
