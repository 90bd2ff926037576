"""The test behind a verdict, the rule of tuning, and the one table: on made-up numbers, beside formulas of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mpicomp.experiments.reproduce.effects import FAILS, HOLDS, IN_PART, UNDECIDED, Effect, combined, weakest
from mpicomp.experiments.reproduce.evidence import Evidence
from mpicomp.experiments.reproduce.repeated import by_seed, pair_by_seed, with_seeds
from mpicomp.experiments.reproduce.reproduction import Claim, Verdict
from mpicomp.experiments.reproduce.runner import ExperimentRunner
from mpicomp.experiments.reproduce.summary import HEADING, markdown, record_without_runs, summary_rows, verdict_record
from mpicomp.experiments.reproduce.tuning import best_exponent

RUN = {"problem": "quadratic:dim=10,noise=0.1,reg=0.1", "clients": 4, "init": "paper", "rounds": 60, "eval_every": 5}


# ---- effects ------------------------------------------------------------------------------------------------------------
def test_an_effect_is_the_mean_of_the_paired_differences_with_its_standard_error():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 0.3, 12), rng.normal(0.0, 0.3, 12)
    effect = Effect.difference("", a.tolist(), b.tolist())
    assert effect.mean == pytest.approx(np.mean(a - b)) and effect.seeds == 12
    assert effect.error == pytest.approx(np.std(a - b, ddof=1) / np.sqrt(12))
    ratio = Effect.factor("", np.exp(a).tolist(), np.exp(b).tolist())
    assert (ratio.mean, ratio.error) == (pytest.approx(effect.mean), pytest.approx(effect.error))


@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize(("distance", "outcome"), [(2.5, HOLDS), (1.5, UNDECIDED), (-1.5, UNDECIDED), (-2.5, FAILS)])
def test_two_standard_errors_decide(shift, at_most, distance, outcome):
    values = np.linspace(-1, 1, 20)
    error = np.std(values, ddof=1) / np.sqrt(20)
    moved = values + (-1 if at_most else 1) * distance * error + shift
    effect = Effect("", tuple(moved.tolist()), shift, at_most)
    assert effect.outcome == outcome
    more = effect.seeds_to_decide
    assert (more <= 20) == (outcome != UNDECIDED)
    assert more == max(2, math.ceil(20 * (2 / abs(distance)) ** 2))


def test_one_seed_does_not_decide():
    assert Effect("", (100.0,), 0.0).outcome == UNDECIDED and Effect("", (100.0,), 0.0).seeds_to_decide == math.inf
    outlier = (-0.01,) * 9 + (50.0,)  # the mean is positive because of one
    assert Effect("", outlier, 0.0).outcome == UNDECIDED
    pulled = Effect("", (*([-0.1] * 3), 1.0), 0.0)  # without the last one the mean is on the other side
    assert pulled.outcome == UNDECIDED


def test_what_repeats_bit_for_bit_needs_one_run():
    assert [Effect.exact("", value, 1.0).outcome for value in (1.0, 0.99)] == [HOLDS, FAILS]
    assert Effect.exact("", 2.0, 1.0, ratio=True).size() == "2×" and Effect.exact("", 2.0, 1.0).seeds == 0


def test_runs_that_never_arrive_decide_where_all_seeds_agree():
    inf = math.inf
    never, there = [inf] * 4, [1.0] * 4
    assert Effect.factor("", never, there).outcome == HOLDS and Effect.factor("", there, never).outcome == FAILS
    assert Effect.factor("", never, never).outcome == UNDECIDED
    assert Effect.factor("", [inf, 0.5, 0.5, 0.5], there).outcome == UNDECIDED
    assert Effect.factor("", [inf, 2.0, 3.0, 2.0], there).outcome == HOLDS
    assert Effect.factor("", [0.0, 1.0], [1.0, 1.0]).values == (-inf, 0.0)
    assert "not reached with 1 of 2 seeds" in str(Effect.factor("x", [inf, 0.5], [1.0, 1.0]))


def test_a_claim_is_decided_by_its_effects():
    assert combined([HOLDS, HOLDS]) == HOLDS and combined([FAILS]) == FAILS
    assert combined([HOLDS, FAILS, UNDECIDED]) == IN_PART
    assert combined([HOLDS, UNDECIDED]) == combined([FAILS, UNDECIDED]) == combined([]) == UNDECIDED
    near, far = Effect("near", (1.0, 1.5, 0.2), 0.0), Effect("far", (1.0, 1.1, 0.9), 0.0)
    assert weakest([far, Effect.exact("exact", 1.0, 1.0), near]) is near and weakest([]) is None


def test_a_claim_with_fewer_seeds_than_it_needs_is_undecided():
    effect = Effect("x", (1.0, 1.1, 0.9), 0.0)
    judged = Claim("a", "A", lambda e: Verdict.tested([effect]), least_seeds=3).verdict(Evidence())
    assert judged.outcome == HOLDS
    judged = Claim("a", "A", lambda e: Verdict.tested([effect]), least_seeds=10).verdict(Evidence())
    assert judged.outcome == UNDECIDED and "3 seeds of 10 that the claim needs" in judged.numbers
    judged = Claim("a", "A", lambda e: Verdict.of([True], "12"), least_seeds=10).verdict(Evidence())
    assert judged.outcome == UNDECIDED and judged.numbers.startswith("12 (one seed")
    assert Claim("a", "A", lambda e: Verdict.of([True], "12")).verdict(Evidence()).outcome == HOLDS


# ---- the table ----------------------------------------------------------------------------------------------------------
def test_the_table_has_a_row_for_every_claim():
    effect = Effect.factor("m | n", [2.0, 2.2, 1.9], [1.0, 1.0, 1.0], 1.5)
    claims = [
        (Claim("a", "A holds", lambda e: Verdict.of([], ""), least_seeds=3), Verdict.tested([effect])),
        (Claim("b", "B is bits", lambda e: Verdict.of([], "")), Verdict.of([False], "7")),
        (Claim("c", "C is one run", lambda e: Verdict.of([], ""), least_seeds=10), Verdict(UNDECIDED, "7")),
    ]
    record = {"study": "permk", "verdicts": [verdict_record(*pair) for pair in claims]}
    rows = summary_rows([record])
    assert rows == [
        ["permk", "A holds", HOLDS, "m | n 2.03× ± 4.4 % (≥ 1.5×)", "3"],
        ["permk", "B is bits", FAILS, "repeats bit for bit", "—"],
        ["permk", "C is one run", UNDECIDED, "7", "—"],
    ]
    timed = verdict_record(Claim("winner-in-time", "D", lambda e: Verdict.of([], "")), Verdict.of([True], "9"))
    assert summary_rows([{"study": "permk", "verdicts": [timed]}])[0][3] == "seconds of one machine, one run"
    text = markdown(rows).splitlines()
    assert len(text) == 5 and text[0].count("|") == len(HEADING) + 1
    assert text[2].startswith("| [permk](permk.md) | A holds | **holds** | m \\| n")
    assert record["verdicts"][0]["effects"][0]["outcome"] == HOLDS
    for row in summary_rows([record_without_runs("permk", "paper")]):
        assert row[2:] == [UNDECIDED, "not run at this scale with the rules of these pages", "—"]


# ---- the rule of tuning -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("best", [-9, -1, 0, 4, 11])
@pytest.mark.parametrize("start", [-3, 0, 5])
def test_no_best_step_is_at_an_edge(best, start):
    tried = []

    def quality(k):
        tried.append(k)
        return abs(k - best)

    assert best_exponent(quality, start) == best
    assert min(tried) <= best - 2 and max(tried) >= best + 2 and len(set(tried)) == len(tried)


def test_a_worse_neighbour_does_not_end_the_search():
    quality = {0: 5.0, 1: 6.0, 2: 1.0, 3: 7.0, 4: 8.0}
    assert best_exponent(lambda k: quality.get(k, 9.0), 0) == 2


def test_tuning_ends_at_a_power_of_two_with_worse_neighbours(tmp_path):
    own = ExperimentRunner(tmp_path)
    best = own.tune("gd", 1e-4, method="gd", **RUN)
    assert own.evidence.curves == {"gd": best}
    k = float(np.log2(best.summary["step"]))
    assert k == round(k)
    rounds = best.first_at(1e-4)["round"]
    for other in (k - 1, k + 1):
        run = own.run("near", method="gd", **{**RUN, "step": repr(2.0**other)})
        reached = run.first_at(1e-4)
        assert reached is None or reached["round"] >= rounds
    lowest = own.tune("cost", cost=lambda stored: stored.rows[-1]["loss"], start=1.0, method="gd", **RUN)
    assert own.evidence.curves["cost"] is lowest


def test_seeds_are_other_seeds_than_the_one_that_tuned(tmp_path):
    own = ExperimentRunner(tmp_path)
    options = {**RUN, "method": "marina", "compressor": "randk:k=2", "init": "normal:{seed}"}
    rows = with_seeds(own, "marina", 1e-2, 3, **options)
    assert [row["seed"] for row in rows] == [1, 2, 3] and len({row["step"] for row in rows}) == 1
    curves = own.evidence.curves
    assert {f"marina seed {s}" for s in (1, 2, 3)} < set(curves)
    starts = {name: curves[name].rows[0]["loss"] for name in ("marina", "marina seed 1", "marina seed 2")}
    assert len(set(starts.values())) == 3  # {seed} in an option's text is the seed
    same = with_seeds(own, "gd", 1e-2, 3, random=False, method="gd", **RUN)
    assert len({row["up_bits"] for row in same}) == 1 and "gd seed 1" not in curves


def test_columns_are_paired_by_seed():
    rows = [{"m": m, "seed": s, "x": 10 * s + len(m)} for s in (2, 1, 3) for m in ("a", "bb")]
    found = Evidence(tables={"t": rows})
    assert by_seed(found, "t", "x", m="a") == [11, 21, 31]
    assert pair_by_seed(found, "t", "x", "m", ("a", "bb")) == ([11, 21, 31], [12, 22, 32])
    for wrong in ({}, {"m": "c"}):
        with pytest.raises(LookupError, match="one for each seed"):
            by_seed(found, "t", "x", **wrong)
