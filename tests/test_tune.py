"""mpicomp tune: grids, successive halving against brute force, and whole searches as processes against runs made one by one."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median_high

import numpy as np
import pytest

import mpicomp as mc
from mpicomp import Config
from mpicomp.errors import ConfigError
from mpicomp.experiments.runtime import PAUSE
from mpicomp.experiments.tuning.grid import Axis, Contender, Point, Steps, contenders
from mpicomp.experiments.tuning.halving import (
    DIVERGED,
    EXHAUSTED,
    FAILED,
    PAUSED,
    REACHED,
    Outcome,
    past_the_edge,
    search,
)
from mpicomp.experiments.tuning.pool import slots
from mpicomp.experiments.tuning.search import summarise
from mpicomp.experiments.tuning.trials import Progress, foresee

PROBLEM = {"problem": "quadratic", "problem_options": {"dim": 20, "reg": 0.05}, "clients": 4}


# ---- grids ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text, theory, values",
    [
        ("theory*2^-2..2^8", True, [2.0**j for j in range(-2, 9)]),
        ("theory*2^-2..8", True, [2.0**j for j in range(-2, 9)]),
        ("theory", True, [1.0]),
        ("theory*4, theory", True, [1.0, 4.0]),
        ("0.5*10^-1..1", False, [0.05, 0.5, 5.0]),
        ("0.1,0.01", False, [0.01, 0.1]),
    ],
)
def test_steps(text, theory, values):
    steps = Steps.parse(text)
    assert steps.theory is theory and np.allclose(steps.values, values, rtol=1e-15)
    assert [Config.load(None, {"step": t}).step for t in steps.texts] == list(steps.texts)


@pytest.mark.parametrize(
    "text", ["", "theory,0.1", "-1", "theory*0", "theory*2^5..2^1", "big", "2^0..2^99999", "theory*a^1..a^2", "inf"]
)
def test_steps_that_are_none(text):
    with pytest.raises(ConfigError):
        Steps.parse(text)


@pytest.mark.parametrize(
    "text, words",
    [
        ("k=1,2", "option of an --axis 'k'"),
        ("compresor.k=1", "did you mean 'compressor'"),
        ("compressor.k", "KEY=VALUES"),
        ("step=0.1", "--steps"),
        ("compressor.k=", "KEY=VALUES"),
    ],
)
def test_axes_that_are_none(text, words):
    with pytest.raises(ConfigError, match=words):
        Axis.parse(text)


def test_an_axis_goes_to_the_contenders_that_have_it():
    base = Config(**PROBLEM)
    found, notes = contenders(["ef21 + topk:k=2", "gd"], ["compressor.k=2^0..2^2", "batch=0,3"], base)
    assert [[axis.key for axis in c.axes] for c in found] == [["compressor.k", "batch"], ["batch"]]
    assert len(notes) == 1 and "gd has no compressor.k" in notes[0]
    specs = {found[0].configured(p).compressor for p in found[0].points(Steps.parse("theory"))}
    assert specs == {"topk:k=1", "topk:k=2", "topk:k=4"} and base.compressor is None
    assert {found[1].configured(p).batch for p in found[1].points(Steps.parse("theory"))} == {0, 3}
    with pytest.raises(ConfigError, match="none of gd has this option"):
        contenders(["gd"], ["compressor.k=1"], base)
    with pytest.raises(ConfigError, match="given twice"):
        contenders(["gd", "gd"], [], base)


def test_a_contender_is_a_method_with_its_compressors():
    base = Config(**PROBLEM, compressor="sign")
    both = Contender.parse("dore + qsgd:bits=4 + natural", base).config
    assert (both.method, both.compressor, both.downlink_compressor) == ("dore", "qsgd:bits=4", "natural")
    assert Contender.parse("ef21:start=dense", base).config.compressor == "sign"
    assert Contender.parse("ef21:start=dense", base).config.method_options == {"start": "dense"}
    for text in ("nothing", "gd + ", "a+b+c+d"):
        with pytest.raises(ConfigError):
            Contender.parse(text, base)


# ---- halving against brute force ---------------------------------------------------------------------------------------
TARGET = 1e-3


class Curves:
    """Points whose level at each round is given: runs them as a search asks, and adds up what that costs."""

    def __init__(self, levels: np.ndarray, prices: np.ndarray):
        self.levels, self.prices, self.ran = levels, prices, np.zeros(len(levels), int)

    def outcome(self, ask) -> Outcome:
        row, price = self.levels[ask.point.place], self.prices[ask.point.place]
        r = next(
            (r for r in range(1, len(row)) if r * price >= ask.cost or r >= ask.rounds or row[r] <= TARGET),
            len(row) - 1,
        )
        r = next((q for q in range(1, r + 1) if not np.isfinite(row[q])), r)
        self.ran[ask.point.place] = max(self.ran[ask.point.place], r)
        level = float(np.min(row[: r + 1]))
        outlook = foresee([k * price for k in range(r + 1)], list(row[: r + 1]), TARGET)
        if row[r] <= TARGET:
            return Outcome(REACHED, r * price, level, r, price)
        if not np.isfinite(row[r]):
            return Outcome(DIVERGED, math.inf, math.inf, r, price)
        return Outcome(EXHAUSTED if r == len(row) - 1 else PAUSED, math.inf, level, r, price, outlook=outlook)

    def best(self) -> float:
        """By brute force: the least cost of all whole runs."""
        costs = [math.inf]
        for row, price in zip(self.levels, self.prices, strict=True):
            for r in range(1, len(row)):
                if not np.isfinite(row[r]):
                    break
                if row[r] <= TARGET:
                    costs.append(r * price)
                    break
        return min(costs)


def drive(bracket, curves):
    answer = None
    try:
        while True:
            asks = bracket.send(answer)
            answer = {ask.point: curves.outcome(ask) for ask in asks}
    except StopIteration as end:
        return end.value


def points(count: int) -> list[Point]:
    return [Point("m", (), f"theory*{2**k}", 2.0**k, k) for k in range(count)]


@pytest.mark.parametrize("in_rounds", [True, False])
def test_an_exhaustive_search_finds_what_brute_force_finds(in_rounds):
    """Also where curves cross, stall, jump and diverge, and rounds have different prices."""
    rng = np.random.default_rng(0)
    saved = found = 0
    for _ in range(150):
        count, rounds = int(rng.integers(1, 12)), int(rng.integers(1, 60))
        slopes = rng.uniform(0, 0.5, count)[:, None] * np.arange(rounds + 1)
        levels = np.exp(-slopes) * np.exp(rng.normal(0, 1.0, (count, rounds + 1)))
        levels[rng.random((count, rounds + 1)) < 0.003] = np.inf
        prices = np.ones(count) if in_rounds else rng.uniform(0.1, 10, count)
        curves = Curves(levels, prices)
        bracket = drive(search(points(count), rounds, lambda b: [], 2.0, True, in_rounds), curves)
        assert bracket.cost == curves.best()
        assert set(bracket.verdicts) == set(points(count))
        saved += count * rounds - int(curves.ran.sum())
        found += count * rounds
    assert saved > 0.2 * found  # the stop rule spares rounds without losing the winner


def test_halving_finds_the_best_of_curves_that_do_not_cross_with_fewer_rounds():
    rng = np.random.default_rng(1)
    for factor in (2.0, 3.0, 1.5):
        for _ in range(40):
            count = int(rng.integers(2, 16))
            slopes = rng.permutation(np.linspace(0.003, 0.03, count))
            curves = Curves(np.exp(-slopes[:, None] * np.arange(1001)), np.ones(count))
            bracket = drive(search(points(count), 1000, lambda b: [], factor), curves)
            assert bracket.best == points(count)[int(np.argmax(slopes))] and bracket.cost == curves.best()
            whole = sum(min(1000, math.ceil(math.log(1 / TARGET) / s)) for s in slopes)
            assert curves.ran.sum() < whole
            assert all(v.why in ("", "left behind", "slower than the best") for v in bracket.verdicts.values())


def test_what_starts_slowly_and_falls_faster_is_not_left_behind():
    """Half of the places are given by how fast the level falls: the winner of these curves is the last by its level for long."""
    flat = np.exp(-np.array([[0.009], [0.008], [0.007], [0.006], [0.005], [0.0055], [0.0045]]) * np.arange(1001))
    late = np.maximum(0, np.arange(1001) - 5) * 0.05 - 3.0  # from 20 times as high
    curves = Curves(np.vstack([flat, np.exp(-late)]), np.ones(8))
    bracket = drive(search(points(8), 1000, lambda b: []), curves)
    assert bracket.best == points(8)[7] and bracket.cost == curves.best()


def test_an_outlook_is_the_cost_at_which_a_straight_line_meets_the_target():
    rng = np.random.default_rng(3)
    for _ in range(50):
        rate, first, price = rng.uniform(0.01, 1), rng.uniform(0.1, 10), rng.uniform(0.1, 10)
        spent = [price * k for k in range(int(rng.integers(3, 50)))]
        found = foresee(spent, [first * math.exp(-rate * s) for s in spent], 1e-9)
        assert found == pytest.approx(math.log(first / 1e-9) / rate)
    assert foresee([0, 1, 2], [1.0, 1.0, 1.0], 1e-3) == math.inf
    assert foresee([0.0], [1.0], 1e-3) == math.inf
    assert foresee([0, 1, 2, 3], [1.0, 0.5, math.nan, math.inf], 1e-3) == math.inf


def test_prices_count():
    """Equal progress for a round, at different prices: the cheap one wins where prices count, although it runs more rounds for a budget."""
    levels = np.exp(-0.02 * np.arange(1001)) * np.ones((4, 1))
    curves = Curves(levels, np.array([8.0, 4.0, 1.0, 2.0]))
    assert drive(search(points(4), 1000, lambda b: [], 2.0, False, False), curves).best == points(4)[2]


def test_the_best_at_the_edge_moves_the_edge_within_bounds():
    """Steps 1 and 2 are given, 2^5 is the best one: the search goes there if it may add as many."""
    steps = Steps.parse("theory*2^0..2^1")

    class Valley(Curves):
        def outcome(self, ask):
            slope = 0.2 / (1 + abs(math.log2(ask.point.value) - 5))
            r = min(1000, math.ceil(math.log(1 / TARGET) / slope))
            if min(ask.cost, ask.rounds) < r:
                return Outcome(
                    PAUSED, math.inf, math.exp(-slope * min(ask.cost, ask.rounds)), int(min(ask.cost, ask.rounds)), 1.0
                )
            return Outcome(REACHED, r, TARGET, r, 1.0)

    for most, best, edge in ((0, 2.0, "largest"), (1, 4.0, "largest"), (3, 16.0, "largest"), (6, 32.0, "")):
        bracket = drive(
            search(points(2), 1000, lambda b, m=most: past_the_edge(b, steps, m)), Valley(np.zeros((0, 0)), np.zeros(0))
        )
        assert bracket.best.value == best and bracket.edge() == edge and len(bracket.added) <= most
        assert len({p.place for p in bracket.verdicts}) == len(bracket.verdicts)


def test_downwards_too():
    steps = Steps.parse("theory*2^0..2^3")
    curves = {
        k: Outcome(DIVERGED, math.inf, math.inf, 3, 1.0) if k >= 2 else Outcome(REACHED, 50 * k + 10, 0.0, 60, 1.0)
        for k in (0.25, 0.5, 1, 2, 4, 8)
    }
    bracket = search(points(4), 100, lambda b: past_the_edge(b, steps, 2))
    answer, seen = None, []
    with pytest.raises(StopIteration) as end:
        while True:
            asks = bracket.send(answer)
            seen += [ask.point.value for ask in asks]
            answer = {ask.point: curves[ask.point.value] for ask in asks}
    assert end.value.value.best.value == 0.25 and set(seen) == {0.25, 0.5, 1, 2, 4, 8}


# ---- seeds ----------------------------------------------------------------------------------------------------------
def test_the_median_of_seeds_is_right_though_the_slow_ones_are_stopped():
    """Where seeds are cut at the best's cost, a median below it is the median of whole runs, and one above it stays above."""
    rng = np.random.default_rng(2)
    for _ in range(300):
        costs = rng.integers(1, 30, int(rng.integers(1, 7))).astype(float)
        limit = float(rng.integers(1, 30))
        cut = [
            Progress(REACHED, c, TARGET, int(c), 1.0)
            if c <= limit
            else Progress(PAUSED, math.inf, 1.0, int(limit), 1.0)
            for c in costs
        ]
        outcome, whole = summarise(cut), median_high(costs)
        assert outcome.cost == (whole if whole <= limit else math.inf)
        assert outcome.ended == (REACHED if whole <= limit else PAUSED) and outcome.seeds == len(costs)


def test_what_becomes_of_seeds_together():
    def one(ended, cost=math.inf, level=1.0):
        return Progress(ended, cost, level, 5, 1.0, reason=ended)

    inf = math.inf
    assert summarise([one(DIVERGED, level=inf), one(DIVERGED, level=inf), one(PAUSED)]).ended == DIVERGED
    assert summarise([one(DIVERGED, level=inf), one(PAUSED), one(PAUSED)]).ended == PAUSED
    assert summarise([one(EXHAUSTED), one(EXHAUSTED), one(REACHED, 3)]).ended == EXHAUSTED
    assert summarise([one(FAILED, level=inf), one(REACHED, 3), one(REACHED, 3)]).ended == FAILED


def test_jobs_do_not_share_cores():
    for wanted, ranks, threads, cores in (
        (0, 1, 1, 2),
        (0, 2, 1, 2),
        (0, 3, 2, 2),
        (8, 2, 2, 16),
        (3, 1, 1, 16),
        (9, 4, 1, 16),
    ):
        count, note = slots(wanted, ranks, threads, cores)
        assert count == 1 or count * ranks * threads <= cores
        assert bool(note) == (count < wanted) and count <= (wanted or count)


# ---- runs that pause ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "method",
    [
        {"method": "marina", "compressor": "randk:k=3"},
        {"method": "gd", "optimizer": "sgd:momentum=0.5,schedule=cosine"},
    ],
)
def test_a_paused_run_goes_on_with_the_bits_of_one_long_run(method, tmp_path):
    """Also where the schedule depends on the number of rounds; several pauses."""
    options = {**PROBLEM, **method, "rounds": 60, "eval_every": 7, "step": "theory*2", "exchange": "local"}
    whole = mc.run(**options)
    ends = []
    for limit in (10, 35, 1000):
        result = mc.run(
            **options,
            out=str(tmp_path / "run"),
            resume="auto",
            progress=lambda row, r=limit: PAUSE if row["round"] >= r else True,
        )
        ends.append((result.summary["rounds"], result.interrupted))
    assert ends == [(14, True), (35, True), (60, False)]
    assert result.summary["iterate_sha256"] == whole.summary["iterate_sha256"]
    keys = ("round", "loss", "grad_norm_sq", "uplink_message", "downlink_message")
    assert [[row[k] for k in keys] for row in result.history] == [[row[k] for k in keys] for row in whole.history]


# ---- whole searches ------------------------------------------------------------------------------------------------------
def options_of(problem) -> list[str]:
    table = [w for k, v in problem["problem_options"].items() for w in ("--set", f"problem.{k}={v}")]
    return ["--problem", problem["problem"], "--clients", f"{problem['clients']}", *table]


def tune(out: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mpicomp", "tune", "--out", str(out), *options_of(PROBLEM), *words],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "tune.csv", newline="") as file:
        return list(csv.DictReader(file))


def rounds_to(target: float, **options) -> float:
    result = mc.run(**{**PROBLEM, **options}, tol=target, exchange="local")
    return result.summary["rounds"] if result.summary["reached_tol"] else math.inf


@pytest.mark.process
def test_a_search_finds_what_runs_one_by_one_find(tmp_path):
    """The independent check: every run of the same grid, whole, in this process. The file that is left is the best run."""
    out = tmp_path / "search"
    grid = [2.0**j for j in range(-1, 6)]
    text = tune(
        out, "--method", "ef21 + topk:k=3", "--method", "gd", "--steps", "theory*2^-1..2^5", "--target", "1e-5", "--rounds", "300",
        "--eval-every", "1", "--extend", "0", "-o", str(tmp_path / "mine.toml"),
    )  # fmt: skip
    costs = {}
    for label, own in (("ef21 + topk:k=3", {"method": "ef21", "compressor": "topk:k=3"}), ("gd", {"method": "gd"})):
        for factor in grid:
            costs[label, factor] = rounds_to(1e-5, **own, rounds=300, eval_every=1, step=f"theory*{factor!r}")
    rows = table(out)
    assert len(rows) == 2 * len(grid)
    for label in ("ef21 + topk:k=3", "gd"):
        own = {row["step"]: row for row in rows if row["contender"] == label}
        best = min(grid, key=lambda f: costs[label, f])
        winner = next(row for row in own.values() if row["why"].startswith("the best"))
        assert float(winner["step"].removeprefix("theory*")) == best and float(winner["cost"]) == costs[label, best]
        for factor in grid:
            row = own[f"theory*{factor:g}"]
            assert row["cost"] == "" or float(row["cost"]) == costs[label, factor]
            assert row["why"]
    again = mc.run(Config.load(tmp_path / "mine.toml"))
    assert again.summary["reached_tol"] and again.summary["rounds"] == min(costs.values())
    assert "mpicomp run" in text and (out / "best.toml").exists() is False


@pytest.mark.process
@pytest.mark.full(reason="starts many processes, and kills them")
def test_a_search_that_is_killed_goes_on_and_ends_the_same(tmp_path):
    """SIGKILL to the search alone, at different moments: nothing of it lives on, and what it leaves is that of an undisturbed one."""
    words = [
        "--method",
        "marina + randk:k=2",
        "--method",
        "diana + randk:k=2",
        "--steps",
        "theory*2^0..2^4",
        "--target",
        "1e-6",
    ]
    words += ["--rounds", "1500", "--seeds", "3", "--objective", "bits"]
    tune(tmp_path / "whole", *words)
    command = [sys.executable, "-m", "mpicomp", "tune", "--out", str(tmp_path / "killed"), *options_of(PROBLEM), *words]
    for seconds in (1.0, 2.5, 3.5, 4.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("trials/*/summary.json")}
    deadline = time.monotonic() + 20
    while _workers(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _workers(tmp_path / "killed")
    tune(tmp_path / "killed", *words)
    assert (tmp_path / "killed/tune.csv").read_text() == (tmp_path / "whole/tune.csv").read_text()
    assert (tmp_path / "killed/best.toml").read_text() == (tmp_path / "whole/best.toml").read_text()
    over = [p for p, at in finished.items() if p.exists() and p.stat().st_mtime_ns == at]
    assert finished == {} or over  # what had come to an end was not run again
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("trials/*/summary.json")}
    tune(tmp_path / "killed", *words)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("trials/*/summary.json")}


def _workers(out: Path) -> list[str]:
    """Processes whose command line names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(out) in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


@pytest.mark.process
@pytest.mark.full(reason="starts MPI jobs")
@pytest.mark.night
def test_trials_over_mpi_have_the_bits_of_one_process(tmp_path):
    words = ["--method", "marina + randk:k=2", "--steps", "theory*2^0..2^3", "--target", "1e-4", "--rounds", "400"]
    words += ["--axis", "compressor.k=2,5", "--objective", "bits"]
    tune(tmp_path / "mpi", *words, "-n", "3", "--processes", "2")
    tune(tmp_path / "one", *words)
    mpi, one = table(tmp_path / "mpi"), table(tmp_path / "one")
    for a, b in zip(mpi, one, strict=True):
        assert {k: v for k, v in a.items() if k != "directory"} == {k: v for k, v in b.items() if k != "directory"}
    assert {row["compressor.k"] for row in mpi} == {"2", "5"}


@pytest.mark.process
@pytest.mark.full(reason="starts many processes")
@pytest.mark.night
def test_what_fails_is_told_and_the_rest_goes_on(tmp_path):
    """A problem that ends its process at large steps, an axis with a value that cannot be, a step that diverges; then nothing reached."""
    part = tmp_path / "mine.py"
    part.write_text(
        "import os\nimport numpy as np\nfrom mpicomp.extend import register_problem\nfrom mpicomp.problems.quadratic import Quadratic\n"
        "@register_problem('deadly')\nclass Deadly(Quadratic):\n"
        "    def measure(self, x):\n        if np.abs(x).max() > 1e3: os._exit(7)\n        return ()\n"
    )
    out = tmp_path / "search"
    text = tune(
        out, "--import", str(part), "--problem", "deadly", "--method", "ef21 + topk:k=3", "--axis", "compressor.k=3,99",
        "--steps", "theory*2^0..2^8", "--target", "1e-4", "--rounds", "400",
    )  # fmt: skip
    rows = table(out)
    ended = {(row["compressor.k"], row["step"].removeprefix("theory*")): row for row in rows}
    assert "exit code 7" in ended["3", "256"]["why"] and ended["3", "256"]["ended"] == "failed"
    assert all("k=99 must be" in row["why"] for (k, _), row in ended.items() if k == "99")
    assert all(row["ended"] != "failed" for (k, step), row in ended.items() if k == "3" and int(step) <= 16)
    assert any(row["why"].startswith("the best") for row in rows)
    text = tune(
        tmp_path / "far",
        "--method",
        "gd",
        "--steps",
        "theory",
        "--target",
        "1e-30",
        "--rounds",
        "20",
        "--extend",
        "1",
        code=1,
    )
    assert "nothing came to ‖∇f‖² ≤ 1e-30" in text and (tmp_path / "far/best.toml").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (["--objective", "time"], "unknown objective 'time'"),
        (["--target", "0"], "--target 0"),
        (["--seeds", "0"], "--seeds 0"),
        (["--halving", "1"], "--halving 1"),
        (["--method", "diana + sign"], "sign"),
        (["--rounds", "0"], "--rounds 0"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words, told, tmp_path):
    from typer.testing import CliRunner

    from mpicomp.cli import app

    given = [
        "tune",
        "--out",
        str(tmp_path / "x"),
        *options_of(PROBLEM),
        *(["--target", "1e-3"] if "--target" not in words else []),
        *words,
    ]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, ConfigError) and told in str(done.exception)
    assert not list(tmp_path.glob("x/trials/*"))
