"""The studies ef21-w, cd-adam and dq-sgd: tiny versions run to their verdicts, each verdict can fail, and the data they generate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpicomp.data import load
from mpicomp.experiments.reproduce import generated
from mpicomp.experiments.reproduce.evidence import Evidence
from mpicomp.experiments.reproduce.networks import at_accuracy, final
from mpicomp.experiments.reproduce.papers import cd_adam, dq_sgd, ef21_w
from mpicomp.experiments.reproduce.report import judge
from mpicomp.experiments.reproduce.reproduction import FAILS, HOLDS, IN_PART, UNDECIDED, papers
from mpicomp.experiments.reproduce.runner import ExperimentRunner
from mpicomp.experiments.study.compare import Stored

TINY = {
    "ef21-w": ef21_w.Size(12, 4, 3, (0.0, 1.5), 1.5, 300, 40, (("mushrooms", "logistic", 30),), 30, (0.05, 0.9), 60, 2),
    "cd-adam": cd_adam.Size(("mushrooms",), 60, 2, (1e-2,), (0,), "digits", 8, 4, 4, 40, 2),
    "dq-sgd": dq_sgd.Size((dq_sgd.Task("images", "digits", "8", 4, 60, 0.2),), 2),
}


@pytest.mark.full(reason="whole experiments")
@pytest.mark.process
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.night if name == "cd-adam" else ()) for name in TINY]
)
def test_a_tiny_version_runs_to_its_verdicts_and_figures(name, tmp_path):
    study = papers[name]()
    runner = ExperimentRunner(tmp_path, ranks=3)
    study.measure(runner, TINY[name])
    judged = {j.claim.name: j.verdict for j in judge(study, runner.evidence, "tiny")}
    assert set(judged) == {claim.name for claim in study.claims}
    assert judged["same-bits"].outcome == HOLDS
    assert all(verdict.numbers for verdict in judged.values())
    if name == "dq-sgd":
        assert judged["budget"].outcome == HOLDS
    if name == "ef21-w":
        assert judged["same-method"].outcome == HOLDS
    drawing = pytest.importorskip("mpicomp.experiments.reproduce.drawing")
    if drawing.have_matplotlib():
        written = drawing.save(study.figures, runner.evidence, tmp_path / "figures")
        assert len(written) == 2 * len(study.figures)
    done = sorted((tmp_path / "runs").iterdir())
    study.measure(again := ExperimentRunner(tmp_path, ranks=3), TINY[name])
    assert sorted((tmp_path / "runs").iterdir()) == done  # nothing was run a second time
    assert again.evidence.tables == runner.evidence.tables


# ---- verdicts on made-up numbers --------------------------------------------------------------------------------------
def row(where: str, L_var: float, steps: float, rounds: float) -> dict[str, float | str]:
    return {"where": where, "L_var": L_var, "steps": steps, "rounds": rounds}


def test_ef21_w_is_held_against_the_theory():
    def sweep(*rounds: float) -> Evidence:
        return Evidence(tables={"sweep": [row(str(i), float(i), 1.0 + i, r) for i, r in enumerate(rounds)]})

    assert ef21_w.judge_gain(sweep(1.0, 2.09, 2.9)).outcome == HOLDS
    assert ef21_w.judge_gain(sweep(1.0, 2.0, 2.5)).outcome == IN_PART  # less than the steps say
    assert ef21_w.judge_gain(sweep(9.0, 5.0, 1.0)).outcome == FAILS

    def real(*of: tuple[float, float]) -> Evidence:
        return Evidence(tables={"real": [row(str(i), 1.0, *pair) for i, pair in enumerate(of)]})

    assert ef21_w.judge_real(real((1.01, 1.02), (7.5, 7.6))).outcome == HOLDS  # little is promised, and kept
    assert ef21_w.judge_real(real((1.01, 1.02), (2.0, 1.5))).outcome == IN_PART

    def variants(*rounds: float) -> Evidence:
        return Evidence(tables={"variants": [{"seed": i, **row("sgd", 1.0, 3.0, r)} for i, r in enumerate(rounds)]})

    assert ef21_w.judge_variants(variants(2.95, 3.0, 3.05)).outcome == HOLDS
    assert ef21_w.judge_variants(variants(2.0, 2.1, 2.05)).outcome == IN_PART  # not more, but less than the steps
    assert ef21_w.judge_variants(variants(2.0, 4.0, 3.0)).outcome == UNDECIDED

    def differ(topk: float, natural: float) -> Evidence:
        rows = [{"compressor": "topk:k=1", "difference": topk}, {"compressor": "natural", "difference": natural}]
        return Evidence(tables={"trajectory": rows})

    assert ef21_w.judge_same_method(differ(1e-13, 1e-2)).outcome == HOLDS
    assert ef21_w.judge_same_method(differ(1e-3, 1e-2)).outcome == IN_PART
    assert ef21_w.judge_same_method(differ(1e-3, 1e-12)).outcome == FAILS


def test_verdicts_on_rare_features():
    def rare(*rounds: int) -> Evidence:
        rows = [
            {"share": 0.1 * i, "ef21 rounds": 100, "ef21-rare rounds": r, "gd bits": 50, "ef21-rare bits": r, "gd bytes": 1,
             "ef21-rare bytes": 1}
            for i, r in enumerate(rounds)
        ]  # fmt: skip
        return Evidence(tables={"rare": rows})

    assert ef21_w.judge_rare(rare(10, 20)).outcome == HOLDS
    assert ef21_w.judge_rare(rare(20, 10)).outcome == IN_PART
    assert ef21_w.judge_rare(rare(100, 100)).outcome == FAILS
    assert ef21_w.judge_rare_bits(rare(10, 20)).outcome == HOLDS
    assert ef21_w.judge_rare_bits(rare(10, 60)).outcome == IN_PART

    def weights(equal: float, uneven: float, off: float = 1.0) -> Evidence:
        rows = [{"sigma": s, "steps": v, "rounds": off * v} for s, v in ((0.0, equal), (2.0, uneven))]
        return Evidence(tables={"weights": rows})

    assert ef21_w.judge_weights(weights(0.8, 2.0)).outcome == HOLDS
    assert ef21_w.judge_weights(weights(0.8, 0.9)).outcome == IN_PART
    assert ef21_w.judge_weights(weights(1.2, 0.5, 1.2)).outcome == FAILS


SPREAD = (0.98, 1.0, 1.02)  # of three seeds


def logistic(**of: float) -> Evidence:
    """Three seeds of each method; what is not said of a method is 100 rounds and 1000 bits."""
    rows = []
    for method in cd_adam.METHODS:
        given = of.get(method.replace("-", "_"), 1.0)
        for seed, moved in enumerate(SPREAD):
            costs = {"rounds": 100.0 * given * moved, "bits": 1000.0 * given * moved}
            rows.append({"data": "set", "compressor": "sign", "method": method, "seed": seed, **costs})
    common = [{**r, "step": 0.01, "batch": 0} for r in rows]
    return Evidence(tables={"tuned": rows, "common": common})


@pytest.mark.parametrize(
    "judge_one, good, between, bad",
    [
        (cd_adam.judge_naive, 0.05, 0.1, 0.5),
        (cd_adam.judge_common_step, 1.3, 1.5, 1.7),
        (cd_adam.judge_tuned, 1.3, 1.5, 2.5),
        (cd_adam.judge_bits, 0.4, 0.5, 0.6),
        (cd_adam.judge_feedback, 0.9, 1.0, 1.1),
        (cd_adam.judge_onebit, 0.9, 1.0, 1.2),
    ],
)
def test_verdicts_of_cd_adam(judge_one, good, between, bad):
    assert judge_one(logistic(CD_Adam=good)).outcome == HOLDS
    assert judge_one(logistic(CD_Adam=bad)).outcome == FAILS
    found = logistic(CD_Adam=between)
    for table in found.tables.values():  # the same mean, and a spread of their own
        for r in table:
            if r["method"] == "CD-Adam":
                r["rounds"], r["bits"] = (v * (1.2, 1.0, 1 / 1.2)[r["seed"]] for v in (r["rounds"], r["bits"]))
    assert judge_one(found).outcome == UNDECIDED


def test_what_never_arrives_is_not_a_success():
    inf = float("inf")
    assert cd_adam.judge_tuned(logistic(CD_Adam=inf)).outcome == FAILS
    assert cd_adam.judge_tuned(logistic(CD_Adam=inf, AMSGrad=inf)).outcome == UNDECIDED
    assert cd_adam.judge_naive(logistic(naive=inf)).outcome == HOLDS


def test_the_stall_and_its_cure():
    def stall(stalling: float, cured: float) -> Evidence:
        of = dict.fromkeys(cd_adam.CURES, 1e-3) | {cd_adam.STALLING: stalling, cd_adam.MOMENTUM: cured, "AMSGrad": 1e-4}
        rows = [
            {"data": "set", "case": case, "seed": s, "level": v * moved}
            for case, v in of.items()
            for s, moved in enumerate(SPREAD)
        ]
        return Evidence(tables={"stall": rows})

    assert cd_adam.judge_stall(stall(1e-2, 1e-3)).outcome == cd_adam.judge_cure(stall(1e-2, 1e-3)).outcome == HOLDS
    assert cd_adam.judge_stall(stall(5e-4, 4e-4)).outcome == cd_adam.judge_cure(stall(5e-4, 4e-4)).outcome == FAILS


def test_verdict_on_the_network():
    def network(mine: float) -> Evidence:
        rows = [
            {"method": m, "seed": s, "accuracy": (mine if m == "CD-Adam" else 0.9) + 0.001 * s * (m == "naive"), "bits": 1.0, "bytes": 1.0}
            for m in cd_adam.METHODS
            for s in range(5)
        ]  # fmt: skip
        return Evidence(tables={"network": rows})

    assert cd_adam.judge_network(network(0.91)).outcome == HOLDS
    assert cd_adam.judge_network(network(0.895)).outcome == IN_PART
    assert cd_adam.judge_network(network(0.5)).outcome == FAILS
    verdict = cd_adam.judge_network(network(float("nan")))
    assert verdict.outcome == UNDECIDED and "CD-Adam diverges" in verdict.numbers


def accuracies(spread: float = 0.0, **of: dict[str, float]) -> Evidence:
    """Three seeds of each method; the accuracies and losses of all move together by `spread`."""
    bits = {dq_sgd.RULE: 4.49, dq_sgd.EQUAL: 3.99, dq_sgd.FIXED[6]: 6.0, dq_sgd.ADAPTIVE: 5.0}
    own = {"accuracy": 0.9, "loss": 1.0, "message_bits": 5.0, "bytes": 1.0, "step": 0.1}
    rows = []
    for method in dq_sgd.OPTIONS:
        for seed, shift in enumerate((-spread, 0.0, spread)):
            values = {**own, "bits": bits.get(method, 32.0), **of.get(method.replace("-", "_"), {})}
            moved = {name: values[name] + shift for name in ("accuracy", "loss")}
            rows.append({"data": "set", "method": method, "seed": seed, **values, **moved})
    found = Evidence(tables={"seeds": rows, "tasks": [{"data": "set", "budget": 4.5}]})
    found.tables["accuracy"] = [dq_sgd.average(found.rows("seeds", method=m)) for m in dq_sgd.OPTIONS]
    return found


def test_verdicts_of_dq_sgd():
    assert dq_sgd.judge_budget(accuracies()).outcome == HOLDS
    assert dq_sgd.judge_budget(accuracies(DQ_SGD={"bits": 4.51})).outcome == IN_PART
    assert dq_sgd.judge_budget(accuracies(DQ_SGD={"bits": 4.4})).outcome == IN_PART
    assert dq_sgd.judge_accuracy(accuracies(DQ_SGD={"accuracy": 0.896})).outcome == HOLDS
    assert dq_sgd.judge_accuracy(accuracies(DQ_SGD={"accuracy": 0.89})).outcome == FAILS
    assert dq_sgd.judge_saving(accuracies()).outcome == HOLDS
    assert dq_sgd.judge_saving(accuracies(AdaQS={"bits": 4.0})).outcome == IN_PART
    assert dq_sgd.judge_saving(accuracies(DQ_SGD={"accuracy": 0.8, "bits": 7.0})).outcome == FAILS
    assert dq_sgd.judge_coarse(accuracies()).outcome == FAILS
    assert dq_sgd.judge_coarse(accuracies(signSGD={"accuracy": 0.8})).outcome == IN_PART
    fixed = dq_sgd.FIXED[4]
    assert dq_sgd.judge_four(accuracies(**{fixed: {"accuracy": 0.89}})).outcome == HOLDS
    assert (
        dq_sgd.judge_four(accuracies(**{fixed: {"accuracy": 0.897}})).outcome == IN_PART
    )  # below the rule's, but as good as SGD's
    assert dq_sgd.judge_four(accuracies(**{fixed: {"accuracy": 0.91}})).outcome == FAILS
    assert dq_sgd.judge_rule(accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.9}})).outcome == HOLDS
    assert dq_sgd.judge_rule(accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.999}})).outcome == FAILS
    assert dq_sgd.judge_both_ways(accuracies(SGD={"bytes": 2.5})).outcome == HOLDS
    assert dq_sgd.judge_both_ways(accuracies(SGD={"bytes": 1.5})).outcome == FAILS


def test_seeds_are_compared_in_pairs():
    found = accuracies(0.05, DQ_SGD={"accuracy": 0.89})
    effect = dq_sgd.difference(found, "set", dq_sgd.RULE, dq_sgd.SGD)
    assert effect.mean == pytest.approx(-1.0) and effect.error == pytest.approx(0.0, abs=1e-9)
    averaged = found.rows("accuracy", method=dq_sgd.SGD)[0]
    assert averaged["seeds"] == 3 and averaged["accuracy_std"] == pytest.approx(0.05)
    assert dq_sgd.percent(averaged) == "90.00 ± 5.00 %"
    wide = accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.9}})
    for own, shift in zip(wide.rows("seeds", method=dq_sgd.EQUAL), (-0.3, 0.0, 0.3), strict=True):
        own["loss"] += shift
    assert dq_sgd.judge_rule(wide).outcome == UNDECIDED  # within two standard errors


def test_the_convex_regime_is_judged():
    def convex(strong: float, dual_bits: float, dual_error: float) -> Evidence:
        rows = []
        of = {dq_sgd.FIXED_WIDTH: (1.0, 4.0), dq_sgd.STRONGLY: (strong, 4.0), dq_sgd.NONCONVEX: (3.0, 4.0)}
        for rule, (excess, bits) in {**of, dq_sgd.DUAL: (dual_error, dual_bits)}.items():
            for seed, moved in enumerate(SPREAD):
                values = {"excess": excess * moved, "bits": bits * moved, "allowed": 1.0}
                rows.append({"width": 4, "rule": rule, "seed": seed, **values})
        return Evidence(tables={"convex": rows})

    assert (
        dq_sgd.judge_convex(convex(0.7, 3.5, 0.9)).outcome == dq_sgd.judge_dual(convex(0.7, 3.5, 0.9)).outcome == HOLDS
    )
    assert (
        dq_sgd.judge_convex(convex(1.3, 4.5, 1.2)).outcome == dq_sgd.judge_dual(convex(0.7, 4.5, 1.2)).outcome == FAILS
    )
    assert dq_sgd.judge_dual(convex(0.7, 3.5, 1.2)).outcome == IN_PART  # fewer bits, and more error than allowed


# ---- what they share --------------------------------------------------------------------------------------------------
def test_tuning_by_a_cost_keeps_the_best_only(tmp_path):
    runner = ExperimentRunner(tmp_path)
    options = {"problem": {"name": "quadratic", "dim": 8, "reg": 0.1}, "clients": 3, "rounds": 30, "method": "gd"}
    best = runner.tune("run", start=0.25, cost=lambda stored: final(stored, "loss"), **options)
    assert best.summary["step"] in (1.0, 2.0)
    best.summary["diverged"] = True  # then the evaluations before that say nothing
    assert np.isnan(final(best, "loss"))
    assert list(runner.evidence.curves) == ["run"]


def test_first_evaluation_with_an_accuracy():
    rows = [{"accuracy": a, "round": float(t)} for t, a in enumerate((0.1, 0.8, 0.7, 0.9))]
    stored = Stored(Path("nowhere"), {}, rows)
    over = lambda s: np.array([row["round"] for row in s.rows])  # noqa: E731
    assert [at_accuracy(stored, over, goal) for goal in (0.1, 0.75, 0.85, 0.95)] == [0.0, 1.0, 3.0, float("inf")]


def test_uneven_clients_have_the_wanted_constant():
    clients = generated.uneven(400, 6, 5, 1.0, 50.0, seed=3)
    hessians = np.array([2 / 5 * A.T @ A for A, _ in clients])
    assert np.linalg.eigvalsh(hessians.mean(axis=0))[-1] == pytest.approx(50.0)
    L_i = np.linalg.eigvalsh(hessians)[:, -1]
    assert np.std(np.log(L_i)) == pytest.approx(1.0, abs=0.1)
    equal = generated.uneven(20, 6, 5, 0.0, 50.0)
    assert np.ptp([np.linalg.norm(A, ord=2) for A, _ in equal]) < 1e-12


def test_rare_features_are_as_rare_as_wanted(tmp_path):
    clients = generated.rare(20, 30, 6, 0.12)
    present = np.array([np.any(A != 0, axis=0) for A, _ in clients])
    assert set(present.sum(axis=0)) == {3}  # ⌈0.12 · 20⌉
    for i, (A, _) in enumerate(clients[1:], 1):
        spectrum = np.linalg.eigvalsh(2 / 6 * A[:, present[i]].T @ A[:, present[i]])
        assert spectrum[-1] <= 0.81 * 20.0 + 1e-9
        assert spectrum[-min(6, present[i].sum())] >= 0.81 * 1.0 - 1e-9
    path = generated.write(tmp_path / "deep" / "rare.svm", clients)
    rows = load(path, 30)
    np.testing.assert_array_equal(rows.labels, np.concatenate([b for _, b in clients]))
    written = Path(path).read_bytes()
    generated.write(Path(path), generated.rare(20, 30, 6, 0.5))
    assert Path(path).read_bytes() == written
    A = np.zeros((len(rows.labels), 30))
    A[np.repeat(np.arange(len(A)), np.diff(rows.indptr)), rows.indices] = rows.values
    np.testing.assert_array_equal(A, np.concatenate([a for a, _ in clients]))
