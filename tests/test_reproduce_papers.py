"""Each study: a tiny version runs, and each verdict follows the numbers, both ways."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from mpicomp.compressors import compressors
from mpicomp.experiments.reproduce import batch, quantizers
from mpicomp.experiments.reproduce.evidence import Evidence
from mpicomp.experiments.reproduce.papers import correlated_quantization as cq
from mpicomp.experiments.reproduce.papers import marina_p_m3 as m3
from mpicomp.experiments.reproduce.papers import permk
from mpicomp.experiments.reproduce.report import judge, write
from mpicomp.experiments.reproduce.reproduction import FAILS, HOLDS, IN_PART, SCALES, UNDECIDED, papers
from mpicomp.experiments.reproduce.runner import ExperimentRunner

TINY = {
    "permk": permk.Size(20, 1e-2, {4: 60, 10: 60}, (0.0, 0.8), 2, 4, 40),
    "correlated-quantization": cq.Size(8, (4, 10), 200, 1e-3, (8, 16), (0.5,), 4, 200, 20, (16, 10), 10, 60, 4, 2),
    "marina-p-m3": m3.Size(
        20, 1e-2, 0.1, {4: 200, 10: 200}, 2, ((m3.SPARSE, 1e-1), (m3.DENSE, 1e-1)), (0.0, 0.5), 4, 4, 20, 4
    ),
}  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """What goes over MPI runs in this process, and there is no lab: what a study does with its runs is the same."""
    monkeypatch.setattr(
        ExperimentRunner,
        "_launch",
        lambda self, argv: batch.main(argv[argv.index("mpicomp.experiments.reproduce.batch") + 1 :]),
    )
    monkeypatch.setattr(ExperimentRunner, "over_network", lambda self, labels, rate: False)


@pytest.mark.full(reason="whole experiments")
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_version_runs(name, alone, tmp_path):
    study, runner = papers[name](), ExperimentRunner(tmp_path)
    study.measure(runner, TINY[name])
    judged = judge(study, runner.evidence, "small")
    assert {j.verdict.outcome for j in judged} <= {HOLDS, IN_PART, FAILS, UNDECIDED}
    assert all(j.verdict.numbers for j in judged)
    assert next(j for j in judged if j.claim.name == "same-bits").verdict.outcome == HOLDS
    write(study, "small", runner, judged)
    assert len({c.name for c in study.claims}) == len(study.claims)
    if pytest.importorskip("matplotlib"):
        from mpicomp.experiments.reproduce.drawing import save

        written = save(study.figures, runner.evidence, tmp_path / "figures")
        assert len(written) == 2 * len(study.figures) and all(path.stat().st_size > 5000 for path in written)


@pytest.mark.parametrize("name", TINY)
def test_every_study_has_both_sizes_and_known_outcomes(name):
    study = papers[name]
    assert set(study.sizes) == set(SCALES) and study.summary and study.paper
    for claim in study.claims:
        assert set(claim.expected) <= set(SCALES) and set(claim.expected.values()) <= {HOLDS, IN_PART, FAILS, UNDECIDED}


def outcome(function, tables) -> str:
    return function(Evidence(tables=tables)).outcome


def seeds(rows, *columns):
    """Three seeds of every row, whose columns differ by a per cent."""
    return [
        {**row, "seed": s, **{c: row[c] * moved for c in columns if c in row}}
        for row in rows
        for s, moved in enumerate((0.99, 1.0, 1.01))
    ]


# ---- permk ------------------------------------------------------------------------------------------------------------
def grid(**by_method):
    """A grid from functions of (n, s) that give the bits of a method."""
    rows = []
    for n in (10, 100):
        for s in (0.0, 0.8):
            for method, bits in by_method.items():
                up = bits(n, s)
                rows.append({"method": method.replace("_", " "), "n": n, "s": s, "up_bits": up, "both_bits": up + 100})
    return {"grid": seeds(rows, "up_bits", "both_bits")}


def test_permk_verdicts_follow_the_grid():
    good = grid(
        GD=lambda n, s: 100.0, MARINA_PermK=lambda n, s: 200 / n * (1 + s), MARINA_RandK=lambda n, s: 200 / n**0.5,
        EF21_TopK=lambda n, s: 300 / n,
    )  # fmt: skip
    bad = grid(
        GD=lambda n, s: 1.0,
        MARINA_PermK=lambda n, s: 100.0 - 50 * s,
        MARINA_RandK=lambda n, s: 50.0,
        EF21_TopK=lambda n, s: 80.0,
    )
    for function in (permk.judge_homogeneous, permk.judge_shrinking, permk.judge_ef21):
        assert (outcome(function, good), outcome(function, bad)) == (HOLDS, FAILS), function.__name__
    assert outcome(permk.judge_both_directions, good) == FAILS
    free = {"grid": [{**row, "both_bits": row["up_bits"]} for row in good["grid"]]}
    assert outcome(permk.judge_both_directions, free) == HOLDS


def test_permk_growth_is_held_against_the_promise():
    def table(*gains):
        rows = [
            {"method": method, "n": n, "s": 0.0, "d": 100, "promised": n**0.5, "up_bits": bits}
            for n, g in zip((10, 100), gains, strict=True)
            for method, bits in ((permk.RANDK, g), (permk.PERMK, 1.0))
        ]
        return {"theory": seeds(rows, "up_bits")}

    assert outcome(permk.judge_growth, table(2.0, 8.0)) == HOLDS
    assert outcome(permk.judge_growth, table(2.0, 1.5)) == IN_PART  # does not grow
    assert outcome(permk.judge_growth, table(2.0, 20.0)) == IN_PART  # more than promised


def test_permk_with_equal_clients_is_gradient_descent():
    row = {"n": 10, "difference": 1e-9, "saving": 5.2, "promised": 5.26}
    assert outcome(permk.judge_gradient_descent, {"identity": seeds([row], "saving")}) == HOLDS
    for wrong in ({"difference": 1e-2}, {"saving": 2.0}):
        assert outcome(permk.judge_gradient_descent, {"identity": seeds([{**row, **wrong}], "saving")}) == IN_PART


# ---- correlated quantization ------------------------------------------------------------------------------------------
def test_exact_variance_is_that_of_all_thresholds():
    """n = 2: both permutations of the strata, thresholds on a fine grid."""
    y = np.array([[0.3], [0.85]])
    radius, V = 1.0, 2 * y - 1
    offsets = (np.arange(200) + 0.5) / 200
    errors = []
    for strata in ((0, 1), (1, 0)):
        up = [(strata[i] + offsets) / 2 < y[i, 0] for i in range(2)]
        mean = (up[0][:, None].astype(float) + up[1][None]) / 2
        errors.append((2 * (mean - y.mean())) ** 2)
    assert quantizers.exact_variance(V, radius) == pytest.approx(np.mean(errors), rel=1e-9)


def test_constants_of_the_one_bit_quantizer_are_those_of_the_compressor():
    d, n = 64, 20
    right = quantizers.variances(d, n)["right"]
    assert right["IQ"] == compressors.create("iq").theta(d, n) and right["CQ"] == compressors.create("cq").theta(d, n)
    published = quantizers.variances(d, n)["published"]
    sign_magnitude = compressors.create("cq:variant=sign-magnitude")
    assert published["CQ"] == pytest.approx(sign_magnitude.theta(d, n)) == pytest.approx(right["CQ"] / 4)


def test_the_published_limit_is_found_again():
    gains = {(row["constants"], round(row["bits"], 2)): round(row["gain"], 2) for row in quantizers.limits()}
    assert gains == {
        ("published", 1.0): 7.29,
        ("published", 1.58): 6.05,
        ("published", 2.0): 5.52,
        ("right", 1.0): 12.86,
    }


def test_the_library_constant_is_that_of_the_other_form():
    """d/(4n²) is the worst case of Σ f(1−f) with f uniform magnitudes: found without the package's code."""
    rng = np.random.default_rng(0)
    d, n = 64, 7
    v = rng.standard_normal(d)
    r = np.linalg.norm(v)
    ratio = {}
    for form, y in ((quantizers.ONE_BIT, (v + r) / (2 * r)), (quantizers.SIGN_MAGNITUDE, np.abs(v) / r)):
        f = n * y - np.floor(n * y)
        scale = 2 * r if form == quantizers.ONE_BIT else r
        ratio[form] = np.sum(scale**2 * f * (1 - f)) / n**2 / (d / (4 * n**2) * r**2)
    rows = quantizers.forms_table(d, [n], 4000)
    assert {row["form"] for row in rows} == set(ratio)
    assert ratio[quantizers.SIGN_MAGNITUDE] <= 1 < ratio[quantizers.ONE_BIT]
    assert all(
        row["ratio"] <= 1 + 4 * row["standard_error"] for row in rows if row["form"] == quantizers.SIGN_MAGNITUDE
    )


def test_correlated_quantization_verdicts_follow_the_tables():
    row = {
        "n": 10, "inputs": "equal", "measured": 1.0, "standard_error": 0.01, "exact": 1.01, "independent": 9.0, "published_bound": 20.0,
    }  # fmt: skip
    for function, wrong in (
        (cq.judge_variance, {"exact": 1.1}),
        (cq.judge_never_worse, {"independent": 0.9}),
        (cq.judge_bound, {"published_bound": 0.9}),
    ):
        assert outcome(function, {"variance": [row]}) == HOLDS, function.__name__
        assert outcome(function, {"variance": [{**row, **wrong}]}) == FAILS, function.__name__
    forms = [{"n": 10, "form": "f", "ratio": 1.01, "standard_error": 0.01}]
    library = partial(cq.judge_library_constant, form="f")
    assert [outcome(library, {"forms": [{**forms[0], "ratio": r}]}) for r in (1.01, 2.9)] == [HOLDS, FAILS]
    limit = [{"constants": "published", "bits": 1.0, "gain": 7.29}, {"constants": "right", "bits": 1.0, "gain": 12.86}]
    assert (
        outcome(cq.judge_limit, {"limit": limit}) == HOLDS and outcome(cq.judge_honest_limit, {"limit": limit}) == FAILS
    )

    def gains(*values):
        rows = [
            {"method": m, "n": i, "promised": v, "up_bits": bits}
            for i, v in enumerate(values)
            for m, bits in (("IQ", v), ("CQ", 1.0))
        ]
        return {"gain": seeds(rows, "up_bits")}

    assert [outcome(cq.judge_measured_gain, gains(*v)) for v in ((4, 8), (4, 5), (5, 4))] == [HOLDS, IN_PART, FAILS]


def test_correlated_quantization_verdicts_follow_the_bits():
    def tables(mine, tuned):
        bits = dict.fromkeys(cq.METHODS, 2.0) | {"MARINA CQ": mine, "MARINA CQ ±": mine, "MARINA CQ tuned": tuned}
        bits |= {"SGD CQ tuned": 2.0, "GD": 9.0}
        rows = [
            {"method": m, "n": 10, "s": 0.1, "data": "x", "target": 1, "up_bits": b} for m, b in bits.items()
        ]  # fmt: skip
        return dict.fromkeys(("equal", "mixed", "real"), seeds(rows, "up_bits"))

    good, bad = tables(1.0, 1.0), tables(5.0, 3.0)
    judges = (
        cq.judge_equal_clients, partial(cq.judge_sgd, kind=""), partial(cq.judge_sgd, kind=" tuned"), cq.judge_sparse,
        cq.judge_different, cq.judge_real,
    )  # fmt: skip
    for function in judges:
        assert (outcome(function, good), outcome(function, bad)) == (HOLDS, FAILS), function


def test_estimation_verdict_follows_the_errors():
    def table(correlated, independent):
        points = [{"sweep": "sigma", "sigma": s, "n": 100} for s in (0.01, 0.16)]
        points += [{"sweep": "n", "sigma": 0.01, "n": n} for n in (2, 5, 300)]
        errors = {"CQ": correlated, "IQ": independent}
        return {
            "estimation": [{**p, "method": m, "rmse": e(p["sigma"], p["n"])} for p in points for m, e in errors.items()]
        }

    good = table(lambda s, n: s / n, lambda s, n: 1 / n**0.5)
    bad = table(lambda s, n: 1 / n**0.5, lambda s, n: 0.5 / n**0.5)
    assert (outcome(cq.judge_estimation, good), outcome(cq.judge_estimation, bad)) == (HOLDS, FAILS)


# ---- MARINA-P and M3 --------------------------------------------------------------------------------------------------
def by_clients(**bits):
    """The tables over n from a dense start, from functions of n."""
    rows = [
        {"method": method, "n": n, "start": m3.DENSE, "target": 1e-3, "down_bits": f(n), "both_bits": f(n)}
        for n in (10, 100)
        for method, f in bits.items()
    ]
    return dict.fromkeys(("down", "both"), seeds(rows, "down_bits", "both_bits"))


def test_marina_p_verdicts_follow_the_bits():
    names = list(m3.DOWN)
    good = by_clients(**dict(zip(names, (
        lambda n: 100.0, lambda n: 90.0, lambda n: 110.0, lambda n: 100 / n**0.4, lambda n: 100 / n**0.9), strict=True)))  # fmt: skip
    bad = by_clients(**dict(zip(names, (
        lambda n: 100.0, lambda n: 90.0, lambda n: 10.0, lambda n: 150.0 * n, lambda n: 200.0 * n), strict=True)))  # fmt: skip
    fewest = partial(m3.judge_fewest_down, start=m3.DENSE)
    assert outcome(fewest, good) == HOLDS and outcome(partial(m3.judge_fewest_down, start=m3.SPARSE), good) == UNDECIDED
    for function in (m3.judge_down_grows, m3.judge_same, m3.judge_independent):
        assert (outcome(function, good), outcome(function, bad)) == (HOLDS, FAILS), function.__name__


def test_m3_verdicts_follow_the_bits():
    names = list(m3.BOTH)
    good = by_clients(**dict(zip(names, (
        lambda n: 300.0, lambda n: 300.0, lambda n: 400.0, lambda n: 400.0, lambda n: 200 / n**0.4), strict=True)))  # fmt: skip
    bad = by_clients(**dict(zip(names, (
        lambda n: 100.0, lambda n: 100 / n**0.5, lambda n: 90.0, lambda n: 80.0, lambda n: 200.0), strict=True)))  # fmt: skip
    for tables in (good, bad):
        tables["theory"] = tables["unlike"] = [r for r in tables["both"] if r["seed"] == 1]
        tables["theory"] = tables["unlike"] = [{**r, "bits": r["both_bits"]} for r in tables["theory"]]
    for function in (
        m3.judge_m3_core, m3.judge_m3_stacked, m3.judge_m3_trend, m3.judge_m3_theory, m3.judge_m3_stacked_theory
    ):  # fmt: skip
        assert (outcome(function, good), outcome(function, bad)) == (HOLDS, FAILS), function.__name__
    assert m3.exponent({10: 10.0, 1000: 1.0}) == pytest.approx(-0.5)


def test_the_momentum_of_m3_is_judged_by_its_best_value():
    def beta(best):
        bits = {0.0: 1.0, **dict.fromkeys(m3.BETAS, 2.0), m3.BETAS[-1]: best}
        rows = [{"beta": b, "n": 30, "start": m3.DENSE, "target": 1e-5, "both_bits": v} for b, v in bits.items()]
        return {"beta": seeds(rows, "both_bits")}

    assert [outcome(m3.judge_beta, beta(best)) for best in (0.6, 0.75, 0.9)] == [HOLDS, UNDECIDED, FAILS]


def test_heterogeneity_images_and_hosting_are_judged():
    def noise(permk_end, m3_end):
        ends = {"GD": (100, 100), m3.PERMK: (10, permk_end), "M3": (20, m3_end)}
        rows = [
            {"method": m, "s": s, "down_bits": b[i], "both_bits": b[i]}
            for m, b in ends.items()
            for i, s in enumerate((0.0, 0.5))
        ]
        return {"noise": seeds(rows, "down_bits", "both_bits")}

    assert [outcome(m3.judge_heterogeneity, noise(*e)) for e in ((50, 60), (50, 10), (5, 10))] == [
        HOLDS,
        IN_PART,
        FAILS,
    ]

    def images(permk_bits):
        rows = [{"method": m, "homogeneity": 0.0, "down_bits": permk_bits if m == m3.PERMK else 10.0} for m in m3.DOWN]
        return {"images": seeds(rows, "down_bits")}

    assert [outcome(m3.judge_images, images(bits)) for bits in (5.0, 50.0)] == [HOLDS, FAILS]

    def hosted(nbytes):
        base = {"n": 100, "ranks": 5}
        gd = {"method": "GD", "down_bits": 100.0, "down_bytes": 100.0, **base}
        return {"hosted": [gd, {"method": m3.PERMK, "down_bits": 2.0, "down_bytes": nbytes, **base}]}

    assert [outcome(m3.judge_real_downlink, hosted(nbytes)) for nbytes in (2.0, 50.0)] == [HOLDS, FAILS]
