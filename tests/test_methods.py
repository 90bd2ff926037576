"""Every method follows its paper's pseudocode (`oracles.py`), its degenerate cases are gradient descent, and its theory holds."""

from __future__ import annotations

import lzma
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import oracles
import pytest
from oracles import METHODS, Task

import mpicomp as mc
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point

T = 220
RUN = {"eval_every": 1, "allow_unsafe": True}
START = "normal:7"  # x⁰ = 0 makes sparse gradients on the quadratics, where Top-k has nothing to leave out


@cache
def quadratic(dim: int, clients: int, noise: float = 0.3, reg: float = 1e-2, seed: int = 1) -> mc.Problem:
    return problems.build("quadratic", {"dim": dim, "clients": clients, "noise": noise, "reg": reg, "seed": seed})


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


PROBLEMS = {
    "quadratic d=33 n=5": lambda: quadratic(33, 5),  # n does not divide d
    "quadratic d=7 n=10": lambda: quadratic(7, 10),  # n > d, d does not divide n
    "quadratic d=12 n=4": lambda: quadratic(12, 4),
    "mushrooms d=112 n=20": mushrooms,
}


def run(problem: mc.Problem, method: str, compressor: str | None = None, **options: Any) -> mc.Result:
    return mc.run(problem=problem, method=method, compressor=compressor or "identity", **{**RUN, **options})


def default_p(compressor: mc.Compressor, problem: mc.Problem, wire: str = "float64") -> float:
    """p = ζ/d; for quantisers, which send all d values in few bits each, the length of a message over a dense one's."""
    d, n = problem.dim, problem.n_clients
    values = compressor.density(d, n)
    return values / d if values < d else compressor.bind(d, n, wire).max_nbytes / (d * np.dtype(wire).itemsize)


def compare(
    problem: mc.Problem,
    method: str,
    compressor: str = "identity",
    step: float = 0.1,
    rounds: int = T,
    seed: int = 3,
    momentum: float = 0.0,
    tolerance: float = 1e-10,
    same_bits: bool = False,
    wire: str | None = None,
    dtype: str = "float64",
    **method_options: Any,
) -> tuple[mc.Result, Task]:
    """Run a method by the package and by its oracle, and compare x^T and the loss at every x^t."""
    given: dict[str, Any] = {"method_options": method_options, "step": step, "rounds": rounds, "seed": seed}
    given.update(dtype=dtype, init=START)
    if wire:
        given["wire_dtype"] = wire
    if momentum:
        given.update(optimizer="heavyball", optimizer_options={"momentum": momentum})
        method_options = {**method_options, "momentum": momentum}
    result = run(problem, method, compressor, **given)
    c = mc.compressor(compressor)
    start = initial_point(START, problem.dim, seed)
    task = Task(problem, c, seed, np.dtype(dtype).type, np.dtype(wire or dtype).type, start)
    if method.startswith("marina") and "p" not in method_options:
        method_options = {**method_options, "p": default_p(c, problem, wire or dtype)}
    xs = list(METHODS[method](task, step, rounds, **method_options))
    losses = np.array([task.loss(x) for x in xs])
    assert len(result.history) == rounds + 1
    assert np.abs(losses[-1] - losses[0]) > 1e-3, "the run went nowhere, so the comparison says nothing"
    np.testing.assert_allclose(
        [row["loss"] for row in result.history], losses, rtol=tolerance, atol=tolerance * np.ptp(losses)
    )
    assert np.linalg.norm(result.x - xs[-1]) <= tolerance * np.linalg.norm(xs[-1])
    if same_bits:
        np.testing.assert_array_equal(result.x, xs[-1])
    return result, task


# ---- trajectories -------------------------------------------------------------------------------------------------------
# The receiver multiplies a value by its weight once; where the decoded value is itself a product (d/k · x), or a client-side scale
# enters (ef14, C/(1+ω)), the oracle multiplies in another order, and only rounding errors agree.
EXACT = ("identity", "topk:k=2", "sign", "qsgd:levels=4", "qsgd:bits=3,bucket=8,norm=max", "natural")
UNBIASED = (
    "identity",
    "randk:k=3",
    "randk:k=3,mask=shared",
    "randk:k=3,sampling=uniform",
    "randk:k=3,mask=shared,sampling=stratified",
    "permk",
    "permk:layout=uniform",
    "qsgd:levels=4",
    "qsgd:bits=3,bucket=8,norm=max",
    "natural",
)
CONTRACTIVE = (
    "identity",
    "topk:k=2",
    "sign",
    "randk:k=3",
    "randk:k=3,mask=shared",
    "permk",
    "qsgd:levels=4",
    "natural",
)


@pytest.mark.covering(2)
@pytest.mark.parametrize("problem", list(PROBLEMS)[:3])
@pytest.mark.parametrize("compressor", UNBIASED)
@pytest.mark.parametrize("method", ["dcgd", "diana", "marina", "marina-p"])
def test_methods_for_unbiased_compressors(method, compressor, problem):
    options = {"p": 0.2} if method.startswith("marina") and compressor in EXACT else {}  # ζ = d, so ζ/d would be 1
    compare(PROBLEMS[problem](), method, compressor, same_bits=compressor in EXACT, **options)


@pytest.mark.covering(2)
@pytest.mark.parametrize("problem", list(PROBLEMS)[:3])
@pytest.mark.parametrize("compressor", CONTRACTIVE)
@pytest.mark.parametrize("method", ["ef14", "ef21", "ef21-p"])
def test_methods_for_contractive_compressors(method, compressor, problem):
    exact = compressor in ("identity", "topk:k=2", "sign") and method != "ef14"
    compare(PROBLEMS[problem](), method, compressor, same_bits=exact)


@pytest.mark.parametrize(
    ("method", "compressor"),
    [
        ("gd", "identity"),
        ("dcgd", "natural"),
        ("diana", "randk:k=11"),
        ("ef14", "topk:k=2"),
        ("ef21", "topk:k=2"),
        ("ef21-p", "topk:k=3"),
        ("marina", "permk"),
        ("marina-p", "permk:layout=uniform"),
    ],
)
def test_on_mushrooms(method, compressor):
    compare(mushrooms(), method, compressor, step=0.05)


@pytest.mark.parametrize("start", ["compressed", "dense", "zero"])
@pytest.mark.parametrize("compressor", ["topk:k=1", "randk:k=3"])
def test_ef21_starts(start, compressor):
    compare(quadratic(33, 5), "ef21", compressor, start=start)


def test_ef21_starts_differ():
    compressed, dense, zero = (
        run(quadratic(33, 5), "ef21", "topk:k=1", step=0.1, rounds=50, init=START, method_options={"start": start}).x
        for start in ("compressed", "dense", "zero")
    )
    assert not np.allclose(compressed, dense) and not np.allclose(compressed, zero) and not np.allclose(dense, zero)


@pytest.mark.parametrize("shift_step", [0.02, 0.3])
def test_diana_with_a_given_shift_step(shift_step):
    compare(quadratic(33, 5), "diana", "randk:k=11", step=0.02, shift_step=shift_step)


@pytest.mark.parametrize("method", ["marina", "marina-p"])
@pytest.mark.parametrize("p", [0.01, 0.7])
def test_marina_with_a_given_p(method, p):
    compare(quadratic(33, 5), method, "randk:k=11", p=p)


@pytest.mark.parametrize(
    ("method", "compressor"), [("gd", "identity"), ("ef21", "topk:k=3"), ("diana", "natural"), ("marina", "permk")]
)
def test_heavy_ball(method, compressor):
    compare(
        quadratic(33, 5), method, compressor, momentum=0.7, same_bits=compressor in ("identity", "topk:k=3", "natural")
    )


@pytest.mark.parametrize(
    ("method", "compressor"),
    [
        ("gd", "identity"),
        ("dcgd", "qsgd:levels=4"),
        ("diana", "natural"),
        ("ef14", "sign"),
        ("ef21", "topk:k=3"),
        ("ef21-p", "topk:k=3"),
        ("marina", "permk"),
        ("marina-p", "permk"),
    ],
)
class TestPrecision:
    def test_wire_in_float32_under_a_computation_in_float64(self, method, compressor):
        """Both ends update from what arrived, so nothing drifts: the oracle that rounds each message agrees to rounding in float64."""
        result, _ = compare(quadratic(33, 5), method, compressor, wire="float32")
        assert result.x.dtype == np.float64
        assert not np.array_equal(
            result.x, run(quadratic(33, 5), method, compressor, step=0.1, rounds=T, seed=3, init=START).x
        )

    def test_all_in_float32(self, method, compressor):
        result, _ = compare(quadratic(33, 5), method, compressor, dtype="float32", tolerance=3e-6, rounds=60)
        assert result.x.dtype == np.float32

    def test_initial_point(self, method, compressor):
        problem = quadratic(12, 4)
        result = run(problem, method, compressor, step=0.1, rounds=20, init="ones")
        c = mc.compressor(compressor)
        options = {"p": default_p(c, problem)} if method.startswith("marina") else {}
        *_, x = METHODS[method](Task(problem, c, 0, start=np.ones(12)), 0.1, 20, **options)
        np.testing.assert_allclose(result.x, x, rtol=1e-12)
        assert result.history[0]["loss"] == pytest.approx(Task(problem).loss(np.ones(12)), rel=1e-14)


def test_gradient_norms_in_the_history():
    problem = quadratic(12, 4)
    task = Task(problem)
    rows = run(problem, "gd", step=0.3, rounds=30).history
    norms = [np.sum(task.full_gradient(x) ** 2) for x in oracles.gd(task, 0.3, 30)]
    np.testing.assert_allclose([row["grad_norm_sq"] for row in rows], norms, rtol=1e-12)


def test_ef21_on_mushrooms_with_nothing_of_the_package():
    """Data, gradient, Top-k and method in plain NumPy, from the shipped file on."""
    labels, rows = [], []
    with lzma.open(str(files("mpicomp.data") / "files" / "mushrooms.svm.xz"), "rt") as file:
        for line in file:
            label, *entries = line.split()
            labels.append(float(label))
            rows.append([entry.split(":") for entry in entries])
    d = max(int(index) for row in rows for index, _ in row)
    A = np.zeros((len(rows), d))
    for r, row in enumerate(rows):
        for index, value in row:
            A[r, int(index) - 1] = float(value)
    y = np.where(np.array(labels) == max(labels), 1.0, -1.0)
    n, k, step = 20, 3, 0.05
    share = len(y) // n
    parts = [slice(i * share, (i + 1) * share if i < n - 1 else len(y)) for i in range(n)]

    def gradient(part, x):
        s = -y[part] / (1 + np.exp(y[part] * (A[part] @ x)))
        return A[part].T @ s / len(s) + 0.1 * 2 * x / (1 + x**2) ** 2

    def loss(part, x):
        return np.mean(np.log1p(np.exp(-y[part] * (A[part] @ x)))) + 0.1 * np.sum(x**2 / (1 + x**2))

    x, g_i = np.zeros(d), np.zeros((n, d))
    for _ in range(200):
        for i, part in enumerate(parts):
            v = gradient(part, x) - g_i[i]
            kept = np.argsort(-np.abs(v), kind="stable")[:k]
            g_i[i, kept] += v[kept]
        x = x - step * g_i.mean(axis=0)
    result = mc.run(method="ef21", compressor=f"topk:k={k}", rounds=200, step=step)
    np.testing.assert_allclose(result.x, x, rtol=1e-9, atol=1e-12)
    assert result.summary["loss"] == pytest.approx(np.mean([loss(part, x) for part in parts]), rel=1e-12)


@pytest.mark.parametrize(("method", "direction"), [("marina", "uplink"), ("marina-p", "downlink")])
@pytest.mark.parametrize("compressor", ["qsgd:levels=4", "natural"])
def test_marina_compresses_with_a_quantiser(method, direction, compressor):
    """The default p must leave something to compress, for any compressor whose messages are shorter than dense ones."""
    counts = [run(quadratic(33, 5), m, compressor, rounds=100).summary["bytes"] for m in ("gd", method)]
    assert counts[1][direction]["values_only"] < 0.9 * counts[0][direction]["values_only"]


# ---- degenerate settings ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dcgd", {}),
        ("ef14", {}),
        ("ef21", {}),
        ("ef21", {"start": "dense"}),
        ("ef21-p", {}),
        ("marina", {}),
        ("marina-p", {}),
        ("diana", {}),
    ],
)
def test_without_compression_every_method_is_gradient_descent(method, options):
    problem = quadratic(33, 5)
    expected = run(problem, "gd", step=0.3, rounds=T, init=START)
    result = run(problem, method, "identity", step=0.3, rounds=T, init=START, method_options=options)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(
        [row["loss"] for row in result.history], [row["loss"] for row in expected.history], rtol=1e-11, atol=1e-13
    )
    if method in ("dcgd", "marina", "marina-p"):
        np.testing.assert_array_equal(result.x, expected.x)


@pytest.mark.parametrize("method", ["marina", "marina-p"])
@pytest.mark.parametrize("compressor", ["permk", "randk:k=2", "natural"])
def test_marina_with_p_equal_to_one_is_gradient_descent(method, compressor):
    problem = quadratic(33, 5)
    result = run(problem, method, compressor, step=0.3, rounds=T, init=START, method_options={"p": 1.0})
    np.testing.assert_array_equal(result.x, run(problem, "gd", step=0.3, rounds=T, init=START).x)


@pytest.mark.parametrize("method", ["dcgd", "diana", "marina", "marina-p", "ef21", "ef14", "ef21-p"])
def test_one_client(method):
    problem = quadratic(9, 1)
    compare(problem, method, "randk:k=4", rounds=60)
    one_block = run(
        problem, method, "permk", step=0.3, rounds=60, init=START
    )  # a permutation of one client keeps everything
    np.testing.assert_allclose(one_block.x, run(problem, "gd", step=0.3, rounds=60, init=START).x, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_no_rounds(method):
    result = mc.run(problem=quadratic(9, 3), method=method, rounds=0, init="ones", step=0.1, allow_unsafe=True)
    np.testing.assert_array_equal(result.x, np.ones(9))
    assert result.summary["rounds"] == 0 and len(result.history) == 1
    for direction in ("uplink", "downlink"):
        assert set(result.summary["bytes"][direction].values()) == {0}


# ---- the homogeneous quadratic ------------------------------------------------------------------------------------------
N, D, ROUNDS = 10, 1000, 1500


@pytest.mark.parametrize(("method", "direction"), [("marina", "uplink"), ("marina-p", "downlink")])
@pytest.mark.parametrize("layout", ["blocks", "uniform"])
def test_permk_follows_gradient_descent_on_equal_clients(method, direction, layout):
    problem = quadratic(D, N, noise=0.0, reg=1e-6)
    options = {"rounds": ROUNDS, "eval_every": 50, "init": START}
    expected = run(problem, "gd", **options)
    result = run(problem, method, f"permk:layout={layout}", **options)
    assert result.summary["step"] == pytest.approx(expected.summary["step"], rel=1e-14)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-10, atol=1e-10 * np.linalg.norm(expected.x))
    np.testing.assert_allclose(
        [row["grad_norm_sq"] for row in result.history], [row["grad_norm_sq"] for row in expected.history], rtol=1e-8
    )
    # values: a dense round costs n·d, a compressed one d
    task, p = Task(problem), 1 / N
    first_is_dense = method == "marina"
    dense_rounds = first_is_dense + sum(task.coin(direction, p, t) for t in range(int(first_is_dense), ROUNDS))
    values = result.summary["bytes"][direction]["values_only"]
    dense = expected.summary["bytes"][direction]["values_only"]
    assert dense == 8 * ROUNDS * N * D
    assert values == 8 * D * (N * dense_rounds + ROUNDS - dense_rounds)
    spread = np.sqrt(p * (1 - p) / ROUNDS)
    assert dense_rounds / ROUNDS == pytest.approx(p, abs=4 * spread)
    assert dense / values == pytest.approx(N / (2 - 1 / N), rel=4 * spread * (N - 1) / (2 - 1 / N))


# ---- step sizes ---------------------------------------------------------------------------------------------------------
def constants(problem: mc.Problem) -> dict[str, Any]:
    """Smoothness constants of a quadratic from its Hessians, which the gradients give away."""
    n, d = problem.n_clients, problem.dim
    task = Task(problem)
    A = np.array([[task.gradient(i, e) - task.gradient(i, np.zeros(d)) for e in np.eye(d)] for i in range(n)])
    b = -np.array([task.gradient(i, np.zeros(d)) for i in range(n)])
    mean, square = A.mean(axis=0), np.mean(A @ A, axis=0)
    L_i = np.array([np.linalg.norm(a, 2) for a in A])
    return {
        "L": np.linalg.norm(mean, 2),
        "L_max": L_i.max(),
        "L_QM": np.sqrt(np.mean(L_i**2)),
        "L_plus": np.sqrt(np.linalg.norm(square, 2)),
        "L_pm": np.sqrt(np.linalg.norm(square - mean @ mean, 2)),
        "infimum": -0.5 * b.mean(axis=0) @ np.linalg.solve(mean, b.mean(axis=0)),
    }


def xi(alpha: float) -> float:
    return np.sqrt(1 - alpha) / (1 - np.sqrt(1 - alpha))


def ab(name: str, d: int, n: int, omega: float) -> tuple[float, float]:
    """(A, B) of the AB inequality, and of PermK for d >= n."""
    if name == "permk":
        assert d >= n
        return 1.0, 1.0
    return (omega, 0.0) if "shared" in name else (omega / n, 0.0)


OMEGAS = {
    "randk:k=3": lambda d, n: d / 3 - 1,
    "randk:k=3,mask=shared": lambda d, n: d / 3 - 1,
    "permk": lambda d, n: n - 1,
    "natural": lambda d, n: 1 / 8,
    "qsgd:levels=2": lambda d, n: min(d / 4, np.sqrt(d) / 2),
}
DENSITY = {"randk:k=3": 3, "randk:k=3,mask=shared": 3, "permk": 33 / 5}


def theory_step(problem: mc.Problem, method: str, compressor: str, **options: Any) -> float:
    result = mc.run(problem=problem, method=method, compressor=compressor, rounds=1, method_options=options)
    return result.summary["step"]


@pytest.fixture(scope="module")
def problem():
    return quadratic(33, 5)


@pytest.fixture(scope="module")
def c(problem):
    return constants(problem)


class TestStepSizes:
    d, n = 33, 5

    def test_gd(self, problem, c):
        assert theory_step(problem, "gd", "identity") == pytest.approx(1 / c["L"])

    @pytest.mark.parametrize("compressor", OMEGAS)
    @pytest.mark.parametrize("rounds", [1, 100_000])
    def test_dcgd(self, problem, c, compressor, rounds):
        A, _ = ab(compressor, self.d, self.n, OMEGAS[compressor](self.d, self.n))
        expected = min(1 / c["L"], np.sqrt(1 / (A * c["L"] * c["L_max"] * rounds)))
        result = mc.run(
            problem=problem, method="dcgd", compressor=compressor, rounds=rounds, tol=1e300
        )  # stops at once
        assert result.summary["rounds"] == 0
        assert result.summary["step"] == pytest.approx(expected)

    @pytest.mark.parametrize("compressor", OMEGAS)
    def test_diana(self, problem, c, compressor):
        """a = 1/(1+ω), γ = min{1/(2L), a/(L₊√(8A))}: `test_diana_descends` holds it to account."""
        omega = OMEGAS[compressor](self.d, self.n)
        A, _ = ab(compressor, self.d, self.n, omega)
        expected = min(1 / (2 * c["L"]), 1 / (1 + omega) / (c["L_plus"] * np.sqrt(8 * A)))
        assert theory_step(problem, "diana", compressor) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("compressor", "alpha"),
        [("topk:k=1", 1 / 33), ("topk:k=5", 5 / 33), ("identity", 1.0), ("randk:k=3", 3 / 33), ("natural", 8 / 9)],
    )
    def test_error_feedback(self, problem, c, compressor, alpha):
        root = 0.0 if alpha == 1 else xi(alpha)
        expected = 1 / (c["L"] + c["L_QM"] * root)
        assert theory_step(problem, "ef21", compressor) == pytest.approx(expected)
        assert theory_step(problem, "ef14", compressor) == pytest.approx(expected)
        assert theory_step(problem, "ef21-p", compressor) == pytest.approx(1 / (c["L"] * (1 + root)))

    @pytest.mark.parametrize("compressor", DENSITY)
    @pytest.mark.parametrize("p", [None, 0.3, 1.0])
    def test_marina(self, problem, c, compressor, p):
        omega = OMEGAS[compressor](self.d, self.n)
        A, B = ab(compressor, self.d, self.n, omega)
        options = {} if p is None else {"p": p}
        p = DENSITY[compressor] / self.d if p is None else p
        expected = 1 / (c["L"] + np.sqrt((1 - p) / p * ((A - B) * c["L_plus"] ** 2 + B * c["L_pm"] ** 2)))
        assert theory_step(problem, "marina", compressor, **options) == pytest.approx(expected)

    @pytest.mark.parametrize("compressor", DENSITY)
    @pytest.mark.parametrize("p", [None, 0.3, 1.0])
    def test_marina_p(self, problem, c, compressor, p):
        omega = OMEGAS[compressor](self.d, self.n)
        theta = {"permk": 0.0, "randk:k=3": omega / self.n}.get(compressor, omega)
        options = {} if p is None else {"p": p}
        p = DENSITY[compressor] / self.d if p is None else p
        L_A2, L_B2 = 2 * c["L_pm"] ** 2, 2 * c["L"] ** 2
        expected = 1 / (c["L"] + np.sqrt((L_A2 * omega + L_B2 * theta) * (1 / p - 1)))
        assert theory_step(problem, "marina-p", compressor, **options) == pytest.approx(expected)

    def test_factor_and_number(self, problem):
        step = theory_step(problem, "marina", "permk")
        assert run(problem, "marina", "permk", step="theory*8", rounds=1).summary["step"] == pytest.approx(8 * step)
        assert run(problem, "marina", "permk", step="0.125", rounds=1).summary["step"] == 0.125


@pytest.mark.parametrize(("data", "printed"), [("mushrooms", "1.2820e-03"), ("a9a", "2.2973e-03")])
def test_ef21_step_size_as_published(data, printed):
    """ef-family.md §2: n = 20, λ = 0.1, contiguous split, Top-1."""
    step = mc.run(data=data, method="ef21", compressor="topk:k=1", rounds=0).summary["step"]
    assert f"{step:.4e}" == printed


# ---- theory -------------------------------------------------------------------------------------------------------------
def mean_gradient_norm(
    problem: mc.Problem, method: str, compressor: str, rounds: int, seeds: int, **options: Any
) -> tuple[float, float]:
    """(mean over seeds and t < T of ‖∇f(x^t)‖², γ) with the theoretical step size."""
    values = []
    for seed in range(seeds):
        result = run(problem, method, compressor, rounds=rounds, seed=seed, init=START, **options)
        values.append(np.mean([row["grad_norm_sq"] for row in result.history[:-1]]))
    return float(np.mean(values)), result.summary["step"]


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
class TestTheory:
    rounds = 400

    def setting(self, noise):
        problem = quadratic(60, 6, noise=noise, reg=1e-3, seed=11)
        c = constants(problem)
        self.x0 = initial_point(START, 60, 0)
        return problem, c, Task(problem).loss(self.x0) - c["infimum"]

    @pytest.mark.parametrize(
        ("method", "compressor"),
        [
            ("gd", "identity"),
            ("marina", "permk"),
            ("marina", "randk:k=6"),
            ("marina", "randk:k=6,mask=shared"),
            ("marina-p", "permk"),
            ("marina-p", "randk:k=6"),
            ("marina-p", "randk:k=6,mask=shared"),
            ("ef21-p", "topk:k=6"),
        ],
    )
    def test_gradient_norm_below_two_delta_over_gamma_t(self, noise, method, compressor):
        """E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT)."""
        problem, _, delta = self.setting(noise)
        mean, step = mean_gradient_norm(
            problem, method, compressor, self.rounds, 1 if method in ("gd", "ef21-p") else 6
        )
        assert mean <= 2 * delta / (step * self.rounds)

    @pytest.mark.parametrize("start", ["compressed", "dense", "zero"])
    def test_ef21(self, noise, start):
        """... + G⁰/(θT), G⁰ = mean‖g_i⁰ − ∇f_i(x⁰)‖²."""
        problem, _, delta = self.setting(noise)
        k, theta = 6, 1 - np.sqrt(1 - 6 / 60)
        mean, step = mean_gradient_norm(problem, "ef21", f"topk:k={k}", self.rounds, 1, method_options={"start": start})
        task = Task(problem, mc.compressor(f"topk:k={k}"), start=self.x0)
        list(oracles.ef21(task, step, 1, start=start))
        G = np.mean([np.sum((g - u) ** 2) for g, u in zip(task.g_i, task.gradients(self.x0), strict=True)])
        assert (G == 0) == (start == "dense")
        assert mean <= 2 * delta / (step * self.rounds) + G / (theta * self.rounds)

    @pytest.mark.parametrize("compressor", ["randk:k=6", "natural", "permk"])
    def test_diana_descends(self, noise, compressor):
        """With θ = 1 − √(1−a): Ψ = f + (LAγ²/θ) mean‖h_i − ∇f_i‖² satisfies E Ψ⁺ ≤ Ψ − (γ/2)‖∇f‖² for γ ≤ 1/(2L), γ²L₊²A ≤ θ²/2."""
        problem, c, delta = self.setting(noise)
        omega = {"randk:k=6": 9.0, "natural": 1 / 8, "permk": 5.0}[compressor]
        A, _ = ab(compressor, 60, 6, omega)
        theta = 1 - np.sqrt(1 - 1 / (1 + omega))
        mean, step = mean_gradient_norm(problem, "diana", compressor, self.rounds, 6)
        assert step <= 1 / (2 * c["L"]) * (1 + 1e-9) and step**2 * c["L_plus"] ** 2 * A <= theta**2 / 2
        H = np.mean([np.sum(g**2) for g in Task(problem).gradients(self.x0)])
        assert mean <= 2 / (step * self.rounds) * (delta + c["L"] * A * step**2 / theta * H)

    def test_ef21_lyapunov_function_never_increases(self, noise):
        """Φ^t = f(x^t) + γ/(2θ) mean‖g_i^t − ∇f_i(x^t)‖²; the run follows the same iterates as the oracle."""
        problem, _, _ = self.setting(noise)
        decreases(problem, "topk:k=2", 1 - np.sqrt(1 - 2 / 60), rounds=self.rounds)


def decreases(problem: mc.Problem, compressor: str, theta: float, rounds: int) -> None:
    result = run(problem, "ef21", compressor, rounds=rounds, init=START)
    task = Task(problem, mc.compressor(compressor), start=initial_point(START, problem.dim, 0))
    step, before, values = result.summary["step"], None, []
    for t, x in enumerate(oracles.ef21(task, step, rounds)):
        if before is not None:
            G = np.mean([np.sum((g - u) ** 2) for g, u in zip(task.g_i, task.gradients(before), strict=True)])
            values.append(result.history[t - 1]["loss"] + step / (2 * theta) * G)
        before = x
    np.testing.assert_allclose(result.x, x, rtol=1e-10, atol=1e-13)
    assert np.all(np.diff(values) <= 1e-14 * np.abs(values[0]))
    assert values[-1] < values[0]


def test_ef21_lyapunov_function_on_mushrooms():
    decreases(mushrooms(), "topk:k=1", 1 - np.sqrt(1 - 1 / 112), rounds=60)
