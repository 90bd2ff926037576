"""What networks need of a run: evaluations of their choice, a clock of rounds alone, keys and states of a problem."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from network_problems import OPTIONS, Masked

import mpicomp as mc
from mpicomp.cluster.clock import COMPUTE, PHASES, SEND, Clock
from mpicomp.exchanges.p2p import P2PExchange
from mpicomp.exchanges.sharded import ShardedExchange
from mpicomp.experiments.slurm.collect import collect
from mpicomp.experiments.study.compare import Stored
from mpicomp.experiments.study.runs import load_runs
from mpicomp.problems.subset import SubsetProblem
from mpicomp.runtime.choice import LEAST_NBYTES, choose
from mpicomp.runtime.session import Composition, build_problem
from mpicomp.testing import check_problem

PROGRAM = Path(__file__).with_name("network_problems.py")


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


# ---- evaluate ---------------------------------------------------------------------------------------------------------
def test_the_iterate_does_not_depend_on_what_is_evaluated():
    runs = {what: mc.run(problem=Masked(), evaluate=what, **OPTIONS) for what in ("full", "measures", "none")}
    assert len({run.summary["iterate_sha256"] for run in runs.values()}) == 1
    assert runs["measures"].summary["measures"] == runs["full"].summary["measures"]
    assert np.isfinite(list(runs["full"].summary["measures"].values())).all()
    counted = [{k: v for k, v in row.items() if k.endswith("link_message")} for row in runs["full"].history]
    for what in ("measures", "none"):
        assert [{k: row[k] for k in counted[0]} for row in runs[what].history] == counted
        assert (
            {row["loss"] for row in runs[what].history} == {row["grad_norm_sq"] for row in runs[what].history} == {None}
        )
    assert runs["none"].summary["measures"] == {"buffer": None, "loss_at_buffer": None}
    assert all(row["seconds_total"] > 0 for row in runs["none"].history[1:])


@pytest.mark.parametrize(("what", "measured"), [("measures", True), ("none", False)])
def test_nothing_is_asked_of_the_problem_that_is_not_evaluated(what, measured):
    problem = Masked()
    mc.run(problem=problem, evaluate=what, **OPTIONS)
    warm_up = 3 * 2  # rounds, clients
    assert problem.calls["gradient"] == problem.n_clients * OPTIONS["rounds"] + warm_up
    assert problem.calls["loss"] == 0 and bool(problem.calls["measure"]) == measured


def test_without_measures_there_is_nothing_to_evaluate():
    options = {"method": "gd", "clients": 3, "rounds": 4, "problem_options": {"dim": 6}, "step": 0.1}
    result = mc.run(problem="quadratic", evaluate="measures", **options)
    assert result.history[-1]["round"] == 4 and result.summary["loss"] is None and not result.summary["diverged"]


def test_files_have_empty_cells_and_their_readers_say_so(tmp_path):
    mc.run(problem=Masked(), evaluate="none", out=str(tmp_path / "none"), **OPTIONS)
    mc.run(problem=Masked(), out=str(tmp_path / "full"), **OPTIONS)
    rows = list(csv.DictReader((tmp_path / "none" / "rounds.csv").read_text().splitlines()))
    assert [row["loss"] + row["grad_norm_sq"] + row["buffer"] for row in rows] == [""] * len(rows)
    assert int(rows[-1]["uplink_message"]) > 0
    assert json.loads((tmp_path / "none" / "summary.json").read_text())["grad_norm_sq"] is None
    stored = Stored.load(tmp_path / "none")
    assert not stored.evaluated and stored.first_at(1e9) is None and np.isnan(stored.rows[0]["loss"])
    runs, broken = load_runs([tmp_path / "none", tmp_path / "full"])
    assert [Path(run.where).name for run in runs] == ["full"]
    assert len(broken) == 1 and "did not evaluate ‖∇f‖²" in broken[0] and "--evaluate full" in broken[0]
    with pytest.raises(mc.DataError, match="did not evaluate"):
        load_runs([tmp_path / "none"])
    found = {Path(run.directory).name: run for run in collect([tmp_path])}
    assert found["none"].loss == "" and found["none"].iterate_sha256 == found["full"].iterate_sha256


def test_what_needs_a_gradient_norm_refuses(tmp_path):
    with pytest.raises(mc.ConfigError, match=r"tol=0\.1.*evaluate='none'.*evaluate='full'"):
        mc.Config(tol=0.1, evaluate="none").validate()
    with pytest.raises(mc.ConfigError, match="full, measures, none"):
        mc.Config(evaluate="fully").validate()


def test_a_diverging_run_stops_without_evaluations():
    result = mc.run(problem=Masked(), **{**OPTIONS, "rounds": 3000, "step": 1e3, "evaluate": "none"})
    assert result.summary["diverged"] and result.summary["rounds"] < 3000
    assert result.summary["loss"] is None and "gradient" in result.summary["divergence"]


def test_a_run_may_go_on_with_other_evaluations(tmp_path):
    whole = mc.run(problem=Masked(), **OPTIONS)
    out = str(tmp_path)
    first = {**OPTIONS, "rounds": 6, "checkpoint_every": 6, "out": out}
    mc.run(problem=Masked(), evaluate="none", **first)
    result = mc.run(problem=Masked(), resume=out, **OPTIONS)
    assert [row["loss"] for row in result.history[:3]] == [None] * 3
    assert result.history[-1]["loss"] == whole.history[-1]["loss"] and not result.summary["diverged"]


@pytest.mark.process
def test_no_vector_travels_for_what_is_not_evaluated(mpi):
    found = last_json(mpi.run(3, [PROGRAM, "evaluate"], timeout=120).check().out)
    assert len({run["x"] for run in found.values()}) == 1
    d = 20_000 * 8
    for exchange in ("p2p", "sharded"):
        full, measures, none = (found[f"{exchange} {what}"] for what in ("full", "measures", "none"))
        assert full["bytes"] > 2 * 5 * d
        assert (
            none["bytes"] < (0.5 if exchange == "p2p" else 1.5) * d
        )  # where x is in slices, the result puts it together once
        assert measures["measures"] == full["measures"]
    buffers = 2 * 5 * d  # their sums along the workers, and their mean to all: five evaluations on two workers
    assert found["p2p measures"]["bytes"] < 1.2 * 2 * buffers
    assert found["p2p none"]["calls"] == {"loss": 0, "gradient": 0, "measure": 0}  # rank 0 hosts nobody


# ---- the clock --------------------------------------------------------------------------------------------------------
def test_between_rounds_the_time_is_nobodys():
    now = [0.0]
    clock = Clock(lambda: now[0], 5)
    for _ in range(2):
        now[0] += 10.0  # an evaluation
        clock.lap(SEND)
        clock.start_round()
        now[0] += 1.0
        clock.lap(COMPUTE)
        now[0] += 0.5
        clock.end_round()
    now[0] += 10.0
    clock.lap(SEND)
    assert clock.seconds.tolist() == [2.0, 0, 0, 0, 0, 0] and clock.total == 3.0


@pytest.mark.process
def test_the_phases_of_a_rank_are_within_its_rounds_with_every_exchange(mpi):
    found = last_json(mpi.run(3, [PROGRAM, "clock"], timeout=120).check().out)
    assert set(found) == {"p2p", "collective", "sharded", "hierarchical", "allreduce"}
    for exchange, ranks in found.items():
        for rank, seconds in enumerate(ranks):
            spent = sum(seconds[phase] for phase in PHASES)
            assert 0 < spent <= seconds["total"] * (1 + 1e-9), (exchange, rank, seconds)


def test_the_phases_of_one_process_are_within_its_rounds():
    result = mc.run(problem=Masked(sleep=0.01), **{**OPTIONS, "rounds": 3})
    seconds = result.summary["seconds"]
    assert 0 < sum(seconds[phase] for phase in PHASES) <= seconds["total"] * (1 + 1e-9)


# ---- keys -------------------------------------------------------------------------------------------------------------
def marina_by_hand(problem: Masked, keys: dict[int, int], rounds: int, step: float) -> np.ndarray:
    """MARINA with messages as they are: g^{t+1} = g^t + mean of ∇f_i(x^{t+1}; key) − ∇f_i(x^t; key), the key of round t + 1 at both."""

    def mean(x, key):
        masked = [problem.mask(i, key) * problem.h[i] * (x - problem.a[i]) for i in range(problem.n_clients)]
        return np.mean(masked, axis=0)

    x, before, g = np.zeros(problem.dim), None, None
    for t in range(rounds):
        g = mean(x, keys[t]) if t == 0 else g + mean(x, keys[t]) - mean(before, keys[t])
        before, x = x, x - step * g
    return x


@pytest.mark.parametrize("method", ["marina", "vr-marina"])
def test_both_points_of_a_difference_have_the_same_draw(method):
    problem = Masked(noise=0.0)
    if method == "vr-marina":  # minibatches of a finite sum with one term
        problem.n_samples = lambda i: 1
        problem.batch_gradient = lambda i, x, samples, out: problem.gradient(i, x, out)
    options = {
        "method_options": {"p": 1e-12},
        "compressor": "identity",
        "allow_unsafe": True,
        "step": 0.3,
        "rounds": 15,
    }
    result = mc.run(problem=problem, method=method, evaluate="none", **options)
    keys = dict(problem.told[-15:])
    assert list(keys) == list(range(15)) and len(set(keys.values())) == 15
    assert all(isinstance(key, int) and 0 <= key < 2**63 for key in keys.values())
    np.testing.assert_allclose(result.x, marina_by_hand(problem, keys, 15, 0.3), rtol=1e-9, atol=1e-12)


def test_a_problem_that_draws_nothing_is_asked_once_a_round():
    counts = []
    for random in (None, False):
        problem = Masked(noise=0.0)
        problem.random_gradients = random
        mc.run(problem=problem, method="marina", compressor="identity", method_options={"p": 1e-12}, allow_unsafe=True,
               step=0.3, rounds=10, evaluate="none")  # fmt: skip
        counts.append(problem.calls["gradient"])
    n, warm_up_round = 6, 2
    assert counts[0] - counts[1] == 9 * n + warm_up_round


def test_keys_depend_on_seed_and_round_alone():
    told = []
    for seed, options in [(0, {}), (0, {"evaluate": "none"}), (1, {})]:
        problem = Masked()
        mc.run(problem=problem, seed=seed, **{**OPTIONS, **options})
        told.append(problem.told)
    assert told[0] == told[1] and told[0] != told[2]


def test_each_local_step_has_a_key_of_its_own():
    problem = Masked(noise=0.0)
    mc.run(
        problem=problem,
        method="local-sgd",
        compressor="identity",
        method_options={"local_steps": 3},
        step=0.1,
        rounds=2,
        evaluate="none",
    )
    rounds = [t for t, _ in problem.told]
    assert rounds[-6:] == [0, 0, 0, 1, 1, 1] and len({key for _, key in problem.told[-6:]}) == 6


def test_evaluations_draw_nothing():
    problem = Masked()
    exact = mc.run(problem=problem, **OPTIONS).history
    x0 = np.mean([0.5 * np.sum(h * a**2) for h, a in zip(problem.h, problem.a, strict=True)])
    assert exact[0]["loss"] == pytest.approx(x0, rel=1e-12)
    assert exact[0]["grad_norm_sq"] == pytest.approx(np.sum(np.mean(problem.h * problem.a, axis=0) ** 2), rel=1e-12)


# ---- states -----------------------------------------------------------------------------------------------------------
def test_a_second_run_of_the_same_object_begins_afresh():
    problem = Masked()
    first, second = (mc.run(problem=problem, **OPTIONS) for _ in range(2))
    assert first.summary["iterate_sha256"] == second.summary["iterate_sha256"]
    assert [row["buffer"] for row in first.history] == [row["buffer"] for row in second.history]
    assert first.history[0]["buffer"] == 0.0  # the warm-up's rounds have left nothing


def test_measures_see_the_mean_of_the_clients_buffers():
    problem = Masked()
    result = mc.run(problem=problem, **OPTIONS)
    seen = np.mean([problem.seen[i].astype(np.float64) for i in range(problem.n_clients)], axis=0)
    assert result.history[-1]["buffer"] == pytest.approx(seen.sum(), rel=1e-14)
    assert set(problem.mean) == {"seen"} and problem.mean["seen"].shape == (2, 20)
    assert result.summary["measures"]["loss_at_buffer"] == pytest.approx(
        np.sum(result.x.reshape(2, -1) * seen), rel=1e-12
    )


@pytest.mark.parametrize("method", ["ef21", "marina"])
def test_a_resumed_run_has_the_bits_of_the_whole(tmp_path, method):
    options = {**OPTIONS, "method": method, "compressor": "randk:k=8" if method == "marina" else OPTIONS["compressor"]}
    problem = Masked()
    whole = mc.run(problem=problem, **options)
    mc.run(problem=Masked(), **{**options, "rounds": 6, "checkpoint_every": 6, "out": str(tmp_path)})
    again = Masked()
    result = mc.run(problem=again, resume=str(tmp_path), **options)
    assert result.summary["iterate_sha256"] == whole.summary["iterate_sha256"]
    for i in range(problem.n_clients):
        for name, array in problem.state(i).items():
            assert again.state(i)[name].tobytes() == array.tobytes(), (i, name)
    assert result.history[-1]["buffer"] == whole.history[-1]["buffer"]


@pytest.mark.process
def test_states_go_on_on_other_ranks(mpi, tmp_path):
    whole = mc.run(problem=Masked(), **OPTIONS)
    mc.run(problem=Masked(), **{**OPTIONS, "rounds": 6, "checkpoint_every": 6, "out": str(tmp_path)})
    (tmp_path / "summary.json").unlink()  # as if it had been killed
    out = mpi.run(3, [PROGRAM, "resume", tmp_path, "p2p"], timeout=120).check().out
    sha, buffer = out.strip().splitlines()[-1].split()
    assert sha == whole.summary["iterate_sha256"] and float(buffer) == whole.history[-1]["buffer"]


@pytest.mark.process
def test_the_server_measures_with_the_mean_of_all_clients_for_any_exchange(mpi):
    found = last_json(mpi.run(3, [PROGRAM, "means"], timeout=120).check().out)
    alone = mc.run(problem=Masked(), **OPTIONS)
    rows = [[row[name] for name in ("loss", *Masked.measures)] for row in alone.history]
    assert set(found) == {"p2p", "collective", "sharded", "hierarchical"}
    for exchange, run in found.items():
        assert run == {"rows": rows, "x": alone.summary["iterate_sha256"]}, exchange


def test_a_checkpoint_without_the_states_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Masked, "state", mc.Problem.state)
        mc.run(problem=Masked(), **{**OPTIONS, "rounds": 6, "checkpoint_every": 6, "out": str(tmp_path)})
    with pytest.raises(mc.MpicompError, match=r"worker/clients/problem/[a-z]+ is missing"):
        mc.run(problem=Masked(), resume=str(tmp_path), **OPTIONS)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("begin_run", mc.Problem.begin_run, "defines state.i. and not begin_run"),
        ("load_state", mc.Problem.load_state, "defines state.i. and not load_state"),
        ("state", lambda self, i: [1.0], r"state\(0\) returned list; expected a dict"),
        ("state", lambda self, i: {"on": np.array([True])}, r"'on' of dtype bool; expected real numbers"),
        ("state", lambda self, i: {"a": np.zeros(1 + i)}, r"same names, shapes and dtypes.*client 1 has a \(2,\)"),
    ],
)
def test_a_state_that_is_none_is_refused_before_the_first_round(member, value, words):
    with pytest.raises(mc.ConfigError, match=words):
        mc.run(problem=type("Odd", (Masked,), {member: value})(), **OPTIONS)


def test_a_state_that_changes_its_shape_is_named(tmp_path):
    class Growing(Masked):
        def state(self, i):
            return {"a": np.zeros(1 + self.count[i])}

    with pytest.raises(mc.ConfigError, match=r"client 0 has a \(7,\) float64, at the start it had a \(1,\)"):
        mc.run(problem=Growing(), **{**OPTIONS, "checkpoint_every": 6, "out": str(tmp_path), "evaluate": "none"})


def test_what_is_left_after_a_drop_keeps_keys_states_and_measures():
    problem = Masked()
    left = SubsetProblem(problem, np.array([1, 4, 5]))
    result = mc.run(problem=left, **OPTIONS)
    assert problem.count == {0: 0, 1: 12, 2: 0, 3: 0, 4: 12, 5: 12}
    seen = np.mean([problem.seen[i].astype(np.float64) for i in (1, 4, 5)], axis=0)
    assert result.summary["measures"]["buffer"] == pytest.approx(seen.sum(), rel=1e-14)


# ---- the conformance suite --------------------------------------------------------------------------------------------
def test_the_suite_takes_a_problem_with_rounds_and_states():
    check_problem(Masked(clients=3, dim=8), points=2)
    assert mc.check_gradient(Masked(clients=3, dim=8)) < 1e-6


def _own_draws(self, i, x, out):
    out[:] = self.h[i] * (x - self.a[i]) + (0 if self.key is None else np.random.default_rng().normal(size=self.dim))


def _begins_once(self):
    if not hasattr(self, "seen"):
        Masked.begin_run(self)


def _counts_evaluations(self, i, x, out):
    self.count[i] += 1
    out[:] = self.h[i] * (x - self.a[i])


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("gradient", _counts_evaluations, "an evaluation changes the state"),
        ("begin_run", _begins_once, "begin_run does not put the state back"),
        ("load_state", lambda self, i, state: None, "not the inverse"),
        ("gradient", _own_draws, "other bits for the same x, state and key"),
        ("state", lambda self, i: {"a": self.nothing}, "raised AttributeError"),
    ],
)  # fmt: skip
def test_the_suite_finds(member, value, words):
    with pytest.raises(AssertionError, match=words):
        check_problem(type("Odd", (Masked,), {member: value})(clients=3, dim=8), points=1)


# ---- exchange=auto ----------------------------------------------------------------------------------------------------
D = 200_000
LARGE = {
    "method": "ef21",
    "compressor": "topk:k=100",
    "problem": "quadratic",
    "problem_options": {"dim": D},
    "clients": 8,
    "step": "0.1",
}

DENSE = {"method": "gd", "compressor": None}


def chosen(ranks: int = 5, own: type | None = None, holds_all: bool = True, **options):
    config = mc.Config(**{**LARGE, **options})
    problem = build_problem(config)
    return choose(config, problem, Composition(config, problem), 0.1, ranks, own, holds_all)


@pytest.mark.parametrize(
    ("options", "kind", "why"),
    [
        ({}, ShardedExchange, f"would carry {4 * D * 8 / 1e6:.3g} MB a round"),
        ({"compressor": "sign", "method": "dcgd", "allow_unsafe": True}, ShardedExchange, "would carry"),
        ({**DENSE, "ranks": 3, "dtype": "float32"}, ShardedExchange, "6.4 MB a round, and the busiest with slices carries 2.93"),
        ({"ranks": 2}, P2PExchange, "with 2 ranks"),
        ({"problem_options": {"dim": 1000}}, P2PExchange, "carries 0.032 MB a round, and slices pay from 1.05 MB on"),
        ({"clients": 4}, P2PExchange, "4 clients are too few for each of 5 ranks"),
        ({"holds_all": False}, P2PExchange, "holds_all"),
        ({"on_failure": "continue"}, P2PExchange, "dead ranks"),
        ({"method": "ef21-p+ef21", "downlink_compressor": "topk:k=100000", "allow_unsafe": True}, ShardedExchange, "would carry"),
        (
            {"method": "ef21-p+ef21", "downlink_compressor": "topk:k=130000,values=bfloat16", "allow_unsafe": True},
            P2PExchange,
            "on the way up alone",
        ),
        ({"compressor": "eden:bits=4", "method": "dcgd", "allow_unsafe": True}, P2PExchange, "cannot cut the messages"),
    ],
)  # fmt: skip
def test_auto_chooses_by_ranks_size_and_direction(options, kind, why):
    choice = chosen(**options)
    assert choice.kind is kind and why in choice.why


def test_auto_is_not_asked_where_an_exchange_is_named_or_there_is_one_process():
    assert chosen(exchange="p2p") == (P2PExchange, "") == chosen(own=P2PExchange)
    assert chosen(ranks=1).kind.name == "local" and chosen(ranks=1).why == ""


def test_auto_leaves_parts_of_ones_own_with_the_star():
    class Scaled(mc.Optimizer):
        """Looks at the whole vector, so that slices of it would give something else."""

        def step(self, x, g):
            x -= self.step_size * g / np.linalg.norm(g)

    config = mc.Config(**LARGE)
    problem = build_problem(config)
    choice = choose(config, problem, Composition(config, problem, optimizer=Scaled()), 0.1, 5, None, True)
    assert choice.kind is P2PExchange and "Scaled" in choice.why


def test_auto_leaves_a_step_that_needs_all_of_x_with_the_star(monkeypatch):
    """As of a built-in optimizer that looks at matrices: it refuses a slice of x."""
    from mpicomp.optimizers.gd import GradientDescent as GD

    def start(self, x, step_size):
        if x.shape[1] != D:
            raise mc.ConfigError("one server must have all of x")
        whole(self, x, step_size)

    whole = GD.start
    monkeypatch.setattr(GD, "start", start)
    choice = chosen()
    assert choice.kind is P2PExchange and "all of x" in choice.why


@pytest.mark.process
def test_auto_changes_no_bit_and_says_why(mpi):
    found = last_json(mpi.run(3, [PROGRAM, "auto"], timeout=120).check().out)
    assert [found[name][0] for name in ("large", "star", "small", "object")] == ["sharded", "p2p", "p2p", "p2p"]
    assert found["large"][2] == found["star"][2]
    assert "would carry 1.6 MB" in found["large"][1] and found["star"][1] is None
    assert "holds_all" in found["object"][1] and f"from {LEAST_NBYTES / 1e6:.3g} MB on" in found["small"][1]


@pytest.mark.process
def test_the_command_line_says_what_auto_chose(mpi):
    job = mpi.run(
        3, ["-m", "mpicomp", "run", "--problem", "quadratic", "--method", "gd", "--clients", "3", "--rounds", "2"]
    ).check()
    assert "--exchange auto chose p2p: the server's link carries" in job.out
