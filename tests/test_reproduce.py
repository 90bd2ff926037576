"""The framework of `mpicomp reproduce`: what is kept, what is judged, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.errors import ConfigError, DataError, MpicompError
from mpicomp.experiments.reproduce import axes, batch, drawing, runner, seconds
from mpicomp.experiments.reproduce.evidence import Evidence, Interrupted
from mpicomp.experiments.reproduce.report import reproduce
from mpicomp.experiments.reproduce.reproduction import (
    FAILS,
    HOLDS,
    IN_PART,
    Claim,
    Figure,
    Reproduction,
    Verdict,
    papers,
)
from mpicomp.experiments.reproduce.runner import ExperimentRunner
from mpicomp.experiments.study.compare import Stored
from mpicomp.runtime.loop import run
from mpicomp.runtime.results import Result

QUADRATIC = {"problem": "quadratic:dim=10,noise=0.1,reg=0.1", "clients": 4, "init": "paper"}
RUN = {**QUADRATIC, "method": "gd", "rounds": 20, "eval_every": 5}


def stored(gradients, clients=2, **columns) -> Stored:
    """A run that somebody made up."""
    rows = [{"round": float(t), "grad_norm_sq": g} for t, g in enumerate(gradients)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = float(value)
    return Stored(Path("nowhere"), {"clients": clients, "ranks": 3, "step": 0.5, "method": "gd"}, rows)


# ---- claims -----------------------------------------------------------------------------------------------------------
def test_verdict_is_made_of_its_parts():
    assert [Verdict.of(parts, "").outcome for parts in ([True, True], [True, False], [False])] == [
        HOLDS,
        IN_PART,
        FAILS,
    ]


def test_evidence_has_one_value_or_says_how_many():
    evidence = Evidence(tables={"t": [{"n": 1, "x": 5}, {"n": 2, "x": 7}, {"n": 2, "x": 8}]})
    assert evidence.value("t", "x", n=1) == 5
    for n, count in ((2, 2), (3, 0)):
        with pytest.raises(LookupError, match=f"has {count} rows"):
            evidence.value("t", "x", n=n)


def test_axes_count_what_they_say():
    run = stored(
        [4.0, 1.0, 0.1], uplink_values_only=[0, 10, 20], downlink_values_only=[0, 4, 8], uplink_message=[0, 30, 60],
        downlink_message=[0, 20, 40], **{f"seconds_{p}": [0, 1, 2] for p in ("compute", "encode", "decode", "step", "total")},
    )  # fmt: skip
    found = axes.costs(run, 1.0)
    assert found["rounds"] == 1 and found["up_bits"] == 8 * 10 / 2 and found["both_bits"] == 8 * 14 / 2
    assert found["message_bytes"] == 50
    assert axes.at_target(run, axes.rounds, 0.01) == float("inf")
    assert axes.seconds_at(400.0)(run).tolist() == [0, 4 + 1, 8 + 2]


def test_winner_in_time_is_judged_by_every_column():
    def evidence(**second):
        first = {
            "method": "a",
            "paper_bits": 1,
            "message_bytes": 10,
            "seconds 100 Mbit/s": 2.0,
            "seconds 10 Gbit/s": 1.0,
        }
        return Evidence(tables={seconds.TABLE: [first, {**first, "method": "b", "paper_bits": 5, **second}]})

    slower = {"message_bytes": 20, "seconds 100 Mbit/s": 3.0, "seconds 10 Gbit/s": 2.0}
    assert seconds.judge_seconds(evidence(**slower)).outcome == HOLDS
    verdict = seconds.judge_seconds(evidence(**{**slower, "seconds 10 Gbit/s": 0.5}))
    assert verdict.outcome == IN_PART and "10 Gbit/s: b (a takes 2.00×)" in verdict.numbers
    faster = {"message_bytes": 5, "seconds 100 Mbit/s": 1.0, "seconds 10 Gbit/s": 0.5}
    assert seconds.judge_seconds(evidence(**faster)).outcome == FAILS
    with pytest.raises(MpicompError, match="no method reached the target"):
        seconds.winner([{"method": "a", "x": float("inf")}], "x")


# ---- the runner -------------------------------------------------------------------------------------------------------
def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    first = ExperimentRunner(tmp_path).run("a run", **RUN)
    ran = []
    monkeypatch.setattr(runner, "run", lambda config: ran.append(config.out) or Result(config))
    again = ExperimentRunner(tmp_path)
    assert again.run("a run", **RUN).rows == first.rows and not ran
    assert again.evidence.curves["a run"].directory == first.directory
    (first.directory / "summary.json").unlink()  # as a run leaves it that was interrupted
    with pytest.raises(DataError, match="does not hold a finished run"):
        again.run("a run", **RUN)
    assert ran == [str(first.directory)]
    with pytest.raises(DataError):
        again.run("a run", **{**RUN, "seed": 1})  # another configuration is another run
    assert len(ran) == 2 and ran[1] != ran[0]


def test_an_interrupted_run_is_not_a_finished_one(tmp_path, monkeypatch):
    whole = ExperimentRunner(tmp_path / "whole").run("gd", **RUN)

    def stopped(config):
        """As a signal leaves a run: a checkpoint, and a summary that says so."""
        asked = []

        def ask(row):
            if not asked:
                asked.append(row)
                signal.raise_signal(signal.SIGTERM)

        return run(config, progress=ask)

    own = ExperimentRunner(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run", stopped)
        with pytest.raises(Interrupted, match="goes on from there"):
            own.run("gd", **RUN)
    assert json.loads(next((tmp_path / "cut").glob("runs/*/summary.json")).read_text())["interrupted"]
    again = own.run("gd", **RUN)
    assert again.summary["resumed_at"] == 1 and again.summary["iterate_sha256"] == whole.summary["iterate_sha256"]


def test_tune_finds_the_step_and_stops_when_it_gets_worse(tmp_path):
    own = ExperimentRunner(tmp_path)
    best = own.tune("gd", start=2.0**-3, **{**RUN, "rounds": 50})
    assert own.evidence.curves == {"gd": best}
    tried = [Stored.load(path).summary["step"] for path in (tmp_path / "runs").iterdir()]
    assert sorted(tried) == [2.0**k for k in range(-5, 3)] and best.summary["step"] == 1.0  # two worse above
    aimed = own.tune("aimed", 1e-2, **{**RUN, "rounds": 500})
    assert aimed.rows[-1]["grad_norm_sq"] <= 1e-2 < aimed.rows[-2]["grad_norm_sq"]
    slow = [Stored.load(path).summary for path in (tmp_path / "runs").glob("aimed-2-*")]
    assert max(s["rounds"] for s in slow if s["step"] < aimed.summary["step"] / 2) <= 500
    with pytest.raises(MpicompError, match="every step that was tried diverged"):
        own.tune("bad", start=2.0**300, **RUN)


def test_table_is_measured_once_for_its_arguments(tmp_path):
    calls = []

    def make(a):
        calls.append(a)
        return [{"a": a, "b": 2 * a}]

    for a in (1, 1, 2):
        own = ExperimentRunner(tmp_path)
        assert own.measured("double", make, a=a) == own.evidence.tables["double"] == [{"a": a, "b": 2 * a}]
    assert calls == [1, 2]


def test_data_comes_from_the_directory_or_the_package(tmp_path):
    (tmp_path / "mine.libsvm").write_text("1 1:1\n")
    with_data = ExperimentRunner(tmp_path / "out", tmp_path)
    assert with_data.data("mine", "a9a") == str(tmp_path / "mine.libsvm")
    assert ExperimentRunner(tmp_path / "out").data("mine", "a9a") == "a9a"
    with pytest.raises(DataError, match=r"mine does not come with mpicomp; give --data-dir DIR"):
        ExperimentRunner(tmp_path / "out").data("mine")
    with pytest.raises(DataError, match=r"other is not in"):
        with_data.data("other")
    with pytest.raises(DataError, match=r"--data-dir .*nowhere is not a directory"):
        ExperimentRunner(tmp_path, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="1 ranks"):
        ExperimentRunner(tmp_path, ranks=1)


@pytest.mark.full(reason="runs over MPI are compared with one process in test_mpi.py, too")
@pytest.mark.process
def test_runs_over_mpi_are_those_of_one_process(tmp_path, mpi):
    own = ExperimentRunner(tmp_path, ranks=3)
    own.run("marina", **{**RUN, "method": "marina", "compressor": "permk"})
    own.run("gd", **RUN)
    own.again_over_mpi(["marina", "gd"])
    assert own.evidence.tables[runner.SAME_BITS] == [
        {"run": name, "ranks": 3, "same": True} for name in ("marina", "gd")
    ]
    assert seconds.judge_same_bits(own.evidence) == Verdict(HOLDS, "2 of 2 runs on 3 ranks")
    goal = seconds.early_target([own.evidence.curves["gd"]], own.evidence.curves["gd"].summary["rounds"] // 2)
    own.again_over_mpi(["gd"], goal)  # ends at the target, as its run in one process does then
    short, whole = own.evidence.curves["gd mpi"], own.evidence.curves["gd"]
    assert own.evidence.tables[runner.SAME_BITS].pop()["same"] and short.rows[-1]["grad_norm_sq"] <= goal
    assert short.summary["rounds"] <= whole.summary["rounds"] / 2
    own.evidence.tables[runner.SAME_BITS][0]["same"] = False
    assert seconds.judge_same_bits(own.evidence).outcome == IN_PART


# ---- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture
def toy(monkeypatch):
    """A study of one run; its claim is that gradient descent gets below a level."""
    list(papers)  # loads the real ones first

    class Toy(Reproduction):
        summary, paper = "a toy", "Nobody 2000"
        sizes = {"small": 1e3, "paper": 0.0}  # noqa: RUF012
        claims = (
            Claim(
                "gets-there",
                "It gets there",
                lambda e: e.curves["gd"].summary["verdict"],
                {"small": HOLDS, "paper": HOLDS},
            ),
        )
        figures = (Figure("curve", lambda e, f: drawing.convergence(
            f.subplots(), [drawing.Line("gd", e.curves["gd"], 0)], axes.rounds, "rounds")),)  # fmt: skip

        def measure(self, runner, size):
            run = runner.run("gd", **RUN)
            run.summary["verdict"] = Verdict.of([run.rows[-1]["grad_norm_sq"] <= size], f"{size}")
            runner.table("ends", [{"loss": run.rows[-1]["loss"]}])

    Toy.name = "toy"
    monkeypatch.setattr(papers, "_classes", {"toy": Toy})
    return Toy


def invoke(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)], standalone_mode=False)


def test_a_study_leaves_verdicts_curves_tables_and_figures(toy, tmp_path):
    pytest.importorskip("matplotlib")
    judged, out = reproduce("toy", out=tmp_path)
    assert [(j.verdict.outcome, j.changed) for j in judged] == [(HOLDS, False)]
    record = json.loads((out / "verdicts.json").read_text())
    assert record["verdicts"] == [
        {
            "claim": "gets-there",
            "text": "It gets there",
            "outcome": HOLDS,
            "numbers": "1000.0",
            "least_seeds": 0,
            "effect": "",
            "needs": "",
            "seeds": 0,
            "effects": [],
            "expected": HOLDS,
            "changed": False,
        }
    ]
    with open(out / "curves.csv") as file:
        rows = list(csv.DictReader(file))
    again = Stored.load(out / record["runs"]["gd"])
    assert [float(r["grad_norm_sq"]) for r in rows] == [r["grad_norm_sq"] for r in again.rows] and rows[0][
        "curve"
    ] == "gd"
    assert (out / "tables" / "ends.csv").read_text().startswith("loss\n")
    assert {p.name for p in (out / "figures").iterdir()} == {"curve.png", "curve.svg"}


def test_the_exit_code_says_whether_a_known_outcome_changed(toy, tmp_path):
    done = invoke("toy", "--out", tmp_path, "--quiet")
    assert done.return_value != 1 and "holds" in done.output and "not the known outcome" not in done.output
    done = invoke("all", "--out", tmp_path, "--scale", "paper")
    assert done.return_value == 1 and "not the known outcome: toy: gets-there was holds" in done.output
    assert "does not hold (!)" in done.output and "All verdicts" in done.output
    assert (tmp_path / "toy-paper" / "verdicts.json").exists()
    row = "| [toy](toy.md) | It gets there | **does not hold** | repeats bit for bit | — |"
    assert (tmp_path / "verdicts.md").read_text().splitlines()[2:] == [row]


def test_wrong_names_are_refused(toy, tmp_path, monkeypatch):
    for arguments, message in (
        (["toi"], r"unknown paper 'toi'; known: toy; did you mean 'toy'\?"),
        (["toy", "--scale", "smal"], r"unknown scale 'smal'; known: paper, small; did you mean 'small'\?"),
        ([], "which study"),
    ):
        with pytest.raises(ConfigError, match=message):
            raise invoke(*arguments, "--out", tmp_path).exception
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"starts its own MPI jobs: run it once, with --ranks 3"):
        raise invoke("toy", "--out", tmp_path).exception


def test_list_names_every_study():
    text = invoke("--list").output
    assert all(name in text for name in ("correlated-quantization", "marina-p-m3", "permk"))


def test_lines_are_thinned_to_their_ends():
    for logarithmic in (False, True):
        kept = drawing.thinned(np.arange(5000), logarithmic)
        assert kept[0] == 0 and kept[-1] == 4999 and len(kept) <= drawing.POINTS and np.all(np.diff(kept) > 0)


def test_a_batch_runs_every_directory(tmp_path, capsys):
    own = ExperimentRunner(tmp_path)
    places = [own._place(name, {**RUN, "seed": seed}, "1") for seed, name in enumerate("ab")]
    batch.main([str(place) for place in places])
    assert [line.split("-")[0] for line in capsys.readouterr().out.split()] == ["a", "b"]
    assert all(Stored.load(place).summary["rounds"] == 20 for place in places)
