"""Trackers: what they are told of a run, what they hand on to their libraries, and what they say where one is missing."""

from __future__ import annotations

import builtins
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mpicomp as mc
from mpicomp import trackers
from mpicomp.cli import app
from mpicomp.errors import ConfigError, EnvironmentMismatch
from mpicomp.trackers.base import trackers as registry

RUN: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 10, "reg": 0.1}, "clients": 4, "method": "ef21", "compressor": "topk:k=2",
    "rounds": 6, "eval_every": 2, "step": 0.05,
}  # fmt: skip


class Spy(trackers.Tracker):
    """Remembers what it was told."""

    def __init__(self):
        self.told: list[Any] = []

    def begin(self, config):
        self.told.append(("begin", config))

    def __call__(self, row):
        self.told.append(("row", row["round"]))

    def end(self, summary):
        self.told.append(("end", summary))


# ---- the life of a tracker ----------------------------------------------------------------------------------------------
def test_a_tracker_is_told_of_options_rows_and_summary():
    spy, rows = Spy(), []
    result = mc.run(progress=[spy, rows.append], **RUN)
    kinds = [kind for kind, _ in spy.told]
    assert kinds == ["begin", "row", "row", "row", "row", "end"]
    assert [told for kind, told in spy.told if kind == "row"] == [row["round"] for row in rows] == [0, 2, 4, 6]
    config = spy.told[0][1]
    assert config["rounds"] == 6 and config["compressor"] == "topk:k=2" and config["problem_options"]["dim"] == 10
    assert spy.told[-1][1] == result.summary


def test_one_function_is_still_enough():
    rows: list[dict[str, Any]] = []
    mc.run(progress=rows.append, **RUN)
    spy = Spy()
    mc.run(progress=spy, **RUN)
    assert len(rows) == 4 and len(spy.told) == 6
    mc.run(progress=spy, **RUN)
    assert len(spy.told) == 12


def test_a_run_that_fails_ends_its_trackers():
    spy = Spy()

    def fail(row):
        if row["round"] == 2:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        mc.run(progress=[spy, fail], **RUN)
    assert spy.told[-1] == ("end", None)
    spy = Spy()
    with pytest.raises(ConfigError):
        mc.run(progress=spy, **{**RUN, "compressor": "topkk"})
    assert spy.told == []  # nothing was begun, so no empty run is on record


def test_all_trackers_end_where_one_cannot():
    class Failing(Spy):
        def begin(self, config):
            if self.where == "begin":
                raise RuntimeError("no")
            super().begin(config)

        def end(self, summary):
            super().end(summary)
            raise RuntimeError("no")

    for where, told in (("begin", 0), ("end", 6)):
        first, failing, last = Spy(), Failing(), Spy()
        failing.where = where
        with pytest.raises(RuntimeError, match="no"):
            mc.run(progress=[first, failing, last], **RUN)
        assert first.told[-1][0] == "end" and len(failing.told) == told
        assert [kind for kind, _ in last.told][-1:] == ([] if where == "begin" else ["end"])


def test_results_do_not_depend_on_who_follows():
    assert mc.run(progress=[Spy()], **RUN).summary["iterate_sha256"] == mc.run(**RUN).summary["iterate_sha256"]


@pytest.mark.parametrize("wrong", [3, [3], Spy, [Spy]])
def test_what_cannot_be_called_is_refused(wrong):
    with pytest.raises(ConfigError, match="progress: "):
        mc.run(progress=wrong, **RUN)


@pytest.mark.mpi(min_size=2)
def test_only_rank_0_tells(capsys):
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    spy = Spy()
    mc.run(progress=spy, comm=comm, **RUN)
    assert comm.allgather(len(spy.told)) == [6] + [0] * (comm.size - 1)
    comm.Free()


# ---- the bar ------------------------------------------------------------------------------------------------------------
def test_the_bar_shows_the_last_row(capsys):
    mc.run(progress=[trackers.Bar()], **RUN)
    shown = capsys.readouterr().out
    assert "ef21" in shown and "6/6" in shown and "loss" in shown and "MB" in shown


# ---- libraries, in their place what remembers how it was called ---------------------------------------------------------
@pytest.fixture
def library(monkeypatch):
    """Puts modules of that name in place of a library."""

    def put(**modules: dict[str, Any]) -> None:
        for name, contents in modules.items():
            module = ModuleType(name.replace("__", "."))
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, name.replace("__", "."), module)

    return put


def test_wandb(library):
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda row, step: calls.append((step, row)),
        summary=SimpleNamespace(update=lambda table: calls.append(("summary", table))),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    library(wandb={"init": lambda **given: calls.append(given) or run})
    result = mc.run(progress=[trackers.WandB(project="p", directory="d")], **RUN)
    begun, *rows, summary, finish = calls
    assert begun.pop("config")["rounds"] == 6
    assert begun == {"project": "p", "name": None, "dir": "d", "mode": "offline"}
    assert [step for step, _ in rows] == [0, 2, 4, 6]
    assert rows[-1][1]["loss"] == result.history[-1]["loss"] and "round" not in rows[-1][1]
    assert summary[1]["bytes.uplink.message"] == result.summary["bytes"]["uplink"]["message"]
    assert finish == ("finish", 0)


def test_mlflow(library):
    calls: list[Any] = []

    class Client:
        def __init__(self, tracking_uri):
            calls.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return f"number of {name}"

        def create_run(self, experiment, run_name):
            calls.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_batch(self, run, metrics=(), params=()):
            assert run == "r" and len(params) <= 100
            calls.append((dict(params), [(name, step) for name, _, _, step in metrics]))

        def set_terminated(self, run, status):
            calls.append(status)

    library(
        mlflow={},
        mlflow__tracking={"MlflowClient": Client},
        mlflow__entities={"Param": lambda *a: a, "Metric": lambda *a: a},
    )
    mc.run(progress=[trackers.MLflow("e", run="n", uri="sqlite:///x.db")], **RUN)
    uri, run, (options, _), *rows, (_, last), status = calls
    assert (uri, run, status) == ("sqlite:///x.db", ("number of e", "n"), "FINISHED")
    assert options["rounds"] == "6" and options["problem_options.dim"] == "10"
    assert [metrics[0] for _, metrics in rows] == [("loss", t) for t in (0, 2, 4, 6)]
    assert ("summary.bytes.uplink.message", 6) in last


def message(name: str = "", **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def test_tensorboard(library):
    events: list[Any] = []

    class Writer:
        def __init__(self, directory):
            self.directory = directory

        def add_event(self, event):
            events.append(event)

        def close(self):
            events.append("closed")

    class SummaryMetadata(SimpleNamespace):
        PluginData = SimpleNamespace

    class Summary(SimpleNamespace):
        Value = SimpleNamespace

    where = "tensorboard__compat__proto__"
    library(
        **{
            "tensorboard__summary__writer__event_file_writer": {"EventFileWriter": Writer},
            f"{where}event_pb2": {"Event": SimpleNamespace},
            f"{where}summary_pb2": {"Summary": Summary, "SummaryMetadata": SummaryMetadata},
            f"{where}tensor_pb2": {"TensorProto": SimpleNamespace},
        }
    )
    mc.run(progress=[trackers.TensorBoard("logs")], **RUN)
    first, *rows, last, closed = events
    assert [event.step for event in rows] == [0, 2, 4, 6] and closed == "closed"
    assert rows[0].summary.value[0].tag == "loss"
    assert first.summary.value[0].tag == "config" and last.summary.value[0].tag == "summary"


@pytest.mark.torch  # the environment with PyTorch has TensorBoard, too
def test_event_files_of_the_real_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = mc.run(progress=[trackers.TensorBoard(tmp_path)], **RUN)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [0, 2, 4, 6]
    np.testing.assert_allclose(
        [event.value for event in found.Scalars("grad_norm_sq")], [row["grad_norm_sq"] for row in result.history], 1e-6
    )
    text = b"".join(found.Tensors("config")[0].tensor_proto.string_val).decode()
    assert '"compressor": "topk:k=2"' in text and found.Tensors("summary")


# ---- without the libraries ----------------------------------------------------------------------------------------------
@pytest.fixture
def nothing_installed(monkeypatch):
    """As where none of the libraries is installed."""
    whole = builtins.__import__
    for name in [name for name in sys.modules if name.partition(".")[0] in ("wandb", "mlflow", "tensorboard")]:
        monkeypatch.delitem(sys.modules, name)

    def refuse(name, *rest):
        if name.partition(".")[0] in ("wandb", "mlflow", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(importlib, "import_module", lambda name, package=None: _import(name, package, refuse))


def _import(name: str, package: str | None, refuse: Any) -> ModuleType:
    refuse(name)
    return sys.modules[name]


@pytest.mark.parametrize("name, package", [("WandB", "wandb"), ("MLflow", "mlflow"), ("TensorBoard", "tensorboard")])
def test_a_missing_package_is_one_clear_error(name, package, nothing_installed):
    make = getattr(trackers, name)
    with pytest.raises(
        EnvironmentMismatch, match=rf"trackers\.{name}: .*{package}.*pip install 'mpicomp\[{package}\]'"
    ):
        make()


def test_importing_them_needs_nothing():
    assert set(registry) >= {"bar", "mlflow", "tensorboard", "wandb"}
    for name in trackers.__all__:
        assert isinstance(getattr(trackers, name), type)


# ---- on the command line ------------------------------------------------------------------------------------------------
COMMAND = ["run", "--problem", "quadratic", "--set", "problem.dim=10", "--set", "problem.reg=0.1", "--clients", "4",
           "--method", "ef21", "--compressor", "topk:k=2", "--step", "0.05", "--rounds", "6", "--no-table"]  # fmt: skip


@registry.register("test-spy")
class Counting(Spy):
    made: list[Counting] = []  # noqa: RUF012 - of the class, for the test to find

    def __init__(self, label: str = ""):
        super().__init__()
        self.label = label
        self.made.append(self)


def test_track_on_the_command_line():
    Counting.made.clear()
    done = CliRunner().invoke(app, [*COMMAND, "-q", "--track", "test-spy,bar", "--track", "test-spy:label=two"])
    assert done.exit_code == 0, done.output
    assert [spy.label for spy in Counting.made] == ["", "two"] and "6/6" in done.output
    assert all(spy.told[0][0] == "begin" and spy.told[-1][0] == "end" for spy in Counting.made)


def test_an_unknown_tracker_is_named():
    done = CliRunner().invoke(app, [*COMMAND, "--track", "tensorbord"])
    assert done.exit_code != 0 and "did you mean 'tensorboard'" in str(done.exception or done.output)
