"""f*: against closed forms, SciPy's optimiser and NumPy's least squares; and problems that have none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

import mpicomp as mc
from mpicomp.errors import ConfigError
from mpicomp.problems import problems
from mpicomp.problems.optimum import minimum
from mpicomp.runtime.optima import optima


def test_the_mean_has_its_minimum_at_the_mean():
    problem = problems.build("mean", {"dim": 20, "clients": 5})
    exact = 0.5 * float(np.mean(np.sum((problem.vectors - problem.vectors.mean(axis=0)) ** 2, axis=1)))
    found = minimum(problem)
    assert found.value == pytest.approx(exact, rel=1e-14) and found.proved and found.error < 1e-15


@pytest.mark.parametrize("reg", [1e-1, 1e-6])
def test_quadratics_against_a_linear_solver(reg):
    n, d = 4, 60
    problem = problems.build("quadratic", {"dim": d, "clients": n, "reg": reg, "noise": 0.5})
    T = 2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)
    A = np.mean(problem.scales) * T + problem.shift * np.eye(d)
    b = np.mean(problem.linear) * np.eye(d)[0]
    found = minimum(problem)
    assert found.value == pytest.approx(-0.5 * b @ np.linalg.solve(A, b), rel=1e-9)
    assert found.proved and found.error < 1e-14


def dense(problem):
    """Rows of A with labels, and the clients' weights of the rows."""
    rows = problem.rows
    A = np.zeros((len(rows.labels), problem.dim))
    for r in range(len(A)):
        at = slice(rows.indptr[r], rows.indptr[r + 1])
        A[r, rows.indices[at]] = rows.values[at]
    sizes = np.diff(rows.offsets)
    return A, rows.labels, np.repeat(1.0 / (len(sizes) * sizes), sizes)


def test_ridge_logistic_regression_against_scipy():
    problem = problems.build("logistic", {"data": "mushrooms", "clients": 7, "regularizer": "ridge", "reg": 0.01})
    A, y, w = dense(problem)

    def f(x):
        z = -y * (A @ x)
        return w @ np.logaddexp(0, z) + 0.005 * x @ x, -A.T @ (w * y / (1 + np.exp(-z))) + 0.01 * x

    scipys = optimize.minimize(
        f, np.zeros(problem.dim), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12, "maxiter": 5000}
    )
    found = minimum(problem)
    assert found.proved and found.error < 1e-16
    assert found.value <= scipys.fun + 1e-15 and found.value == pytest.approx(scipys.fun, abs=1e-12)


def test_least_squares_of_less_than_full_rank_against_numpy():
    problem = problems.build("least_squares", {"data": "mushrooms", "clients": 5})
    A, y, w = dense(problem)
    root = np.sqrt(w)
    x, _, rank, _ = np.linalg.lstsq(root[:, None] * A, root * y, rcond=None)
    assert rank < problem.dim
    found = minimum(problem)
    assert found.value == pytest.approx(float(w @ (A @ x - y) ** 2), abs=1e-12) and not found.proved


def test_a_problem_of_ones_own_with_a_mu():
    targets = np.random.default_rng(0).normal(size=(3, 6))
    own = mc.FunctionProblem(
        lambda i, x: float(np.sum(np.cosh(x - targets[i]))), lambda i, x: np.sinh(x - targets[i]), dim=6, n_clients=3,
        constants=mc.Smoothness.bounds(np.full(3, 50.0), mu=1.0),
    )  # fmt: skip
    # the mean of cosh(x − t_i) is √(mean e^{−t} · mean e^{t}) at its minimum
    exact = float(np.sum(np.sqrt(np.exp(-targets).mean(axis=0) * np.exp(targets).mean(axis=0))))
    assert minimum(own).value == pytest.approx(exact, rel=1e-14)


def test_what_is_not_convex_is_refused():
    with pytest.raises(ConfigError, match=r"'logistic' is not known to be convex.*f_star=VALUE"):
        minimum(problems.build("logistic", {}))


def test_a_function_without_a_minimum_is_refused():
    falls = mc.FunctionProblem(lambda i, x: float(np.sum(x)), lambda i, x: np.ones(3), dim=3, n_clients=2)
    falls.convex = True
    with pytest.raises(ConfigError, match=r"was not found.*some problems have none"):
        minimum(falls)


def test_each_problem_is_solved_once_and_the_caption_says_so():
    options = {
        "problem": "logistic",
        "problem_options": {"regularizer": "ridge"},
        "clients": 4,
        "rounds": 3,
        "method": "gd",
    }
    results = [mc.run(**options, seed=seed) for seed in (0, 1)]
    optimum, notes = optima("compute")
    values = {optimum(result._run()) for result in results}
    assert len(values) == 1 and len(notes) == 1 and "was computed, with an error of at most" in notes[0]
    drawn = results[0].plot(*results[1:], y="loss-gap", f_star="compute")
    (best, _), c = values.pop(), drawn.panels[0].curves[0]
    assert c.runs == 2 and c.y[0] == pytest.approx(np.log(2) - best) and "f* =" in drawn.caption


@pytest.mark.parametrize("text", ["smallest", "nan", "inf"])
def test_f_star_is_a_number_or_computed(text):
    with pytest.raises(ConfigError, match="expected a finite number, or 'compute'"):
        optima(text)


def test_the_minimum_of_an_object_has_to_be_given():
    own = mc.FunctionProblem(lambda i, x: float(x @ x), lambda i, x: 2 * x, dim=3, n_clients=2)
    result = mc.run(problem=own, method="gd", step=0.1, rounds=4, init="ones")
    with pytest.raises(ConfigError, match=r"only a Python program can make.*f_star=VALUE"):
        result.plot(y="loss-gap", f_star="compute")
    assert result.plot(y="loss-gap", f_star=0.0).panels[0].curves[0].y[0] == 3.0
