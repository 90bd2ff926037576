"""Labels, curves and figures: what tells runs apart, medians against NumPy's, and figures read back from their files."""

from __future__ import annotations

import csv
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpicomp.errors import ConfigError, UserError
from mpicomp.figures.axes import HORIZONTAL, horizontal, vertical
from mpicomp.figures.curves import curve
from mpicomp.figures.draw import plot
from mpicomp.figures.labels import Bundle, bundles, labels, problem_differences
from mpicomp.figures.runs import Run
from mpicomp.figures.style import looks
from mpicomp.figures.terminal import Look, draw_text


def run(where="", norms=(4.0, 2.0, 1.0), seconds=1.0, every=10, configuration="", summary=None, **options) -> Run:
    rows = [
        {
            "round": float(every * k), "loss": norm / 2, "grad_norm_sq": float(norm), "uplink_payload": 100.0 * k,
            "uplink_values_only": 60.0 * k,
            "uplink_message": 116.0 * k, "downlink_message": 500.0 * k, "seconds_total": seconds * k, "test_accuracy": 0.5 + 0.1 * k,
        }
        for k, norm in enumerate(norms)
    ]  # fmt: skip
    whole = {"method": "ef21", "compressor": "topk:k=5", "step": "theory", "seed": 0, "problem": "quadratic", **options}
    facts = {
        "clients": 4,
        "ranks": 2,
        "dim": 10,
        "exchange": "p2p",
        "dtype": "float64",
        "diverged": False,
        "reached_tol": False,
    }
    told = {**facts, **{k: whole[k] for k in ("method", "compressor", "seed")}, **(summary or {})}
    return Run(whole, told, {"name": "quadratic"}, rows, where, configuration)


# ---- labels ---------------------------------------------------------------------------------------------------------
OPTIONS = {
    "method": ["ef21", "gd", {"name": "marina", "p": 0.1}, {"name": "marina", "p": 0.2}],
    "compressor": ["topk:k=5", "topk:k=10", "identity"],
    "step": ["theory", "theory*4", "0.1"],
    "seed": [0, 1],
    "batch": [0, 32],
    "rounds": [100, 200],
    "problem": ["quadratic", {"name": "quadratic", "reg": 0.1}],
}
ANY = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in OPTIONS.items()})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY, st.sampled_from(["runs/a", "runs/b", "other/a", ""])), min_size=1, max_size=8))
def test_no_two_runs_share_a_label_and_no_two_curves(drawn):
    runs = [run(where, **options) for options, where in drawn]
    assert len(set(labels(runs))) == len(runs)
    grouped = bundles(runs)
    assert len({bundle.label for bundle in grouped}) == len(grouped)
    assert sorted(map(id, itertools.chain(*(b.runs for b in grouped)))) == sorted(map(id, runs))
    for bundle in grouped:  # one curve: nothing but the seed differs
        seeds = [r.options["seed"] for r in bundle.runs]
        assert len(set(seeds)) == len(seeds)
        assert len({repr(sorted({**r.options, "seed": 0}.items())) for r in bundle.runs}) == 1


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run()], ["ef21 topk:k=5"]),
        ([run(downlink_compressor="topk:k=5"), run(downlink_compressor="sign")], ["ef21 topk:k=5 both ways", "ef21 topk:k=5 + sign down"]),
        ([run(method="gd", compressor="identity"), run()], ["gd", "ef21 topk:k=5"]),
        ([run(step="theory"), run(step="theory*4")], ["step theory", "step theory*4"]),
        ([run(compressor="topk:k=1"), run(compressor="topk:k=2")], ["ef21 topk:k=1", "ef21 topk:k=2"]),
        ([run(seed=1), run(seed=2)], ["seed 1", "seed 2"]),
        ([run("r/a"), run("r/b")], ["ef21 topk:k=5, a", "ef21 topk:k=5, b"]),
        ([run(rounds=5), run(rounds=9)], ["5 rounds", "9 rounds"]),
        (
            [run(step="0.1"), run(step="0.2"), run(method="gd", compressor="identity", step="0.7")],
            ["ef21 topk:k=5, step 0.1", "ef21 topk:k=5, step 0.2", "gd"],
        ),
        ([run(out="a", method={"name": "marina", "p": 0.5}), run(out="b", method={"name": "marina", "p": 0.1})], ["p=0.5", "p=0.1"]),
        ([run(method="<own.Mine k=3>"), run(method="<own.Mine k=4>")], ["Mine k=3 topk:k=5", "Mine k=4 topk:k=5"]),
    ],
)  # fmt: skip
def test_labels_say_what_differs(runs, expected):
    assert labels(runs) == expected


def test_seeds_are_one_curve_and_the_same_seed_twice_is_not():
    assert [len(b.runs) for b in bundles([run(seed=s) for s in range(3)])] == [3]
    assert len(bundles([run(seed=s) for s in range(3)], each=True)) == 3
    twice = bundles([run(f"{place}/s{s}", seed=s) for place in ("old", "new") for s in range(2)])
    assert [(b.label, len(b.runs)) for b in twice] == [("ef21 topk:k=5, old/s0", 2), ("ef21 topk:k=5, new/s0", 2)]
    assert [len(b.runs) for b in bundles([run("r/a"), run("r/b")])] == [1, 1]
    assert [len(b.runs) for b in bundles([run(configuration="k"), run(configuration="k")])] == [2]


def test_different_problems_are_found_and_said():
    assert problem_differences([run("a"), run("b", seed=1, step="0.1", method="gd")]) == []
    (line,) = problem_differences(
        [run("a"), run("b", problem={"name": "quadratic", "reg": 0.1}, summary={"dim": 12, "clients": 5})]
    )
    assert line.startswith("b: ") and "dim 12, not 10" in line and "clients 5, not 4" in line
    (line,) = problem_differences([run("a"), run("b", norms=(4.1, 1.0))])
    assert "f(x⁰) = 2.05, not 2" in line
    assert problem_differences([run("a", init="normal"), run("b", init="normal", norms=(4.1, 1.0))]) == []


# ---- curves ---------------------------------------------------------------------------------------------------------
X, GRAD = horizontal("rounds"), vertical("grad", [run()])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(1e-9, 1e9), min_size=5, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["minmax", "quartiles", "none"]),
)
def test_a_curve_is_the_median_with_its_band(values, band):
    made = curve(Bundle("c", [run(norms=v) for v in values]), X, GRAD, band)
    table = np.array(values)
    assert np.array_equal(made.x, 10.0 * np.arange(5)) and np.array_equal(made.y, np.median(table, axis=0))
    low, high = {"minmax": (table.min(axis=0), table.max(axis=0)), "none": (made.y, made.y)}.get(
        band, tuple(np.quantile(table, [0.25, 0.75], axis=0))
    )
    assert np.allclose(made.low, low) and np.allclose(made.high, high)
    assert np.all(made.low <= made.y) and np.all(made.y <= made.high) and made.runs == len(values)


def test_runs_that_stopped_count_with_what_they_reached():
    done = {"reached_tol": True}
    short, middle, long = (
        run(norms=[8, 1], summary=done),
        run(norms=[8, 4, 2], summary=done),
        run(norms=[8, 6, 5, 3], summary=done),
    )
    made = curve(Bundle("c", [short, middle, long]), X, GRAD)
    assert list(made.y) == [8, 4, 2] and list(made.low) == [8, 1, 1]  # two of three have stopped in the fourth
    away = curve(Bundle("c", [run(norms=[8, 9], summary={"diverged": True}), middle, long]), X, GRAD)
    assert list(away.y) == [8, 6, 5] and away.high[-1] == math.inf
    cut = curve(
        Bundle("c", [run(norms=[8, 7]), middle, long]), X, GRAD
    )  # ended for another reason: nothing is known of it
    assert list(cut.y) == [8, 6]


def test_x_is_the_median_over_the_seeds():
    made = curve(Bundle("c", [run(seconds=s) for s in (1.0, 2.0, 9.0)]), horizontal("seconds"), GRAD)
    assert list(made.x) == [0.0, 2.0, 4.0]


def test_axes_by_the_definitions():
    one = run()
    value = {name: axis.values(one)[-1] for name, axis in HORIZONTAL.items()}
    assert value == {"rounds": 20, "bits": 8 * 200 / 4, "value-bits": 8 * 120 / 4, "bytes": 2 * 616, "seconds": 2}
    dense = run(summary={"exchange": "allreduce", "ranks": 2})
    assert HORIZONTAL["bits"].values(dense)[-1] == 8 * 200 / 2
    assert list(vertical("accuracy", [one]).values(one)) == pytest.approx([0.5, 0.6, 0.7])
    assert list(vertical("test_accuracy", [one]).values(one)) == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: horizontal("bit"), r"unknown axis 'bit'.*did you mean 'bits'"),
        (lambda: vertical("los", [run()]), r"unknown measure 'los'.*loss"),
        (lambda: vertical("loss-gap", [run()]), r"needs f\*, and the smallest loss that a run saw is not it.*compute"),
        (lambda: plot(bundles([run()]), y="loss-gap", optimum=lambda r: (0.6, 0.0)), r"saw f = 0.5, which is below f\* = 0.6"),
        (lambda: vertical("grad", [run("none", norms=[math.nan] * 2)]), r"none has no finite ‖∇f\(x\)‖²"),
        (lambda: plot(bundles([run()]), band="sd"), r"unknown band 'sd'"),
        (lambda: plot(bundles([run()]), width="half"), r"unknown width 'half'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_with_the_remedy(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_the_gap_is_to_the_given_minimum_and_ends_where_it_is_rounding():
    gap = vertical("loss-gap", [run()], lambda r: (0.25, 0.0)).values(run(norms=(1.0, 0.75, 0.5 + 1e-16)))
    assert gap[0] == 0.25 and gap[1] == 0.125 and np.isnan(gap[2])


# ---- figures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 6, 7, 9, 23])
def test_no_two_curves_share_a_colour_or_marker_and_line(count):
    pytest.importorskip("matplotlib")
    made = looks([k == 1 for k in range(count)])
    assert len({look["color"] for look in made}) == count
    assert len({(look["marker"], str(look["linestyle"])) for look in made}) == count


def figure(count=3, seeds=2, **more):
    norms = {(k, s): [4.0, 2.0 / (k + 1), 0.5 ** (3 * k) + 0.01 * s] for k in range(count) for s in range(seeds)}
    runs = [run(f"r{k}{s}", norms=values, seed=s, step=str(k + 1)) for (k, s), values in norms.items()]
    return plot(bundles(runs), **more)


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_file_is_there_with_its_points(tmp_path, ending):
    pytest.importorskip("matplotlib")
    made = figure(x=("rounds", "bits"))
    out, points = made.save(tmp_path / "sub" / f"figure.{ending}")
    head = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending]
    assert out.read_bytes().startswith(head)
    assert ending != "pdf" or b"/Type3" not in out.read_bytes()  # fonts that publishers refuse
    first = out.read_bytes()
    assert made.save(out)[0].read_bytes() == first
    rows = list(csv.DictReader(points.read_text().splitlines()))
    shown = [(c, k) for panel in made.panels for c in panel.curves for k in range(len(c.x))]
    for row, (c, k) in zip(rows, shown, strict=True):
        numbers = [float(row[name]) for name in ("x", "median", "minimum", "maximum")]
        assert numbers == [c.x[k], c.y[k], c.low[k], c.high[k]] and row["label"] == c.label and row["runs"] == "2"


def test_what_is_drawn_is_what_the_curves_hold():
    pytest.importorskip("matplotlib")
    made = figure(width="page")
    axes = made.figure().axes[0]
    for line, c in zip(axes.get_lines(), made.panels[0].curves, strict=True):
        assert np.array_equal(line.get_xdata(), c.x) and np.array_equal(line.get_ydata(), c.y)
    assert axes.get_yscale() == "log" and len(axes.collections) == 3  # bands
    assert made.figure().get_figwidth() == 6.9 and figure().figure().get_figwidth() == 3.3
    assert "medians over 2 seeds; bands from the smallest to the largest" in made.caption
    assert "seeds" not in figure(seeds=1).caption


def test_each_curve_is_named_once_beside_it_or_in_a_legend():
    pytest.importorskip("matplotlib")
    for count in (2, 9):
        drawn = figure(count, seeds=1).figure()
        wanted = {f"step {k + 1}" for k in range(count)}
        beside = [t.get_text() for t in drawn.axes[0].texts]
        legend = [t.get_text() for box in drawn.legends for t in box.get_texts()]
        assert {*beside, *legend} == wanted and len(beside) + len(legend) == count
        boxes = [t.get_window_extent() for t in drawn.axes[0].texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not figure(2, seeds=1).figure().legends  # there is room beside the curves


def test_a_figure_needs_an_ending_that_is_one(tmp_path):
    with pytest.raises(ConfigError, match=r"\.pdf, \.svg, \.png"):
        figure().save(tmp_path / "figure.jpeg")


# ---- the terminal ---------------------------------------------------------------------------------------------------
def test_the_terminal_shows_where_a_curve_is():
    made = figure(1, seeds=1)
    lines = draw_text(made.panels[0].curves, "rounds", "y", (60, 12), (False, True), Look(braille=False)).splitlines()
    body = [line[11:] for line in lines[1:13]]
    places = [(r, c) for r, line in enumerate(body) for c, text in enumerate(line) if text == "A"]
    assert (0, 0) in places and (11, 48) in places  # it falls from the first corner to the last
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(sorted(places)))
    assert max(map(len, lines)) <= 60 and lines[-1].split() == ["A", "ef21", "topk:k=5"]


@pytest.mark.parametrize("look", [Look(), Look(braille=False), Look(colour=True)])
def test_every_curve_has_its_letter_on_it(look):
    text = figure(5, seeds=1).text(70, 16, look)
    assert all(text.count(letter) >= 2 for letter in "ABCDE") and ("\x1b[" in text) == look.colour
    assert look.braille or text.replace("‖∇f(x)‖²", "").isascii()


def test_the_stream_decides(monkeypatch):
    class Screen:
        def __init__(self, encoding, terminal):
            self.encoding, self.isatty = encoding, lambda: terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Look.of(Screen("utf-8", True)) == Look(True, True) and Look.of(Screen("latin-1", False)) == Look(
        False, False
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert Look.of(Screen("utf-8", True)) == Look(True, False)


def test_a_flat_curve_and_one_point_are_drawn():
    for norms in ((1.0, 1.0), (1.0,)):
        assert "A" in plot(bundles([run(norms=norms)])).text()
        assert not re.search("nan|inf", plot(bundles([run(norms=norms)])).text())
