"""mpicomp advise: what a place makes of a run, calibration, candidates, and a whole advice beside an exhaustive grid."""

from __future__ import annotations

import csv
import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

import mpicomp as mc
from mpicomp import Config
from mpicomp.errors import ConfigError
from mpicomp.experiments.advice.advise import Advice, Choice
from mpicomp.experiments.advice.candidates import CANDIDATES, candidates, dense, exchanges_of, steps_of
from mpicomp.experiments.advice.there import Spent
from mpicomp.experiments.runtime import build_problem
from mpicomp.experiments.tuning.grid import Point
from mpicomp.experiments.tuning.place import Place

SMALL = {"problem": "quadratic", "problem_options": {"dim": 40, "reg": 0.05}, "clients": 4}
OPTIONS = [
    "--problem",
    "quadratic",
    "--set",
    "problem.dim=40",
    "--set",
    "problem.reg=0.05",
    "--clients",
    "4",
    "--init",
    "normal:1",
]


def row(rounds: int, up: float, down: float, work=(0.0, 0.0, 0.0, 0.0)) -> dict[str, float]:
    phases = dict(zip(("compute", "encode", "decode", "step"), work, strict=True))
    return {
        "round": rounds,
        "uplink_message": up,
        "downlink_message": down,
        **{f"seconds_{k}": v for k, v in phases.items()},
    }


def test_a_star_over_slow_links_takes_what_its_bytes_take():
    """Written out by hand: all messages up, then the model to each worker, one after the other; a long model overlaps with them."""
    place = Place(5, 1, 8, 1000, rate=1e6, constants={"p2p": 0.0})
    short = row(10, 10 * 8 * 500.0, 10 * 4000.0)
    assert place.seconds(short, "p2p") == pytest.approx(10 * 8 * (8 * 500 + 4 * 4000) / 1e6)
    long = row(10, 10 * 8 * 500.0, 10 * 400_000.0)
    assert place.seconds(long, "p2p") == pytest.approx(10 * 8 * (4 * 400_000 + 8 * 500 / 4) / 1e6)
    later = Place(5, 1, 8, 1000, rate=1e6, delay=0.01, constants={"p2p": 0.002})
    assert later.seconds(short, "p2p") == pytest.approx(place.seconds(short, "p2p") + 10 * (2 * 0.01 + 0.002))


def test_work_is_dealt_to_the_ranks():
    """8 clients on 4 workers: two of them on each; the server decodes all, a sharded one its slice; ranks that share a core wait for it."""
    work = (8.0, 4.0, 2.0, 1.0)
    for sharing in (1.0, 2.5):
        place = Place(5, 0, 8, 1000, sharing=sharing)
        assert place.seconds(row(1, 1, 1, work), "p2p") == pytest.approx(sharing * 2 / 8 * 12 + 3)
        assert place.seconds(row(1, 1, 1, work), "sharded") == pytest.approx(sharing * 2 / 8 * 12 + 3 * sharing / 5)
        assert place.seconds(row(1, 1, 1, work), "allreduce") == pytest.approx(sharing * (2 / 8 * 14 + 1))
    assert place.seconds(row(0, 0, 0), "p2p") == 0


@pytest.mark.parametrize("exchange", ["p2p", "collective", "sharded"])
def test_calibration_finds_the_constants_that_made_the_times(exchange):
    true = Place(4, 0, 6, 5000, constants={exchange: 3e-4}, by_byte={exchange: 2e-9})
    runs = [row(20, 20 * 6 * size, 20 * 20_000.0, (0.1, 0.1, 0.05, 0.01)) for size in (300.0, 20_000.0)]
    found = Place(4, 0, 6, 5000).calibrated(exchange, [(r, true.seconds(r, exchange)) for r in runs])
    assert found.constants[exchange] == pytest.approx(3e-4) and found.by_byte[exchange] == pytest.approx(2e-9)
    other = row(50, 50 * 6 * 4000.0, 50 * 9000.0, (0.2, 0.3, 0.1, 0.0))
    assert found.seconds(other, exchange) == pytest.approx(true.seconds(other, exchange))
    alone = Place(4, 0, 6, 5000).calibrated(exchange, [(runs[0], true.seconds(runs[0], exchange))])
    assert alone.by_byte[exchange] == 0 and alone.seconds(runs[0], exchange) == pytest.approx(
        true.seconds(runs[0], exchange)
    )
    fast = Place(4, 0, 6, 5000).calibrated(
        exchange, [(r, 0.0) for r in runs]
    )  # a place may work faster than the pilot did
    assert fast.constants[exchange] == 0 and fast.by_byte[exchange] == 0


def test_a_place_is_kept_in_a_file(tmp_path):
    place = Place(4, 1, 6, 5000, 1e8, 0.001, 2.0, {"p2p": 0.1}, {"p2p": 0.2})
    place.save(tmp_path / "place.json")
    assert Place.load(tmp_path / "place.json") == place
    both = Place(4, 1, 6, 5000, 1e8, constants={"p2p": 1.0, "collective": 0.5, "sharded": 0.0, "allreduce": 0.0})
    assert both.soonest(row(1, 10, 10), "a")[0] == "collective"  # not every message can be cut or summed
    cut = dataclasses.replace(both, carries={"a": ["p2p", "sharded"]})
    assert cut.soonest(row(1, 10, 10), "a")[0] == "sharded" and cut.soonest(row(1, 10, 10), "b")[0] == "collective"


@pytest.mark.full(reason="compiles the kernels of all candidates")
def test_the_candidates_can_all_be_run():
    base = Config(**SMALL, allow_unsafe=True)
    found = candidates(base, [])
    assert len({c.label for c in found}) == len(CANDIDATES) == len(found)
    for contender in [dense(base), *found]:
        result = mc.run(contender.config, rounds=3, step=0.1, exchange="local")
        assert np.isfinite(result.x).all()
    carries = {
        c.label: exchanges_of(c, ("p2p", "collective", "sharded"), build_problem(base), 3)
        for c in [dense(base), *found]
    }
    assert carries["gd"] == ["p2p", "collective", "sharded", "allreduce"]
    assert all({"p2p", "collective"} <= set(names) for names in carries.values())
    whole = candidates(base, ["dcgd + eden:bits=4"])[0]
    assert exchanges_of(whole, ("p2p", "sharded"), build_problem(base), 3) == ["p2p"]
    assert 6 * sum(map(len, carries.values())) >= 60
    assert [c.label for c in candidates(base, ["gd", "ef21 + topk:k=2"])] == ["ef21 + topk:k=2"]


def test_steps_are_in_units_of_gradient_descents():
    config = Config(**SMALL)
    problem = build_problem(config)
    unit = 1 / problem.smoothness().L
    assert np.allclose(steps_of("1/L*2^-1..1", config, problem).values, [unit / 2, unit, 2 * unit], rtol=1e-12)
    assert steps_of("theory*2", config, problem).theory and steps_of("0.1", config, problem).values == (0.1,)
    with pytest.raises(ConfigError):
        steps_of("1/L*none", config, problem)


def test_what_is_advised_and_whether_it_pays():
    point = Point("a", (), "0.1", 0.1, 0)
    plain = Choice(point, "allreduce", 10, 1e6, 2.0, 2.5, 5)
    few = Choice(point, "p2p", 20, 1e5, 3.0, 1.5, 5)
    place = Place(2, 0, 2, 10)
    assert few.seconds == 1.5 and Choice(point, "p2p", 1, 1, 3.0).seconds == 3.0
    assert Advice([few, plain], plain, place, Spent()).pays
    assert not Advice([plain, few], plain, place, Spent()).pays
    nothing = Advice([], None, place, Spent())
    assert nothing.best is None and not nothing.pays


@pytest.mark.parametrize(
    "words, told",
    [
        (["--link", "100mbit"], "--nodes"),
        (["-n", "3", "--nodes", "3"], "give one of them"),
        (["-n", "9"], "9 ranks for 4 clients"),
        (["--exchange", "pigeon"], "unknown exchange 'pigeon'"),
        (["--nodes", "3", "--link", "fast"], "rate 'fast'"),
        (["--target", "-1"], "--target -1"),
    ],
)
def test_mistakes_are_told(words, told, tmp_path):
    from typer.testing import CliRunner

    from mpicomp.cli import app

    target = [] if "--target" in words else ["--target", "1e-3"]
    done = CliRunner().invoke(app, ["advise", "--out", str(tmp_path / "x"), *OPTIONS, *target, *words])
    assert isinstance(done.exception, ConfigError) and told in str(done.exception)


@pytest.mark.process
@pytest.mark.full(reason="starts MPI jobs")
def test_an_advice_beside_all_combinations(tmp_path):
    """Over MPI on this machine: what is advised runs and comes to the target; rounds to it do not depend on the exchange."""
    out = tmp_path / "advice"
    words = [
        "--method",
        "ef21 + topk:fraction=0.2",
        "--method",
        "diana + natural",
        "--steps",
        "1/L*2^-1..0",
        "--rounds",
        "200",
    ]
    words += ["--target", "1e-2", "-n", "3", "--validate"]
    done = subprocess.run(
        [sys.executable, "-m", "mpicomp", "advise", "--out", str(out), *OPTIONS, *words],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(out / "grid.csv", newline="") as file:
        grid = list(csv.DictReader(file))
    assert len(grid) == 2 * (4 + 3 + 3)
    seconds = [float(r["seconds"]) if r["seconds"] else math.inf for r in grid]
    assert seconds == sorted(seconds) and math.isfinite(seconds[0])
    rounds: dict[tuple[str, str], set[str]] = {}
    for r in grid:
        if r["exchange"] not in ("allreduce", "sharded"):
            rounds.setdefault((r["contender"], r["step"]), set()).add(r["ended"])
    assert all(len(found) == 1 for found in rounds.values())
    assert "times the best" in done.stdout and ("times faster" in done.stdout or "no compression pays" in done.stdout)
    config = Config.load(out / "best.toml")
    assert mc.run(config, exchange="local").summary["reached_tol"]
