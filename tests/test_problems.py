"""The built-in problems against dense NumPy: values, gradients, blocks, smoothness constants."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import collected

from mpicomp.errors import ConfigError, DataError
from mpicomp.problems import Problem, Smoothness, problems
from mpicomp.problems.spectral import largest_eigenvalue

SPECS = {
    "logistic nonconvex": ("logistic", {"reg": 0.1}),
    "logistic ridge": ("logistic", {"reg": 0.05, "regularizer": "ridge", "partition": "dirichlet:0.3"}),
    "logistic none, bias": ("logistic", {"regularizer": "none", "bias": True, "partition": "shuffled"}),
    "least squares": ("least_squares", {}),
    "least squares ridge": ("least_squares", {"reg": 0.2, "partition": "sorted"}),
    "least squares nonconvex": ("least_squares", {"reg": 0.3, "regularizer": "nonconvex"}),
    "quadratic": ("quadratic", {"dim": 12, "noise": 0.8, "reg": 1e-3}),
    "quadratic, equal clients": ("quadratic", {"dim": 9, "noise": 0.0, "reg": 1e-2}),
}
CLIENTS = 6
FINITE_SUMS = [name for name in SPECS if "quadratic" not in name]


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> str:
    """50 sparse rows with 8 features, one row empty, labels 3 and 7."""
    rng = np.random.default_rng(1)
    lines = []
    for r in range(50):
        columns = np.sort(rng.choice(8, size=rng.integers(1, 6) if r != 17 else 0, replace=False))
        lines.append(" ".join([str(rng.choice([3, 7])), *(f"{c + 1}:{rng.normal():.3f}" for c in columns)]))
    path = tmp_path_factory.mktemp("data") / "small.svm"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def make(small_data):
    def build(name: str, **options) -> Problem:
        kind, fixed = SPECS[name]
        source = {} if kind == "quadratic" else {"data": small_data, "features": 8}
        return problems.build(kind, {"clients": CLIENTS, **source, **fixed, **options})

    return build


def dense(problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """(A_i, y_i) of each client."""
    rows = problem.rows
    A = np.zeros((len(rows.labels), problem.dim))
    for r in range(len(A)):
        entries = slice(rows.indptr[r], rows.indptr[r + 1])
        A[r, rows.indices[entries]] = rows.values[entries]
    return [(A[a:b], rows.labels[a:b]) for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def tridiagonal(d: int) -> np.ndarray:
    return 2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)


def dense_loss(problem, i: int, x: np.ndarray) -> float:
    """f_i(x) from its formula."""
    if problem.name == "quadratic":
        A = problem.scales[i] * tridiagonal(len(x)) + problem.shift * np.eye(len(x))
        return 0.5 * x @ A @ x - problem.linear[i] * x[0]
    A, y = dense(problem)[i]
    z = A @ x
    data = np.mean(np.logaddexp(0, -y * z)) if problem.name == "logistic" else np.mean((z - y) ** 2)
    psi = {"nonconvex": np.sum(x**2 / (1 + x**2)), "ridge": x @ x / 2, "none": 0.0}[problem.regularizer]
    return data + problem.reg * psi


def hessian(problem, i: int, x: np.ndarray) -> np.ndarray:
    """∇²f_i(x) from its formula."""
    d = len(x)
    if problem.name == "quadratic":
        return problem.scales[i] * tridiagonal(d) + problem.shift * np.eye(d)
    A, y = dense(problem)[i]
    s = 1 / (1 + np.exp(A @ x))
    curvature = s * (1 - s) if problem.name == "logistic" else np.full(len(y), 2.0)
    nonconvex = problem.regularizer == "nonconvex"
    psi = (2 - 6 * x**2) / (1 + x**2) ** 3 if nonconvex else np.ones(d)
    return (A.T * curvature) @ A / len(y) + problem.reg * np.diag(psi)


def gradients(problem, clients, W, dtype=np.float64) -> np.ndarray:
    out = np.full((len(clients), problem.dim), np.nan, dtype)
    problem.block(np.asarray(clients), dtype).gradients(np.asarray(W, dtype), out)
    return out


# ---- values and gradients -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SPECS)
def test_losses_and_gradients_agree_with_the_formula(make, name, dtype):
    problem = make(name)
    W = np.random.default_rng(0).normal(size=(CLIENTS, problem.dim)).astype(dtype)
    losses, step = np.empty(CLIENTS), 1e-6
    block = problem.block(np.arange(CLIENTS), dtype)
    block.losses(W, losses)
    found = gradients(problem, np.arange(CLIENTS), W, dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for i in range(CLIENTS):
        x = W[i].astype(np.float64)
        assert losses[i] == pytest.approx(dense_loss(problem, i, x), rel=tolerance)
        differences = [
            (dense_loss(problem, i, x + step * e) - dense_loss(problem, i, x - step * e)) / (2 * step)
            for e in np.eye(problem.dim)
        ]
        np.testing.assert_allclose(found[i], differences, atol=2e-8 if dtype == np.float64 else 2e-5)


@pytest.mark.parametrize("name", SPECS)
def test_gradient_is_exact_to_rounding(make, name):
    """∇f_i(x) − ∇f_i(0) is the integral of the Hessian along [0, x]; 20 Gauss points give it to rounding."""
    problem = make(name)
    x = 0.5 * np.random.default_rng(3).normal(size=problem.dim)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    found = gradients(problem, np.arange(CLIENTS), x[None]) - gradients(problem, np.arange(CLIENTS), 0 * x[None])
    for i in range(CLIENTS):
        expected = sum(w / 2 * hessian(problem, i, (1 + t) / 2 * x) @ x for t, w in zip(nodes, weights, strict=True))
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic nonconvex", "logistic none, bias"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_logistic_is_stable_far_out(make, name, dtype):
    problem = make(name)
    x = np.full((1, problem.dim), 1e6, dtype)
    losses = np.empty(CLIENTS)
    problem.block(np.arange(CLIENTS), dtype).losses(x, losses)
    assert np.isfinite(losses).all() and losses.max() > 1e3
    assert np.isfinite(gradients(problem, np.arange(CLIENTS), x, dtype)).all()


# ---- blocks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SPECS)
def test_results_are_the_same_bits_in_any_block(make, name, dtype):
    problem = make(name)
    rng = np.random.default_rng(5)
    W = rng.normal(size=(CLIENTS, problem.dim)).astype(dtype)
    everybody = np.arange(CLIENTS)

    def evaluate(clients, points) -> tuple[np.ndarray, ...]:
        block, losses = problem.block(np.asarray(clients), dtype), np.empty(len(clients))
        block.losses(points, losses)
        results = [losses, gradients(problem, clients, points, dtype)]
        if name in FINITE_SUMS:
            results.append(np.empty((len(clients), problem.dim), dtype))
            samples = np.array([[i % problem.n_samples(i), 0, problem.n_samples(i) - 1] for i in clients])
            block.batch_gradients(points, samples, results[-1])
        return tuple(results)

    own, shared = evaluate(everybody, W), evaluate(everybody, W[:1])
    repeated = evaluate(everybody, np.repeat(W[:1], CLIENTS, axis=0))
    for parts in ([[0], [1, 2], [3, 4, 5]], [[5, 0, 3], [2, 4, 1]], [[i] for i in everybody]):
        for clients in parts:
            for whole, part in zip(own, evaluate(clients, W[clients]), strict=True):
                assert whole[clients].tobytes() == part.tobytes()
            for whole, copies, part in zip(shared, repeated, evaluate(clients, W[:1]), strict=True):
                assert whole[clients].tobytes() == part.tobytes() == copies[clients].tobytes()


@pytest.mark.parametrize("name", SPECS)
def test_simple_contract_is_the_block_of_one(make, name):
    problem = make(name)
    x = np.random.default_rng(6).normal(size=problem.dim)
    losses, out = np.empty(CLIENTS), np.empty(problem.dim)
    problem.block(np.arange(CLIENTS), np.float64).losses(x[None], losses)
    for i in range(CLIENTS):
        problem.gradient(i, x, out)
        assert problem.loss(i, x) == losses[i]
        assert out.tobytes() == gradients(problem, [i], x[None])[0].tobytes()


@pytest.mark.parametrize("name", FINITE_SUMS)
def test_minibatches_average_to_the_full_gradient(make, name):
    problem = make(name)
    x = np.random.default_rng(7).normal(size=problem.dim)
    full, out = gradients(problem, np.arange(CLIENTS), x[None]), np.empty(problem.dim)
    for i in range(CLIENTS):
        samples = np.arange(problem.n_samples(i))
        problem.batch_gradient(i, x, samples, out)
        np.testing.assert_allclose(out, full[i], rtol=1e-12, atol=1e-14)
        singles = np.empty((len(samples), problem.dim))
        for j in samples:
            problem.batch_gradient(i, x, samples[j : j + 1], singles[j])
        np.testing.assert_allclose(singles.mean(axis=0), full[i], rtol=1e-12, atol=1e-14)


def test_samples_sum_to_the_rows(make):
    assert sum(make("logistic nonconvex").n_samples(i) for i in range(CLIENTS)) == 50


def test_quadratic_has_no_minibatch_form(make):
    problem = make("quadratic")
    assert problem.n_samples(0) == 0
    with pytest.raises(ConfigError, match="no minibatch form"):
        problem.batch_gradient(0, np.zeros(12), np.array([0]), np.zeros(12))
    with pytest.raises(ConfigError, match="no minibatch form"):
        problem.block(np.arange(2), np.float64).batch_gradients(
            np.zeros((1, 12)), np.zeros((2, 1), int), np.zeros((2, 12))
        )


# ---- smoothness ---------------------------------------------------------------------------------------------------
def norm(M: np.ndarray) -> float:
    return float(np.max(np.abs(np.linalg.eigvalsh(M))))


@pytest.mark.parametrize("name", SPECS)
def test_constants_agree_with_dense_hessians(make, name):
    """At 0 all these Hessians are largest: L and L_i are exact, the others are not below their value there."""
    problem = make(name)
    H = np.array([hessian(problem, i, np.zeros(problem.dim)) for i in range(CLIENTS)])
    mean, s = H.mean(axis=0), problem.smoothness()
    second = norm(np.mean([h @ h for h in H], axis=0)) ** 0.5
    variance = norm(np.mean([(h - mean) @ (h - mean) for h in H], axis=0)) ** 0.5
    np.testing.assert_allclose(s.L, norm(mean), rtol=1e-9)
    np.testing.assert_allclose(s.L_i, [norm(h) for h in H], rtol=1e-9)
    assert s.exact == (problem.name == "quadratic" or name in ("least squares", "least squares ridge"))
    if s.exact:
        np.testing.assert_allclose(s.L_plus, second, rtol=1e-9)
        np.testing.assert_allclose(s.L_pm, variance, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose((s.L_A, s.L_B), (2**0.5 * s.L_pm, 2**0.5 * s.L) if s.L_pm else (0.0, s.L))
    else:
        assert second <= s.L_plus * (1 + 1e-9) and s.L_plus <= s.L_QM * (1 + 1e-9)
        assert variance <= s.L_pm * (1 + 1e-9) and s.L_pm <= s.L_plus


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_definitions_hold_on_random_points(make, name, size):
    problem, everybody = make(name), np.arange(CLIENTS)
    s, rng, slack = problem.smoothness(), np.random.default_rng(8), 1 + 1e-9
    for _ in range(20):
        x = size * rng.normal(size=(1, problem.dim))
        U = rng.normal(size=(CLIENTS, problem.dim)) * rng.choice([0.01, 1.0, 10.0])
        if rng.integers(2):
            U -= U.mean(axis=0)
        at_x = gradients(problem, everybody, x)
        same, own = gradients(problem, everybody, x + U[:1]) - at_x, gradients(problem, everybody, x + U) - at_x
        distance = np.sum(U[0] ** 2)
        assert (np.sum(same**2, axis=1) <= s.L_i**2 * distance * slack).all()
        assert np.sum(same.mean(axis=0) ** 2) <= s.L**2 * distance * slack
        assert np.mean(np.sum(same**2, axis=1)) <= s.L_plus**2 * distance * slack
        assert np.mean(np.sum((same - same.mean(axis=0)) ** 2, axis=1)) <= s.L_pm**2 * distance * slack + 1e-20
        bound = s.L_A**2 * np.mean(np.sum(U**2, axis=1)) + s.L_B**2 * np.sum(U.mean(axis=0) ** 2)
        assert np.sum(own.mean(axis=0) ** 2) <= bound * slack + 1e-20
        if s.mu is not None:
            difference = same.mean(axis=0)
            assert difference @ U[0] >= s.mu * distance * (1 - 1e-9)


TABLE = {  # ef-family.md §2: n = 20, λ = 0.1, contiguous; L is that of the mean over all rows
    "phishing": ("0.362551", "0.366085", "0.366076", "2.0161e-02"),
    "mushrooms": ("2.786214", "3.493226", "3.471120", "1.2820e-03"),
    "a9a": ("1.771920", "1.773067", "1.773041", "2.2973e-03"),
}


@pytest.mark.parametrize("data", TABLE)
def test_published_table(data):
    source = collected("phishing.libsvm") if data == "phishing" else data
    problem = problems.build("logistic", {"data": source})
    s, alpha = problem.smoothness(), 1 / problem.dim
    step = 1 / (s.L + s.L_QM * ((1 + np.sqrt(1 - alpha)) / alpha - 1))
    found = f"{problem.pooled_smoothness():.6f}", f"{s.L_QM:.6f}", f"{s.L_AM:.6f}", f"{step:.4e}"
    assert found == TABLE[data]
    np.testing.assert_allclose(s.L, problem.pooled_smoothness(), rtol=1e-4)


def test_constants_survive_json(make):
    s = make("logistic nonconvex").smoothness()
    again = Smoothness.from_dict(s.to_dict())
    assert again.L_QM == s.L_QM and again.L_pm == s.L_pm


# ---- the quadratic generator --------------------------------------------------------------------------------------
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.8, 5.0])
def test_quadratic_generator(noise):
    problem = problems.build("quadratic", {"dim": 40, "clients": 7, "noise": noise, "reg": 1e-3, "seed": 3})
    H = [hessian(problem, i, np.zeros(40)) for i in range(7)]
    assert np.linalg.eigvalsh(np.mean(H, axis=0))[0] == pytest.approx(1e-3, rel=1e-9)
    rng = np.random.default_rng(3)
    draws = [(1 + noise * rng.standard_normal(), noise * rng.standard_normal()) for _ in range(7)]
    np.testing.assert_allclose(problem.scales, [nu / 4 for nu, _ in draws], rtol=1e-15)
    np.testing.assert_allclose(problem.linear, [nu / 4 * (-1 + zeta) for nu, zeta in draws], rtol=1e-15)
    s = problem.smoothness()
    assert s.L_pm == pytest.approx(np.std([nu for nu, _ in draws]) * (2 + 2 * np.cos(np.pi / 41)) / 4, abs=1e-15)
    assert s.mu == 1e-3
    if noise == 0:
        assert (s.L_pm, s.L_A, s.L_B) == (0.0, 0.0, s.L)
        points = np.random.default_rng(0).normal(size=(1, 40))
        found = gradients(problem, np.arange(7), points)
        assert (found == found[0]).all()


def test_quadratic_starts_where_the_paper_does():
    problem = problems.build("quadratic", {"dim": 16})
    assert problem.paper_start().tolist() == [4.0] + [0.0] * 15


# ---- the eigenvalue solver ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dim", [1, 2, 3, 31, 32, 33, 200])
@pytest.mark.parametrize("kind", ["random", "rank one", "clustered", "identity", "zero"])
def test_largest_eigenvalue(dim, kind):
    rng = np.random.default_rng(dim)
    Q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spectrum = {
        "random": rng.uniform(size=dim),
        "rank one": np.eye(dim)[0],
        "clustered": 1 - 1e-9 * np.arange(dim),
        "identity": np.ones(dim),
        "zero": np.zeros(dim),
    }[kind]
    A = (Q * spectrum) @ Q.T
    assert largest_eigenvalue(lambda v, out: np.matmul(A, v, out=out), dim) == pytest.approx(
        spectrum.max(), rel=2e-9, abs=1e-15
    )


def test_slow_spectrum_needs_restarts():
    """λ_max of tridiag(−1, 2, −1), d = 2000: the relative gap is 2e-6, far more steps than the subspace holds."""

    def product(v: np.ndarray, out: np.ndarray) -> None:
        np.multiply(2.0, v, out=out)
        out[1:] -= v[:-1]
        out[:-1] -= v[1:]

    assert largest_eigenvalue(product, 2000) == pytest.approx(2 - 2 * np.cos(2000 * np.pi / 2001), rel=1e-9)


# ---- reports and wrong options ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SPECS)
def test_describe_reports_sizes_and_heterogeneity(make, name):
    report = {**make(name).describe(), **make(name).smoothness().heterogeneity()}
    assert report["clients"] == CLIENTS and np.all(
        np.diff([report[key] for key in ("L_min", "L_AM", "L_QM", "L_max")]) >= -1e-12
    )
    assert report["L_var"] >= -1e-12 and {"L", "L_plus", "L_pm"} <= set(report)
    if name in FINITE_SUMS:
        assert report["rows"] == 50 and report["rows_min"] >= 1
        assert report["label_mean_min"] <= report["label_mean_max"]


@pytest.mark.parametrize("labels", [("0", "1"), ("1", "2"), ("-1", "+1"), ("2", "-3.5")])
def test_any_two_labels_become_minus_and_plus_one(tmp_path, labels):
    path = tmp_path / "two.svm"
    path.write_text("".join(f"{label} 1:1\n" for label in labels * 2))
    expected = [-1.0, 1.0] * 2 if float(labels[0]) < float(labels[1]) else [1.0, -1.0] * 2
    assert problems.build("logistic", {"data": str(path), "clients": 2}).rows.labels.tolist() == expected
    kept = problems.build("least_squares", {"data": str(path), "clients": 2}).rows.labels.tolist()
    assert kept == [float(label) for label in labels * 2]


@pytest.mark.parametrize("labels", ["1", "1 2 3"])
def test_logistic_needs_two_labels(tmp_path, labels):
    path = tmp_path / "labels.svm"
    path.write_text("".join(f"{label} 1:1\n" for label in labels.split()))
    with pytest.raises(DataError, match=r"labels\.svm: logistic regression needs two different labels"):
        problems.build("logistic", {"data": str(path), "clients": 1})


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ("logistic", {"regularizer": "l1"}, "unknown regularizer 'l1'; known: nonconvex, none, ridge"),
        ("logistic", {"reg": -1.0}, "needs reg >= 0"),
        ("logistic", {"clients": 10_000}, "10000 clients cannot share 8124 rows"),
        ("logistic", {"data": "a9"}, "did you mean 'a9a"),
        ("logistic", {"regulariser": "none"}, "did you mean 'regularizer'"),
        ("quadratic", {"dim": 1}, "dim >= 2"),
        ("quadratic", {"noise": -0.1}, "noise >= 0"),
        ("quadratic", {"reg": float("nan")}, "reg >= 0"),
        ("least_square", {}, "did you mean 'least_squares'"),
    ],
)
def test_wrong_options(problem, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        problems.build(problem, options)
