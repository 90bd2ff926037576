"""MARINA with all its variants, MARINA-P and M3: the papers' pseudocode, their theory, what travels, known errors of others."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import oracles
import pytest
from oracles import Task, Trajectory

import mpicomp as mc
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.exchanges import base as exchange_module
from mpicomp.kernels.random import Keys, Stream, below, client_key, derive, downlink_keys, uniform64, uplink_keys
from mpicomp.methods import methods
from mpicomp.methods.marina import cheapest_probability
from mpicomp.methods.marina_biased import biased_factor
from mpicomp.participation import SAMPLINGS, Sampling
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point

START = "normal:7"
RNG = np.random.default_rng


@cache
def quadratic(dim: int = 33, clients: int = 5, noise: float = 0.3, reg: float = 1e-2, seed: int = 1) -> mc.Problem:
    options = {"dim": dim, "clients": clients, "noise": noise, "reg": reg, "seed": seed}
    return problems.build("quadratic", options)


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


def run(problem: mc.Problem, method: str, compressor: str | None = None, **options: Any) -> mc.Result:
    return mc.run(problem=problem, method=method, compressor=compressor, **{"eval_every": 50, "init": START, **options})


def task_of(problem: mc.Problem, compressor: str, seed: int = 3) -> Task:
    return Task(problem, mc.compressor(compressor), seed, start=initial_point(START, problem.dim, seed))


def same(
    problem: mc.Problem, method: str, compressor: str, oracle: Trajectory, rounds: int, **options: Any
) -> mc.Result:
    """Run the package and compare x^T, and the losses on the way, with the oracle's."""
    given = {"step": 0.05, "seed": 3, "eval_every": 1, "allow_unsafe": True, "rounds": rounds, **options}
    result = run(problem, method, compressor, **given)
    xs, task = list(oracle), Task(problem)
    assert len(xs) == rounds + 1
    losses = np.array([task.loss(x) for x in xs[:: max(1, rounds // 10)]])
    assert abs(losses[-1] - losses[0]) > 1e-3, "the run went nowhere, so the comparison says nothing"
    measured = [row["loss"] for row in result.history[:: max(1, rounds // 10)]]
    np.testing.assert_allclose(measured, losses, rtol=1e-9, atol=1e-9 * np.ptp(losses))
    assert np.linalg.norm(result.x - xs[-1]) <= 1e-9 * np.linalg.norm(xs[-1])
    return result


# ---- the papers' pseudocode -----------------------------------------------------------------------------------------
def samples_of(task: Task, i: int, b: int, t: int) -> np.ndarray:
    """The minibatch of client i in round t."""
    key = np.uint64(client_key(derive(task.seed, Stream.MINIBATCH, t), i))
    return np.array([below(key, s, task.problem.n_samples(i)) for s in range(b)])


def batch_gradient(task: Task, i: int, x: np.ndarray, b: int, t: int) -> np.ndarray:
    out = task.zeros()
    task.problem.batch_gradient(i, x, samples_of(task, i, b, t), out)
    return out


def vr_marina(task: Task, step: float, rounds: int, p: float, b: int, sync: int = 0) -> Trajectory:
    """g^t = mean of full (or, online, b = sync sampled) gradients with probability p, else g + mean C_i(difference of b' samples)."""
    x, g, before = task.x0, task.zeros(), task.zeros()
    yield x
    for t in range(rounds):
        if t == 0 or task.coin("uplink", p, t):
            everything = [batch_gradient(task, i, x, sync, t) if sync else task.gradient(i, x) for i in range(task.n)]
            g = task.mean(everything)
        else:
            change = [batch_gradient(task, i, x, b, t) - batch_gradient(task, i, before, b, t) for i in range(task.n)]
            g = g + task.mean([task.up(i, v, t) for i, v in enumerate(change)])
        x, before = x - step * g, x
        yield x


def drawn(task: Task, t: int, tau: int, q: np.ndarray) -> list[int]:
    """τ clients with replacement, with probabilities q."""
    key = derive(task.seed, Stream.PARTICIPATION, t)
    edges = np.cumsum(q)
    return [int(np.argmax(edges > uniform64(key, k) * edges[-1])) for k in range(tau)]


def nice(task: Task, t: int, r: int) -> list[int]:
    """r clients without replacement (Floyd's algorithm)."""
    key, chosen = derive(task.seed, Stream.PARTICIPATION, t), set()
    for j in range(task.n - r, task.n):
        i = below(key, j, j + 1)
        chosen.add(j if i in chosen else i)
    return sorted(chosen)


def sampled_marina(task: Task, step: float, rounds: int, p: float, draw, q: np.ndarray | None = None) -> Trajectory:
    """g^t = mean ∇f_i with probability p, else g + (1/τ) Σ_{k ≤ τ} C_i(∇f_i(x^t) − ∇f_i(x^{t−1}))/(n q_i), i = i_k the clients drawn."""
    q = np.full(task.n, 1 / task.n) if q is None else q
    x, g, before = task.x0, task.zeros(), task.zeros()
    yield x
    for t in range(rounds):
        if t == 0 or task.coin("uplink", p, t):
            g = task.mean(task.gradients(x))
        else:
            picked = draw(t)
            for i in picked:
                change = task.up(i, task.gradient(i, x) - task.gradient(i, before), t)
                g = g + change / (len(picked) * task.n * q[i])
        x, before = x - step * g, x
        yield x


def m3(task: Task, down: str, step: float, rounds: int, beta: float, p_up: float, p_down: float) -> Trajectory:
    """x = x − γg; w_i = x or w_i + Q_i(x^{t+1} − x^t); z_i = (1−β)z_i + βw_i; g = mean ∇f_i(z_i) or g + mean C_i(its change)."""
    downlink = Task(task.problem, mc.compressor(down), task.seed)
    x = task.x0
    w, z, old, g = [x] * task.n, [x] * task.n, [x] * task.n, task.zeros()
    yield x
    for t in range(rounds):
        if t == 0 or task.coin("uplink", p_up, t):
            g = task.mean([task.gradient(i, z[i]) for i in range(task.n)])
        else:
            g = g + task.mean([task.up(i, task.gradient(i, z[i]) - task.gradient(i, old[i]), t) for i in range(task.n)])
        new = x - step * g
        dense = task.coin("downlink", p_down, t)
        w = [new if dense else w[i] + downlink.down(i, new - x, t) for i in range(task.n)]
        old, z = z, [(1 - beta) * z[i] + beta * w[i] for i in range(task.n)]
        x = new
        yield x


def common_radius_marina(task: Task, step: float, rounds: int, p: float) -> Trajectory:
    """MARINA with quantizers whose radius is the largest norm of all clients' differences."""
    codec, everybody = task.compressor.bind(task.d, task.n), np.arange(task.n)
    buf = np.zeros(task.n * codec.max_nbytes, np.uint8)
    x, g, before = task.x0, task.zeros(), task.zeros()
    yield x
    for t in range(rounds):
        if t == 0 or task.coin("uplink", p, t):
            g = task.mean(task.gradients(x))
        else:
            V = np.array([task.gradient(i, x) - task.gradient(i, before) for i in range(task.n)])
            codec.round_maximum[0] = np.sqrt((V**2).sum(axis=1)).max() * (1 + 1e-15)
            keys, out = uplink_keys(task.seed, t), np.zeros((task.n, task.d))
            end = codec.encode(V, everybody, everybody, keys, buf, 0, np.zeros(2, np.int64))
            codec.decode_add(buf, 0, end, everybody, everybody, np.ones(task.n), keys, out)
            g = g + out.mean(axis=0)
        x, before = x - step * g, x
        yield x


SHAPES = {"d=33 n=5": lambda: quadratic(), "d=7 n=10": lambda: quadratic(7, 10), "d=40 n=4": lambda: quadratic(40, 4)}
QUANTIZERS = (
    "cq", "cq:levels=4", "cq:variant=sign-magnitude,entropy=true", "cq:rotate=true", "iq", "iq:levels=3", "permk-cq",
    "permk-cq:parts=2",
)  # fmt: skip


class TestPseudocode:
    T = 210

    @pytest.mark.covering()
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("compressor", QUANTIZERS)
    def test_marina_with_quantizers(self, shape, compressor):
        task = task_of(SHAPES[shape](), compressor)
        oracle = oracles.marina(task, 0.05, self.T, p=0.2)
        same(task.problem, "marina", compressor, oracle, self.T, method_options={"p": 0.2})

    def test_marina_with_a_common_radius(self):
        task = task_of(quadratic(), "cq:radius=common")
        oracle = common_radius_marina(task, 0.05, self.T, p=0.2)
        same(task.problem, "marina", "cq:radius=common", oracle, self.T, method_options={"p": 0.2})

    def test_marina_with_quantizers_on_mushrooms(self):
        task = task_of(mushrooms(), "cq:norm=max")
        oracle = oracles.marina(task, 0.05, self.T, p=0.1)
        same(task.problem, "marina", "cq:norm=max", oracle, self.T, method_options={"p": 0.1})

    @pytest.mark.parametrize("compressor", ["topk:k=3", "sign", "cq:rotate=true,clip=true", "randk:k=3"])
    def test_marina_biased(self, compressor):
        task = task_of(quadratic(), compressor)
        oracle = oracles.marina(task, 0.02, self.T, p=0.2)
        same(task.problem, "marina-biased", compressor, oracle, self.T, step=0.02, method_options={"p": 0.2})

    @pytest.mark.parametrize(("b", "sync"), [(1, 0), (5, 0), (2, 30)])
    def test_vr_marina(self, b, sync):
        task = task_of(mushrooms(), "randk:k=20")
        oracle = vr_marina(task, 0.05, self.T, 0.1, b, sync)
        options = {"p": 0.1, "sync": sync}
        same(task.problem, "vr-marina", "randk:k=20", oracle, self.T, batch=b, method_options=options)

    def test_vr_marina_without_a_batch_draws_one_sample(self):
        task = task_of(mushrooms(), "randk:k=20")
        oracle = vr_marina(task, 0.05, self.T, 0.1, 1)
        same(task.problem, "vr-marina", "randk:k=20", oracle, self.T, method_options={"p": 0.1})

    @pytest.mark.parametrize("catch_up", [True, False])
    @pytest.mark.parametrize("replacement", [True, False])
    def test_pp_marina(self, replacement, catch_up):
        task = task_of(quadratic(33, 8), "randk:k=11")
        q = np.full(8, 1 / 8)
        draw = (lambda t: drawn(task, t, 3, q)) if replacement else (lambda t: nice(task, t, 3))
        oracle = sampled_marina(task, 0.02, self.T, 0.1, draw)
        options = {"p": 0.1, "r": 3, "replacement": replacement, "catch_up": catch_up}
        same(task.problem, "pp-marina", "randk:k=11", oracle, self.T, step=0.02, method_options=options)

    def test_pp_marina_on_mushrooms_with_minibatches(self):
        task = task_of(mushrooms(), "randk:k=40")
        result = run(task.problem, "pp-marina", "randk:k=40", rounds=60, step=0.02, batch=4, method_options={"r": 5})
        other = {"r": 5, "catch_up": False}
        plain = run(task.problem, "pp-marina", "randk:k=40", rounds=60, step=0.02, batch=4, method_options=other)
        np.testing.assert_array_equal(result.x, plain.x)

    @pytest.mark.parametrize("compressor", ["identity", "randk:k=11"])
    def test_marina_by_importance(self, compressor):
        problem = quadratic(33, 8, noise=1.0)
        L_i = problem.smoothness().L_i
        task = task_of(problem, compressor)
        q = L_i / L_i.sum()
        oracle = sampled_marina(task, 0.02, self.T, 0.1, lambda t: drawn(task, t, 3, q), q)
        same(problem, "marina-w", compressor, oracle, self.T, step=0.02, method_options={"tau": 3, "p": 0.1})

    @pytest.mark.parametrize(
        ("up", "down"), [("permk", "permk"), ("randk:k=8", "permk"), ("cq", "randk:k=8,mask=shared"), ("natural", "iq")]
    )
    @pytest.mark.parametrize("beta", [0.3, 1.0])
    def test_m3(self, up, down, beta):
        task = task_of(quadratic(), up)
        oracle = m3(task, down, 0.05, self.T, beta, 0.2, 0.3)
        options = {"beta": beta, "p_up": 0.2, "p_down": 0.3}
        same(task.problem, "m3", up, oracle, self.T, downlink_compressor=down, method_options=options)

    def test_m3_on_mushrooms(self):
        task = task_of(mushrooms(), "permk")
        oracle = m3(task, "permk", 0.02, self.T, 0.4, 0.1, 0.1)
        options = {"beta": 0.4, "p_up": 0.1, "p_down": 0.1}
        same(task.problem, "m3", "permk", oracle, self.T, step=0.02, method_options=options)

    @pytest.mark.parametrize("compressor", ["cq", "iq:levels=3", "permk-cq"])
    def test_marina_p_with_quantizers(self, compressor):
        task = task_of(quadratic(), compressor)
        oracle = oracles.marina_p(task, 0.05, self.T, p=0.3)
        same(task.problem, "marina-p", compressor, oracle, self.T, method_options={"p": 0.3})


# ---- degenerate settings --------------------------------------------------------------------------------------------
FAMILY: dict[str, dict[str, Any]] = {
    "marina": {"compressor": "cq"},
    "marina-biased": {"compressor": "topk:k=2"},
    "vr-marina": {"compressor": "randk:k=5"},
    "pp-marina": {"compressor": "randk:k=5"},
    "marina-w": {"compressor": "randk:k=5"},
    "marina-p": {"compressor": "permk"},
    "m3": {"compressor": "permk"},
}


def all_dense(method: str) -> dict[str, Any]:
    return {"p_up": 1.0, "p_down": 1.0, "beta": 1.0} if method == "m3" else {"p": 1.0}


@pytest.mark.parametrize("method", FAMILY)
class TestDegenerate:
    def test_dense_rounds_only_are_gradient_descent(self, method):
        options = {"step": 0.3, "rounds": 60}
        result = run(quadratic(), method, **FAMILY[method], **options, method_options=all_dense(method))
        np.testing.assert_array_equal(result.x, run(quadratic(), "gd", **options).x)

    def test_dense_rounds_only_have_the_step_of_gradient_descent(self, method):
        result = run(quadratic(), method, **FAMILY[method], rounds=0, method_options=all_dense(method))
        assert result.summary["step"] == pytest.approx(1 / quadratic().smoothness().L, rel=1e-12)

    def test_no_rounds(self, method):
        result = run(quadratic(), method, **FAMILY[method], rounds=0, init="ones")
        np.testing.assert_array_equal(result.x, np.ones(33))
        assert result.summary["bytes"]["uplink"]["message"] == result.summary["bytes"]["downlink"]["message"] == 0

    def test_one_client(self, method):
        result = run(quadratic(9, 1), method, **FAMILY[method], rounds=400, allow_unsafe=True)
        assert result.summary["grad_norm_sq"] < 1e-2 * result.history[0]["grad_norm_sq"]

    def test_the_hosting_of_clients_does_not_matter(self, method, monkeypatch):
        options = {**FAMILY[method], "rounds": 40, "step": 0.02}
        expected = run(quadratic(33, 7), method, **options).summary["iterate_sha256"]
        monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 300)
        assert run(quadratic(33, 7), method, **options).summary["iterate_sha256"] == expected


def test_without_compression_everything_is_gradient_descent():
    options = {"step": 0.3, "rounds": 100}
    expected = run(quadratic(), "gd", **options).x
    for method in ("marina", "marina-biased", "vr-marina", "marina-p"):
        np.testing.assert_allclose(run(quadratic(), method, "identity", **options).x, expected, rtol=1e-11, atol=1e-13)
    both = {"downlink_compressor": "identity", "method_options": {"beta": 1.0}}
    np.testing.assert_allclose(
        run(quadratic(), "m3", "identity", **both, **options).x, expected, rtol=1e-11, atol=1e-13
    )


def test_m3_at_its_corners():
    """Without momentum and with a dense downlink it is MARINA, with a dense uplink MARINA-P, bit for bit."""
    options = {"step": 0.1, "rounds": 100}
    marina = run(quadratic(), "marina", "cq", method_options={"p": 0.2}, **options).x
    corner = run(quadratic(), "m3", "cq", method_options={"p_up": 0.2, "p_down": 1.0, "beta": 1.0}, **options).x
    np.testing.assert_array_equal(corner, marina)
    marina_p = run(quadratic(), "marina-p", "permk", method_options={"p": 0.2}, **options).x
    corner = run(quadratic(), "m3", "permk", method_options={"p_up": 1.0, "p_down": 0.2, "beta": 1.0}, **options).x
    np.testing.assert_array_equal(corner, marina_p)


def test_everybody_sampled_is_marina():
    options = {"step": 0.05, "rounds": 100}
    marina = run(quadratic(), "marina", "randk:k=8", method_options={"p": 0.2}, **options)
    sampled = run(quadratic(), "pp-marina", "randk:k=8", method_options={"p": 0.2, "r": 5}, **options)
    np.testing.assert_allclose(sampled.x, marina.x, rtol=1e-12)
    assert sampled.summary["bytes"]["uplink"]["payload_bits"] == marina.summary["bytes"]["uplink"]["payload_bits"]
    assert theory("pp-marina", "randk:k=8", p=0.2, r=5) == pytest.approx(theory("marina", "randk:k=8", p=0.2))


# ---- step sizes -----------------------------------------------------------------------------------------------------
def theory(
    method: str, compressor: str, problem: mc.Problem | None = None, down: str | None = None, **options: Any
) -> float:
    given = {"downlink_compressor": down} if down else {}
    return run(problem or quadratic(), method, compressor, rounds=0, method_options=options, **given).summary["step"]


def hessians(problem: mc.Problem) -> np.ndarray:
    """A_i, from the gradients."""
    task, d = Task(problem), problem.dim
    zero = np.zeros(d)
    return np.array(
        [[task.gradient(i, e) - task.gradient(i, zero) for e in np.eye(d)] for i in range(problem.n_clients)]
    )


def norm(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix, 2))


@pytest.fixture(scope="module")
def c() -> dict[str, Any]:
    """Smoothness constants of `quadratic()` from its Hessians."""
    A = hessians(quadratic())
    mean, square = A.mean(axis=0), np.mean(A @ A, axis=0)
    L_i, L_pm = np.array([norm(a) for a in A]), norm(square - mean @ mean) ** 0.5
    return {"L": norm(mean), "plus": norm(square) ** 0.5, "pm": L_pm, "L_i": L_i, "max": L_i.max(), "A": A}


class TestStepSizes:
    d, n = 33, 5

    def test_marina_with_quantizers(self, c):
        d, n, p = self.d, self.n, 0.1
        for compressor, V in {
            "cq": (d - 1) / n * c["plus"] ** 2,
            "iq": (d - 1) / n * c["plus"] ** 2,
            "cq:variant=sign-magnitude": (np.sqrt(d) - 1) / n * c["plus"] ** 2,
            "cq:radius=common": min(c["pm"] ** 2 + 2 * d / n**2 * c["max"] ** 2, d / n * c["max"] ** 2),
            "permk-cq": 6 * c["plus"] ** 2 + c["pm"] ** 2,  # parts of at most 7 coordinates: ω_b = 6, A = 7, B = 1
        }.items():
            assert theory("marina", compressor, p=p) == pytest.approx(1 / (c["L"] + np.sqrt((1 - p) / p * V)))

    def test_equal_clients_let_correlation_count(self):
        """Zero Hessian variance: A is d/n² for CQ, (d−1)/n for IQ (marina-family.md §4)."""
        problem, p = quadratic(33, 5, noise=0.0), 0.1
        L = problem.smoothness().L
        for compressor, a in {"cq": 33 / 25, "iq": 32 / 5, "permk": 0.0, "cq:radius=common": 33 / 25}.items():
            assert theory("marina", compressor, problem, p=p) == pytest.approx(1 / (L + L * np.sqrt((1 - p) / p * a)))

    def test_the_gain_of_correlation_with_the_right_constants(self):
        """d = n → ∞, c = 1/32: expected bits relative to CQ, whose A → 0. 12.86, and not the 7.29 that A = d/(4n) gives."""

        def best(a):
            step = lambda p: 1 / (1 + np.sqrt((1 - p) / p * a))  # noqa: E731
            p = cheapest_probability(step, 1 / 32)
            return (p + (1 - p) / 32) / step(p) * 32, p

        assert best(0.25)[0] == pytest.approx(7.287, abs=2e-3) and best(0.25)[1] == pytest.approx(0.021, abs=5e-4)
        assert best(1.0)[0] == pytest.approx(12.86, abs=0.01)

    @pytest.mark.parametrize("compressor", ["cq", "randk:k=3", "permk"])
    def test_p_for_the_fewest_bits(self, compressor):
        """No other p promises fewer bytes; the wire's precision enters."""
        problem, costs = quadratic(), {}
        for wire, itemsize in (("float32", 4), ("float64", 8)):
            options = {"p": "bits"}
            result = run(problem, "marina", compressor, rounds=0, wire_dtype=wire, method_options=options)
            c = {"cq": (itemsize + 5) / (33 * itemsize), "randk:k=3": 3 / 33, "permk": 7 / 33}[compressor]
            grid = np.geomspace(1e-4, 1, 400)
            steps = np.array([methods.build("marina", {}).step_for(setting_of(compressor), p) for p in grid])
            costs[wire] = np.min((grid + (1 - grid) * c) / steps)
            chosen = grid[np.argmin(np.abs(steps - result.summary["step"]))]
            assert (chosen + (1 - chosen) * c) / result.summary["step"] <= costs[wire] * 1.02
        with pytest.raises(ConfigError, match="neither"):
            methods.build("marina", {"p": "least"})

    def test_vr_marina(self, c):
        """γ = 1/(L₋ + √((1−p)/(pn) (ωL₊² + (1+ω)𝓛²/b'))), p = min{ζ/d, b'/(m+b')}; with a sync batch b'/(b+b')."""
        problem, b = mushrooms(), 4
        s, n = problem.smoothness(), 20
        m = np.mean([problem.n_samples(i) for i in range(n)])
        scatter = np.mean(problem.sample_smoothness() ** 2)
        for k, sync in ((10, 0), (1, 0), (10, 100)):
            omega = 112 / k - 1
            p = min(k / 112, b / ((sync or m) + b))
            V = (omega * s.L_plus**2 + (1 + omega) * scatter / b) / n
            result = run(problem, "vr-marina", f"randk:k={k}", rounds=0, batch=b, method_options={"sync": sync})
            assert result.summary["step"] == pytest.approx(1 / (s.L + np.sqrt((1 - p) / p * V)))
            paper = s.L_QM + np.sqrt((1 - p) / (p * n) * (omega * s.L_QM**2 + (1 + omega) * scatter / b))
            assert result.summary["step"] >= 1 / paper * (1 - 1e-12)
        A, p = 1 + 2 * 112 / n, b / (m + b)  # a common radius: A, B = 1 + 2d/n, 1, whatever is known of exact gradients
        V = 2 * 112 / n * s.L_plus**2 + s.L_pm**2 + (A + 1 / n) * scatter / b
        step = run(problem, "vr-marina", "cq:radius=common", rounds=0, batch=b).summary["step"]
        p = min((14 + 8) / (112 * 8), p)
        assert step == pytest.approx(1 / (s.L + np.sqrt((1 - p) / p * V)))

    def test_vr_marina_is_marina_where_there_are_no_samples(self):
        assert theory("vr-marina", "randk:k=3") == theory("marina", "randk:k=3")
        with pytest.raises(ConfigError, match="finite sums"):
            theory("vr-marina", "randk:k=3", sync=3)

    @pytest.mark.parametrize("r", [1, 2, 5])
    def test_pp_marina(self, c, r):
        d, n, k = self.d, self.n, 3
        omega, p = d / k - 1, k / d * r / n
        V = (n - r) / (r * (n - 1)) * c["pm"] ** 2 + omega / r * c["plus"] ** 2
        step = theory("pp-marina", f"randk:k={k}", r=r)
        assert step == pytest.approx(1 / (c["L"] + np.sqrt((1 - p) / p * V)))
        quadratic_mean = np.sqrt(np.mean(c["L_i"] ** 2))
        assert step >= 1 / (quadratic_mean * (1 + np.sqrt((1 - p) * (1 + omega) / (p * r)))) * (1 - 1e-12)
        V = c["pm"] ** 2 / r + omega * (1 / r + (1 - 1 / r) / n) * c["plus"] ** 2
        again = theory("pp-marina", f"randk:k={k}", r=r, replacement=True)
        assert again == pytest.approx(1 / (c["L"] + np.sqrt((1 - p) / p * V)))

    def test_importance_sampling(self, c):
        """Identity: γ = 1/(L₋ + √((1−p)/p L±,w²/τ)) with w_i = L_i/ΣL, L±,w² = ‖(1/n) Σ A_i²/(n w_i) − Ā²‖."""
        tau, p, w = 2, 0.2, c["L_i"] / c["L_i"].sum()
        square = np.mean(c["A"] @ c["A"] / (self.n * w)[:, None, None], axis=0)
        mean = c["A"].mean(axis=0)
        V = norm(square - mean @ mean) / tau
        assert theory("marina-w", "identity", tau=tau, p=p) == pytest.approx(1 / (c["L"] + np.sqrt((1 - p) / p * V)))

    def test_correlated_compressors_are_not_covered_by_sampling(self):
        for compressor in ("permk", "randk:k=3,mask=shared", "cq:radius=common"):
            with pytest.raises(TheoryError):
                theory("pp-marina", compressor)
        assert theory("pp-marina", "cq") > 0

    def test_m3(self, c):
        d, n, up, down, beta = self.d, self.n, 0.2, 0.25, 0.4
        A, omega, theta = 1.0, 4.0, 0.0  # PermK both ways
        L_A2, L_B2 = 2 * c["pm"] ** 2, 2 * c["L"] ** 2
        M2 = 4 * (1 - up) * A / up * c["max"] ** 2 * (1 + 2 * (1 - down) * omega * (down + beta))
        M2 += 4 * ((L_A2 * omega + L_B2 * theta) * (1 - down) / down + c["L"] ** 2 * (1 - beta) ** 2 / beta**2)
        step = theory("m3", "permk", p_up=up, p_down=down, beta=beta)
        assert step == pytest.approx(1 / (c["L"] + np.sqrt(M2)))
        independent = theory("m3", "randk:k=3", down="randk:k=11", p_up=up, p_down=down, beta=beta)
        A, omega, theta = (d / 3 - 1) / n, 2.0, 2.0 / n
        M2 = 4 * (1 - up) * A / up * c["max"] ** 2 * (1 + 2 * (1 - down) * omega * (down + beta))
        M2 += 4 * ((L_A2 * omega + L_B2 * theta) * (1 - down) / down + c["L"] ** 2 * (1 - beta) ** 2 / beta**2)
        assert independent == pytest.approx(1 / (c["L"] + np.sqrt(M2)))

    def test_m3_defaults(self):
        """p = 1/n both ways and β = (p_D/(A(n−1)))^{1/3} ≈ n^{−2/3}."""
        n = 27
        method = methods.build("m3", {})
        setting = setting_of("permk", quadratic(270, n), down="permk")
        assert method.probabilities(setting) == (1 / n, 1 / n)
        assert method.momentum(setting) == pytest.approx((1 / n / (n - 1)) ** (1 / 3))
        assert method.momentum(setting) == pytest.approx(n ** (-2 / 3), rel=0.02)

    def test_minibatches_have_their_own_method(self):
        for method in ("marina", "marina-biased", "pp-marina", "m3", "marina-p"):
            with pytest.raises(TheoryError, match="exact gradients"):
                run(mushrooms(), method, FAMILY[method]["compressor"], rounds=0, batch=3)

    def test_biased_compressors_need_the_derived_rule(self):
        for compressor in ("topk:k=2", "cq:rotate=true,clip=true"):
            with pytest.raises(ConfigError, match="unbiased"):
                run(quadratic(), "marina", compressor, rounds=0)
            assert theory("marina-biased", compressor) > 0


def setting_of(compressor: str, problem: mc.Problem | None = None, down: str = "identity") -> mc.Setting:
    problem = problem or quadratic()
    d, n = problem.dim, problem.n_clients
    return mc.Setting(d, n, 1, mc.compressor(compressor), mc.compressor(down), 0, problem.smoothness, problem=problem)


def test_the_biased_rule():
    """The closed minimiser is the minimum; β = 0 is MARINA's (1−p)/p; A = 0 is √(1−p)/(1−√(1−p)) squared."""
    for p in (0.01, 0.3, 0.9):
        for bias, variance in ((0.9, 0.0), (0.3, 2.0), (1e-6, 5.0)):
            s = np.geomspace(1e-7, p / (1 - p), 200_001)[:-1]
            values = (1 - p) * ((1 + 1 / s) * bias + variance) / (p - (1 - p) * s)
            assert biased_factor(bias, variance, p) == pytest.approx(values.min(), rel=1e-5)
        root = np.sqrt(1 - p)
        assert biased_factor(0.7, 0.0, p) == pytest.approx(0.7 * (root / (1 - root)) ** 2)
        assert biased_factor(0.0, 0.7, p) == pytest.approx(0.7 * (1 - p) / p)
    assert biased_factor(0.5, 1.0, 1.0) == 0.0


def test_the_biased_rule_bounds_the_error_of_a_bad_case():
    """Σ E‖e^t‖² ≤ M² Σ‖dx‖² for Top-1 along a fixed path whose differences are as even as can be."""
    rng, d, n, p = RNG(0), 12, 3, 0.2
    c = mc.compressor("topk:k=1")
    M2 = biased_factor(1 - 1 / d, 0.0, p)
    errors, steps = 0.0, 0.0
    for _ in range(200):
        e = np.zeros(d)
        for _ in range(40):
            change = rng.choice([-1.0, 1.0], d) * (1 + 0.01 * rng.random(d)) if rng.random() < 0.5 else np.ones(d)
            e = np.zeros(d) if rng.random() < p else e + np.mean([c.apply(change) for _ in range(n)], axis=0) - change
            errors, steps = errors + e @ e, steps + change @ change
    assert errors <= M2 * steps


# ---- samplings and weighted constants -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_samplings(kind):
    """E ξ_i = 1/n, E ξ_i² as stated, and the weighted AB inequality, with equality where the paper has it."""
    n, tau, rounds = 6, 2, 20_000
    L_i = np.array([1.0, 2.0, 0.5, 4.0, 1.0, 3.0])
    sampling = Sampling(kind, tau, n, 4, L_i)
    xi = np.array([sampling.weights(t).copy() for t in range(rounds)])
    spread = xi.std(axis=0) / np.sqrt(rounds)
    assert (np.abs(xi.mean(axis=0) - 1 / n) < 5 * spread).all()
    assert (
        np.abs((xi**2).mean(axis=0) - sampling.second_moments()) < 5 * (xi**2).std(axis=0) / np.sqrt(rounds) + 1e-12
    ).all()
    a = RNG(1).standard_normal((n, 3))
    mean = a.mean(axis=0)
    errors = ((xi @ a - mean) ** 2).sum(axis=1)
    A, B, w = sampling.constants()
    assert w.sum() == pytest.approx(1)
    promised = A / n * np.sum((a**2).sum(axis=1) / (n * w)) - B * (mean @ mean)
    assert errors.mean() == pytest.approx(promised, abs=5 * errors.std() / np.sqrt(rounds))
    for wrong in (0, 7) if kind in ("nice", "independent") else (0,):
        with pytest.raises(ConfigError, match="number of clients"):
            Sampling(kind, wrong, n, 0, L_i)


def test_weighted_constants_of_quadratics_are_exact():
    problem = quadratic(20, 6, noise=1.0)
    A, w = hessians(problem), RNG(0).dirichlet(np.ones(6))
    square = np.mean(A @ A / (6 * w)[:, None, None], axis=0)
    mean = A.mean(axis=0)
    expected = norm(square) ** 0.5, norm(square - mean @ mean) ** 0.5
    np.testing.assert_allclose(problem.weighted_smoothness(w), expected, rtol=1e-9)
    s = problem.smoothness()
    np.testing.assert_allclose(problem.weighted_smoothness(np.full(6, 1 / 6)), (s.L_plus, s.L_pm), rtol=1e-9)
    plus, pm = problem.weighted_smoothness(s.L_i / s.L_i.sum())
    assert pm <= plus <= s.L_AM * (1 + 1e-12)
    bound = mc.Problem.weighted_smoothness(problem, w)
    assert min(bound) >= max(expected) * (1 - 1e-12)


def test_functional_inequality_of_quadratics():
    """‖mean A_i u_i‖² ≤ L_A² mean‖u_i‖² + L_B² ‖ū‖²; and equal f_i have L_A = 0."""
    problem = quadratic(12, 4, noise=1.0)
    A, s, rng = hessians(problem), problem.smoothness(), RNG(0)
    for _ in range(300):
        u = rng.standard_normal((4, 12)) * rng.exponential(size=(4, 1)) + rng.standard_normal(12) * rng.choice([0, 3])
        left = np.mean([a @ v for a, v in zip(A, u, strict=True)], axis=0)
        right = s.L_A**2 * (u**2).sum(axis=1).mean() + s.L_B**2 * np.sum(u.mean(axis=0) ** 2)
        assert left @ left <= right
    assert quadratic(12, 4, noise=0.0).smoothness().L_A == 0.0


def test_generator_of_quadratics():
    """λ_min(Ā) = λ, L± = std(ν)(2 + 2cos(π/(d+1)))/4 (marina-family.md §9.5)."""
    problem = quadratic(20, 6, noise=0.5, reg=1e-3)
    A = hessians(problem)
    assert np.linalg.eigvalsh(A.mean(axis=0))[0] == pytest.approx(1e-3, rel=1e-9)
    nu = (A[:, 0, 1] / A[:, 0, 1].mean()) * (-4 * A[:, 0, 1].mean())
    assert problem.smoothness().L_pm == pytest.approx(np.std(nu) * (2 + 2 * np.cos(np.pi / 21)) / 4)


# ---- the theorems ---------------------------------------------------------------------------------------------------
BOUNDED: list[dict[str, Any]] = [
    *({"method": "marina", "compressor": c} for c in ("cq", "iq", "cq:radius=common", "cq:rotate=true", "cq:variant=sign-magnitude")),
    *({"method": "marina", "compressor": c, "method_options": {"p": "bits"}} for c in ("permk-cq", "cq:levels=5", "permk")),
    {"method": "marina-biased", "compressor": "topk:k=6"},
    {"method": "marina-biased", "compressor": "cq:rotate=true,clip=true"},
    {"method": "pp-marina", "compressor": "randk:k=20", "method_options": {"r": 3}},
    {"method": "pp-marina", "compressor": "cq", "method_options": {"r": 3, "replacement": True}},
    *({"method": "marina-w", "compressor": "identity", "method_options": {"sampling": s, "tau": 2}} for s in SAMPLINGS),
    {"method": "marina-w", "compressor": "randk:k=20"},
    {"method": "marina-p", "compressor": "cq"},
    {"method": "m3", "compressor": "permk"},
    {"method": "m3", "compressor": "randk:k=10"},
]  # fmt: skip


@pytest.mark.covering()
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: " ".join(map(str, case.values())))
def test_the_theorems_bound_holds(case, noise):
    """E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT) with the theoretical step, x̂ uniform over the iterates."""
    problem, rounds = quadratic(60, 6, noise=noise, reg=1e-3, seed=11), 300
    means = []
    for seed in range(3):
        result = run(problem, rounds=rounds, seed=seed, eval_every=1, **case)
        means.append(np.mean([row["grad_norm_sq"] for row in result.history[:-1]]))
    task, A = Task(problem), hessians(problem).mean(axis=0)
    b = -np.mean(task.gradients(np.zeros(60)), axis=0)
    delta = task.loss(initial_point(START, 60, 0)) + 0.5 * b @ np.linalg.solve(A, b)
    assert np.mean(means) <= 2 * delta / (result.summary["step"] * rounds)


def test_vr_marina_stays_below_its_bound():
    problem, rounds = mushrooms(), 150
    result = run(problem, "vr-marina", "randk:k=20", rounds=rounds, batch=8, eval_every=1)
    mean = np.mean([row["grad_norm_sq"] for row in result.history[:-1]])
    assert mean <= 2 * result.history[0]["loss"] / (result.summary["step"] * rounds)  # inf f ≥ 0


def test_equal_clients_with_correlated_quantizers_beat_independent_ones():
    """The paper's finding, at the theoretical steps and equal bits: MARINA + CQ below MARINA + IQ where all f_i are equal."""
    problem, norms = quadratic(32, 32, noise=0.0, reg=1e-2), {}
    for compressor in ("cq", "iq"):
        result = run(problem, "marina", compressor, rounds=400, wire_dtype="float32", method_options={"p": "bits"})
        bits = result.summary["bytes"]["uplink"]["values_only"]
        norms[compressor] = np.log(result.summary["grad_norm_sq"] / result.history[0]["grad_norm_sq"]) / bits
    assert norms["cq"] < 1.5 * norms["iq"] < 0


def test_m3_converges_with_a_multiple_of_its_conservative_step():
    problem = quadratic(50, 10, noise=0.1, reg=1e-3)
    options = {"rounds": 1500}
    safe, tuned = (run(problem, "m3", "permk", step=step, **options) for step in ("theory", "theory*4"))
    assert tuned.summary["grad_norm_sq"] < safe.summary["grad_norm_sq"] < 0.3 * safe.history[0]["grad_norm_sq"]
    counts = safe.summary["bytes"]
    dense = 1500 * 10 * 50 * 8
    assert counts["uplink"]["values_only"] < dense / 4 and counts["downlink"]["values_only"] < dense / 4


# ---- exact scalar stability -----------------------------------------------------------------------------------------
def second_moments(h: float, n: int, dense: bool) -> np.ndarray:
    """How (E x², E xu, E u²), u = γg, are mapped by one round of MARINA on n equal (λ/2)x², h = γλ, with half-dropout."""
    if dense:  # x' = x − u, u' = h(x − u)
        return np.array([[1, -2, 1], [h, -2 * h, h], [h**2, -2 * h**2, h**2]])
    second = 1 - 2 * h + h**2 * (1 + 1 / n)  # x' = x − u, u' = u(1 − hS), E S = 1, Var S = 1/n
    return np.array([[1, -2, 1], [0, 1 - h, -(1 - h)], [0, 0, second]])


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_boundary_of_mean_square_stability(n):
    """Stable iff γλ < (n + √(9n² + 16n))/(2(n+2)) for p = 1/2 (marina-family.md §9.6): the moments' spectral radius crosses one there."""
    edge = (n + np.sqrt(9 * n**2 + 16 * n)) / (2 * (n + 2))
    radius = lambda h: np.abs(np.linalg.eigvals(0.5 * (second_moments(h, n, True) + second_moments(h, n, False)))).max()  # noqa: E731
    assert radius(edge) == pytest.approx(1, abs=1e-9)
    assert radius(0.98 * edge) < 1 < radius(1.02 * edge)


def test_scalar_marina_follows_its_second_moments():
    """Each coordinate is a copy of the scalar problem (half-dropout by strata of two); given the coins, the moments are exact."""
    n, d, h, rounds, seed = 3, 20_000, 0.9, 8, 2
    problem = mc.FunctionProblem(lambda i, x: 0.5 * x @ x, lambda i, x: x, dim=d, n_clients=n)
    result = mc.run(
        problem=problem, method="marina", compressor=f"randk:k={d // 2},sampling=stratified", rounds=rounds, step=h, seed=seed,
        init="ones", method_options={"p": 0.5},
    )  # fmt: skip
    moments = np.array([1.0, h, h**2])  # x⁰ = 1, u⁰ = h
    for t in range(1, rounds):
        moments = second_moments(h, n, bool(uniform64(derive(seed, Stream.UPLINK_COIN, t), 0) < 0.5)) @ moments
    final = moments[0] - 2 * moments[1] + moments[2]
    squares = result.x**2
    assert squares.mean() == pytest.approx(final, abs=6 * squares.std() / np.sqrt(d) + 1e-12)


# ---- what travels, and what is known to be wrong elsewhere ----------------------------------------------------------
def test_catching_up_is_counted():
    """x^{t+1} to whom round t+1 asks, x^t to those of them that lack it; all get it for a dense round."""
    problem, rounds, r, p, seed = quadratic(33, 8), 80, 3, 0.1, 3
    result = run(
        problem, "pp-marina", "randk:k=3", rounds=rounds, step=0.02, seed=seed, method_options={"r": r, "p": p}
    )
    task = task_of(problem, "randk:k=3", seed)
    asked = [set(range(8)) if t == 0 or task.coin("uplink", p, t) else set(nice(task, t, r)) for t in range(rounds + 1)]
    vectors = 0
    for t in range(rounds):
        late = asked[t + 1] - asked[t] if len(asked[t + 1]) < 8 else set()
        vectors += len(asked[t + 1]) + len(late)
    counts = result.summary["bytes"]
    assert counts["downlink"]["values_only"] == 8 * 33 * vectors
    assert counts["uplink"]["values_only"] == 8 * sum(33 * 8 if len(a) == 8 else 3 * r for a in asked[:rounds])
    assert counts["downlink"]["values_only"] < 0.8 * 8 * 33 * 8 * rounds


def test_a_silent_client_does_not_move():
    """The catch-up is real: between rounds in which it is asked a client's point stays as it was."""
    from mpicomp.mechanisms.sampled_marina import CatchUpDownlink

    seen, transmit = [], CatchUpDownlink.transmit
    with pytest.MonkeyPatch.context() as patch:

        def watched(self, x, round):
            w = transmit(self, x, round)
            seen.append((self.uplink.asked(round + 1), w.copy(), x.copy()))
            return w

        patch.setattr(CatchUpDownlink, "transmit", watched)
        run(quadratic(33, 8), "pp-marina", "randk:k=3", rounds=40, step=0.02, method_options={"r": 3, "p": 0.1})
    seen = seen[-40:]  # after the warm-up
    stale = 0
    for (_, before, _), (asked, w, x) in pairwise(seen):
        who = np.ones(8, bool) if asked is None else asked
        np.testing.assert_array_equal(w[who], np.repeat(x, who.sum(), axis=0))
        np.testing.assert_array_equal(w[~who], before[~who])
        stale += (~who).sum()
    assert stale > 50


def test_masks_differ_between_clients_and_rounds():
    """Published scripts seed every rank alike, so that all clients keep the same coordinates (defect a)."""
    codec = mc.compressor("randk:k=5").bind(100, 8)
    kept = set()
    for t in range(10):
        keys: Keys = uplink_keys(0, t)
        for i in range(8):
            buf, out, row = np.zeros(codec.max_nbytes, np.uint8), np.zeros((1, 100)), np.zeros(1, np.int64)
            end = codec.encode(np.ones((1, 100)), row, np.array([i]), keys, buf, 0, np.zeros(2, np.int64))
            codec.decode_add(buf, 0, end, row, np.array([i]), np.ones(1), keys, out)
            kept.add(tuple(np.flatnonzero(out[0])))
    assert len(kept) > 40


def test_randk_in_marina_has_the_variance_of_independent_masks():
    """A = ω/n, not ω (defect e), and what the theory promises is what a round does."""
    d, n, k, rounds = 40, 8, 4, 3000
    c = mc.compressor(f"randk:k={k}")
    assert c.ab(d, n) == ((d / k - 1) / n, 0.0)
    x = RNG(0).standard_normal(d)
    codec, everybody = c.bind(d, n), np.arange(n)
    buf, total = np.zeros(n * codec.max_nbytes, np.uint8), np.zeros((rounds, d))
    for t in range(rounds):
        end = codec.encode(x[None], np.zeros(n, np.int64), everybody, uplink_keys(0, t), buf, 0, np.zeros(2, np.int64))
        codec.decode_add(buf, 0, end, np.full(n, t), everybody, np.full(n, 1 / n), uplink_keys(0, t), total)
    errors = ((total - x) ** 2).sum(axis=1)
    assert errors.mean() == pytest.approx((d / k - 1) / n * (x @ x), abs=5 * errors.std() / np.sqrt(rounds))


def test_gradients_are_taken_at_the_current_model():
    """A published VR script evaluates at x = 0 for the whole run (defect b): here the second round sees x¹."""
    points = []

    def gradient(i, x):
        points.append(x.copy())
        return x - 1.0

    problem = mc.FunctionProblem(lambda i, x: 0.5 * float(np.sum((x - 1) ** 2)), gradient, dim=10, n_clients=2)
    result = mc.run(problem=problem, method="marina", compressor="permk", rounds=3, step=0.5, eval_every=3)
    assert {round(float(p[0]), 12) for p in points} >= {0.0, 0.5, 0.75}
    np.testing.assert_allclose(result.x, 0.875)


def test_a_shared_mask_is_broadcast_and_permk_scattered():
    """MARINA-P: SameRandK sends one message for all, PermK another to each, K values each; both counted once per client."""
    options = {"rounds": 50, "step": 0.05, "method_options": {"p": 0.2}}
    shared = run(quadratic(40, 4), "marina-p", "randk:k=10,mask=shared", **options).summary["bytes"]["downlink"]
    permk = run(quadratic(40, 4), "marina-p", "permk", **options).summary["bytes"]["downlink"]
    assert shared["values_only"] == permk["values_only"]
    assert shared["messages"] == 50 and permk["messages"] > 50 * 3


def test_downlink_messages_of_marina_p_use_their_own_keys():
    assert uplink_keys(0, 3) != downlink_keys(0, 3)


# ---- over MPI -------------------------------------------------------------------------------------------------------
RUNS: list[dict[str, Any]] = [
    {"method": "marina", "compressor": "cq"},
    {"method": "marina", "compressor": "cq:radius=common,rotate=true", "wire_dtype": "float32"},
    {"method": "marina", "compressor": "cq:levels=5,entropy=true", "dtype": "float32"},
    {"method": "marina", "compressor": "permk-cq:parts=3", "method_options": {"p": "bits"}},
    {"method": "marina-biased", "compressor": "topk:k=3"},
    {"method": "vr-marina", "compressor": "randk:k=3"},
    {"method": "pp-marina", "compressor": "randk:k=3", "method_options": {"r": 2}},
    {"method": "pp-marina", "compressor": "cq:radius=common", "step": 0.01, "method_options": {"r": 1, "p": 0.1}},
    {"method": "marina-w", "compressor": "identity"},
    {"method": "marina-p", "compressor": "iq:radius=common", "step": 0.05},
    {"method": "m3", "compressor": "cq"},
    {
        "method": "m3",
        "compressor": "permk",
        "downlink_compressor": "cq:radius=common",
        "step": 0.01,
        "method_options": {"beta": 0.5},
    },
]
PROGRAM = """
import json, sys
from mpi4py import MPI
import mpicomp as mc
for case in json.loads(sys.argv[1]):
    for exchange in ("p2p", "collective"):
        result = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, **case)
        if MPI.COMM_WORLD.rank == 0:
            print(result.summary["iterate_sha256"], flush=True)
"""


def cases() -> list[dict[str, Any]]:
    common = {
        "problem": "quadratic",
        "problem_options": {"dim": 40, "reg": 0.01, "noise": 0.3},
        "clients": 9,
        "rounds": 30,
        "seed": 2,
    }
    return [{"init": START, **common, **case} for case in RUNS]


@pytest.mark.full(reason="many jobs; test_exchanges_mpi has every exchange in the quick lane")
@pytest.mark.process
def test_over_mpi_the_same_bits(mpi):
    done = mpi.run(3, ["-c", PROGRAM, json.dumps(cases())], timeout=240).check()
    expected = [mc.run(exchange="local", **case).summary["iterate_sha256"] for case in cases()]
    assert done.out.split() == [sha for sha in expected for _ in range(2)]
