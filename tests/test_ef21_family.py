"""The EF21 family: every method against its pseudocode in plain NumPy, its degenerate cases, its step size and its theory.

The oracles are written from the papers and from `spec/ef-family.md`. They share with the package the problems' gradients, the compressed
vectors and the keyed draws (samples, coins, who speaks), which are recomputed here one client at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import Task

import mpicomp as mc
from mpicomp.cluster import exchange as exchange_module
from mpicomp.compressors import compressors
from mpicomp.data import load, partition_rows
from mpicomp.errors import ConfigError, TheoryError, WireError
from mpicomp.kernels.random import Keys, Stream, below, client_key, derive, uniform64
from mpicomp.kernels.spread import add_row, project, updated
from mpicomp.methods import Setting, methods
from mpicomp.optimizers.prox import Prox
from mpicomp.participation import Nice
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point

T = 220
START = "normal:7"
FAMILY = [name for name in methods if name.startswith("ef21")]
PHISHING = Path("/work/shared/data/phishing.libsvm")


@cache
def quadratic(dim: int = 33, clients: int = 5, noise: float = 0.3, reg: float = 1e-2, seed: int = 1) -> mc.Problem:
    return problems.build("quadratic", {"dim": dim, "clients": clients, "noise": noise, "reg": reg, "seed": seed})


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


@cache
def rare(tmp: Path) -> mc.Problem:
    """60 clients, 40 features, of which each client has only a few; rows of +-1 and a label each."""
    rng, lines = np.random.default_rng(3), []
    for _ in range(60):
        own = np.sort(rng.permutation(40)[:5])
        for _ in range(4):
            lines.append(
                f"{rng.normal():.6f} "
                + " ".join(f"{j + 1}:{rng.choice([-1, 1]) * rng.uniform(0.5, 1):.6f}" for j in own)
            )
    path = tmp / "rare.libsvm"
    path.write_text("\n".join(lines) + "\n")
    return problems.build("least_squares", {"data": str(path), "clients": 60, "features": 40})


# ---- the papers' pseudocode ---------------------------------------------------------------------------------------------
class Method(Task):
    """A task and what the methods of the family need beside it."""

    down_compressor: mc.Compressor
    G: float  # the Lyapunov function's second term at the last point that gradients were taken at

    def L(self) -> np.ndarray:
        return np.asarray(self.problem.smoothness().L_i)

    def send(self, i: int, v: np.ndarray, t: int) -> np.ndarray:
        """C(v) in its contractive form, as client i sends it in round t."""
        return self.dtype(self.contraction) * self.up(i, v, t)

    def broadcast(self, v: np.ndarray, t: int) -> np.ndarray:
        """C_M(v) in its contractive form, as the server sends it in round t."""
        up, self.compressor = self.compressor, self.down_compressor
        result = self.dtype(self.contraction) * self.down(0, v, t)
        self.compressor = up
        return result

    def minibatch(self, i: int, t: int, tau: int) -> np.ndarray:
        """The samples of client i in round t, with replacement."""
        key = np.uint64(client_key(derive(self.seed, Stream.MINIBATCH, t), i))
        return np.array([below(key, s, self.problem.n_samples(i)) for s in range(tau)])

    def stochastic(self, i: int, x: np.ndarray, t: int, tau: int) -> np.ndarray:
        """The gradient of f_i at x from the samples of round t; exact for τ = 0."""
        if tau == 0:
            return self.gradient(i, x)
        out = np.zeros(self.d)
        self.problem.batch_gradient(i, x, self.minibatch(i, t, tau), out)
        return out


Vectors = Callable[[int, int, np.ndarray], np.ndarray]


def error_feedback(
    task: Method,
    step: float,
    rounds: int,
    vector: Vectors | None = None,
    weights: np.ndarray | None = None,
    speaks: Callable[[int, int], bool] = lambda i, t: True,
    move: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """c_i = C(u_i − g_i) for the clients that speak; g_i += c_i; g = Σ w_i g_i; x ← x − γ g; u_i = vector(i, t, x), or ∇f_i(x)."""
    vector = vector or (lambda i, t, x: task.gradient(i, x))
    weights = np.full(task.n, 1 / task.n) if weights is None else weights
    x, task.g_i = task.x0, [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        for i in range(task.n):
            u = vector(i, t, x)
            if t == 0 or speaks(i, t):
                task.g_i[i] = task.g_i[i] + task.send(i, u - task.g_i[i], t)
        g = sum(w * v for w, v in zip(weights, task.g_i, strict=True))
        x = x - step * g if move is None else move(x, g)
        yield x


def ef21_plus(task: Method, step: float, rounds: int) -> Iterator[np.ndarray]:
    """The nearer of m = g_i + C(∇f_i − g_i) and b = C(∇f_i)."""
    x, g_i = task.x0, [task.zeros() for _ in range(task.n)]
    task.branches = np.zeros(2, int)
    yield x
    for t in range(rounds):
        for i in range(task.n):
            u = task.gradient(i, x)
            m, b = g_i[i] + task.send(i, u - g_i[i], t), task.send(i, u, t)
            fresh = np.sum((m - u) ** 2) > np.sum((b - u) ** 2)
            task.branches[int(fresh)] += 1
            g_i[i] = b if fresh else m
        x = x - step * sum(g_i) / task.n
        yield x


def smoothness_weights(task: Method) -> np.ndarray:
    return task.L() / task.L().sum()


def ef21_w(task: Method, step: float, rounds: int, tau: int = 0, **more: Any) -> Iterator[np.ndarray]:
    """Client i compresses ∇f_i/(n w_i) − g_i."""
    w = smoothness_weights(task)
    return error_feedback(
        task, step, rounds, lambda i, t, x: task.stochastic(i, x, t, tau) / (task.n * w[i]), w, **more
    )


def independent_speakers(task: Method, p: float) -> Callable[[int, int], bool]:
    return lambda i, t: uniform64(derive(task.seed, Stream.PARTICIPATION, t), i) < p


def nice_speakers(task: Method, s: int) -> Callable[[int, int], bool]:
    sampling = Nice(s, task.n, task.seed)
    return lambda i, t: bool(sampling.active(t)[i])


def ef21_pp(task, step, rounds, p=None, s=None, run=error_feedback):
    return run(task, step, rounds, speaks=independent_speakers(task, p) if s is None else nice_speakers(task, s))


def ef21_page(
    task: Method, step: float, rounds: int, p: float, tau: int, coin: str = "private"
) -> Iterator[np.ndarray]:
    """v_i = ∇f_i(x^t) with probability p, else v_i + mean of ∇f_ij(x^t) − ∇f_ij(x^{t−1})."""
    v_i: dict[int, np.ndarray] = {}
    last: dict[int, np.ndarray] = {}
    task.exact = 0

    def vector(i, t, x):
        key = derive(task.seed, Stream.ORACLE_COIN, t)
        if t == 0 or uniform64(key, 0 if coin == "shared" else 1 + i) < p:
            task.exact += t > 0
            v_i[i] = task.gradient(i, x)
        else:
            v_i[i] = v_i[i] + task.stochastic(i, x, t, tau) - task.stochastic(i, last[i], t, tau)
        last[i] = x
        return v_i[i]

    return error_feedback(task, step, rounds, vector)


def ef21_bc(task: Method, step: float, rounds: int) -> Iterator[np.ndarray]:
    """All ranks: x ← x − γ g; clients: g̃_i += C_w(∇f_i(x) − g̃_i); server: b = C_M(g̃ − g); all: g += b."""
    x, g, own = task.x0, task.zeros(), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        own = [own[i] + task.send(i, task.gradient(i, x) - own[i], t) for i in range(task.n)]
        g = g + task.broadcast(sum(own) / task.n - g, t)
        x = x - step * g
        yield x


def ef21_hb(task: Method, step: float, rounds: int, momentum: float) -> Iterator[np.ndarray]:
    """v^t = η v^{t−1} + g^t, v⁰ = g⁰; x^{t+1} = x^t − γ v^t: γ once, unlike the poster."""
    v = task.zeros()

    def move(x, g):
        nonlocal v
        v = momentum * v + g
        return x - step * v

    return error_feedback(task, step, rounds, move=move)


def ef21_prox(task: Method, step: float, rounds: int, r: str, weight: float = 0.0, low: float = 0.0, high: float = 0.0):
    """x ← prox_{γr}(x − γ g)."""

    def prox(y):
        if r == "l1":
            return np.where(y > step * weight, y - step * weight, np.where(y < -step * weight, y + step * weight, 0.0))
        return y / (1 + step * weight) if r == "ridge" else np.minimum(np.maximum(y, low), high)

    return error_feedback(task, step, rounds, move=lambda x, g: prox(x - step * g))


def ef21_sgdm(
    task: Method, step: float, rounds: int, eta: float, tau: int = 0, twice: bool = False
) -> Iterator[np.ndarray]:
    """v_i = (1−η) v_i + η ∇̂f_i; u_i = (1−η) u_i + η v_i."""
    v_i: dict[int, np.ndarray] = {}
    u_i: dict[int, np.ndarray] = {}

    def vector(i, t, x):
        new = task.stochastic(i, x, t, tau)
        v_i[i] = (1 - eta) * v_i[i] + eta * new if t else new
        u_i[i] = (1 - eta) * u_i[i] + eta * v_i[i] if t else v_i[i]
        return u_i[i] if twice else v_i[i]

    return error_feedback(task, step, rounds, vector)


def stacked(task: Method, step: float, rounds: int, up: str) -> Iterator[np.ndarray]:
    """x ← x − γ g, g from gradients at w by EF21, DIANA or DCGD; w ← w + C_M(x − w)."""
    x = w = task.x0
    omega = task.compressor.omega(task.d, task.n) if up != "ef21" else 0.0
    a, h_i = 1 / (1 + omega), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        m_i = []
        for i in range(task.n):
            u = task.gradient(i, w)
            if up == "dcgd":
                m_i.append(task.up(i, u, t))
            elif up == "diana":
                m_i.append(h_i[i] + task.up(i, u - h_i[i], t))
                h_i[i] = (1 - a) * h_i[i] + a * m_i[i]
            else:
                h_i[i] = h_i[i] + task.send(i, u - h_i[i], t)
                m_i.append(h_i[i])
        x = x - step * sum(m_i) / task.n
        w = w + task.broadcast(x - w, t)
        yield x


def run(problem: mc.Problem, method: str, compressor: str = "topk:k=2", **options: Any) -> mc.Result:
    common = {"eval_every": 1, "allow_unsafe": True, "step": 0.1, "seed": 3, "init": START}
    return mc.run(problem=problem, method=method, compressor=compressor, **{**common, **options})


def task_of(problem: mc.Problem, compressor: str, down: str | None = None, seed: int = 3) -> Method:
    task = Method(problem, mc.compressor(compressor), seed, start=initial_point(START, problem.dim, seed))
    task.down_compressor = mc.compressor(down or compressor)
    return task


ROWS: list[tuple[str, dict[str, Any], Callable[..., Iterator[np.ndarray]], dict[str, Any], tuple[str, ...]]] = [
    # method, its options, oracle, the oracle's options, compressors
    ("ef21+", {}, ef21_plus, {}, ("topk:k=2", "sign", "randk:k=3", "natural")),
    ("ef21-am", {}, error_feedback, {}, ("topk:k=2",)),
    ("ef21-rare", {}, error_feedback, {}, ("topk:k=2", "randk:k=3")),
    ("ef21-w", {}, ef21_w, {}, ("topk:k=2", "sign", "natural", "qsgd:levels=4")),
    ("ef21-sgd", {}, error_feedback, {}, ("topk:k=2",)),
    ("ef21-w-sgd", {}, ef21_w, {}, ("topk:k=2",)),
    ("ef21-pp", {"p": 0.4}, ef21_pp, {"p": 0.4}, ("topk:k=2", "randk:k=3", "natural")),
    ("ef21-pp", {}, ef21_pp, {"p": 0.5}, ("topk:k=2",)),
    ("ef21-pp", {"s": 2}, ef21_pp, {"s": 2}, ("topk:k=2", "sign")),
    ("ef21-w-pp", {"p": 0.3}, ef21_pp, {"p": 0.3, "run": ef21_w}, ("topk:k=2", "natural")),
    ("ef21-w-pp", {"s": 1}, ef21_pp, {"s": 1, "run": ef21_w}, ("topk:k=2",)),
    ("ef21-hb", {"momentum": 0.6}, ef21_hb, {"momentum": 0.6}, ("topk:k=2", "natural")),
    ("ef21-prox", {"weight": 0.01}, ef21_prox, {"r": "l1", "weight": 0.01}, ("topk:k=2", "natural")),
    ("ef21-prox", {"r": "ridge", "weight": 0.1}, ef21_prox, {"r": "ridge", "weight": 0.1}, ("topk:k=2",)),
    (
        "ef21-prox",
        {"r": "box", "low": -0.5, "high": 2.0},
        ef21_prox,
        {"r": "box", "low": -0.5, "high": 2.0},
        ("topk:k=2",),
    ),
    ("ef21-sgdm", {"eta": 0.3}, ef21_sgdm, {"eta": 0.3}, ("topk:k=2", "natural")),
    ("ef21-sgd2m", {"eta": 0.3}, ef21_sgdm, {"eta": 0.3, "twice": True}, ("topk:k=2", "randk:k=3")),
    ("ef21-bc", {}, ef21_bc, {}, ("topk:k=2/topk:k=4", "natural/topk:k=3", "randk:k=3/sign", "topk:k=2/randk:k=6")),
    ("ef21-p+ef21", {}, stacked, {"up": "ef21"}, ("topk:k=2/topk:k=4", "natural/sign", "topk:k=2/natural")),
    ("ef21-p+diana", {}, stacked, {"up": "diana"}, ("randk:k=11/topk:k=4", "natural/natural")),
    ("ef21-p+dcgd", {}, stacked, {"up": "dcgd"}, ("randk:k=11/topk:k=4", "permk/sign")),
]
SAMPLED: list[tuple[str, dict[str, Any], Callable[..., Iterator[np.ndarray]], dict[str, Any]]] = [
    ("ef21-sgd", {}, lambda task, *a, tau: error_feedback(task, *a, lambda i, t, x: task.stochastic(i, x, t, tau)), {}),
    ("ef21-w-sgd", {}, ef21_w, {}),
    ("ef21-page", {"p": 0.2}, ef21_page, {"p": 0.2}),
    ("ef21-page", {"p": 0.2, "coin": "shared"}, ef21_page, {"p": 0.2, "coin": "shared"}),
    ("ef21-sgdm", {}, ef21_sgdm, {"eta": 0.1}),
    ("ef21-sgd2m", {"eta": 0.4}, ef21_sgdm, {"eta": 0.4, "twice": True}),
]


def agree(problem, method, compressor, options, oracle, own, rounds=T, tolerance=1e-9, **given):
    up, _, down = compressor.partition("/")
    task = task_of(problem, up, down or None)
    if down:
        given["downlink_compressor"] = down
    result = run(problem, method, up, method_options=options, rounds=rounds, **given)
    xs = list(oracle(task, given.get("step", 0.1), rounds, **own))
    losses = np.array([task.loss(x) for x in xs])
    assert np.abs(losses[-1] - losses[0]) > 1e-3, "the run went nowhere, so the comparison says nothing"
    np.testing.assert_allclose(
        [row["loss"] for row in result.history], losses, rtol=tolerance, atol=tolerance * np.ptp(losses)
    )
    assert np.linalg.norm(result.x - xs[-1]) <= tolerance * np.linalg.norm(xs[-1])
    return result, task


@pytest.mark.parametrize(
    ("row", "compressor"),
    [(i, c) for i, row in enumerate(ROWS) for c in row[4]],
    ids=[f"{row[0]}{i} {c}" for i, row in enumerate(ROWS) for c in row[4]],
)
def test_pseudocode(row, compressor):
    method, options, oracle, own, _ = ROWS[row]
    step = {"ef21+": 0.5, "ef21-hb": 0.02, "ef21-p+dcgd": 0.02, "ef21-p+diana": 0.02}.get(method, 0.1)
    agree(quadratic(), method, compressor, options, oracle, own, step=step)


@pytest.mark.parametrize("row", range(len(SAMPLED)), ids=[f"{row[0]}{i}" for i, row in enumerate(SAMPLED)])
def test_pseudocode_with_minibatches_on_mushrooms(row):
    method, options, oracle, own = SAMPLED[row]
    agree(mushrooms(), method, "topk:k=2", options, oracle, {**own, "tau": 3}, step=0.02, batch=3, rounds=200)


@pytest.mark.parametrize(
    ("row", "compressor"),
    [(0, "topk:k=2"), (3, "topk:k=2"), (6, "topk:k=2"), (17, "topk:k=2/topk:k=4"), (18, "natural/natural")],
)
def test_pseudocode_on_mushrooms(row, compressor):
    method, options, oracle, own, _ = ROWS[row]
    agree(mushrooms(), method, compressor, options, oracle, own, step=0.02, rounds=200)


def test_both_branches_of_ef21_plus_are_taken():
    result, task = agree(quadratic(), "ef21+", "topk:k=4", {}, ef21_plus, {}, step=0.5)
    assert task.branches.min() > 20
    plain = run(quadratic(), "ef21", "topk:k=4", rounds=T, step=0.5)
    assert not np.allclose(result.x, plain.x, rtol=1e-6)
    # the flag is sent and counted: a message of one byte for each client, and a frame, in every round but the first
    up = {name: r.summary["bytes"]["uplink"] for name, r in (("plus", result), ("plain", plain))}
    assert up["plus"]["messages"] == up["plain"]["messages"] + 5 * (T - 1)
    assert up["plus"]["frames"] == up["plain"]["frames"] + T - 1


@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("start", ["compressed", "dense", "zero"])
def test_ef21_plus_client_and_server_hold_the_same_estimates(start, wire):
    """From the decoded messages alone, so nothing drifts."""
    config = {"rounds": 40, "method_options": {"start": start}, "wire_dtype": wire}
    session = session_of(quadratic(), "ef21+", "topk:k=4", **config)
    for t in range(40):
        session.round(t)
    np.testing.assert_array_equal(session.uplink.g_i, session.uplink.g_i_at_server)
    assert set(session.uplink.state()) == {"g_i", "g_i_at_server"}


def session_of(problem: mc.Problem, method: str, compressor: str, **options: Any):
    from mpicomp.cluster.local import LocalExchange
    from mpicomp.runtime.config import Config
    from mpicomp.runtime.session import Composition, Session

    config = Config(method=method, compressor=compressor, step="0.1", init=START, **options)
    composition = Composition(config, problem)
    exchange = LocalExchange(problem.n_clients, problem.dim, np.dtype(config.dtype))
    return Session(config, problem, composition.parts(0.1), exchange, 0.1)


# ---- degenerate settings ------------------------------------------------------------------------------------------------
SAME_AS_EF21: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ef21-am", {}, {}),
    ("ef21-rare", {}, {}),
    ("ef21-sgd", {}, {}),
    ("ef21-pp", {"p": 1.0}, {}),
    ("ef21-pp", {"s": 5}, {}),
    ("ef21-hb", {"momentum": 0.0}, {}),
    ("ef21-prox", {"weight": 0.0}, {}),
    ("ef21-sgdm", {"eta": 1.0}, {}),
    ("ef21-sgd2m", {"eta": 1.0}, {}),
    ("ef21-bc", {}, {"downlink_compressor": "identity"}),
    ("ef21-p+ef21", {}, {"downlink_compressor": "identity"}),
]


@pytest.mark.parametrize(("method", "options", "given"), SAME_AS_EF21)
@pytest.mark.parametrize("compressor", ["topk:k=2", "randk:k=3"])
def test_what_must_equal_ef21(method, options, given, compressor):
    expected = run(quadratic(), "ef21", compressor, rounds=T)
    result = run(quadratic(), method, compressor, rounds=T, method_options=options, **given)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-11, atol=1e-13)
    theory = {"step": "theory", "rounds": 1}
    if method not in ("ef21-am", "ef21-rare", "ef21-prox"):  # those have another step by their nature
        steps = [
            run(quadratic(), m, compressor, **theory, method_options=o, **g).summary["step"]
            for m, o, g in ((method, options, given), ("ef21", {}, {}))
        ]
        assert steps[0] == pytest.approx(steps[1], rel=1e-12)


@pytest.mark.parametrize(("method", "options"), [("ef21-page", {"p": 1.0}), ("ef21-sgdm", {"eta": 1.0})])
def test_what_must_equal_ef21_and_ef21_sgd_on_data(method, options):
    other = "ef21" if method == "ef21-page" else "ef21-sgd"
    given = {"rounds": 60, "step": 0.02, "batch": 4}
    result = run(mushrooms(), method, method_options=options, **given)
    expected = run(mushrooms(), other, **{**given, "batch": 0 if other == "ef21" else 4})
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-12, atol=1e-14)
    steps = [
        mc.run(problem=mushrooms(), method=m, compressor="topk:k=2", rounds=0, batch=b, method_options=o).summary[
            "step"
        ]
        for m, b, o in ((method, 4, options), (other, 4 if other == "ef21-sgd" else 0, {}))
    ]
    assert steps[0] == pytest.approx(steps[1], rel=1e-12)


@pytest.mark.parametrize("method", FAMILY)
def test_without_compression_it_is_gradient_descent(method):
    """α = 1 (§10.1), with exact gradients and everybody speaking; HB and SGDM without their momentum, Prox with r = 0."""
    options = {
        "ef21-pp": {"p": 1.0},
        "ef21-w-pp": {"p": 1.0},
        "ef21-hb": {"momentum": 0.0},
        "ef21-prox": {"weight": 0.0},
    }
    options |= {"ef21-sgdm": {"eta": 1.0}, "ef21-sgd2m": {"eta": 1.0}, "ef21-page": {"p": 1.0}}
    problem = mushrooms() if method == "ef21-page" else quadratic()
    given: dict[str, Any] = {"rounds": 60 if method == "ef21-page" else T, "step": 0.3}
    expected = run(problem, "gd", "identity", **given)
    if methods[method].takes_downlink_compressor:
        given["downlink_compressor"] = "identity"
    result = run(problem, method, "identity", method_options=options.get(method, {}), **given)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-10, atol=1e-13)
    if method != "ef21-prox":  # 1/(2L) by its theorem
        steps = [
            mc.run(problem=problem, method=m, compressor="identity", rounds=0, method_options=o, **g).summary["step"]
            for m, o, g in (
                ("gd", {}, {}),
                (method, options.get(method, {}), {k: v for k, v in given.items() if k == "downlink_compressor"}),
            )
        ]
        assert steps[1] == pytest.approx(steps[0] / (2 if method == "ef21-p+diana" else 1), rel=1e-12)


@pytest.mark.parametrize("method", FAMILY)
def test_one_client_and_no_rounds(method):
    needs = methods[method].needs
    compressor = "randk:k=4" if needs == "unbiased" else "topk:k=4"
    problem = problems.build("logistic", {"clients": 1}) if method == "ef21-page" else quadratic(9, 1)
    result = run(problem, method, compressor, rounds=8, step=0.02)
    assert np.isfinite(result.x).all() and result.history[-1]["loss"] < result.history[0]["loss"]
    none = mc.run(problem=problem, method=method, compressor=compressor, rounds=0, init="ones", step=0.1)
    np.testing.assert_array_equal(none.x, np.ones(problem.dim))
    for direction in ("uplink", "downlink"):
        assert set(none.summary["bytes"][direction].values()) == {0}


# ---- the weights of EF21-W ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("problem", [quadratic, mushrooms])
def test_ef21_w_is_ef21_for_homogeneous_compressors_and_not_for_natural(problem):
    """§10.2, with the same step: at most 1e-12 apart."""
    given = {"rounds": 300, "step": 0.02}
    for compressor, same in (("topk:k=2", True), ("natural", False)):
        plain, weighted = (run(problem(), method, compressor, **given).x for method in ("ef21", "ef21-w"))
        distance = np.linalg.norm(plain - weighted) / np.linalg.norm(plain)
        assert distance <= 1e-12 if same else distance > 1e-6


def test_the_means_of_the_example_in_the_paper():
    """§10.5: n = 4, L = (1, 1, 1, 100)."""
    s = mc.Smoothness.bounds([1, 1, 1, 100])
    assert abs(s.L_QM - 50.0075) < 1e-4 and abs(s.L_AM - 25.75) < 1e-12
    setting = Setting(10, 4, 1, mc.compressor("topk:k=1"), mc.compressor("identity"), find_smoothness=lambda: s)
    parts = methods["ef21-w"]().compose(setting, 0.1)
    np.testing.assert_allclose(parts.weights, np.array([1, 1, 1, 100]) / 103)


def test_weights_need_smoothness_constants_above_zero():
    s = mc.Smoothness.bounds([0.0, 1.0])
    setting = Setting(10, 2, 1, mc.compressor("topk:k=1"), mc.compressor("identity"), find_smoothness=lambda: s)
    with pytest.raises(TheoryError, match="without weights"):
        methods["ef21-w"]().compose(setting, 0.1)


# ---- who speaks, what travels -------------------------------------------------------------------------------------------
def test_silent_clients_send_nothing_but_receive_the_model():
    result = run(quadratic(33, 10), "ef21-pp", rounds=100, method_options={"s": 3})
    everybody = run(quadratic(33, 10), "ef21", rounds=100)
    up = result.summary["bytes"]["uplink"]
    assert up["messages"] == 10 + 99 * 3  # all in round 0, which is counted
    assert result.summary["bytes"]["downlink"] == everybody.summary["bytes"]["downlink"]


def test_no_dense_vector_travels_in_ef21_bc():
    d, rounds = 400, 50
    result = run(quadratic(d, 4), "ef21-bc", "topk:k=3", downlink_compressor="topk:k=5", rounds=rounds)
    up, down = (result.summary["bytes"][way] for way in ("uplink", "downlink"))
    assert up["message"] < rounds * 4 * 8 * d / 10 and down["message"] < rounds * 8 * d / 5
    assert up["values_only"] <= rounds * 4 * 3 * 8 and up["payload"] > up["values_only"]  # indices are charged


def test_ef21_bc_takes_the_uplinks_compressor_down_where_none_is_named():
    result, named = (
        run(quadratic(), "ef21-bc", "topk:k=3", rounds=30, **given)
        for given in ({}, {"downlink_compressor": "topk:k=3"})
    )
    np.testing.assert_array_equal(result.x, named.x)


def test_a_dense_start_is_counted():
    dense, zero = (
        run(quadratic(), "ef21-w", rounds=1, method_options={"start": start}).summary["bytes"]["uplink"]["values_only"]
        for start in ("dense", "zero")
    )
    assert (dense, zero) == (5 * 33 * 8, 0)


@pytest.mark.parametrize("method", ["ef21-page", "ef21-sgdm", "ef21-sgd2m"])
def test_oracles_with_a_memory_begin_at_the_first_point_whatever_the_start(method):
    """With g_i⁰ = 0 nothing is sent in round 0, but v_i⁰ is still the gradient at x⁰."""
    session = session_of(mushrooms(), method, "topk:k=2", rounds=9, batch=2, method_options={"start": "zero"})
    session.round(0)
    oracle = session.oracle.oracle
    assert np.all(np.linalg.norm(oracle.v_i, axis=1) > 0)
    state = getattr(oracle, oracle.state_names[-1])
    before = state.copy()
    session.oracle.move(session.points, 1)
    change = session.oracle.difference()
    np.testing.assert_allclose(before + change, state, rtol=1e-12, atol=1e-15)
    assert (np.linalg.norm(change) > 0) == (method != "ef21-page")  # x¹ = x⁰, but other samples
    np.testing.assert_array_equal(session.oracle.full(), session.oracle.full())


def test_page_takes_exact_gradients_as_often_as_p_says():
    problem, rounds = mushrooms(), 200
    for coin in ("private", "shared"):
        _, task = agree(problem, "ef21-page", "topk:k=2", {"p": 0.3, "coin": coin}, ef21_page,
                        {"p": 0.3, "coin": coin, "tau": 1}, rounds=rounds, step=0.02, batch=1)  # fmt: skip
        draws = rounds if coin == "shared" else rounds * 20
        assert task.exact / (rounds * 20) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / draws))


# ---- step sizes ---------------------------------------------------------------------------------------------------------
def xi(alpha: float) -> float:
    return np.sqrt(1 - alpha) / (1 - np.sqrt(1 - alpha)) if alpha < 1 else 0.0


def test_xi():
    """§10.3."""
    from mpicomp.methods.ef21 import xi as of_package

    for denominator, value in ((68, 134.498), (112, 222.499), (123, 244.499), (300, 598.500)):
        assert of_package(1 / denominator) == pytest.approx(value, abs=6e-4)
    assert of_package(1.0) == 0.0


def step_of(
    problem: mc.Problem,
    method: str,
    compressor: str = "topk:k=2",
    down: str | None = None,
    batch: int = 0,
    rounds: int = 7,
    **options: Any,
):
    setting = Setting(
        problem.dim, problem.n_clients, rounds, mc.compressor(compressor), mc.compressor(down or "identity"), 3,
        problem.smoothness, batch, 0.0, problem,
    )  # fmt: skip
    return methods.build(method, options).step_size(setting)


@pytest.fixture(scope="module")
def s() -> dict[str, float]:
    """Smoothness constants of the quadratic, from its Hessians."""
    H = np.array(hessians(quadratic()))
    L_i = np.array([np.linalg.norm(h, 2) for h in H])
    return {
        "L": np.linalg.norm(H.mean(axis=0), 2),
        "QM": np.sqrt(np.mean(L_i**2)),
        "AM": L_i.mean(),
        "max": L_i.max(),
        "plus": np.sqrt(np.linalg.norm(np.mean(H @ H, axis=0), 2)),
    }


class TestStepSizes:
    alpha = 2 / 33

    def test_without_more(self, s):
        for method in ("ef21", "ef21+", "ef21-sgd"):
            assert step_of(quadratic(), method) == pytest.approx(1 / (s["L"] + s["QM"] * xi(self.alpha)))
        for method in ("ef21-am", "ef21-w", "ef21-w-sgd"):
            assert step_of(quadratic(), method) == pytest.approx(1 / (s["L"] + s["AM"] * xi(self.alpha)))

    @pytest.mark.parametrize(
        ("options", "p"), [({"p": 0.3}, 0.3), ({"s": 2}, 0.4), ({}, 0.5), ({"p": np.array([0.2, 0.5, 1, 1, 1])}, 0.2)]
    )
    def test_partial_participation(self, s, options, p):
        assert step_of(quadratic(), "ef21-pp", **options) == pytest.approx(1 / (s["L"] + s["QM"] * xi(p * self.alpha)))
        assert step_of(quadratic(), "ef21-w-pp", **options) == pytest.approx(
            1 / (s["L"] + s["AM"] * xi(p * self.alpha))
        )

    def test_both_directions(self, s):
        """The table of §3: mushrooms, Top-1 up, Top-2 down, gives 2.9e-6 with the constants of general contractive compressors."""
        w, m = xi(self.alpha), xi(4 / 33)
        expected = 1 / (s["L"] + s["QM"] * np.sqrt(4 * m**2 + 2 * w**2 * (1 + 2 * m**2)))
        assert step_of(quadratic(), "ef21-bc", down="topk:k=4") == pytest.approx(expected)
        natural = 1 / (s["L"] + s["QM"] * np.sqrt(4 * m**2 + 2 * xi(8 / 9) ** 2 * (1 + 2 * m**2)))
        assert step_of(quadratic(), "ef21-bc", "natural", "topk:k=4") == pytest.approx(natural)

        class Unknown(mc.Compressor):
            contractive = True

            def alpha(self, d, n=1):
                return 1 / d

        c, w, m = mushrooms().smoothness(), xi(1 / 112), xi(2 / 112)
        setting = Setting(112, 20, 1, Unknown(), mc.compressor("topk:k=2"), find_smoothness=lambda: c)
        general = methods.build("ef21-bc", {}).step_size(setting)
        assert general == pytest.approx(1 / (c.L + c.L_QM * np.sqrt(16 * m**2 + 2 * w**2 * (1 + 8 * m**2))))
        assert f"{general:.1e}" == "2.9e-06"

    def test_momentum_and_prox(self, s):
        eta = 0.7
        expected = 1 / ((1 + eta) * s["L"] / (1 - eta) ** 2 + s["QM"] * xi(self.alpha) / (1 - eta))
        assert step_of(quadratic(), "ef21-hb", momentum=eta) == pytest.approx(expected)
        assert step_of(quadratic(), "ef21-prox") == pytest.approx(
            1 / (2 * s["L"] + np.sqrt(3) * s["QM"] * xi(self.alpha))
        )
        k = xi(self.alpha) ** 2 * s["QM"] ** 2
        for eta in (0.1, 0.5):
            a = (1 - eta) ** 2
            once = 4 * k * (eta**2 + a) + 2 * a / eta**2 * s["L"] ** 2
            assert step_of(quadratic(), "ef21-sgdm", eta=eta) == pytest.approx(1 / (s["L"] + np.sqrt(once)))
            # the paper's, as remembered, is smaller
            assert step_of(quadratic(), "ef21-sgdm", eta=eta) > min(self.alpha / (20 * s["QM"]), eta / (7 * s["L"]))
            sum_P = 3 * k * (2 * a * (1 + a / eta**2) * eta**2 + eta**4 + eta**2 * a)
            sum_U, sum_V = 2 * a * (1 + a / eta**2) * s["L"] ** 2, a / eta**2 * s["L"] ** 2
            twice = 1 / (s["L"] + np.sqrt(3 * (sum_P + sum_U + sum_V)))
            assert step_of(quadratic(), "ef21-sgd2m", eta=eta) == pytest.approx(twice)

    def test_stacked(self, s):
        w, m = xi(self.alpha), xi(4 / 33)
        assert step_of(quadratic(), "ef21-p+ef21", down="topk:k=4") == pytest.approx(
            1 / ((1 + m) * (s["L"] + s["QM"] * w))
        )
        assert step_of(quadratic(), "ef21-p+ef21", "identity", "topk:k=4") == pytest.approx(
            step_of(quadratic(), "ef21-p", "topk:k=4")
        )
        omega, A = 2.0, 2 / 5
        diana = min(1 / (s["L"] * (2 + np.sqrt(2) * m)), 1 / (3 * np.sqrt(8 * A) * (1 + m) * s["plus"]))
        assert step_of(quadratic(), "ef21-p+diana", "randk:k=11", "topk:k=4") == pytest.approx(diana)
        assert step_of(quadratic(), "ef21-p+diana", "randk:k=11") == pytest.approx(
            step_of(quadratic(), "diana", "randk:k=11")
        )
        h = 1 + np.sqrt(2) * m
        for rounds in (1, 10**6):
            expected = min(
                1 / (s["L"] * h),
                s["L"] / (2 * A * s["plus"] ** 2 * h),
                np.sqrt(1 / (2 * A * s["L"] * s["max"] * h * rounds)),
            )
            assert step_of(quadratic(), "ef21-p+dcgd", "randk:k=11", "topk:k=4", rounds=rounds) == pytest.approx(
                expected
            )
        assert omega == mc.compressor("randk:k=11").omega(33)

    def test_minibatches(self):
        c, alpha, tau = mushrooms().smoothness(), 2 / 112, 5
        theta = 1 - (1 - alpha) * (1 + alpha / 4) ** 2
        assert theta >= alpha / 2
        ratio = np.sqrt((1 - alpha) * (1 + alpha / 4) * (1 + 4 / alpha) / theta)
        assert step_of(mushrooms(), "ef21-sgd", batch=tau) == pytest.approx(1 / (c.L + c.L_QM * ratio))
        assert step_of(mushrooms(), "ef21-w-sgd", batch=tau) == pytest.approx(1 / (c.L + c.L_AM * ratio))
        # PAGE: every row of mushrooms has 21 entries, or fewer where values are missing
        N = np.array([mushrooms().n_samples(i) for i in range(20)])
        p = np.mean(tau / (tau + N))
        rows = load("mushrooms")
        sizes = np.diff(rows.indptr)
        second = np.mean([np.mean((sizes[i * 406 : i * 406 + N[i]] / 4) ** 2) for i in range(20)]) * (1 - p) / tau
        expected = 1 / (c.L + np.sqrt(4 * xi(alpha) ** 2 * c.L_QM**2 + 2 * (3 * xi(alpha) ** 2 + 1 / p) * second))
        assert step_of(mushrooms(), "ef21-page", batch=tau) == pytest.approx(expected)
        assert methods.build("ef21-page", {}).batch(setting_of(mushrooms())) == int(np.ceil(np.sqrt(N.mean())))

    @pytest.mark.parametrize("method", [m for m in FAMILY if "sgd" not in m and m != "ef21-page"])
    def test_theorems_about_exact_gradients_refuse_minibatches(self, method):
        compressor = "randk:k=3" if methods[method].needs == "unbiased" else "topk:k=2"
        with pytest.raises(TheoryError, match="--step"):
            step_of(mushrooms(), method, compressor, "topk:k=3", batch=3)

    def test_random_compressors_have_no_theorem_in_ef21_plus(self):
        with pytest.raises(TheoryError, match="deterministic"):
            step_of(quadratic(), "ef21+", "randk:k=3")

    def test_rare_features(self, tmp_path_factory):
        problem = rare(tmp_path_factory.getbasetemp())
        counts = problem.feature_counts()
        lines = [line.split()[1:] for line in Path(problem.data).read_text().splitlines()]
        has = np.zeros((60, 40), bool)
        for r, line in enumerate(lines):
            for entry in line:
                has[r // 4, int(entry.split(":")[0]) - 1] = True
        assert (counts.c, counts.r) == (has.sum(axis=0).max(), has.sum(axis=1).max() == 5 and 5)
        np.testing.assert_array_equal(counts.clients, has.sum(axis=0))
        s, share = problem.smoothness(), np.sqrt(counts.c / 60)
        for k, alpha in ((1, 1 / 5), (3, 3 / 5), (5, 1.0), (20, 1.0)):
            expected = 1 / (s.L + share * min(s.L_plus, share * s.L_max) * xi(alpha))
            assert step_of(problem, "ef21-rare", f"topk:k={k}") == pytest.approx(expected)
        assert step_of(problem, "ef21-rare", "topk:k=1") > 3 * step_of(problem, "ef21", "topk:k=1")
        with pytest.raises(TheoryError, match="sign"):
            step_of(problem, "ef21-rare", "sign")

    def test_where_every_feature_is_common_rare_features_gain_nothing(self, s):
        """c = n, r = d; L₊ ≤ L_QM remains."""
        expected = 1 / (s["L"] + min(s["plus"], s["max"]) * xi(self.alpha))
        assert step_of(quadratic(), "ef21-rare") == pytest.approx(expected)


@pytest.mark.parametrize(("data", "c", "r"), [("mushrooms", 20, 87), ("a9a", 20, 118), (str(PHISHING), 20, 68)])
def test_feature_counts_as_published(data, c, r):
    """The table of §2, without the regulariser, which would make every f_i depend on every coordinate."""
    if data == str(PHISHING) and not PHISHING.exists():
        pytest.skip("no phishing data here")
    counts = problems.build("logistic", {"data": data, "clients": 20, "regularizer": "none"}).feature_counts()
    assert (counts.c, counts.r) == (c, r)
    full = problems.build("logistic", {"data": data, "clients": 20}).feature_counts()
    assert full.c == 20 and full.r == {"mushrooms": 112, "a9a": 123}.get(data, 68)


def setting_of(
    problem: mc.Problem, compressor: str = "topk:k=2", down: str = "identity", batch: int = 0, rounds: int = 7
) -> Setting:
    return Setting(
        problem.dim,
        problem.n_clients,
        rounds,
        mc.compressor(compressor),
        mc.compressor(down),
        0,
        problem.smoothness,
        batch,
        0.0,
        problem,
    )


@cache
def hessians(problem: mc.Problem) -> list[np.ndarray]:
    """Of a quadratic, which its gradients give away."""
    task = Task(problem)
    return [
        np.array([task.gradient(i, e) - task.gradient(i, task.zeros()) for e in np.eye(task.d)]) for i in range(task.n)
    ]


# ---- theory -------------------------------------------------------------------------------------------------------------
def infimum(problem: mc.Problem) -> float:
    task, H = Task(problem), np.mean(hessians(problem), axis=0)
    x = np.linalg.solve(H, -task.full_gradient(task.zeros()))
    return task.loss(x)


BOUNDED: list[tuple[str, str, str | None, dict[str, Any], int]] = [
    # method, compressor, downlink compressor, options, seeds
    ("ef21+", "topk:k=6", None, {}, 1),
    ("ef21-am", "topk:k=6", None, {}, 1),
    ("ef21-w", "topk:k=6", None, {}, 1),
    ("ef21-w", "natural", None, {}, 4),
    ("ef21-pp", "topk:k=6", None, {"p": 0.4}, 4),
    ("ef21-pp", "topk:k=6", None, {"s": 2}, 4),
    ("ef21-w-pp", "topk:k=6", None, {"p": 0.4}, 4),
    ("ef21-bc", "topk:k=20", "topk:k=20", {}, 1),
    ("ef21-bc", "natural", "sign", {}, 2),
    ("ef21-hb", "topk:k=6", None, {"momentum": 0.5}, 1),
    ("ef21-hb", "topk:k=30", None, {"momentum": 0.9}, 1),
    ("ef21-sgdm", "topk:k=6", None, {"eta": 0.3}, 1),
    ("ef21-sgd2m", "topk:k=6", None, {"eta": 0.3}, 1),
    ("ef21-p+ef21", "topk:k=20", "topk:k=20", {}, 1),
    ("ef21-p+ef21", "natural", "natural", {}, 4),
    ("ef21-p+diana", "randk:k=20", "topk:k=20", {}, 4),
    ("ef21-p+diana", "natural", "natural", {}, 4),
]


@pytest.mark.parametrize(("method", "compressor", "down", "options", "seeds"), BOUNDED)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_theorem(method, compressor, down, options, seeds, noise):
    """E‖∇f(x̂^T)‖² ≤ (2δ⁰/γ + the term of the start)/T with the theoretical step."""
    problem, rounds, norms = quadratic(60, 6, noise, 1e-3, 11), 300, []
    for seed in range(seeds):
        given = {"downlink_compressor": down} if down else {}
        result = run(
            problem, method, compressor, rounds=rounds, step="theory", seed=seed, method_options=options, **given
        )
        norms.append(np.mean([row["grad_norm_sq"] for row in result.history[:-1]]))
    task = task_of(problem, compressor)
    setting = setting_of(problem, compressor, down or "identity", rounds=rounds)
    squared = float(np.mean([np.sum(g**2) for g in task.gradients(task.x0)]))
    delta = task.loss(task.x0) - infimum(problem)
    bound = 2 * delta / result.summary["step"] + methods.build(method, options).initial_term(setting, squared)
    assert 0 < np.mean(norms) <= bound / rounds
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize(
    ("method", "options", "batch"),
    [("ef21-page", {}, 8), ("ef21-page", {"coin": "shared"}, 8), ("ef21-sgd", {}, 64), ("ef21-w-sgd", {}, 64),
     ("ef21-sgdm", {"eta": 0.1}, 1), ("ef21-sgd2m", {"eta": 0.1}, 1)],
)  # fmt: skip
def test_theorem_with_minibatches(method, options, batch):
    """On logistic regression: |φ'| ≤ 1, so σ_i² ≤ mean ‖a‖² ≤ 22; f ≥ 0."""
    problem, rounds, compressor = mushrooms(), 150, "topk:k=20"
    result = run(problem, method, compressor, rounds=rounds, step="theory", batch=batch, method_options=options)
    task, alpha, sigma = task_of(problem, compressor), 20 / 112, 22.0 / batch
    setting = setting_of(problem, compressor, batch=batch, rounds=rounds)
    squared = float(np.mean([np.sum(g**2) for g in task.gradients(task.x0)]))
    start = methods.build(method, options).initial_term(setting, squared)
    floor = 0.0
    if "sgdm" in method or "sgd2m" in method:
        eta, theta = 0.1, 1 - np.sqrt(1 - alpha)
        beta = (1 - alpha) / theta
        start += 4 * (1 / eta + 2 * eta * beta / theta) * sigma
        floor = 4 * (eta / 20 + 2 * beta * eta**3 / theta + (1 - alpha) * eta**2 / theta) * sigma
    elif "sgd" in method:
        rho = alpha / 4
        theta = 1 - (1 - alpha) * (1 + rho) ** 2
        floor = ((1 - alpha) * (1 + rho) + 1 + 1 / rho) / theta * sigma
        if method == "ef21-w-sgd":
            s = problem.smoothness()
            floor *= np.mean(s.L_AM / s.L_i)
    mean = np.mean([row["grad_norm_sq"] for row in result.history[:-1]])
    assert 0 < mean <= (2 * task.loss(task.x0) / result.summary["step"] + start) / rounds + floor


def test_theorem_of_rare_features(tmp_path_factory):
    problem = rare(tmp_path_factory.getbasetemp())
    result = run(problem, "ef21-rare", "topk:k=1", rounds=400, step="theory")
    task = task_of(problem, "topk:k=1")
    squared = float(np.mean([np.sum(g**2) for g in task.gradients(task.x0)]))
    start = methods.build("ef21-rare", {}).initial_term(setting_of(problem, "topk:k=1"), squared)
    mean = np.mean([row["grad_norm_sq"] for row in result.history[:-1]])
    assert mean <= (2 * (task.loss(task.x0)) / result.summary["step"] + start) / 400
    slow = run(problem, "ef21", "topk:k=1", rounds=400, step="theory")
    assert result.history[-1]["loss"] < slow.history[-1]["loss"]


@pytest.mark.parametrize("options", [{"r": "l1", "weight": 0.05}, {"r": "box", "low": -0.3, "high": 0.4}])
def test_theorem_of_ef21_prox(options):
    """(1/T) Σ‖𝒢(x^t)‖² ≤ 8(Φ(x⁰) − inf Φ)/(γT) + 6G⁰/(θT); inf Φ ≥ inf f here, as r ≥ 0."""
    problem, rounds, alpha = quadratic(60, 6, 0.5, 1e-3, 11), 300, 6 / 60
    result = run(problem, "ef21-prox", "topk:k=6", rounds=rounds, step="theory", method_options=options, init="zero")
    step, prox = result.summary["step"], Prox(**options)
    task = Method(problem, mc.compressor("topk:k=6"), 3)
    xs = list(ef21_prox(task, step, rounds, **{"weight": 0.0, "low": 0.0, "high": 0.0, **options}))
    np.testing.assert_allclose(result.x, xs[-1], rtol=1e-9, atol=1e-12)
    prox.start(task.x0[None], step)
    total = 0.0
    for x in xs[:-1]:
        y = (x - step * task.full_gradient(x))[None]
        prox.apply(y, step)
        total += np.sum(((x - y[0]) / step) ** 2)
    G = (1 - alpha) * np.mean([np.sum(g**2) for g in task.gradients(task.x0)])
    gap = task.loss(task.x0) + prox.value(task.x0) - infimum(problem)
    assert total <= 8 * gap / step + 6 * G / (1 - np.sqrt(1 - alpha))
    Phi = [task.loss(x) + prox.value(x) for x in (xs[0], xs[-1])]
    assert Phi[1] < Phi[0]


@pytest.mark.parametrize("method", ["ef21-am", "ef21-w", "ef21+"])
@pytest.mark.parametrize("problem", [lambda: quadratic(60, 6, 1.0, 1e-3, 11), mushrooms])
def test_lyapunov_function_never_increases(method, problem):
    """§10.4: Φ = f + γ/(2θ) G, G weighted by L_AM/L_i for the step with L_AM, at every round."""
    problem, compressor, rounds = problem(), "topk:k=3", 80
    task, result = task_of(problem, compressor), run(problem, method, compressor, rounds=rounds, step="theory")
    step, L = result.summary["step"], task.L()
    theta = 1 - np.sqrt(1 - 3 / problem.dim)
    share = np.ones(task.n) if method == "ef21+" else L.mean() / L
    session = session_of(problem, method, compressor, rounds=rounds)
    session.optimizer.step_size = step
    factors = (task.n * smoothness_weights(task) if method == "ef21-w" else np.ones(task.n))[:, None]
    values = []
    for t in range(rounds):
        x = session.x[0].copy()
        session.round(t)
        G = np.mean(share * np.sum((factors * session.uplink.g_i - np.array(task.gradients(x))) ** 2, axis=1))
        values.append(task.loss(x) + step / (2 * theta) * G)
    np.testing.assert_array_equal(session.x[0], result.x)
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[0])) and values[-1] < values[0]


# ---- heterogeneous split ------------------------------------------------------------------------------------------------
def test_eigenvalues_kept_by_the_greedy_search():
    """λ_max after one more row, and the kept eigenpairs, against LAPACK; rows may repeat or have equal norms."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        d, k = int(rng.integers(3, 40)), int(rng.integers(1, 17))
        vectors, values, p, row = np.zeros((d, k)), np.zeros(k), np.zeros(k), np.zeros(d)
        small, basis, G = np.zeros((k + 1, k + 1)), np.zeros((k + 1, k + 1)), np.zeros((d, d))
        for t in range(k):
            if t % 4 != 3:
                a = (rng.random(d) < 0.4) * rng.choice([1.0, 0.5], d)
            indices = np.flatnonzero(a).astype(np.int32)
            indptr = np.array([0, len(indices)])
            norm = project(indptr, indices, a[indices], 0, vectors, p)
            G += np.outer(a, a)
            expected = np.linalg.eigvalsh(G)[-1]
            assert updated(values, p, norm) == pytest.approx(expected, rel=1e-11, abs=1e-13)
            add_row(indptr, indices, a[indices], 0, norm, p, vectors, values, row, small, basis)
            np.testing.assert_allclose(vectors * values @ vectors.T, G, atol=1e-10)


def test_heterogeneous_partition_against_plain_numpy():
    """The recipe of §4 with LAPACK's eigenvalues, on rows of different norms."""
    rng, n, m, d = np.random.default_rng(4), 7, 60, 12
    A = rng.normal(size=(m, d)) * rng.uniform(0.2, 3, (m, 1))
    from mpicomp.data.libsvm import SparseRows

    rows = SparseRows(np.arange(0, m * d + 1, d), np.tile(np.arange(d, dtype=np.int32), m), A.ravel(), np.ones(m), d)
    order = np.argsort((A**2).sum(axis=1))
    members = [[order[int((i + 0.5) * m / n)]] for i in range(n)]

    def constant(group):
        return np.linalg.norm(A[group], 2) ** 2 / len(group)

    for r in order:
        if any(r in group for group in members):
            continue
        variances = [
            np.var([constant([*g, r] if j == i else g) for j, g in enumerate(members)])
            if len(members[i]) < m // n
            else -1
            for i in range(n)
        ]
        if max(variances) >= 0:
            members[int(np.argmax(variances))].append(r)
    got = partition_rows("heterogeneous", rows, n)
    assert np.diff(got.offsets).tolist() == [m // n] * (n - 1) + [m // n + m % n]
    assert sorted(got.order) == list(range(m))
    for i in range(n):
        own = set(got.order[got.offsets[i] : got.offsets[i + 1]].tolist())
        assert own >= set(map(int, members[i])) if i == n - 1 else own == set(map(int, members[i]))


@pytest.mark.parametrize(("data", "least", "most"), [(str(PHISHING), 7.5e-4, 9.5e-4), ("mushrooms", 0.2, 0.24)])
def test_heterogeneous_split_of_a_thousand_clients(data, least, most):
    """§4, §10.5: L_var is about 8.4e-4 on phishing, 0.22 on mushrooms. All rows of phishing have the same norm, so that the order, and with
    it the second digit, hangs on how ties are broken; the natural split has 1e-4 and 0.13 or so."""
    if data == str(PHISHING) and not PHISHING.exists():
        pytest.skip("no phishing data here")
    s = problems.build("logistic", {"data": data, "clients": 1000, "partition": "heterogeneous"}).smoothness()
    assert least < s.L_var < most


def test_heterogeneous_split_spreads_the_constants_more_than_other_splits():
    variances = {
        partition: problems.build("logistic", {"clients": 100, "partition": partition}).smoothness().L_var
        for partition in ("shuffled", "heterogeneous")
    }
    assert variances["heterogeneous"] > 20 * variances["shuffled"]


# ---- options ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "problem", "message"),
    [
        ("ef21-pp:p=0", quadratic, "participation"),
        ("ef21-pp:p=0.5,s=2", quadratic, "not both"),
        ("ef21-pp:s=6", quadratic, "number of clients, 5"),
        ("ef21-page", quadratic, "finite sum"),
        ("ef21-page:p=1.5", mushrooms, "p=1.5"),
        ("ef21-page:coin=both", mushrooms, "private"),
        ("ef21-sgdm:eta=0", quadratic, "eta=0"),
        ("ef21-hb:momentum=1", quadratic, "momentum=1"),
        ("ef21-prox:r=l2", quadratic, "known: box, l1, ridge"),
        ("ef21-prox:weight=-1", quadratic, "weight=-1"),
        ("ef21-prox:low=1,high=0,r=box", quadratic, "empty"),
        ("ef21+:start=half", quadratic, "compressed, dense, zero"),
        ("ef21-w:start=half", quadratic, "compressed, dense, zero"),
    ],
)
def test_wrong_options(text, problem, message):
    with pytest.raises(ConfigError, match=message):
        mc.run(problem=problem(), method=text, rounds=1)


@pytest.mark.parametrize("method", ["ef21-hb", "ef21-prox"])
def test_the_optimizer_is_part_of_the_method(method):
    with pytest.raises(ConfigError, match="optimizer"):
        run(quadratic(), method, rounds=1, optimizer="gd")


def test_prox_is_an_optimizer_for_any_method():
    ridge = {"optimizer": "prox", "optimizer_options": {"r": "ridge", "weight": 0.5}}
    result = run(quadratic(), "gd", "identity", rounds=4000, **ridge)
    task, H = Task(quadratic()), np.mean(hessians(quadratic()), axis=0)
    expected = np.linalg.solve(H + 0.5 * np.eye(33), -task.full_gradient(task.zeros()))
    np.testing.assert_allclose(result.x, expected, rtol=1e-9, atol=1e-12)
    assert (
        Prox("ridge", 0.5).value(np.array([[2.0, 1.0]])) == 1.25
        and Prox("l1", 0.5).value(np.array([[-2.0, 1.0]])) == 1.5
    )
    assert Prox("box").value(np.array([[2.0]])) == np.inf and Prox("box").value(np.array([[1.0]])) == 0


def test_flags():
    from mpicomp.compressors.flag import Flag

    codec = Flag().bind(1, 3)
    buf, tally, rows, keys = (
        np.zeros(8, np.uint8),
        np.zeros(2, np.int64),
        np.arange(3),
        Keys(np.uint64(0), np.uint64(0)),
    )
    assert codec.encode(np.array([[0.0], [-2.0], [np.nan]]), rows, rows, keys, buf, 1, tally) == 4
    assert tally.tolist() == [24, 3] and "flag" not in compressors
    out = np.zeros((3, 1))
    codec.decode_add(buf, 1, 4, rows, rows, np.ones(3), keys, out)
    assert out.ravel().tolist() == [0, 1, 1]
    for change, end in ((2, 4), (None, 3)):
        broken = buf.copy()
        if change:
            broken[1] = change
        with pytest.raises(WireError):
            codec.decode_add(broken, 1, end, rows, rows, np.ones(3), keys, out)


# ---- the same bits everywhere -------------------------------------------------------------------------------------------
EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    *[
        (method, {"method": method, "compressor": "topk:k=3"})
        for method in FAMILY
        if methods[method].needs != "unbiased"
    ],
    ("ef21+ random", {"method": "ef21+", "compressor": "randk:k=4", "wire_dtype": "float32"}),
    ("ef21-pp nice", {"method": "ef21-pp", "method_options": {"s": 3}, "compressor": "natural"}),
    (
        "ef21-bc in float32",
        {"method": "ef21-bc", "compressor": "randk:k=4", "downlink_compressor": "sign", "dtype": "float32"},
    ),
    ("ef21-p+diana", {"method": "ef21-p+diana", "compressor": "natural", "downlink_compressor": "topk:k=3"}),
    ("ef21-p+dcgd", {"method": "ef21-p+dcgd", "compressor": "permk", "downlink_compressor": "natural"}),
    ("ef21-page shared", {"method": "ef21-page", "compressor": "sign", "method_options": {"coin": "shared", "p": 0.3}}),
]
SCRIPT = """
import json, sys
from mpi4py import MPI
import mpicomp as mc
from test_ef21_family import EVERYWHERE, everywhere
hashes = {}
for name, options in EVERYWHERE:
    for exchange in ("p2p", "collective"):
        result = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, **everywhere(options))
        hashes.setdefault(name, []).append(result.summary.get("iterate_sha256"))
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(hashes))
"""


def everywhere(options: dict[str, Any]) -> dict[str, Any]:
    """The row's options with a problem: data where samples are drawn."""
    common: dict[str, Any] = {
        "rounds": 12,
        "step": 0.05,
        "seed": 5,
        "init": "normal:3",
        "eval_every": 12,
        "allow_unsafe": True,
    }
    on_data = any(word in options["method"] for word in ("page", "sgd"))
    data = {"problem": "logistic", "clients": 20, "batch": 2}
    other = {"problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 10}
    return {**common, **(data if on_data else other), **options}


@pytest.mark.parametrize(("name", "options"), EVERYWHERE, ids=[name for name, _ in EVERYWHERE])
def test_clients_in_small_groups_give_the_same_bits(name, options, monkeypatch):
    expected = mc.run(**everywhere(options)).summary["iterate_sha256"]
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 300)
    assert mc.run(**everywhere(options)).summary["iterate_sha256"] == expected


@pytest.mark.process
def test_every_exchange_gives_the_same_bits(mpi, tmp_path):
    script = tmp_path / "family.py"
    script.write_text(SCRIPT)
    job = mpi.run(3, [script], timeout=120, PYTHONPATH=str(Path(__file__).parent)).check()
    hashes = json.loads(job.out.splitlines()[-1])
    expected = {name: [mc.run(**everywhere(options)).summary["iterate_sha256"]] * 2 for name, options in EVERYWHERE}
    assert hashes == expected
