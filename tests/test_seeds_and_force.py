"""Repetitions of a study vary the seed alone; labels of its methods tell them apart; `--force` removes a run and nothing else."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp.cli import app
from mpicomp.console.show import Progress
from mpicomp.experiments.runtime import Config, build_problem
from mpicomp.experiments.study.grid import Study
from mpicomp.experiments.study.rules import Observations, check
from mpicomp.experiments.study.runners import Outcome
from mpicomp.experiments.study.scale import Walk, open_study, read_record
from mpicomp.runtime.checkpoint import FOLDER

STUDY = """
repetitions = 3
baselines = ["dense"]
[run]
problem = {name = "quadratic", dim = 40, noise = 0.5}
seed = 7
rounds = 10
[grid]
workers = [1]
clients = [4]
[[methods]]
method = "ef21"
compressor = "topk:k=2"
step = ["theory", "theory*4"]
[[methods]]
method = {name = "marina", p = 0.2}
compressor = "randk:k=2"
"""


def study_of(text=STUDY, **more) -> Study:
    return Study.from_dict({**tomllib.loads(text), **more})


# ---- labels of a study ----------------------------------------------------------------------------------------------
def test_methods_that_differ_in_the_step_have_labels_of_their_own():
    cells = study_of().cells()
    names = {c.label for c in cells}
    assert names == {"dense", "ef21 topk:k=2, step theory", "ef21 topk:k=2, step theory*4", "marina:p=0.2 randk:k=2"}
    assert len({(c.label, c.repetition) for c in cells}) == len(cells)


def test_a_label_is_not_part_of_a_cells_name():
    """Another method in the study may change what the first is called, and not where its results are."""
    alone = study_of(STUDY.replace('step = ["theory", "theory*4"]', 'step = "theory"'))
    both = {c.name: c.label for c in study_of().cells()}
    (mine,) = {(c.name, c.label) for c in alone.cells() if c.label.startswith("ef21") and c.repetition == 0}
    assert mine[1] == "ef21 topk:k=2" and both[mine[0]] == "ef21 topk:k=2, step theory"


# ---- seeds ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vary", [True, False])
def test_repetitions_have_seeds_of_their_own_and_one_problem(vary):
    study = study_of(vary_seed=vary)
    problems = []
    for cell in study.cells():
        config = Config.load(None, {**cell.options, **study.seed_options(cell)})
        assert config.seed == 7 + (cell.repetition if vary else 0)
        problems.append(build_problem(config))
    assert all(
        np.array_equal(p.scales, problems[0].scales) and np.array_equal(p.linear, problems[0].linear) for p in problems
    )
    own = build_problem(
        Config.load(None, {"problem": {"name": "quadratic", "dim": 40, "noise": 0.5}, "clients": 4, "seed": 8})
    )
    assert not np.array_equal(own.scales, problems[0].scales)


def test_a_seed_of_the_problem_stays_the_users():
    study = study_of(STUDY.replace("noise = 0.5", "noise = 0.5, seed = 99"))
    assert {study.seed_options(cell)["problem"]["seed"] for cell in study.cells()} == {99}


class InProcess:
    """A runner that runs cells here."""

    def facts(self):
        return {"name": "here", "launcher": "", "cores": 2, "shared": False}

    def run(self, cell, argv, timeout):
        mc.run(Config.load(argv[-1]))
        return Outcome(0, 1.0, "", list(argv))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    study = study_of()
    open_study(study, STUDY, out)
    Walk(study, out, study.cells(), lambda line: None).run(InProcess())
    return out


def test_what_the_cells_ran_with(finished):
    study = study_of()
    hashes = {}
    for cell in study.cells():
        where = finished / "cells" / cell.name
        summary = json.loads((where / "summary.json").read_text())
        assert summary["seed"] == read_record(where)["seed"] == 7 + cell.repetition
        hashes.setdefault(cell.label, set()).add(summary["iterate_sha256"])
    assert len(hashes["dense"]) == 1  # nothing random in it, and one problem
    assert len(hashes["marina:p=0.2 randk:k=2"]) == 3


def test_going_on_with_another_rule_of_seeds_is_refused(finished):
    study = study_of(vary_seed=False)
    with pytest.raises(
        mc.ConfigError, match=r"was run with seed 8, and this study gives it seed 7: write vary_seed = true"
    ):
        Walk(study, finished, study.cells(), lambda line: None).run(InProcess())


def test_compare_has_a_column_for_each_method_with_its_seeds(finished):
    done = CliRunner().invoke(app, ["compare", str(finished)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    heads = " ".join(done.stdout.split())
    assert "3, seeds 7, 8, 9" in heads and "step theory*4" in heads


def test_the_report_says_that_repetitions_are_seeds(finished):
    from mpicomp.experiments.study.cells import Results

    answers = check(Observations(Results.load(finished), [], []))
    assert any("differ in the seed" in a.why for a in answers)


def test_the_dry_run_tells_the_cells_apart(tmp_path):
    (tmp_path / "s.toml").write_text(STUDY)
    out = CliRunner().invoke(app, ["scale", str(tmp_path / "s.toml"), "--dry-run"], catch_exceptions=False).stdout
    assert "ef21 topk:k=2, step theory*4, 2 ranks, seed 9" in out and len(set(out.splitlines())) == 12


def test_progress_names_the_run(capsys):
    progress = Progress(mc.Config(method="ef21", compressor="topk:k=2", step="theory*2", seed=3, rounds=9))
    progress(
        {"round": 5, "loss": 1.0, "grad_norm_sq": 1.0, "uplink_message": 1, "downlink_message": 1, "seconds_total": 1.0}
    )
    assert "ef21 topk:k=2, step theory*2, seed 3  round 5/9" in capsys.readouterr().out


# ---- --force --------------------------------------------------------------------------------------------------------
OPTIONS = {
    "problem": "quadratic",
    "problem_options": {"dim": 20},
    "clients": 3,
    "rounds": 6,
    "method": "ef21",
    "compressor": "topk:k=2",
}


def test_a_finished_run_is_replaced_by_force_alone(tmp_path):
    mc.run(**OPTIONS, out=str(tmp_path), checkpoint_every=3)
    (tmp_path / "notes.txt").write_text("mine")
    for options in ({}, {"seed": 1}):
        with pytest.raises(mc.ConfigError, match="force=True"):
            mc.run(**OPTIONS, out=str(tmp_path), **options)
    new = mc.run(**OPTIONS, out=str(tmp_path), seed=1, force=True)
    assert json.loads((tmp_path / "summary.json").read_text())["seed"] == 1 and new.summary["resumed_at"] == 0
    assert not list(tmp_path.glob(f"{FOLDER}/round-*")) and (tmp_path / "notes.txt").read_text() == "mine"


def test_force_is_not_recorded_so_that_the_configuration_does_not_overwrite(tmp_path):
    mc.run(**OPTIONS, out=str(tmp_path), force=True)
    assert "\nforce =" not in (tmp_path / "config.toml").read_text()
    with pytest.raises(mc.ConfigError, match="would be overwritten"):
        mc.run(mc.Config.load(tmp_path / "config.toml"))


def test_a_failed_start_by_force_removes_nothing(tmp_path):
    mc.run(**OPTIONS, out=str(tmp_path))
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(mc.ConfigError):
        mc.run(**{**OPTIONS, "compressor": "topkk"}, out=str(tmp_path), force=True)
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"), [({"resume": "auto"}, "«?resume»? goes on: drop one"), ({"out": None}, "is not given")]
)
def test_force_needs_a_directory_and_begins_anew(options, said, tmp_path):
    with pytest.raises(mc.ConfigError, match=said):
        mc.run(**OPTIONS, **{"out": str(tmp_path), **options}, force=True)
