"""Damaged results: `report`, `compare` and `slurm collect` name what is broken in a line each, and go on with the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from study_cells import Numbers, write_study
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp.cli import app
from mpicomp.errors import ConfigError, DataError
from mpicomp.experiments.records import COUNT, FLAG, NUMBER, TEXT, fault
from mpicomp.experiments.slurm.collect import DAMAGED, FINISHED, UNFINISHED, collect
from mpicomp.experiments.study.cell import Cell
from mpicomp.experiments.study.cells import Results
from mpicomp.experiments.study.grid import Study
from mpicomp.experiments.study.runs import load_runs
from mpicomp.experiments.study.scale import Walk, open_study

OPTIONS = {"data": "mushrooms", "clients": 4, "rounds": 4, "step": 0.01, "eval_every": 1}


# ---- kinds of damage ----------------------------------------------------------------------------------------------------
def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def without(*keys: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        at = value
        for key in keys[:-1]:
            at = at[key]
        del at[keys[-1]]
        path.write_text(json.dumps(value))

    return damage


def having(value: object, *keys: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        whole = json.loads(path.read_text())
        at = whole
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        path.write_text(json.dumps(whole))

    return damage


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda path: path.write_text("".join(change(path.read_text().splitlines(keepends=True)))) and None


ANY = [missing, empty, binary, directory, fifo, loop, half]
JSON = [*ANY, *map(text, ("[]", "null", '"a"', "1", "{", "[" * 100_000, '{"a": ' * 100_000))]
SUMMARY = [
    *JSON,
    *(without(key) for key in ("bytes", "rounds", "dim", "diverged", "iterate_sha256", "exchange")),
    without("bytes", "uplink"),
    without("bytes", "downlink", "message"),
    *(having(value, "rounds") for value in (None, "4", -1, True, 1.5)),
    having([], "bytes"),
    having("a", "bytes", "uplink", "message"),
]
ROUNDS = [
    *ANY,
    text("round\n0\n"),
    lines(lambda rows: rows[:1]),
    lines(lambda rows: rows[1:]),
    lines(lambda rows: [*rows, rows[-1]]),
    lines(lambda rows: [rows[0], *rows[:0:-1]]),
    lines(lambda rows: [*rows[:-1], rows[-1].rpartition(",")[0] + "\n"]),
    lines(lambda rows: [*rows[:-1], rows[-1].rstrip("\r\n") + ",7\n"]),
    lines(lambda rows: [*rows[:-1], "4,a" + rows[-1][3:]]),
    lines(lambda rows: [*rows[:-1], '"' + rows[-1]]),
    lines(lambda rows: [*rows[:-1], rows[-1].replace("0", "\0", 1)]),
]
MANIFEST = [
    *JSON,
    *(without(key) for key in ("ranks", "git", "problem", "slurm", "mpicomp")),
    *(having(value, "ranks") for value in ([], {}, [1], [{}], None)),
    having(1, "git"),
    having([], "slurm"),
    having("a", "problem"),
]


# ---- compare ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished runs."""
    out = tmp_path_factory.mktemp("runs")
    for method in ("gd", "ef21"):
        mc.run(method=method, **OPTIONS, out=str(out / method))
    return out


@pytest.fixture
def copied(runs, tmp_path) -> Path:
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def invoke(*args: object):
    """The command; one that hangs at a FIFO is ended by an alarm."""
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("the command hangs")))
    signal.alarm(60)
    try:
        return CliRunner().invoke(app, [str(arg) for arg in args])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(said: str, *words: object) -> None:
    found = [line for line in said.splitlines() if all(str(word) in line for word in words)]
    assert len(found) == 1, said


@pytest.mark.parametrize(
    ("name", "damage"),
    [*(("summary.json", d) for d in SUMMARY), *(("rounds.csv", d) for d in ROUNDS)],
)
def test_compare_goes_on_with_the_other_runs(name, damage, copied, capfd):
    damage(copied / "ef21" / name)
    done = invoke("compare", copied / "gd", copied / "ef21")
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    one_line(done.stderr, "mpicomp: left out:", f"{copied / 'ef21'} does not hold a finished run", name)
    assert "To reach" in done.stdout + capfd.readouterr().out


def test_compare_says_where_the_yardstick_has_changed_and_where_nothing_is_left(copied):
    empty(copied / "gd" / "summary.json")
    done = invoke("compare", copied / "gd", copied / "ef21")
    assert done.exit_code == 1 and f"the yardstick is now {copied / 'ef21'}" in done.stderr
    empty(copied / "ef21" / "rounds.csv")
    with pytest.raises(DataError, match=r"gd does not hold .*ef21 does not hold"):
        load_runs([copied / "gd", copied / "ef21"])


@pytest.mark.parametrize(("name", "value"), [("loss", 0.1), ("grad_norm_sq", float("nan"))])
def test_files_of_two_runs_are_told_apart(name, value, copied):
    having(value, name)(copied / "ef21" / "summary.json")
    _, broken = load_runs([copied / "gd", copied / "ef21"])
    assert len(broken) == 1 and f"rounds.csv ends at {name}=" in broken[0]


def test_a_run_that_was_nowhere_finite_is_left_out(copied):
    lines(lambda rows: [rows[0], *(",".join([*r.split(",")[:2], "nan", *r.split(",")[3:]]) for r in rows[1:])])(
        copied / "ef21" / "rounds.csv"
    )
    having(float("nan"), "grad_norm_sq")(copied / "ef21" / "summary.json")
    _, broken = load_runs([copied / "gd", copied / "ef21"])
    assert broken == [f"{copied / 'ef21'} has no evaluation at which ‖∇f‖² is finite"]


# ---- slurm collect ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("summary.json", d) for d in SUMMARY if d is not missing),
        *(("manifest.json", d) for d in JSON if d is not missing),
        ("summary.json", without("seconds", "total")),
        ("summary.json", having("a", "interrupted")),
    ],
)
def test_collect_goes_on_with_the_other_runs(name, damage, copied, tmp_path):
    damage(copied / "ef21" / name)
    found = {Path(run.directory).name: run for run in collect([copied])}
    assert (
        found["gd"].state == FINISHED
        and found["ef21"].state == DAMAGED
        and str(copied / "ef21" / name) in found["ef21"].why
    )
    done = invoke("slurm", "collect", copied, "--csv", tmp_path / "all.csv")
    assert done.exit_code == 1
    one_line(done.stderr, "mpicomp: ", copied / "ef21" / name)
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3


def test_collect_takes_odd_names_of_checkpoints_and_of_summaries(copied):
    for name in ("round-", "round-abc", "round-٣", "round-000000007"):
        (copied / "new" / "checkpoints" / name).mkdir(parents=True)
        (copied / "new" / "checkpoints" / name / "checkpoint.json").write_text("")
    found = {Path(run.directory).name: run for run in collect([copied])}
    assert found["new"].state == UNFINISHED and found["new"].rounds == 7


# ---- report -------------------------------------------------------------------------------------------------------------
STUDY = """
name = "damaged"
mode = "strong"
repetitions = 2
baselines = ["dense"]
run = { rounds = 5, problem = "quadratic:dim=30" }
methods = [{ method = "marina", compressor = "permk" }]
[grid]
workers = [1, 2]
clients = [4]
"""


def by_hand(cell: Cell) -> Numbers:
    return Numbers([0.1] * 5, [1.0, 0.5, 0.4, 0.3, 0.2, 0.1], up=100, down=50)


@pytest.fixture
def study(tmp_path) -> tuple[Path, str]:
    """A finished study, and the name of one cell."""
    cells = write_study(tmp_path / "s", STUDY, by_hand).cells()
    return tmp_path / "s", cells[3].name


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("summary.json", d) for d in SUMMARY),
        *(("rounds.csv", d) for d in ROUNDS),
        *(("manifest.json", d) for d in MANIFEST),
        *(("cell.json", d) for d in JSON if d is not missing),
        *(("cell.json", without(key)) for key in ("key", "seconds", "started", "runner", "machine", "state")),
        *(("cell.json", having(value, "state")) for value in (1, None, "unknown", [])),
        *(("cell.json", having(value, "key")) for value in ("another", 1)),
        ("cell.json", having("a", "seconds")),
        ("cell.json", having([], "runner")),
        ("cell.json", having("8", "runner", "cores")),
    ],
)
def test_a_report_leaves_out_what_is_damaged(name, damage, study):
    out, cell = study
    damage(out / "cells" / cell / name)
    results = Results.load(out)
    assert len(results.runs) == 7
    assert [(n, state) for n, state, _ in results.unfinished] == [(cell, "damaged")]
    reason = results.unfinished[0][2]
    assert str(out / "cells" / cell) in reason and "\n" not in reason


def test_the_page_of_a_damaged_study_is_made_and_the_command_says_what_is_missing(study):
    pytest.importorskip("matplotlib")
    out, cell = study
    half(out / "cells" / cell / "rounds.csv")
    fifo(out / "cells" / Results.load(out).runs[0].cell.name / "manifest.json")
    done = invoke("report", out)
    assert done.exit_code == 1
    one_line(done.stderr, "mpicomp: left out:", cell)
    assert cell in (out / "report" / "index.html").read_text()


@pytest.mark.parametrize("damage", [missing, empty, binary, directory, fifo, text("[" * 100_000), text("x = 1\n")])
def test_a_damaged_study_file_is_one_line(damage, study):
    out, _ = study
    damage(out / "study.toml")
    with pytest.raises((DataError, ConfigError)) as caught:
        Results.load(out)
    assert "\n" not in str(caught.value)


# ---- studies before their first cell ------------------------------------------------------------------------------------
def study_of(method: object, **more: object) -> dict:
    table = method if isinstance(method, dict) else {"method": method}
    return {
        "methods": [table],
        "baselines": [],
        "run": {"problem": "quadratic:dim=30"},
        "grid": {"workers": [1], "clients": [4]},
    } | more


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (study_of("marinaa"), r"unknown method 'marinaa'.*did you mean 'marina'"),
        (study_of("../../marina"), r"unknown method '../../marina'"),
        (study_of("/tmp/marina"), r"unknown method '/tmp/marina'"),
        (study_of("marina:q=1"), "unknown option of method 'marina'"),
        (study_of({"method": {"name": "marina", "q": 1}}), "unknown option of method 'marina'"),
        (study_of({"method": "marina", "compressor": "topkk"}), "unknown compressor 'topkk'"),
        (study_of({"method": "marina", "compressor": "randk:z=1"}), "unknown option of compressor 'randk'"),
        (study_of({"method": "marina", "compressor": ["permk", "rand"]}), "unknown compressor 'rand'"),
        (study_of({"method": "marina", "compressor": "topk"}), "marina"),  # no theorem
        (study_of({"method": "m3", "downlink_compressor": "nothing"}), "unknown compressor 'nothing'"),
        (study_of({"method": "gd", "optimizer": "adamm"}), "unknown optimizer 'adamm'"),
        (study_of("gd", run={"problem": "quadratics"}), "unknown problem 'quadratics'"),
        (study_of("gd", run={"problem": "quadratic:dims=3"}), "unknown option of problem 'quadratic'"),
        (study_of("gd", runner="lab", grid={"nodes": [2], "clients": [4], "link": ["../x"]}), r"rate '../x' is none"),
        (study_of("gd", runner="lab", grid={"nodes": [2], "clients": [4], "link": [1]}), "link has 1; allowed: texts"),
    ],
)
def test_a_studys_parts_are_checked_before_its_first_cell(study, words):
    with pytest.raises(ConfigError, match=words):
        Study.from_dict(study)


def test_what_no_theory_covers_may_be_asked_for_in_a_study():
    run = {"problem": "quadratic:dim=30", "allow_unsafe": True, "step": "0.1"}
    assert Study.from_dict(study_of({"method": "marina", "compressor": "topk"}, run=run)).cells()


@pytest.mark.parametrize("method", ["../../../escaped", "/escaped", "..", ".", "a/b", "a\0b", "", "-r", "a\nb"])
def test_a_cells_directory_is_in_the_studys_whatever_its_method_is(method, tmp_path):
    cell = Cell({"method": method, "exchange": "p2p", "clients": 2}, "", 0, 0, 1, "../..", 0.0, 0)
    assert Path(cell.name).name == cell.name and not cell.name.startswith((".", "-"))
    assert cell.name.isascii() and cell.name.isprintable()
    assert (tmp_path / cell.name).resolve().parent == tmp_path.resolve()


def test_a_method_may_be_a_table():
    cell = Study.from_dict(study_of({"method": {"name": "marina", "p": 0.2}, "compressor": "permk"})).cells()[0]
    assert cell.name.startswith("marina-w1-p2p-") and cell.label == "marina:p=0.2 permk"


# ---- two walks in one study ---------------------------------------------------------------------------------------------
class Recording:
    """A runner that runs nothing, and may do something else instead."""

    def __init__(self, action: Callable[[], object]):
        self.action, self.ran = action, 0

    def facts(self) -> dict:
        return {"name": "test", "cores": 1, "shared": False}

    def run(self, cell, argv, timeout):
        from mpicomp.experiments.study.runners import Outcome

        self.ran += 1
        self.action()
        where = Path(argv[-1]).parent
        (where / "summary.json").write_text("{}")
        return Outcome(0, 1.0, "", [])

    def close(self) -> None:
        return None


def test_walks_whose_shares_overlap_do_not_remove_each_others_cells(tmp_path):
    study = Study.from_dict(study_of("gd", repetitions=2))
    open_study(study, "", tmp_path / "s")
    inner = Walk(study, tmp_path / "s", study.cells(), lambda line: None)
    seen = []

    def meanwhile() -> None:
        if not seen:
            with pytest.raises(ConfigError) as caught:
                inner.run(Recording(lambda: None))
            seen.append(str(caught.value))

    runner = Recording(meanwhile)
    Walk(study, tmp_path / "s", study.cells(), lambda line: None).run(runner)
    assert "in use by another `mpicomp scale`" in seen[0] and runner.ran == 2
    assert not list((tmp_path / "s" / "cells").glob(".*"))


def test_a_pattern_names_what_is_wrong():
    pattern = {"a": [{"b": NUMBER}], "c": {"*": TEXT}, "d": COUNT, "e": FLAG}
    good = {"a": [{"b": 1.5, "more": None}], "c": {"x": "y"}, "d": 0, "e": False}
    assert fault(good, pattern) == ""
    for change, words in [
        ({"a": []}, "a is [], not a list of something"),
        ({"a": [{"b": 1}, {"b": True}]}, "a[1].b is True, not a number"),
        ({"c": {"x": 1}}, "c.x is 1, not a text"),
        ({"d": -1}, "d is -1, not a count"),
        ({"e": 1}, "e is 1, not true or false"),
    ]:
        assert fault(good | change, pattern) == words
