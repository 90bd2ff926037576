"""CD-Adam and its controls, 1-bit Adam and signSGD, against their pseudocode in plain NumPy, and what travels in them."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from oracles import Task

import mpicomp as mc
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.exchanges import base as exchange_module
from mpicomp.exchanges.base import Exchange
from mpicomp.kernels.random import downlink_keys
from mpicomp.optimizers import optimizers
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point
from mpicomp.wire import HEADER_NBYTES

T = 220
START = "normal:7"


@cache
def quadratic(dim: int = 33, clients: int = 5) -> mc.Problem:
    options = {"dim": dim, "clients": clients, "noise": 0.3, "reg": 1e-2, "seed": 1}
    return problems.build("quadratic", options)


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


PROBLEMS = {"d=33 n=5": quadratic, "d=12 n=4": lambda: quadratic(12, 4), "mushrooms": mushrooms}


# ---- the papers' pseudocode ---------------------------------------------------------------------------------------------
class AMSGrad:
    """m = b₁m + (1−b₁)g, v = b₂v + (1−b₂)g², v̂ = max(v̂, v), x ← x − γ m/√(v̂ + ν); the published program's form as `code`."""

    def __init__(self, d, step, b1=0.9, b2=0.99, nu=1e-8, code=False, eps=1e-8, weight_decay=0.0):
        self.m, self.v, self.v_hat, self.t = np.zeros(d), np.zeros(d), np.zeros(d), 0
        self.step, self.b1, self.b2, self.nu = step, b1, b2, nu
        self.code, self.eps, self.weight_decay = code, eps, weight_decay

    def __call__(self, x, g):
        self.t += 1
        g = g + self.weight_decay * x
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g * g
        self.v_hat = np.maximum(self.v_hat, self.v)
        if self.code:
            step = self.step / (1 - self.b1**self.t)
            return x - step * self.m / (np.sqrt(self.v_hat) / np.sqrt(1 - self.b2**self.t) + self.eps)
        return x - self.step * self.m / np.sqrt(self.v_hat + self.nu)


class TwoWay(Task):
    """A task whose downlink has a compressor of its own."""

    downlink: mc.Compressor

    def broadcast(self, v, t):
        keys = downlink_keys(self.seed, t)
        return self.downlink.apply(v, mc.MessageKey.of(keys, 0, self.n), self.wire)

    def shrink(self, c):
        """1/(1 + ω) for an unbiased compressor in a method for contractive ones."""
        return 1 / (1 + c.omega(self.d, self.n)) if c.unbiased and not c.contractive else 1.0


def cd_adam(task, step, rounds, **options):
    """ĝ_i += C(g_i − ĝ_i); ĝ += mean; g̃ += C(ĝ − g̃); AMSGrad from g̃ (Wang, Lin and Chen 2022, Algorithm 1)."""
    update, x = AMSGrad(task.d, step, **options), task.x0
    g_i, g, tilde = [task.zeros() for _ in range(task.n)], task.zeros(), task.zeros()
    up, down = task.shrink(task.compressor), task.shrink(task.downlink)
    for t in range(rounds):
        c_i = [task.up(i, task.gradient(i, x) - g_i[i], t) for i in range(task.n)]
        g_i = [g + up * c for g, c in zip(g_i, c_i, strict=True)]
        g = g + task.mean(c_i, up)
        tilde = tilde + down * task.broadcast(g - tilde, t)
        x = update(x, tilde)
    return x


def amsgrad(task, step, rounds, **options):
    update, x = AMSGrad(task.d, step, **options), task.x0
    for _ in range(rounds):
        x = update(x, task.full_gradient(x))
    return x


def naive(task, step, rounds, **options):
    """C both ways, no memory."""
    update, x = AMSGrad(task.d, step, **options), task.x0
    for t in range(rounds):
        g = task.mean([task.up(i, task.gradient(i, x), t) for i in range(task.n)])
        x = update(x, task.broadcast(g, t))
    return x


def error_feedback(task, step, rounds, **options):
    """Memory of what was left out, of the raw gradient: at the clients and at the server."""
    update, x = AMSGrad(task.d, step, **options), task.x0
    e_i, e = [task.zeros() for _ in range(task.n)], task.zeros()
    up, down = task.shrink(task.compressor), task.shrink(task.downlink)
    for t in range(rounds):
        u_i = [task.gradient(i, x) + e_i[i] for i in range(task.n)]
        c_i = [task.up(i, u, t) for i, u in enumerate(u_i)]
        e_i = [u - up * c for u, c in zip(u_i, c_i, strict=True)]
        u = task.mean(c_i, up) + e
        c = down * task.broadcast(u, t)
        e = u - c
        x = update(x, c)
    return x


def onebit_adam(task, step, rounds, warmup, b1=0.9, b2=0.999, eps=1e-8):
    """T_w rounds of Adam; then v frozen, and the clients' momentum compressed with error feedback in both directions (Tang et al. 2021)."""
    x, m, v = task.x0, task.zeros(), task.zeros()
    e_i, e = [task.zeros() for _ in range(task.n)], task.zeros()
    for t in range(rounds):
        if t < warmup:
            g = task.full_gradient(x)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        else:
            u_i = [b1 * m + (e_i[i] + (1 - b1) * task.gradient(i, x)) for i in range(task.n)]
            c_i = [task.up(i, u, t) for i, u in enumerate(u_i)]
            e_i = [u - c for u, c in zip(u_i, c_i, strict=True)]
            u = task.mean(c_i) + e
            m = task.broadcast(u, t)
            e = u - m
        moving = v != 0
        x = x - step * np.where(moving, m / (np.sqrt(np.where(moving, v, 1)) + eps), 0)
    return x


def signsgd(task, step, rounds):
    """x ← x − γ sign(Σ sign(g_i)), sign(0) = +1 (Bernstein et al. 2018, Algorithm 3)."""
    x = task.x0
    for _ in range(rounds):
        votes = sum(np.where(task.gradient(i, x) < 0, -1.0, 1.0) for i in range(task.n))
        x = x - step * np.where(votes < 0, -1.0, 1.0)
    return x


def compare(
    problem, method, oracle, compressor, downlink=None, step=0.02, seed=3, oracle_options=None, **method_options
):
    given: dict[str, Any] = {"method": method, "compressor": compressor, "step": step, "rounds": T, "seed": seed}
    given["explosion"] = 0  # some of these controls blow up, as their oracles do
    if downlink:
        given["downlink_compressor"] = downlink
    result = mc.run(problem=problem, init=START, method_options=method_options, allow_unsafe=True, **given)
    task = TwoWay(problem, mc.compressor(compressor), seed, start=initial_point(START, problem.dim, seed))
    task.downlink = mc.compressor(downlink or compressor)
    x = oracle(task, step, T, **(method_options if oracle_options is None else oracle_options))
    assert np.linalg.norm(x - task.x0) > 1e-2
    np.testing.assert_allclose(result.x, x, rtol=1e-9, atol=1e-11)
    return result


METHODS = {"cd-adam": cd_adam, "amsgrad-naive": naive, "ef-amsgrad": error_feedback}


@pytest.mark.covering()
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("compressor", ["sign", "topk:k=2", "randk:k=3", "identity"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_follow_their_pseudocode(method, compressor, problem):
    compare(PROBLEMS[problem](), method, METHODS[method], compressor)


@pytest.mark.parametrize("downlink", ["sign", "natural"])
@pytest.mark.parametrize("method", METHODS)
def test_another_compressor_for_the_downlink(method, downlink):
    compare(quadratic(), method, METHODS[method], "topk:k=3", downlink)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("warmup", [1, 40])
def test_onebit_adam(problem, warmup):
    compare(PROBLEMS[problem](), "onebit-adam", onebit_adam, "sign:norm=l2", step=0.005, warmup=warmup)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_signsgd(problem):
    compare(PROBLEMS[problem](), "signsgd", signsgd, "sign:norm=unit", step=0.01)


@pytest.mark.parametrize(
    "options", [{"variant": "code"}, {"variant": "code", "weight_decay": 5e-4}, {"b1": 0.5, "b2": 0.9, "nu": 1e-4}]
)
def test_variants_of_amsgrad(options):
    numpy_options = {k: v for k, v in options.items() if k != "variant"}
    numpy_options["code"] = options.get("variant") == "code"
    for method, oracle, compressor in (("cd-adam", cd_adam, "topk:k=5"), ("amsgrad", amsgrad, "identity")):
        compare(quadratic(), method, oracle, compressor, oracle_options=numpy_options, **options)


# ---- degenerate settings ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_without_compression_all_are_amsgrad(method, variant):
    """ef-family §10.1: CD-Adam with the identity is AMSGrad."""
    given = {"problem": quadratic(), "step": 0.02, "rounds": T, "init": START, "method_options": {"variant": variant}}
    plain = mc.run(method="amsgrad", **given)
    result = mc.run(method=method, compressor="identity", **given)
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-10, atol=1e-12)
    if method == "amsgrad-naive":  # the others form g_i + (∇f_i − g_i), which rounds
        np.testing.assert_array_equal(result.x, plain.x)


def test_onebit_adam_that_is_always_warming_up_is_adam():
    given = {"problem": quadratic(), "step": 0.02, "rounds": 60, "init": START}
    adam = mc.run(method="gd", optimizer="adam", optimizer_options={"bias_correction": False}, **given)
    result = mc.run(method="onebit-adam", method_options={"warmup": 60}, **given)
    np.testing.assert_allclose(result.x, adam.x, rtol=1e-12)


def test_adam_as_kingma_and_ba_print_it():
    problem, step, rounds = quadratic(), 0.02, 100
    result = mc.run(problem=problem, method="gd", optimizer="adam", step=step, rounds=rounds, init=START)
    task = Task(problem)
    x, m, v = initial_point(START, problem.dim, 0), 0.0, 0.0
    for t in range(1, rounds + 1):
        g = task.full_gradient(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - step * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(result.x, x, rtol=1e-10)


STEPS = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    "schedule, factors", [("constant", np.ones(8)), ("sqrt", np.arange(1, 9) ** -0.5), ("steps", STEPS)]
)
def test_schedules(schedule, factors):
    """With b₁ = b₂ = 0 and ν = 0 every step is γ_t times a sign."""
    optimizer = optimizers.build("amsgrad", {"b1": 0.0, "b2": 0.0, "nu": 0.0, "schedule": schedule, "rounds": 8})
    x = np.zeros((1, 3))
    optimizer.start(x, 0.5)
    for factor in factors:
        before = x.copy()
        optimizer.step(x, np.array([[2.0, -2.0, 2.0]]))
        np.testing.assert_allclose(x - before, [[-0.5 * factor, 0.5 * factor, -0.5 * factor]], rtol=1e-12)


def test_a_coordinate_that_never_had_a_gradient_stays():
    """The compressed momentum is nowhere zero; a frozen v = 0 would turn it into a step of γm/ε."""
    problem = mc.FunctionProblem(
        lambda i, x: 0.5 * x[0] ** 2, lambda i, x: np.array([x[0], 0, 0, 0, 0, 0, 0, 0, 0, 0]), 10, 2
    )
    result = mc.run(
        problem=problem, method="onebit-adam", step=0.01, rounds=30, init="ones", method_options={"warmup": 5}
    )
    np.testing.assert_array_equal(result.x[1:], 1)
    assert result.x[0] != 1 and np.isfinite(result.x).all()


@pytest.mark.covering()
@pytest.mark.parametrize("method", [*METHODS, "onebit-adam", "signsgd", "amsgrad"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_groups_of_clients_give_the_same_bits(method, dtype, monkeypatch):
    given = {"problem": quadratic(41, 7), "method": method, "step": 0.01, "rounds": 40, "init": START, "dtype": dtype}
    one = mc.run(**given).summary["iterate_sha256"]
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 40)
    assert mc.run(**given).summary["iterate_sha256"] == one


@pytest.mark.parametrize("method", [*METHODS, "onebit-adam", "signsgd"])
def test_one_client_and_no_rounds(method):
    assert np.isfinite(mc.run(problem=quadratic(12, 1), method=method, step=0.01, rounds=20, init=START).x).all()
    result = mc.run(problem=quadratic(), method=method, step=0.01, rounds=0, init="ones")
    np.testing.assert_array_equal(result.x, 1)
    assert result.summary["bytes"]["uplink"]["message"] == result.summary["bytes"]["downlink"]["message"] == 0


# ---- what travels -------------------------------------------------------------------------------------------------------
@pytest.fixture
def frames(monkeypatch):
    """Counts the frames of the timed run by (codec, bytes of a message)."""
    seen: Counter = Counter()
    write = Exchange.write_frame

    def spy(self, codec, V, rows, clients, keys, round, buf):
        end = write(self, codec, V, rows, clients, keys, round, buf)
        if self.n_clients == len(self.clients):  # not the warm-up, which hosts two clients
            seen[codec.compressor.spec, codec.codec_id, (end - HEADER_NBYTES) / len(rows)] += 1
        return end

    monkeypatch.setattr(Exchange, "write_frame", spy)
    return seen


@pytest.mark.parametrize("compressor", ["sign", "topk:k=1", "topk:fraction=0.05", "qsgd:bits=4", "randk:k=3"])
def test_nothing_dense_travels_in_cd_adam(frames, compressor):
    result = mc.run(
        problem=mushrooms(), method="cd-adam", compressor=compressor, step=0.01, rounds=30, wire_dtype="float32"
    )
    dense = 4 * 112
    assert {spec for spec, _, _ in frames} == {compressor}
    assert all(codec != 0 and nbytes < dense / 3 for _, codec, nbytes in frames)
    assert sum(frames.values()) == 60  # one frame up (all clients are here), one down
    for direction, messages in (("uplink", 20), ("downlink", 1)):
        assert result.summary["bytes"][direction]["message"] < 30 * (HEADER_NBYTES + messages * dense / 3)


@pytest.mark.parametrize(
    "method, message", [("cd-adam", 4 + 14), ("ef-amsgrad", 4 + 14), ("amsgrad-naive", 4 + 14), ("signsgd", 14)]
)
def test_one_bit_methods_send_a_bit_an_entry(frames, method, message):
    """ef-family §10.7: ⌈d/8⌉ + 4 bytes each way; plain signs have no scale."""
    rounds = 25
    result = mc.run(problem=mushrooms(), method=method, step=0.01, rounds=rounds, wire_dtype="float32")
    counts = result.summary["bytes"]
    assert counts["uplink"]["message"] == rounds * (HEADER_NBYTES + 20 * message)
    assert counts["downlink"]["message"] == rounds * (HEADER_NBYTES + message)
    assert {(codec, nbytes) for _, codec, nbytes in frames} == {(4, message)}


def test_onebit_adam_is_dense_while_warming_up_only(frames):
    mc.run(
        problem=mushrooms(),
        method="onebit-adam",
        step=0.01,
        rounds=25,
        wire_dtype="float32",
        method_options={"warmup": 10},
    )
    assert frames == {("identity", 0, 448): 2 * 10, ("sign:norm=l2", 4, 18): 2 * 15}


def test_fraction_of_all_rounds_as_warmup(frames):
    mc.run(problem=mushrooms(), method="onebit-adam", step=0.01, rounds=200, wire_dtype="float32")
    assert frames["identity", 0, 448] == 2 * 13


def test_signs_of_all_lengths_and_ties():
    c = mc.compressor("sign:norm=unit")
    for d in (1, 7, 8, 9, 2500):
        x = np.random.default_rng(d).standard_normal(d)
        np.testing.assert_array_equal(c.apply(x), np.where(x < 0, -1.0, 1.0))
        assert c.bind(d, 1, np.float64).max_nbytes == -(-d // 8)
    np.testing.assert_array_equal(c.apply(np.array([0.0, -0.0, 1e-300])), [1, 1, 1])
    assert not c.homogeneous and not c.contractive


# ---- what is known of them ----------------------------------------------------------------------------------------------
@pytest.mark.night
@pytest.mark.full(reason="many runs of hundreds of rounds")
@pytest.mark.parametrize("compressor", ["sign", "topk:fraction=0.05"])
def test_naive_compression_stalls(compressor):
    """Mean ‖∇f‖² over the last 50 of 1,500 rounds on mushrooms: memory is worth a factor of ten at least."""
    best = {}
    for method in METHODS:
        given = {"problem": mushrooms(), "method": method, "compressor": compressor, "step": 0.001}
        end = mc.run(rounds=1500, eval_every=5, **given).history[-10:]
        best[method] = np.mean([row["grad_norm_sq"] for row in end])
    assert best["amsgrad-naive"] > 10 * best["cd-adam"]
    assert best["amsgrad-naive"] > 10 * best["ef-amsgrad"]
    assert best["amsgrad-naive"] > 1e-2 > best["cd-adam"]


@pytest.mark.parametrize("method", ["cd-adam", "amsgrad", "amsgrad-naive", "ef-amsgrad", "onebit-adam", "signsgd"])
def test_no_step_size_from_theory(method):
    with pytest.raises(TheoryError, match=r"\bstep=0\.0"):
        mc.run(problem=quadratic(), method=method, step="theory", rounds=1)


def test_wrong_options_are_explained():
    def run(**options):
        mc.run(problem=quadratic(), step=0.1, rounds=1, **options)

    for method, options, words in [
        ("cd-adam", {"b1": 1.0}, "b1"),
        ("cd-adam", {"variant": "keras"}, "code, paper"),
        ("cd-adam", {"schedule": "linear"}, "steps"),
        ("onebit-adam", {"warmup": 0}, "warmup"),
        ("onebit-adam", {"warmup": 2.5}, "whole number"),
        ("amsgrad", {"weight_decay": -1}, "negative"),
    ]:
        with pytest.raises(ConfigError, match=words):
            run(method=method, method_options=options)
    with pytest.raises(ConfigError, match="own optimizer"):
        run(method="onebit-adam", optimizer="gd")
    with pytest.raises(ConfigError, match="plain signs"):
        run(method="signsgd", compressor="sign")
    with pytest.raises(ConfigError, match="cd-adam"):
        run(method="amsgrad", compressor="sign")
    with pytest.raises(ConfigError, match=r"optimizer\.rounds"):  # outside of a run nobody else knows T
        optimizers.build("amsgrad", {"schedule": "steps"}).start(np.zeros((1, 3)), 0.1)


def test_gd_as_the_optimizer_of_cd_adam_is_ef21_bc():
    """x^{t+1} = x^t − γ g̃ with both estimators as in CD-Adam."""
    problem, step = quadratic(), 0.02
    result = mc.run(
        problem=problem, method="cd-adam", compressor="topk:k=3", optimizer="gd", step=step, rounds=T, init=START
    )
    task = Task(problem, mc.compressor("topk:k=3"), start=initial_point(START, problem.dim, 0))
    x, g_i, g, tilde = task.x0, [task.zeros() for _ in range(task.n)], task.zeros(), task.zeros()
    for t in range(T):
        c_i = [task.up(i, task.gradient(i, x) - g_i[i], t) for i in range(task.n)]
        g_i = [a + b for a, b in zip(g_i, c_i, strict=True)]
        g = g + task.mean(c_i)
        tilde = tilde + task.down(0, g - tilde, t)
        x = x - step * tilde
    np.testing.assert_allclose(result.x, x, rtol=1e-10, atol=1e-13)


# ---- over MPI -----------------------------------------------------------------------------------------------------------
JOB = """
import hashlib, json, sys
from mpi4py import MPI
import mpicomp as mc
from mpicomp.runtime.session import Session

models, evaluate = {}, Session.evaluate

def spy(self):
    models[self.exchange.name] = hashlib.sha256(self.x.tobytes()).hexdigest(), self.replicated
    return evaluate(self)

Session.evaluate = spy
for options in json.loads(sys.argv[1]):
    local = mc.run(**options)
    for exchange in ("p2p", "collective"):
        result = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, **options)
        everywhere = set(MPI.COMM_WORLD.allgather(models[exchange][0]))
        if result.summary:
            assert result.summary["iterate_sha256"] == local.summary["iterate_sha256"], (options, exchange)
        if models[exchange][1]:
            assert len(everywhere) == 1, (options, exchange)
if MPI.COMM_WORLD.Get_rank() == 0:
    print("all the same")
"""


@pytest.mark.full(reason="many runs of hundreds of rounds")
@pytest.mark.process
def test_all_ranks_have_the_same_model(mpi):
    """Replicated optimizers end with the same bits on every rank, which are those of the run in one process."""
    common = {"problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 7}
    common |= {"rounds": 20, "step": 0.02, "init": "normal:3"}
    runs = [
        {"method": "cd-adam"},
        {"method": "cd-adam", "compressor": "topk:k=3", "downlink_compressor": "sign", "wire_dtype": "float32"},
        {"method": "ef-amsgrad"},
        {"method": "amsgrad-naive", "compressor": "qsgd:bits=3"},
        {"method": "amsgrad"},
        {"method": "onebit-adam", "method_options": {"warmup": 5}, "dtype": "float32"},
        {"method": "signsgd"},
        {"method": "terngrad"},
        {"method": "dq-sgd", "compressor": "dynamic:norm=l2,bucket=20", "method_options": {"budget": 9.0}},
        {"method": "dq-sgd", "method_options": {"rule": "strongly-convex", "budget": 6.0}, "wire_dtype": "float32"},
        {"method": "dq-sgd", "method_options": {"rule": "dual", "error": 1e-3}},
        {"method": "adaqs"},
        {"method": "qsgd"},
    ]
    job = mpi.run(3, ["-c", JOB, json.dumps([{**common, **run} for run in runs])], timeout=240).check()
    assert "all the same" in job.out
