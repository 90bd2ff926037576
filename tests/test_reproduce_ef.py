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
from mpicomp.experiments.reproduce.reproduction import FAILS, HOLDS, IN_PART, papers
from mpicomp.experiments.reproduce.runner import ExperimentRunner
from mpicomp.experiments.study.compare import Stored

TINY = {
    "ef21-w": ef21_w.Size(12, 4, 3, (0.0, 1.5), 1.5, 300, 40, (("mushrooms", "logistic", 30),), 30, (0.05, 0.9), 60),
    "cd-adam": cd_adam.Size(("mushrooms",), 60, (1e-2,), "digits", 8, 4, 4, 40, (1e-2,)),
    "dq-sgd": dq_sgd.Size((dq_sgd.Task("images", "digits", "8", 4, 60, 0.2, (3e-3, 1e-3)),), 1),
}


@pytest.mark.full(reason="whole experiments")
@pytest.mark.process
@pytest.mark.parametrize("name", TINY)
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
        assert judged["same-method"].outcome == judged["gain"].outcome == HOLDS
    drawing = pytest.importorskip("mpicomp.experiments.reproduce.drawing")
    if drawing.have_matplotlib():
        written = drawing.save(study.figures, runner.evidence, tmp_path / "figures")
        assert len(written) == 2 * len(study.figures)
    done = sorted((tmp_path / "runs").iterdir())
    study.measure(again := ExperimentRunner(tmp_path, ranks=3), TINY[name])
    assert sorted((tmp_path / "runs").iterdir()) == done  # nothing was run a second time
    assert again.evidence.tables == runner.evidence.tables


# ---- verdicts on made-up numbers --------------------------------------------------------------------------------------
def sweep(*rounds: float) -> Evidence:
    rows = [{"L_var": float(i), "steps": 1.0 + i, "rounds": r, "where": "here"} for i, r in enumerate(rounds)]
    return Evidence(tables={"sweep": rows, "real": rows, "variants": rows})


def test_verdicts_of_ef21_w():
    assert ef21_w.judge_gain(sweep(1.0, 2.1, 2.9)).outcome == HOLDS
    assert ef21_w.judge_gain(sweep(1.0, 1.0, 1.0)).outcome == IN_PART
    assert ef21_w.judge_gain(sweep(9.0, 5.0, 1.0)).outcome == FAILS
    for judge_one in (ef21_w.judge_real, ef21_w.judge_variants):
        assert judge_one(sweep(1.2, 3.0)).outcome == HOLDS
        assert judge_one(sweep(1.0, 3.0)).outcome == IN_PART
        assert judge_one(sweep(1.0, 0.5)).outcome == FAILS

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


def logistic(**of: dict[str, float]) -> Evidence:
    rows = []
    for method in cd_adam.METHODS:
        entries = {"level": 1.0, "rounds": 100.0, "bits": 1000.0, **of.get(method.replace("-", "_"), {})}
        rows.append({"data": "set", "compressor": "sign", "method": method, **entries})
    return Evidence(tables={"logistic": rows})


@pytest.mark.parametrize(
    "judge_one, good, bad",
    [
        (cd_adam.judge_naive, {"level": 0.05}, {"level": 0.5}),
        (cd_adam.judge_rate, {"rounds": 190.0}, {"rounds": 210.0}),
        (cd_adam.judge_bits, {"bits": 490.0}, {"bits": 510.0}),
        (cd_adam.judge_feedback, {"level": 0.9}, {"level": 1.1}),
        (cd_adam.judge_onebit, {"bits": 900.0}, {"bits": float("inf")}),
    ],
)
def test_verdicts_of_cd_adam(judge_one, good, bad):
    assert judge_one(logistic(CD_Adam=good)).outcome == HOLDS
    assert judge_one(logistic(CD_Adam=bad)).outcome == FAILS


def test_what_never_arrives_is_not_a_success():
    never = {"rounds": float("inf"), "bits": float("inf")}
    assert cd_adam.judge_rate(logistic(CD_Adam=never, AMSGrad=never)).outcome == FAILS


def test_verdict_on_the_network():
    def network(mine: float) -> Evidence:
        rows = [{"method": m, "accuracy": 0.9, "bits": 1.0, "bytes": 1.0} for m in cd_adam.METHODS]
        rows[1]["accuracy"] = mine
        return Evidence(tables={"network": rows})

    assert cd_adam.judge_network(network(0.91)).outcome == HOLDS
    assert cd_adam.judge_network(network(0.895)).outcome == IN_PART
    assert cd_adam.judge_network(network(0.5)).outcome == FAILS
    verdict = cd_adam.judge_network(network(float("nan")))
    assert verdict.outcome == FAILS and "CD-Adam diverges" in verdict.numbers


def accuracies(spread: float = 0.0, **of: dict[str, float]) -> Evidence:
    """Two seeds of each method; the accuracies and losses of both move together by `spread`."""
    bits = {dq_sgd.RULE: 4.49, dq_sgd.EQUAL: 3.99, dq_sgd.FIXED[6]: 6.0, dq_sgd.ADAPTIVE: 5.0}
    own = {"accuracy": 0.9, "loss": 1.0, "message_bits": 5.0, "bytes": 1.0, "step": 0.1}
    rows = []
    for method in dq_sgd.OPTIONS:
        for seed, shift in enumerate((-spread, spread)):
            row = {**own, "bits": bits.get(method, 32.0), **of.get(method.replace("-", "_"), {})}
            moved = {name: row[name] + shift for name in ("accuracy", "loss")}
            rows.append({"data": "set", "method": method, "seed": seed, **row, **moved})
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
    assert dq_sgd.judge_saving(accuracies(DQ_SGD={"accuracy": 0.8})).outcome == FAILS
    assert dq_sgd.judge_coarse(accuracies()).outcome == FAILS
    assert dq_sgd.judge_coarse(accuracies(signSGD={"accuracy": 0.8})).outcome == IN_PART
    fixed = dq_sgd.FIXED[4]
    assert dq_sgd.judge_four(accuracies(**{fixed: {"accuracy": 0.89}})).outcome == HOLDS
    assert (
        dq_sgd.judge_four(accuracies(**{fixed: {"accuracy": 0.897}})).outcome == IN_PART
    )  # below the rule's, but as good as SGD's
    assert dq_sgd.judge_four(accuracies()).outcome == FAILS
    assert dq_sgd.judge_rule(accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.9}})).outcome == HOLDS
    assert dq_sgd.judge_rule(accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.999}})).outcome == FAILS
    assert dq_sgd.judge_both_ways(accuracies(SGD={"bytes": 2.5})).outcome == HOLDS
    assert dq_sgd.judge_both_ways(accuracies(SGD={"bytes": 1.5})).outcome == FAILS


def test_seeds_are_compared_in_pairs():
    found = accuracies(0.05, DQ_SGD={"accuracy": 0.89})
    assert dq_sgd.paired(found, "set", dq_sgd.RULE, dq_sgd.SGD) == pytest.approx((-0.01, 0.0))
    row = found.rows("accuracy", method=dq_sgd.SGD)[0]
    assert row["seeds"] == 2 and row["accuracy_std"] == pytest.approx(0.05 * 2**0.5)
    assert dq_sgd.percent(row) == "90.00 ± 7.07 %"
    wide = accuracies(**{"DQ_SGD, 4 bits": {"loss": 0.9}})
    for own, shift in zip(wide.rows("seeds", method=dq_sgd.EQUAL), (-0.3, 0.3), strict=True):
        own["loss"] += shift
    assert dq_sgd.judge_rule(wide).outcome == FAILS  # within the standard error


# ---- what they share --------------------------------------------------------------------------------------------------
def test_tuning_by_a_cost_keeps_the_best_only(tmp_path):
    runner = ExperimentRunner(tmp_path)
    options = {"problem": {"name": "quadratic", "dim": 8, "reg": 0.1}, "clients": 3, "rounds": 30, "method": "gd"}
    best = runner.tune("run", (0.01, 0.5, 0.1), theory=False, cost=lambda stored: final(stored, "loss"), **options)
    assert best.summary["step"] == 0.5
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
