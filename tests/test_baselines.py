"""The baselines against their oracles (`baseline_oracles.py`), in their degenerate cases, and against their theory."""

from __future__ import annotations

from functools import cache
from typing import Any

import baseline_oracles as oracle
import numpy as np
import pytest
from oracles import Task

import mpicomp as mc
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.exchanges import base as exchange_module
from mpicomp.kernels.gaussian import combine, project
from mpicomp.kernels.lowrank import orthonormalize
from mpicomp.kernels.random import Stream, derive
from mpicomp.methods import Setting, methods
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point

T = 220
START = "normal:7"
UNBIASED = ("randk:k=4", "randk:k=4,mask=shared", "permk", "natural", "natural-dithering", "qsgd:levels=4")


@cache
def quadratic(dim: int = 33, clients: int = 5, noise: float = 0.3, reg: float = 1e-2, seed: int = 1) -> mc.Problem:
    return problems.build("quadratic", {"dim": dim, "clients": clients, "noise": noise, "reg": reg, "seed": seed})


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


def run(problem: mc.Problem, method: str, compressor: str = "identity", **options: Any) -> mc.Result:
    return mc.run(
        problem=problem, method=method, compressor=compressor, **{"allow_unsafe": True, "init": START, **options}
    )


def follows(problem, method, trajectory, compressor="identity", step=0.1, rounds=T, seed=3, tolerance=1e-9, **options):
    """The run's losses at every x^t and its x^T are those of the oracle."""
    given = {"step": step, "rounds": rounds, "seed": seed, "eval_every": 1}
    result = run(problem, method, compressor, **given, **options)
    start = initial_point(START, problem.dim, seed)
    task = Task(problem, mc.compressor(compressor), seed, start=start)
    xs = list(trajectory(task, step, rounds))
    losses = np.array([task.loss(x) for x in xs])
    assert np.abs(losses[-1] - losses[0]) > 1e-3 and np.isfinite(losses).all()
    seen = [row["loss"] for row in result.history]
    np.testing.assert_allclose(seen, losses, rtol=tolerance, atol=tolerance * np.ptp(losses))
    assert np.linalg.norm(result.x - xs[-1]) <= tolerance * np.linalg.norm(xs[-1])
    return result


def rate(compressor: str, d: int, n: int) -> float:
    omega = mc.compressor(compressor).omega(d, n)
    return min(1 / (8 * omega), 1 / (1 + omega))


# ---- trajectories -------------------------------------------------------------------------------------------------------
@pytest.mark.covering()
@pytest.mark.parametrize("compressor", UNBIASED)
@pytest.mark.parametrize(
    ("method", "trajectory"),
    [
        ("dasha", oracle.dasha),
        ("artemis", oracle.artemis),
        ("mcm", lambda task, *a: oracle.mcm(task, *a, rate(task.compressor.spec, task.d, task.n))),
        ("rand-mcm", lambda task, *a: oracle.mcm(task, *a, rate(task.compressor.spec, task.d, task.n), private=True)),
        ("dore", lambda task, *a: oracle.dore(task, *a, beta=0.5, eta=0.2)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_on_a_quadratic(method, trajectory, compressor):
    options = {"method_options": {"beta": 0.5, "eta": 0.2}} if method == "dore" else {}
    follows(quadratic(), method, trajectory, compressor, step=0.02, **options)


@pytest.mark.parametrize(
    ("method", "compressor", "trajectory", "options"),
    [
        ("dasha", "randk:k=11", oracle.dasha, {}),
        ("dasha-page", "randk:k=11", lambda *a: oracle.dasha_page(*a, p=0.1, batch=3), {"p": 0.1}),
        ("dasha-mvr", "natural", lambda *a: oracle.dasha_mvr(*a, b=0.3, batch=3), {"b": 0.3}),
        ("vr-diana", "randk:k=11", lambda *a: oracle.vr_diana(*a, p=0.05, batch=3), {"p": 0.05}),
        ("artemis", "natural", oracle.artemis, {}),
        ("dore", "natural", oracle.dore, {"eta": 1.0}),
        ("mcm", "natural", lambda *a: oracle.mcm(*a, rate=0.7), {"rate": 0.7}),
        ("rand-mcm", "randk:k=60", lambda *a: oracle.mcm(*a, rate=0.3, private=True), {"rate": 0.3}),
        ("core", "identity", lambda *a: oracle.core(*a, m=3), {"m": 3}),
        ("powersgd", "identity", lambda *a: oracle.powersgd(*a, rank=2, rows=4), {"rank": 2, "rows": 4}),
        ("local-sgd", "natural", lambda *a: oracle.local_sgd(*a, K=4, local_step=0.0125, batch=3), {"local_steps": 4}),
        ("fedavg", "identity", lambda *a: oracle.local_sgd(*a, K=3, local_step=0.05 / 3, batch=3, sample=8),
         {"local_steps": 3, "fraction": 0.4}),
    ],
)  # fmt: skip
def test_on_mushrooms(method, compressor, trajectory, options):
    batch = 3 if method in ("dasha-page", "dasha-mvr", "vr-diana", "local-sgd", "fedavg") else 0
    follows(mushrooms(), method, trajectory, compressor, step=0.05, rounds=200, method_options=options, batch=batch)


@pytest.mark.parametrize("start", ["dense", "compressed", "zero"])
@pytest.mark.parametrize("a", [None, 0.03])
def test_dasha_starts_and_momenta(start, a):
    given = {"start": start} | ({} if a is None else {"a": a})
    follows(
        quadratic(), "dasha", lambda *o: oracle.dasha(*o, a=a, start=start), "randk:k=4", 0.02, method_options=given
    )


@pytest.mark.parametrize(
    ("rank", "rows", "warm", "rounds"), [(1, None, True, 80), (2, 3, True, T), (3, 11, True, T), (2, 6, False, T)]
)
def test_powersgd(rank, rows, warm, rounds):
    """d = 33: rows of ⌈33/rows⌉, filled up with zeros where rows does not divide it. Of rank 1 the recursion is chaotic: rounding
    errors grow by a tenth in every round, so that fewer rounds can be compared."""
    given = {"rank": rank, "warm_start": warm} | ({} if rows is None else {"rows": rows})
    trajectory = lambda *o: oracle.powersgd(*o, rank=rank, rows=rows or 5, warm_start=warm)  # noqa: E731
    follows(quadratic(), "powersgd", trajectory, step=0.1, rounds=rounds, tolerance=1e-8, method_options=given)


@pytest.mark.parametrize("m", [1, 7])
def test_core(m):
    follows(quadratic(), "core", lambda *o: oracle.core(*o, m=m), step=0.02, method_options={"m": m})


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("local-sgd", {"local_steps": 3}, {"K": 3, "local_step": 0.1 / 3}),
        ("local-sgd", {"local_steps": 4, "local_step": 0.3}, {"K": 4, "local_step": 0.3}),
        ("local-sgd", {"local_steps": 2, "sample": 2}, {"K": 2, "local_step": 0.05, "sample": 2}),
        ("fedavg", {"local_steps": 2, "fraction": 0.6}, {"K": 2, "local_step": 0.05, "sample": 3}),
        ("fedprox", {"local_steps": 5, "local_step": 0.2, "mu": 0.4}, {"K": 5, "local_step": 0.2, "mu": 0.4}),
    ],
)
@pytest.mark.parametrize("compressor", ["identity", "randk:k=11"])
def test_local_steps(method, options, expected, compressor):
    follows(quadratic(), method, lambda *o: oracle.local_sgd(*o, **expected), compressor, method_options=options)


def test_biased_compressors_of_local_updates_go_through_ef21():
    """K = 1 is EF21 itself; with more steps the same scheme follows the mean directions."""
    given = {"step": 0.1, "rounds": 60}
    one = run(quadratic(), "local-sgd", "topk:k=3", method_options={"local_steps": 1}, **given)
    np.testing.assert_array_equal(one.x, run(quadratic(), "ef21", "topk:k=3", **given).x)
    many = run(quadratic(), "local-sgd", "topk:k=3", method_options={"local_steps": 4}, **given)
    exact = run(quadratic(), "local-sgd", method_options={"local_steps": 4}, **given)
    assert many.summary["loss"] == pytest.approx(exact.summary["loss"], abs=0.05) and not np.allclose(many.x, one.x)


# ---- degenerate settings ------------------------------------------------------------------------------------------------
GD_LIKE: list[tuple[str, dict[str, Any]]] = [
    ("dasha", {}), ("dasha", {"start": "compressed"}), ("dasha-page", {}), ("dasha-mvr", {}), ("vr-diana", {}), ("artemis", {}),
    ("dore", {}), ("mcm", {}), ("rand-mcm", {}), ("powersgd", {"rank": 5, "rows": 5}), ("local-sgd", {"local_steps": 1}),
    ("fedavg", {"local_steps": 1, "fraction": 1.0}), ("fedprox", {"local_steps": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), GD_LIKE)
def test_without_compression_it_is_gradient_descent(method, options):
    """dasha: a = 1. powersgd: full rank. local-sgd: K = 1. The stochastic ones: f_i is one sample."""
    expected = run(quadratic(), "gd", step=0.3, rounds=T)
    result = run(quadratic(), method, step=0.3, rounds=T, method_options=options)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [*dict(GD_LIKE), "core"])
def test_no_rounds_and_one_client(method):
    compressor = "identity" if method in ("core", "powersgd") else "natural"
    none = run(quadratic(9, 3), method, compressor, step=0.1, rounds=0, init="ones")
    np.testing.assert_array_equal(none.x, np.ones(9))
    assert {*none.summary["bytes"]["uplink"].values(), *none.summary["bytes"]["downlink"].values()} == {0}
    alone = run(quadratic(9, 1), method, compressor, step=0.02, rounds=60)
    assert alone.history[-1]["loss"] < alone.history[0]["loss"]


def same(problem: mc.Problem, one: tuple, other: tuple, **options: Any) -> None:
    (method, compressor, given), (method2, compressor2, given2) = one, other
    common = {"step": 0.02, "rounds": 100, "seed": 5, **options}
    x = run(problem, method, compressor, method_options=given, **common).x
    y = run(problem, method2, compressor2, method_options=given2, **common).x
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_what_the_methods_become_at_the_ends_of_their_options():
    q, exact = quadratic(), {"downlink_compressor": "identity"}
    diana = run(q, "diana", "randk:k=4", step=0.02, rounds=100).x
    for method in ("artemis", "mcm", "rand-mcm", "dore"):
        np.testing.assert_allclose(run(q, method, "randk:k=4", step=0.02, rounds=100, **exact).x, diana, rtol=1e-9)
    same(q, ("dore", "randk:k=20", {"eta": 0.0}), ("artemis", "randk:k=20", {}))
    same(q, ("vr-diana", "randk:k=4", {}), ("diana", "randk:k=4", {}))
    m, page = mushrooms(), {"p": 1.0}
    same(m, ("dasha-page", "randk:k=11", page), ("dasha", "randk:k=11", {}))
    same(m, ("local-sgd", "natural", {"local_steps": 1}), ("dcgd", "natural", {}), batch=2)
    same(m, ("fedprox", "natural", {"mu": 0.0}), ("local-sgd", "natural", {}), batch=2)
    same(m, ("vr-diana", "natural", {"p": 1.0}), ("vr-diana", "natural", {"p": 0.5}), rounds=1)
    same(m, ("dasha-mvr", "natural", {"b": 1.0}), ("dasha-mvr", "natural", {"b": 0.5}), rounds=1)


# ---- what published code gets wrong (marina-family.md §8) -----------------------------------------------------------------
class Recorded(mc.Problem):
    """f_ij(x) = ½‖x − c_ij‖² with 4 samples each; remembers where minibatch gradients are asked for."""

    n_clients, dim = 3, 5

    def __init__(self):
        self.centres = np.random.default_rng(0).standard_normal((3, 4, 5))
        self.points: list[np.ndarray] = []

    def n_samples(self, i):
        return 4

    def loss(self, i, x):
        return float(0.5 * np.mean(np.sum((x - self.centres[i]) ** 2, axis=1)))

    def gradient(self, i, x, out):
        out[:] = x - self.centres[i].mean(axis=0)

    def batch_gradient(self, i, x, samples, out):
        self.points.append(x.copy())
        out[:] = x - self.centres[i][samples].mean(axis=0)


def test_vr_diana_takes_its_gradients_at_the_current_model():
    """Defect b: in the published script x is broadcast before it is computed, so every gradient is taken at 0."""
    problem, seed, p, step, rounds = Recorded(), 2, 0.2, 0.3, 30
    given = {"step": step, "seed": seed, "batch": 1, "method_options": {"p": p}}
    run(problem, "vr-diana", "identity", rounds=0, **given)
    problem.points.clear()  # those of the warm-up
    warm = len(problem.points)
    run(problem, "vr-diana", "identity", rounds=rounds, **given)
    asked = problem.points[warm:][-rounds * 6 :]  # each round: at w and at x, three clients
    task = Task(problem, mc.compressor("identity"), seed, start=initial_point(START, 5, seed))
    xs = list(oracle.vr_diana(task, step, rounds, p))
    w = xs[0]
    for t in range(rounds):
        expected = [w] * 3 + [xs[t]] * 3
        np.testing.assert_allclose(asked[6 * t : 6 * t + 6], expected, rtol=1e-12)
        if oracle.heads(task, p, t):
            w = xs[t]
    assert len({tuple(np.round(x, 12)) for x in xs}) > 5


@pytest.mark.parametrize("method", ["diana", "artemis"])
def test_dianas_estimator_is_the_shift_plus_the_mean_message(method):
    """Defect c: the published script steps by mean h_i^{k+1} = h + a m, a damped estimator."""
    problem, step, seed = quadratic(), 0.05, 4
    downlink = {"downlink_compressor": "identity"} if method == "artemis" else {}
    result = run(problem, method, "randk:k=4", step=step, rounds=2, seed=seed, **downlink)
    task = Task(problem, mc.compressor("randk:k=4"), seed, start=initial_point(START, 33, seed))
    a, x, h_i = 4 / 33, task.x0, np.zeros((5, 33))
    damped = x
    for t in range(2):
        m_i = np.array([task.up(i, task.gradient(i, x) - h_i[i], t) for i in range(5)])
        g = h_i.mean(axis=0) + m_i.mean(axis=0)
        h_i = h_i + a * m_i
        damped = damped - step * h_i.mean(axis=0)
        x = x - step * g
    np.testing.assert_allclose(result.x, x, rtol=1e-12)
    assert np.linalg.norm(damped - x) > 1e-2 * np.linalg.norm(x)


# ---- what travels -------------------------------------------------------------------------------------------------------
def values(result: mc.Result, direction: str) -> list[int]:
    """Values that travelled in each round (float64 wire)."""
    return (np.diff([row[f"{direction}_values_only"] for row in result.history]) // 8).tolist()


@pytest.mark.parametrize("method", ["dasha", "dasha-page", "dasha-mvr"])
@pytest.mark.parametrize(("start", "first"), [("dense", 112), ("compressed", 11), ("zero", 0)])
def test_dasha_sends_nothing_dense_after_the_first_round(method, start, first):
    result = run(mushrooms(), method, "randk:k=11", step=0.01, rounds=30, eval_every=1, method_options={"start": start})
    assert values(result, "uplink") == [20 * first] + [20 * 11] * 29


def test_core_sends_m_scalars_each_way():
    result = run(quadratic(), "core", step=0.01, rounds=5, eval_every=1, method_options={"m": 3})
    assert values(result, "uplink") == values(result, "downlink") == [5 * 3] * 5


def test_powersgd_sends_p_and_q_each_way():
    result = run(quadratic(), "powersgd", step=0.01, rounds=5, eval_every=1, method_options={"rank": 2, "rows": 5})
    assert values(result, "uplink") == values(result, "downlink") == [5 * 2 * (5 + 7)] * 5


def test_downlinks_are_compressed():
    for method, copies in (("artemis", 1), ("dore", 1), ("mcm", 1), ("rand-mcm", 5)):
        result = run(quadratic(), method, "randk:k=4", step=0.01, rounds=5, downlink_compressor="randk:k=3")
        assert result.summary["bytes"]["downlink"]["payload"] == 5 * copies * 3 * 8
        assert result.summary["bytes"]["uplink"]["payload"] == 5 * 5 * 4 * 8


def test_fedavg_hears_only_those_who_take_part():
    result = run(mushrooms(), "fedavg", step=0.1, rounds=7, eval_every=1, method_options={"fraction": 0.25})
    assert values(result, "uplink") == [5 * 112] * 7


# ---- theory -------------------------------------------------------------------------------------------------------------
def hessians(problem: mc.Problem) -> tuple[np.ndarray, np.ndarray]:
    task, zero = Task(problem), np.zeros(problem.dim)
    b = -np.array(task.gradients(zero))
    A = np.array([[task.gradient(i, e) + b[i] for e in np.eye(problem.dim)] for i in range(problem.n_clients)])
    return A, b


PROVED = [
    ("dasha", "randk:k=6", {}), ("dasha", "randk:k=6", {"start": "compressed"}), ("dasha", "randk:k=6", {"start": "zero"}),
    ("dasha", "randk:k=6,mask=shared", {}), ("dasha", "permk", {}), ("dasha", "randk:k=6", {"a": 0.02}), ("artemis", "randk:k=20", {}),
    ("artemis", "natural", {}), ("dore", "natural", {}), ("dore", "randk:k=20", {"eta": 0.0, "beta": 0.5}), ("dore", "randk:k=30", {}),
    ("mcm", "natural", {}), ("mcm", "randk:k=30", {"rate": 0.5}), ("rand-mcm", "randk:k=30", {"rate": 0.5}), ("rand-mcm", "natural", {}),
    ("core", "identity", {"m": 5}), ("powersgd", "identity", {"rank": 1, "warm_start": False}), ("vr-diana", "randk:k=20", {}),
]  # fmt: skip


@pytest.mark.covering()
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize(("method", "compressor", "options"), PROVED)
def test_the_theorems_bound_holds(method, compressor, options, noise):
    """E‖∇f(x̂^T)‖² ≤ (gap_factor δ⁰/γ + initial_term)/T."""
    problem, rounds = quadratic(60, 6, noise, 1e-3, 11), 300
    A, b = hessians(problem)
    infimum = -0.5 * b.mean(axis=0) @ np.linalg.solve(A.mean(axis=0), b.mean(axis=0))
    x0 = initial_point(START, 60, 0)
    task = Task(problem)
    squared = np.mean([g @ g for g in task.gradients(x0)])
    c = mc.compressor(compressor)
    setting = Setting(60, 6, rounds, c, c, 0, problem.smoothness, 0, 0.0, problem)
    built = methods.build(method, options)
    norms = []
    for seed in range(4):
        result = run(problem, method, compressor, method_options=options, rounds=rounds, seed=seed, eval_every=1)
        norms.append(np.mean([row["grad_norm_sq"] for row in result.history[:-1]]))
    gap = built.gap_factor(setting) * (task.loss(x0) - infimum) / result.summary["step"]
    assert np.mean(norms) <= (gap + built.initial_term(setting, squared)) / rounds


def test_the_theorems_bound_holds_for_minibatches():
    """On logistic regression, where inf f ≥ 0: DASHA-PAGE; DASHA-MVR with its neighbourhood."""
    problem, rounds = mushrooms(), 250
    task = Task(problem, start=initial_point(START, 112, 0))
    gap = 2 * task.loss(task.x0)
    page = run(problem, "dasha-page", "randk:k=30", batch=20, rounds=rounds, eval_every=1)
    assert np.mean([r["grad_norm_sq"] for r in page.history[:-1]]) <= gap / (page.summary["step"] * rounds)
    b, batch = 0.2, 20
    mvr = run(problem, "dasha-mvr", "randk:k=30", batch=batch, rounds=rounds, eval_every=1, method_options={"b": b})
    spread = []
    for i in range(20):
        singles = np.array([oracle.batch_gradient(task, i, task.x0, np.array([s])) for s in range(0, 400, 8)])
        spread.append(np.mean(np.sum((singles - task.gradient(i, task.x0)) ** 2, axis=1)))
    setting = Setting(
        112,
        20,
        rounds,
        mc.compressor("randk:k=30"),
        mc.compressor("identity"),
        0,
        problem.smoothness,
        batch,
        406.2,
        problem,
    )
    floor = (
        2 * b**2 * 4 * np.mean(spread) / batch * methods.build("dasha-mvr", {"b": b}).memory(setting)
    )  # 4: σ² away from x⁰
    assert np.mean([r["grad_norm_sq"] for r in mvr.history[:-1]]) <= gap / (mvr.summary["step"] * rounds) + floor


def test_step_sizes():
    """Each formula once more, from Hessians."""
    problem, d, n, k = quadratic(), 33, 5, 11
    A, _ = hessians(problem)
    mean, square = A.mean(axis=0), np.mean(A @ A, axis=0)
    L, L_plus = np.linalg.norm(mean, 2), np.sqrt(np.linalg.norm(square, 2))
    L_i = np.array([np.linalg.norm(a, 2) for a in A])
    L_pm2, L_QM2 = np.linalg.norm(square - mean @ mean, 2), np.mean(L_i**2)
    omega, D = d / k - 1, d / k
    a = 1 / D
    half, quarter = 1 - np.sqrt(1 - a), 1 - np.sqrt(1 - 1 / (8 * omega))
    P = omega / quarter**2
    moved = omega / n * (1 + 2 * np.sqrt(P)) ** 2 / half**2
    rand = min(L_QM2 * omega, 2 * L_pm2 * omega + 2 * L**2 * omega / n) / quarter**2
    expected = {
        "dasha": 1 / (L + L_plus * np.sqrt(2 * omega * (2 * omega + 1) / n)),
        "artemis": min(1 / (2 * L * D), a / (L_plus * np.sqrt(8 * omega / n * D))),
        "dore": min(1 / (16 * L * D), a / (L_plus * np.sqrt(32 * omega / n * D))),
        "mcm": 1 / (L + np.sqrt(L**2 * P + moved * L_plus**2)),
        "rand-mcm": 1 / (L + np.sqrt(rand + moved * L_QM2)),
        "vr-diana": 1 / (10 * L_i.max() * np.sqrt(1 + omega / n) * (omega + 2)),
    }
    for method, step in expected.items():
        assert run(problem, method, f"randk:k={k}", rounds=1).summary["step"] == pytest.approx(step, rel=1e-6), method
    assert run(problem, "core", rounds=1, method_options={"m": 4}).summary["step"] == pytest.approx(
        1 / (L * (1 + 34 / 4))
    )
    fresh = run(problem, "powersgd", rounds=1, method_options={"rank": 2, "warm_start": False}).summary["step"]
    assert fresh == pytest.approx(1 / (2 * L * (1 + (1 + np.sqrt(0.6)) / 0.4 - 1)))


def test_step_sizes_of_the_stochastic_variants():
    problem, batch, p, b = mushrooms(), 10, 0.1, 0.3
    s, noise = problem.smoothness(), np.mean(problem.sample_smoothness() ** 2) / batch
    K, n = 2 * 9 * 19 / 20, 20  # ω = 9
    change = (np.sqrt(p) * s.L_plus + np.sqrt((1 - p) * noise)) ** 2 + (1 - p) * (s.L_plus**2 + noise)
    page = K * change + (1 - p) / (p * n) * noise
    mvr = 2 * K * s.L_plus**2 + 2 * (1 - b) ** 2 * noise * ((2 + b) / (2 - b) * K + 1 / (n * b * (2 - b)))
    c = mc.compressor("randk:fraction=0.1")
    setting = Setting(110, n, 10, c, c, 0, lambda: s, batch, 406.0, problem)
    assert methods.build("dasha-page", {"p": p}).step_size(setting) == pytest.approx(1 / (s.L + np.sqrt(page)))
    assert methods.build("dasha-mvr", {"b": b}).step_size(setting) == pytest.approx(1 / (s.L + np.sqrt(mvr)))
    assert methods.build("dasha-page", {}).probability(setting) == pytest.approx(10 / 416)
    largest = np.sqrt(np.max(s.L_i**2 + problem.sample_smoothness() ** 2))
    diana = 1 / (10 * largest * np.sqrt(1 + 9 / 20) * (406 ** (2 / 3) + 10))
    assert methods.build("vr-diana", {}).step_size(setting) == pytest.approx(diana)


@pytest.mark.parametrize(
    ("method", "compressor", "options", "words"),
    [
        ("powersgd", "identity", {}, "warm_start': False"),
        ("local-sgd", "identity", {}, "no step size is known.*step="),
        ("fedavg", "identity", {"local_steps": 1}, "no step size is known.*step="),
        ("dore", "randk:k=4", {"eta": 1.0}, "up to eta"),
        ("mcm", "randk:k=4", {"rate": 0.9}, "rate=0.9"),
        ("dasha", "randk:k=4", {"a": 0.5}, "below"),
        ("vr-diana", "randk:k=4", {"shift_step": 0.01}, "shift_step"),
        ("artemis", "topk:k=3", {"shift_step": 0.1}, "biased"),
    ],
)
def test_where_no_theorem_holds_it_says_so(method, compressor, options, words):
    with pytest.raises(TheoryError, match=words):
        run(quadratic(), method, compressor, rounds=1, method_options=options)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("dasha", {"start": "x"}, "start"), ("dasha", {"a": 2.0}, "not in"), ("dasha-mvr", {"b": 0}, "not in"),
        ("core", {"m": 0}, "at least 1"),
        ("powersgd", {"rank": 9}, "from 1 to 5"), ("powersgd", {"rows": 40}, "dimension"), ("local-sgd", {"local_steps": 0}, "at least 1"),
        ("local-sgd", {"local_step": -1.0}, "positive"), ("fedavg", {"fraction": 0.0}, "fraction"), ("fedprox", {"mu": -1.0}, "negative"),
        ("dore", {"beta": 0.0}, "beta"), ("mcm", {"rate": 2.0}, "rate"), ("local-sgd", {"sample": 9}, "between 1"),
    ],
)  # fmt: skip
def test_wrong_options_are_explained(method, options, words):
    with pytest.raises(ConfigError, match=words):
        run(quadratic(), method, step=0.1, rounds=1, method_options=options)


def test_methods_that_are_their_own_compression_say_so():
    for method in ("core", "powersgd"):
        with pytest.raises(ConfigError, match="own compression"):
            mc.run(problem=quadratic(), method=method, compressor="natural", step=0.1, rounds=1)


# ---- CORE and PowerSGD ----------------------------------------------------------------------------------------------------
def test_core_is_unbiased_with_the_stated_second_moment():
    d, m, draws = 12, 3, 8000
    v = np.random.default_rng(0).standard_normal((1, d))
    p, xi, g = np.zeros((1, m)), np.zeros(d), np.zeros((draws, d))
    for r in range(draws):
        key = derive(0, Stream.TEST, r)
        project(key, v, xi, p)
        combine(key, p[0], xi, g[r])
    deviation = g.std(axis=0) / np.sqrt(draws)
    assert (np.abs(g.mean(axis=0) - v[0]) <= 5 * deviation).all()
    squares = (g**2).sum(axis=1) / (v**2).sum()
    assert abs(squares.mean() - (1 + (d + 1) / m)) <= 5 * squares.std() / np.sqrt(draws)


def low_rank_problem(rows: int, cols: int, rank: int, n: int = 3) -> tuple[mc.Problem, np.ndarray]:
    """f_i(X) = ½‖X − X_i‖², where the mean of the X_i, of full rank each, has a low one."""
    rng = np.random.default_rng(1)
    mean = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, cols))
    own = rng.standard_normal((n, rows, cols))
    targets = (own - own.mean(axis=0) + mean).reshape(n, -1)
    problem = mc.FunctionProblem(
        lambda i, x: 0.5 * float(np.sum((x - targets[i]) ** 2)),
        lambda i, x: x - targets[i],
        dim=rows * cols,
        n_clients=n,
    )
    return problem, mean.ravel()


@pytest.mark.parametrize(("rows", "cols", "rank"), [(5, 6, 1), (5, 6, 2), (4, 9, 3)])
def test_powersgd_is_exact_on_gradients_of_its_rank(rows, cols, rank):
    problem, mean = low_rank_problem(rows, cols, rank)
    options = {"rank": rank, "rows": rows}
    result = run(problem, "powersgd", step=1.0, rounds=1, init="zero", method_options=options)
    np.testing.assert_allclose(result.x, mean, rtol=1e-9, atol=1e-11)
    if rank > 1:
        less = run(problem, "powersgd", step=1.0, rounds=1, init="zero", method_options={**options, "rank": rank - 1})
        assert np.linalg.norm(less.x - mean) > 1e-3


def test_powersgd_survives_gradients_of_lower_rank_than_its_own():
    """From x⁰ = 0 the first gradients have rank 1 or 0: columns of Q that come out as zero are drawn anew."""
    problem, mean = low_rank_problem(5, 6, 1)
    result = run(problem, "powersgd", step=0.5, rounds=60, init="zero", method_options={"rank": 3, "rows": 5})
    np.testing.assert_allclose(result.x, mean, rtol=1e-9, atol=1e-11)
    still = mc.FunctionProblem(lambda i, x: 0.0, lambda i, x: 0 * x, dim=12, n_clients=2)
    assert not run(still, "powersgd", step=0.5, rounds=5, init="zero").x.any()


def test_gram_schmidt():
    rng = np.random.default_rng(3)
    P = rng.standard_normal((9, 4))
    P[:, 2] = P[:, 0] - 2 * P[:, 1]  # dependent
    P[:, 3] *= 1e-120
    Q = P.copy()
    orthonormalize(Q, 1e-14)
    np.testing.assert_allclose(Q.T @ Q, np.diag([1.0, 1, 0, 1]), atol=1e-14)
    np.testing.assert_allclose(Q @ (Q.T @ P), P, atol=1e-13)


def test_powersgd_captures_at_least_its_share_with_a_fresh_q():
    """E‖P Pᵀ M‖² ≥ (r/min(rows, cols)) ‖M‖² for Gaussian Q; equality where all singular values are equal."""
    rng, rows, cols = np.random.default_rng(0), 5, 8
    for values_ in (np.ones(5), 2.0 ** -np.arange(5), np.array([1, 1, 1e-3, 1e-3, 1e-3])):
        M = (
            np.linalg.qr(rng.standard_normal((rows, rows)))[0]
            @ np.diag(values_)
            @ np.linalg.qr(rng.standard_normal((cols, rows)))[0].T
        )
        for r in (1, 3):
            kept = np.array(
                [np.sum((np.linalg.qr(M @ rng.standard_normal((cols, r)))[0].T @ M) ** 2) for _ in range(2000)]
            ) / np.sum(M**2)
            assert kept.mean() >= r / 5 - 5 * kept.std() / np.sqrt(2000) - 1e-12
            if values_.min() == 1:
                np.testing.assert_allclose(kept, r / 5, rtol=1e-9)


# ---- the same bits everywhere ---------------------------------------------------------------------------------------------
EVERYWHERE: list[dict[str, Any]] = [
    {"method": "vr-diana", "compressor": "randk:k=9", "batch": 2, "method_options": {"p": 0.3}},
    {"method": "dasha", "compressor": "randk:k=9", "wire_dtype": "float32"},
    {"method": "dasha-page", "compressor": "permk", "batch": 2, "method_options": {"p": 0.3}},
    {"method": "dasha-mvr", "compressor": "natural-dithering", "batch": 2},
    {"method": "artemis", "compressor": "natural", "dtype": "float32"},
    {"method": "dore", "compressor": "natural", "downlink_compressor": "cast:to=bfloat16", "method_options": {"eta": 1.0}},
    {"method": "mcm", "compressor": "randk:k=9", "downlink_compressor": "natural"},
    {"method": "rand-mcm", "compressor": "randk:k=9", "downlink_compressor": "randk:k=50", "wire_dtype": "float32"},
    {"method": "core", "compressor": "identity", "wire_dtype": "float32"},
    {"method": "powersgd", "compressor": "identity"},
    {"method": "powersgd", "compressor": "identity", "dtype": "float32", "method_options": {"rank": 3, "rows": 8}},
    {"method": "local-sgd", "compressor": "eden:bits=2", "batch": 2},
    {"method": "fedavg", "compressor": "natural", "batch": 2, "method_options": {"fraction": 0.3}},
    {"method": "fedprox", "compressor": "drive:scale=mse", "method_options": {"sample": 7}},
    {"method": "dcgd", "compressor": "drive:rotation=shared"},
    {"method": "ef21", "compressor": "eden:bits=3,scale=mse"},
]  # fmt: skip
COMMON = {
    "data": "mushrooms",
    "clients": 20,
    "rounds": 12,
    "step": 0.02,
    "seed": 5,
    "init": START,
    "allow_unsafe": True,
}


@pytest.mark.parametrize(
    "index", range(len(EVERYWHERE)), ids=lambda i: f"{EVERYWHERE[i]['method']} {EVERYWHERE[i]['compressor']}"
)
def test_the_same_bits_with_clients_in_small_groups(index, monkeypatch):
    options = {**COMMON, **EVERYWHERE[index], "problem": mushrooms()}
    expected = mc.run(**options).summary["iterate_sha256"]
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 900)
    assert mc.run(**options).summary["iterate_sha256"] == expected


@pytest.mark.parametrize("index", range(14), ids=lambda i: f"{EVERYWHERE[i]['method']} {EVERYWHERE[i]['compressor']}")
def test_a_resumed_run_equals_the_uninterrupted_one(index, tmp_path):
    """All that a method remembers is in its declared state."""
    options = {**COMMON, **EVERYWHERE[index], "problem": mushrooms()}
    expected = mc.run(**options).summary["iterate_sha256"]
    mc.run(**{**options, "rounds": 7}, out=str(tmp_path), checkpoint_every=5)
    resumed = mc.run(**options, out=str(tmp_path), resume="auto")
    assert resumed.summary["iterate_sha256"] == expected


@pytest.mark.night
@pytest.mark.full(reason="all baselines in both exchanges")
@pytest.mark.process
def test_the_same_bits_over_mpi(mpi):
    """All baselines in one job, in both exchanges; and what the ranks keep in common is the same on all of them."""
    mpi.run(3, [__file__], timeout=120).check()


def main() -> None:
    """What each rank of `test_the_same_bits_over_mpi` does."""
    from mpi4py import MPI

    from mpicomp.cluster.comm import Comm
    from mpicomp.exchanges.p2p import P2PExchange
    from mpicomp.runtime.config import Config
    from mpicomp.runtime.exchanges import exchange_setting
    from mpicomp.runtime.loop import _configured
    from mpicomp.runtime.session import Composition, Session

    world = MPI.COMM_WORLD
    for index, own in enumerate(EVERYWHERE):
        options = {**COMMON, **own}
        seen = [mc.run(comm=world, exchange=e, **options, problem=mushrooms()) for e in ("p2p", "collective")]
        if world.rank == 0:
            alone = mc.run(**options, problem=mushrooms()).summary["iterate_sha256"]
            assert [r.summary["iterate_sha256"] for r in seen] == [alone] * 2, (index, own)
        config = _configured(Config(), {**options, "exchange": "p2p"})
        composition = Composition(config, mushrooms())
        comm = Comm(world)
        exchange = P2PExchange.create(exchange_setting(config, mushrooms(), composition, comm))
        session = Session(config, mushrooms(), composition.parts(0.02), exchange, 0.02)
        for t in range(6):
            session.round(t)
        session.exchange.finish()
        shared = [session.x] if session.replicated else []
        shared += [getattr(part, name) for part, name in SHARED.get(own["method"], lambda s: [])(session)]
        copies = world.allgather([array.tobytes() for array in shared])
        assert all(copy == copies[0] for copy in copies), own
        if own["method"] == "rand-mcm":
            rows = world.allgather(getattr(session.downlink, "H_i", None))
            if world.rank == 0:
                np.testing.assert_array_equal(session.downlink.H_i_at_server, np.concatenate(rows[1:]))
        comm.free()


SHARED: dict[str, Any] = {
    "powersgd": lambda s: [(s.uplink, "P"), (s.uplink, "Q"), (s.uplink, "g")],
    "core": lambda s: [(s.uplink, "p"), (s.uplink, "g")],
    "mcm": lambda s: [(s.downlink, "H"), (s.downlink, "w")],
}

if __name__ == "__main__":
    main()
