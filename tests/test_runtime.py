"""Configuration, results, stopping, and what a user brings: problems, compressors, methods."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors import compressors
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.methods import methods
from mpicomp.problems import problems
from mpicomp.runtime.config import Config

SMALL: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 30, "noise": 0.5, "reg": 0.01}, "clients": 6, "rounds": 40,
    "method": "marina", "compressor": "permk", "init": "normal:1", "seed": 4,
}  # fmt: skip


def run(**options: Any) -> mc.Result:
    return mc.run(**{**SMALL, **options})


def sha(**options: Any) -> str:
    return run(**options).summary["iterate_sha256"]


# ---- configuration ------------------------------------------------------------------------------------------------------
class TestConfig:
    FULL: dict[str, Any] = {  # noqa: RUF012
        "method": "ef21", "method_options": {"start": "dense"}, "compressor": "topk:k=3", "problem": "quadratic",
        "problem_options": {"dim": 7, "noise": 0.25, "reg": 1e-6}, "data": 'a "name" with \\ and ü', "partition": "dirichlet:0.1",
        "clients": 3, "optimizer": "heavyball", "optimizer_options": {"momentum": 0.5}, "batch": 2, "rounds": 9, "tol": 1e-300,
        "step": "theory*8", "init": "normal:-3", "dtype": "float32", "wire_dtype": "float64", "exchange": "collective", "seed": -1,
        "eval_every": 3, "out": "some/where", "allow_unsafe": True,
    }  # fmt: skip

    def test_toml_round_trip(self, tmp_path):
        for config in (Config(), Config(**self.FULL)):
            (tmp_path / "c.toml").write_text(config.to_toml())
            assert Config.load(tmp_path / "c.toml") == config

    def test_every_field_is_in_the_round_trip(self):
        plain = {f.name for f in dataclasses.fields(Config)}
        assert set(self.FULL) <= plain
        text = Config(**self.FULL).to_toml()
        for name in self.FULL:
            assert re.search(rf"^\[?{name.removesuffix('_options')}\b", text, re.MULTILINE), name

    @pytest.mark.parametrize("value", [1e22, 5e-324, 1 / 3, 1.0, 0.1, True, "1.0", "true", 3, -7])
    def test_values_survive_as_they_are(self, tmp_path, value):
        (tmp_path / "c.toml").write_text(Config(problem_options={"x": value}).to_toml())
        back = Config.load(tmp_path / "c.toml").problem_options["x"]
        assert back == value and type(back) is type(value)

    def test_table_in_toml(self, tmp_path):
        (tmp_path / "c.toml").write_text(
            'rounds = 5\n[method]\nname = "ef21"\nstart = "zero"\n[problem]\nname = "quadratic"\ndim = 9\n'
        )
        config = Config.load(tmp_path / "c.toml")
        assert (config.method, config.method_options, config.problem_options) == ("ef21", {"start": "zero"}, {"dim": 9})
        assert config.rounds == 5 and config.clients == Config().clients

    def test_later_ones_win(self, tmp_path):
        """The file, then options, then --set."""
        (tmp_path / "c.toml").write_text("rounds = 5\nclients = 6\nseed = 7\n")
        config = Config.load(tmp_path / "c.toml", {"clients": 60, "seed": 70, "data": None}, ("seed=700",))
        assert (config.rounds, config.clients, config.seed, config.data) == (5, 60, 700, "mushrooms")

    def test_set(self):
        sets = (
            "problem.dim=100",
            "problem.reg=1e-6",
            "method.start=zero",
            "optimizer.momentum=0.5",
            "step=theory*2",
            "rounds=1e3",
            "allow_unsafe=true",
        )
        config = Config.load(sets=sets)
        assert config.problem_options == {"dim": 100, "reg": 1e-6} and config.method_options == {"start": "zero"}
        assert config.optimizer_options == {"momentum": 0.5}
        assert (config.step, config.rounds, config.allow_unsafe) == ("theory*2", 1000, True)

    def test_a_name_with_options(self):
        config = Config.load(options={"method": "ef21:start=dense", "optimizer": "heavyball:momentum=0.3"})
        assert (config.method, config.method_options) == ("ef21", {"start": "dense"})
        assert (config.optimizer, config.optimizer_options) == ("heavyball", {"momentum": 0.3})

    @pytest.mark.parametrize(
        ("sets", "words"),
        [
            (["round=5"], ["unknown option", "'round'", "did you mean 'rounds'?"]),
            (["problems.dim=5"], ["unknown option table 'problems'", "did you mean 'problem'?"]),
            (["rounds"], ["setting 'rounds' is not of the form key=value, for example problem.reg=0.1"]),
            (["=3"], ["is not of the form key=value"]),
            (["rounds=many"], ["rounds='many'", "expected int"]),
            (["rounds=1.5"], ["rounds=1.5", "expected int"]),
            (["rounds=true"], ["rounds=True", "expected int"]),
            (["tol=small"], ["tol='small'", "expected float"]),
            (["allow_unsafe=1"], ["allow_unsafe=1", "expected bool"]),
            (["rounds=-1"], ["rounds=-1: at least 0 is needed"]),
            (["time_limit=nan"], ["time_limit=nan: at least 0 is needed"]),
            (["stall_timeout=inf"], ["stall_timeout=inf", "a finite number"]),
            (["clients=0"], ["clients=0: at least 1 is needed"]),
            (["batch=-2"], ["batch=-2"]),
            (["tol=-1"], ["tol=-1.0"]),
            (["tol=nan"], ["tol=nan"]),
            (["dtype=float16"], ["unknown dtype 'float16'", "float32, float64"]),
            (["wire_dtype=int8"], ["unknown wire_dtype 'int8'"]),
            (["exchange=p2"], ["unknown exchange 'p2'", "did you mean 'p2p'?"]),
            (["step=theory/2"], ["step='theory/2'", "theory*8 or 0.05"]),
            (["step=theory*0"], ["step='theory*0'"]),
            (["step=-0.1"], ["step='-0.1'"]),
            (["step=inf"], ["step='inf'"]),
            (["init=random"], ["init='random'", "normal:SEED"]),
            (["init=normal:x"], ["init='normal:x'"]),
        ],
    )
    def test_what_is_wrong_is_said(self, sets, words):
        with pytest.raises(ConfigError) as caught:
            Config.load(sets=tuple(sets))
        assert all(word in str(caught.value) for word in words), str(caught.value)

    def test_files_that_cannot_be_read(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no\.toml"):
            Config.load(tmp_path / "no.toml")
        (tmp_path / "bad.toml").write_text("rounds = \n")
        with pytest.raises(ConfigError, match=r"bad\.toml is not a TOML file.*line 1"):
            Config.load(tmp_path / "bad.toml")
        (tmp_path / "odd.toml").write_text("round = 5\n")
        with pytest.raises(ConfigError, match=r"odd\.toml.*did you mean 'rounds'"):
            Config.load(tmp_path / "odd.toml")

    def test_none_means_the_default(self):
        """As it does in Config itself."""
        assert sha(wire_dtype=None, optimizer=None, out=None) == sha()

    def test_options_of_parts_are_checked_when_they_are_built(self):
        with pytest.raises(ConfigError, match=r"unknown option of method 'ef21': 'strat'.*did you mean 'start'"):
            run(method="ef21", compressor="topk:k=1", method_options={"strat": "zero"})
        with pytest.raises(ConfigError, match=r"unknown option of problem 'quadratic': 'dims'.*did you mean 'dim'"):
            run(problem_options={"dims": 5})
        with pytest.raises(ConfigError, match=r"unknown compressor 'permkk'.*did you mean 'permk'"):
            run(compressor="permkk")
        with pytest.raises(ConfigError, match=r"unknown method 'marinna'.*did you mean 'marina'"):
            run(method="marinna")
        with pytest.raises(ConfigError, match="start"):
            run(method="ef21", compressor="topk:k=1", method_options={"start": "warm"})

    def test_a_run_does_not_change_the_config_it_is_given(self):
        config = Config.load(
            options={k: v for k, v in SMALL.items() if k != "problem_options"}, sets=("problem.dim=12",)
        )
        before = config.to_toml()
        mc.run(config, rounds=3, method_options={"p": 0.5}, problem_options={"noise": 0.0})
        assert config.to_toml() == before
        assert Config().method_options == {} and Config().problem_options == {}


# ---- results ------------------------------------------------------------------------------------------------------------
SUMMARY = (
    "method compressor clients ranks rounds dim loss grad_norm_sq step iterate_sha256 seed "
    + " ".join(
        f"bytes.{way}.{what}"
        for way in ("uplink", "downlink")
        for what in ("payload", "header", "message", "values_only")
    )
    + " "
    + " ".join(f"seconds.{phase}" for phase in ("compute", "encode", "send", "wait", "decode", "step", "total"))
).split()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("results") / "deep" / "er"
    run(out=str(directory), eval_every=10, wire_dtype="float32")
    return directory


class TestResults:
    def test_files(self, directory):
        assert {path.name for path in directory.iterdir()} >= {
            "config.toml",
            "manifest.json",
            "rounds.csv",
            "summary.json",
        }
        assert not [path for path in directory.iterdir() if path.name.startswith(".")]

    def test_summary(self, directory):
        summary = json.loads((directory / "summary.json").read_text())
        for key in SUMMARY:
            value = summary
            for part in key.split("."):
                value = value[part]
            assert value is not None, key
        assert (summary["method"], summary["compressor"], summary["clients"], summary["ranks"]) == (
            "marina",
            "permk",
            6,
            1,
        )
        assert (summary["rounds"], summary["dim"], summary["seed"]) == (40, 30, 4)
        assert re.fullmatch("[0-9a-f]{64}", summary["iterate_sha256"])
        for way in ("uplink", "downlink"):
            counts = summary["bytes"][way]
            assert counts["payload"] + counts["header"] == counts["message"] > 0
        assert min(summary["seconds"].values()) >= 0
        phases = ("compute", "encode", "send", "wait", "decode", "step")
        assert sum(summary["seconds"][phase] for phase in phases) <= summary["seconds"]["total"] * 1.01

    def test_rounds(self, directory):
        with open(directory / "rounds.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        summary = json.loads((directory / "summary.json").read_text())
        assert [int(row["round"]) for row in rows] == [0, 10, 20, 30, 40]
        assert float(rows[-1]["loss"]) == summary["loss"] and float(rows[-1]["grad_norm_sq"]) == summary["grad_norm_sq"]
        assert {"round", "loss", "grad_norm_sq", "uplink_message", "downlink_message", "seconds_total"} <= set(rows[0])
        assert int(rows[0]["uplink_message"]) == 0
        assert int(rows[-1]["uplink_message"]) == summary["bytes"]["uplink"]["message"]
        for column in ("uplink_message", "downlink_message", "uplink_values_only", "seconds_total"):
            values = [float(row[column]) for row in rows]
            assert values == sorted(values)

    def test_manifest(self, directory):
        manifest = json.loads((directory / "manifest.json").read_text())
        assert {"mpicomp", "python", "numpy", "numba", "platform", "git", "command", "slurm", "seed", "ranks"} <= set(
            manifest
        )
        assert manifest["mpicomp"] == mc.__version__ and len(manifest["ranks"]) == 1
        assert {"host", "cores", "clients", "seconds"} <= set(manifest["ranks"][0])

    def test_running_the_written_config_again(self, directory, tmp_path):
        config = Config.load(directory / "config.toml", {"out": str(tmp_path / "again")})
        again = mc.run(config)
        summary = json.loads((directory / "summary.json").read_text())
        assert again.summary["iterate_sha256"] == summary["iterate_sha256"] == sha(wire_dtype="float32")
        assert again.summary["bytes"] == summary["bytes"]
        twice = Config.load(tmp_path / "again" / "config.toml", {"out": config.out})
        assert twice == config

    def test_the_written_config_names_every_default(self, directory):
        """But `force`, which says what becomes of earlier results, and not what is run."""
        text = (directory / "config.toml").read_text()
        for f in dataclasses.fields(Config):
            if f.name != "force" and not f.name.endswith("_options") and getattr(Config(), f.name) is not None:
                assert re.search(rf"^\[?{f.name}\b", text, re.MULTILINE), f.name

    def test_hash_is_that_of_the_model(self):
        import hashlib

        result = run()
        assert hashlib.sha256(result.x.astype("<f8").tobytes()).hexdigest() == result.summary["iterate_sha256"]

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="choose another out"):
            run(out=str(tmp_path / "file" / "below"))

    def test_json_has_no_nan_where_a_run_went_well(self, directory):
        for name in ("summary.json", "manifest.json"):
            json.loads((directory / name).read_text(), parse_constant=lambda text: pytest.fail(f"a file holds {text}"))


# ---- the loop -----------------------------------------------------------------------------------------------------------
def test_values_only_of_gradient_descent():
    """n·d up, n·d down, whatever the transport; in the precision of the wire."""
    for wire, size in (("float32", 4), ("float64", 8)):
        counts = run(method="gd", compressor="identity", wire_dtype=wire, rounds=5).summary["bytes"]
        assert counts["uplink"]["values_only"] == counts["uplink"]["payload"] == 5 * 6 * 30 * size
        assert counts["downlink"]["values_only"] == 5 * 6 * 30 * size
        assert counts["downlink"]["payload"] == 5 * 30 * size  # one broadcast, to one process


def test_progress():
    rows: list[dict[str, Any]] = []
    result = run(progress=rows.append, eval_every=7)
    assert [row["round"] for row in rows] == [0, 7, 14, 21, 28, 35, 40]
    assert rows == result.history


def test_evaluations_change_nothing():
    assert sha(eval_every=1) == sha(eval_every=40) == sha()
    one, other = run(eval_every=1).summary["bytes"], run(eval_every=40).summary["bytes"]
    assert one == other


def test_tolerance():
    result = run(method="gd", compressor="identity", rounds=100_000, tol=1e-6, eval_every=1)
    norms = [row["grad_norm_sq"] for row in result.history]
    assert norms[-1] <= 1e-6 < norms[-2]
    assert result.summary["reached_tol"] and not result.summary["diverged"]
    assert result.summary["rounds"] == result.history[-1]["round"] == len(norms) - 1
    assert not run(rounds=3, tol=1e-300).summary["reached_tol"]


def test_divergence_ends_the_run(tmp_path):
    result = run(method="gd", compressor="identity", step=1e10, rounds=5000, eval_every=10, out=str(tmp_path))
    assert result.summary["diverged"] and not result.summary["reached_tol"]
    assert result.summary["rounds"] < 5000
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] is True


@pytest.mark.parametrize("compressor", ["permk", "randk:k=3", "qsgd:levels=2", "natural"])
def test_the_seed_decides(compressor):
    options = {"method": "diana", "compressor": compressor, "problem_options": {"dim": 30, "seed": 1}}
    assert len({sha(**options, seed=seed) for seed in (0, 1, 2)}) == 3
    assert sha(**options) == sha(**options)


def test_the_seed_does_not_touch_what_is_deterministic():
    options = {"method": "ef21", "compressor": "topk:k=3", "problem_options": {"dim": 30, "seed": 1}}
    assert sha(**options, seed=0) == sha(**options, seed=1)


def test_minibatches():
    """The seed decides the samples; with all samples in expectation it moves towards the full gradient's result."""
    problem = problems.build("logistic", {"data": "mushrooms", "clients": 5})
    options = {
        "problem": problem,
        "problem_options": {},
        "clients": 5,
        "method": "dcgd",
        "compressor": "identity",
        "step": 0.01,
        "init": "zero",
        "rounds": 300,
    }
    full = run(**options)
    some = [run(**options, batch=20, seed=seed) for seed in (0, 1)]
    assert len({r.summary["iterate_sha256"] for r in (full, *some)}) == 3
    for result in some:
        assert result.summary["loss"] == pytest.approx(full.summary["loss"], abs=0.02)
    with pytest.raises(TheoryError, match="exact gradients"):
        run(**{**options, "step": "theory"}, batch=20)
    with pytest.raises(ConfigError, match="minibatch"):
        run(batch=5, step=0.1, method="dcgd", compressor="identity")


def test_wire_precision():
    single, double = run(wire_dtype="float32"), run()
    assert single.x.dtype == double.x.dtype == np.float64
    assert single.summary["iterate_sha256"] != double.summary["iterate_sha256"]
    np.testing.assert_allclose(single.x, double.x, rtol=1e-4, atol=1e-4)
    assert single.summary["bytes"]["uplink"]["payload"] * 2 == double.summary["bytes"]["uplink"]["payload"]
    assert run(dtype="float32").x.dtype == np.float32


def test_local_exchange_by_name_and_others_in_one_process():
    assert sha(exchange="local") == sha()
    assert run(exchange="auto").summary["exchange"] == "local"


def test_a_method_refuses_a_compressor_without_theory():
    with pytest.raises(ConfigError, match=r"needs an unbiased compressor, 'topk:k=3' is biased.*allow_unsafe=True"):
        run(compressor="topk:k=3")
    with pytest.raises(TheoryError):
        run(compressor="topk:k=3", allow_unsafe=True)
    run(compressor="topk:k=3", allow_unsafe=True, step=0.01, method_options={"p": 0.5})


# ---- what a user brings ---------------------------------------------------------------------------------------------------
class Ridge(mc.Problem):
    """As short as a user would write it."""

    n_clients, dim = 4, 6

    def __init__(self):
        rng = np.random.default_rng(1)
        self.A, self.b = rng.standard_normal((4, 9, 6)), rng.standard_normal((4, 9))

    def loss(self, i, x):
        return 0.5 * np.mean((self.A[i] @ x - self.b[i]) ** 2) + 0.05 * x @ x

    def gradient(self, i, x, out):
        out[:] = self.A[i].T @ (self.A[i] @ x - self.b[i]) / 9 + 0.1 * x

    def smoothness(self):
        return mc.Smoothness.bounds([np.linalg.norm(A, 2) ** 2 / 9 + 0.1 for A in self.A])

    def solution(self):
        H = np.mean([A.T @ A / 9 for A in self.A], axis=0) + 0.1 * np.eye(6)
        return np.linalg.solve(H, np.mean([A.T @ b / 9 for A, b in zip(self.A, self.b, strict=True)], axis=0))


@pytest.mark.parametrize(
    ("method", "compressor"),
    [
        ("gd", "identity"),
        ("ef21", "topk:k=2"),
        ("marina", "permk"),
        ("marina-p", "permk"),
        ("diana", "randk:k=2"),
        ("ef21-p", "topk:k=2"),
    ],
)
def test_a_problem_of_ones_own(method, compressor):
    problem = Ridge()
    result = mc.run(problem=problem, method=method, compressor=compressor, rounds=20000, tol=1e-18)
    assert result.summary["problem"] == "user" and result.summary["reached_tol"]
    np.testing.assert_allclose(result.x, problem.solution(), atol=1e-7)


def test_a_problem_from_two_functions():
    ridge = Ridge()

    def gradient(i, x):
        out = np.empty(6)
        ridge.gradient(i, x, out)
        return out

    problem = mc.FunctionProblem(ridge.loss, gradient, dim=6, n_clients=4, constants=ridge.smoothness())
    options = {"method": "ef21", "compressor": "topk:k=2", "rounds": 50}
    np.testing.assert_array_equal(mc.run(problem=problem, **options).x, mc.run(problem=ridge, **options).x)
    unknown = mc.FunctionProblem(ridge.loss, gradient, dim=6, n_clients=4)
    with pytest.raises(TheoryError, match=r"\bstep=0\.05.*smoothness"):
        mc.run(problem=unknown, **options)
    assert mc.run(problem=unknown, step=0.1, **options).summary["step"] == 0.1


class Third(mc.Compressor):
    """Every third entry, from a random first one on: the simple contract."""

    unbiased = True

    def omega(self, d, n=1):
        return 2.0

    def density(self, d, n=1):
        return d / 3

    def max_nbytes(self, d, dtype):
        return 8 * -(-d // 3)

    def encode(self, x, out, key):
        kept = 3 * x[int(3 * key.uniform(1)[0]) :: 3].astype(np.float64)
        out[: kept.nbytes] = kept.view(np.uint8)
        return kept.nbytes

    def decode(self, buf, out, key):
        out[:] = 0
        out[int(3 * key.uniform(1)[0]) :: 3] = buf.copy().view(np.float64)


@pytest.mark.parametrize("method", ["dcgd", "diana", "ef14", "ef21", "ef21-p", "marina", "marina-p"])
def test_a_compressor_of_ones_own(method):
    """In every method; it follows the oracle as the built-in ones do."""
    import oracles

    problem, compressor = Ridge(), Third()
    result = mc.run(problem=problem, method=method, compressor=compressor, rounds=60, step=0.02)
    options = {"p": 1 / 3} if method.startswith("marina") else {}
    *_, x = oracles.METHODS[method](oracles.Task(problem, compressor), 0.02, 60, **options)
    np.testing.assert_allclose(result.x, x, rtol=1e-11)
    assert mc.run(problem=problem, method=method, compressor=compressor, rounds=1).summary["step"] > 0


def test_registered_names(monkeypatch):
    """A compressor, a method and a problem that register themselves are as good as built-in ones; a name is given once."""
    for registry in (compressors, methods, problems):
        list(registry)  # loads what is built in
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    mc.register_compressor("test-third")(type("Third2", (Third,), {}))

    class Lazy(mc.Method):
        """GD that steps half as far."""

        def compose(self, setting, step_size):
            from mpicomp.mechanisms.direct import DirectUplink

            return mc.Parts(DirectUplink(setting.compressor))

        def step_size(self, setting):
            return 0.5 / setting.smoothness.L

    mc.register_method("test-lazy")(Lazy)
    mc.register_problem("test-ridge")(type("Ridge2", (Ridge,), {}))
    result = mc.run(problem="test-ridge", method="test-lazy", compressor="test-third", rounds=30)
    assert (result.summary["method"], result.summary["compressor"], result.summary["problem"]) == (
        "test-lazy",
        "test-third",
        "test-ridge",
    )
    assert result.summary["step"] == pytest.approx(0.5 / Ridge().smoothness().L)
    assert "test-lazy" in Config.load(options={"method": "test-lazy"}).to_toml()
    with pytest.raises(ConfigError, match="compressor 'test-third' is already registered"):
        mc.register_compressor("test-third")(Third)


def test_a_compressor_that_lies_about_its_length():
    class Liar(Third):
        def max_nbytes(self, d, dtype):
            return 8

    with pytest.raises((mc.WireError, ValueError)):
        mc.run(problem=Ridge(), method="dcgd", compressor=Liar(), rounds=3, step=0.1)


def test_errors_pass_through_in_one_process():
    """Without MPI there is nothing to abort: the user's exception arrives as it is."""

    class Failing(Ridge):
        def gradient(self, i, x, out):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        mc.run(problem=Failing(), method="gd", rounds=3)
