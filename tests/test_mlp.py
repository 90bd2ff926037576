"""The neural network against a NumPy oracle and finite differences; its data, its accuracy in the results."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, DataError, TheoryError
from mpicomp.problems import problems

SHAPES = [0, 5, "4+3"]


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> str:
    """61 sparse rows with 7 features, one of them empty, classes 2, 5, 9."""
    rng = np.random.default_rng(3)
    lines = []
    for r in range(61):
        columns = np.sort(rng.choice(7, size=rng.integers(1, 6) if r != 17 else 0, replace=False))
        lines.append(" ".join([str(rng.choice([2, 5, 9])), *(f"{c + 1}:{3 * rng.normal():.3f}" for c in columns)]))
    path = tmp_path_factory.mktemp("data") / "three.svm"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def make(data: str, **options):
    return problems.build("mlp", {"data": data, "features": 7, "clients": 4, "hidden": 5, **options})


def dense(rows, features: int) -> np.ndarray:
    A = np.zeros((len(rows.labels), features))
    for r in range(len(A)):
        entries = slice(rows.indptr[r], rows.indptr[r + 1])
        A[r, rows.indices[entries]] = rows.values[entries]
    return A


def logits(problem, x: np.ndarray, A: np.ndarray) -> np.ndarray:
    """The network by matrices."""
    widths, at = problem.network.widths, 0
    H = A
    for l in range(len(widths) - 1):
        W = x[at : at + widths[l] * widths[l + 1]].reshape(widths[l], widths[l + 1])
        at += W.size
        H = H @ W + x[at : at + widths[l + 1]]
        at += widths[l + 1]
        if l < len(widths) - 2:
            H = np.tanh(H) if problem.activation == "tanh" else np.maximum(H, 0)
    assert at == len(x)
    return H


def oracle(problem, x: np.ndarray, A: np.ndarray, y: np.ndarray) -> float:
    Z = logits(problem, x, A)
    return float(
        np.mean(np.logaddexp.reduce(Z, axis=1) - Z[np.arange(len(y)), y.astype(int)]) + problem.reg / 2 * x @ x
    )


def client(problem, i: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = problem.rows.offsets[i : i + 2]
    return dense(problem.rows, int(problem.network.widths[0]))[a:b], problem.rows.labels[a:b]


def numerical(f, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    steps = h * np.eye(len(x))
    return np.array([(f(x + e) - f(x - e)) / (2 * h) for e in steps])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", SHAPES)
def test_loss_and_gradient(three_classes, hidden, activation):
    problem = make(three_classes, hidden=hidden, activation=activation, reg=0.03)
    x = np.random.default_rng(0).normal(size=problem.dim)
    for i in range(problem.n_clients):
        A, y = client(problem, i)
        assert problem.loss(i, x) == pytest.approx(oracle(problem, x, A, y), rel=1e-12)
        g = np.empty(problem.dim)
        problem.gradient(i, x, g)
        np.testing.assert_allclose(g, numerical(lambda z, A=A, y=y: oracle(problem, z, A, y), x), atol=2e-8)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_minibatch_gradient(three_classes, activation):
    problem = make(three_classes, hidden="4+3", activation=activation, reg=0.03)
    x = np.random.default_rng(1).normal(size=problem.dim)
    A, y = client(problem, 1)
    samples, g, all_rows = np.array([3, 0, 3, 8]), np.empty(problem.dim), np.empty(problem.dim)
    problem.batch_gradient(1, x, samples, g)
    np.testing.assert_allclose(g, numerical(lambda z: oracle(problem, z, A[samples], y[samples]), x), atol=2e-8)
    problem.batch_gradient(1, x, np.arange(problem.n_samples(1)), g)
    problem.gradient(1, x, all_rows)
    np.testing.assert_array_equal(g, all_rows)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 0.0), (np.float32, 2e-5)])
def test_blocks_agree_with_single_clients(three_classes, dtype, tolerance):
    """Shared point or one for each client, any block: the same bits; float32 is near float64."""
    problem = make(three_classes, hidden="4+3", activation="tanh")
    block = problem.block(np.array([2, 0, 3]), dtype)
    W = np.random.default_rng(2).normal(size=(3, problem.dim)).astype(dtype)
    losses, G = np.empty(3), np.empty((3, problem.dim), dtype)
    block.losses(W, losses)
    block.gradients(W, G)
    shared = np.empty_like(G)
    block.gradients(W[:1], shared)
    np.testing.assert_array_equal(shared[0], G[0])
    for row, i in enumerate([2, 0, 3]):
        g = np.empty(problem.dim)
        problem.gradient(i, W[row].astype(np.float64), g)
        np.testing.assert_allclose(G[row], g, atol=tolerance)
        assert losses[row] == pytest.approx(problem.loss(i, W[row].astype(np.float64)), rel=max(tolerance, 1e-15))


def test_large_logits_stay_finite(three_classes):
    problem = make(three_classes, hidden=0)
    x, g = np.full(problem.dim, 1e4), np.empty(problem.dim)
    x[::3] = -1e4
    problem.gradient(0, x, g)
    assert np.isfinite(problem.loss(0, x)) and np.isfinite(g).all()


def test_held_out_rows_and_accuracy(three_classes):
    problem = make(three_classes, seed=5)
    train, test = len(problem.rows.labels), len(problem.test_rows.labels)
    assert (train, test) == (49, 12)
    x = np.random.default_rng(4).normal(size=problem.dim)
    guesses = logits(problem, x, dense(problem.test_rows, 7)).argmax(axis=1)
    accuracy, loss = problem.measure(x)
    assert accuracy == np.mean(guesses == problem.test_rows.labels)
    scores = logits(problem, x, dense(problem.test_rows, 7))
    chosen = scores[np.arange(test), problem.test_rows.labels.astype(int)]
    assert loss == pytest.approx(np.mean(np.log(np.exp(scores).sum(axis=1)) - chosen), rel=1e-12)
    everything = make(three_classes, test=three_classes)
    assert len(everything.rows.labels) == len(everything.test_rows.labels) == 61
    assert np.abs(everything.rows.values).max() == 1.0


def test_start_is_keyed_and_of_unit_variance():
    problem = problems.build("mlp", {"data": "a9a", "clients": 3, "hidden": "400+400", "activation": "tanh"})
    x = problem.paper_start()
    np.testing.assert_array_equal(x, problem.paper_start())
    assert np.any(
        x != problems.build("mlp", {"data": "a9a", "clients": 3, "hidden": "400+400", "seed": 1}).paper_start()
    )
    first = slice(0, 123 * 400)
    A = dense(problem.rows, 123)[:200]
    assert np.std(A @ x[first].reshape(123, 400)) == pytest.approx(1.0, abs=0.1)
    second = problem.network.starts[1]
    assert np.std(x[second : second + 400 * 400]) * 20 == pytest.approx(1.0, abs=0.02)
    assert not x[123 * 400 : second].any()


def test_run_reports_accuracy(three_classes, tmp_path):
    result = mc.run(
        problem="mlp", method="gd", clients=4, step="0.5", init="paper", rounds=60, batch=8, out=str(tmp_path / "r"),
        problem_options={"data": three_classes, "features": 7, "hidden": 5},
    )  # fmt: skip
    assert result.summary["measures"]["accuracy"] == result.history[-1]["accuracy"]
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    with open(tmp_path / "r" / "rounds.csv") as file:
        assert float(list(csv.DictReader(file))[-1]["accuracy"]) == result.history[-1]["accuracy"]


def test_divergence_keeps_the_columns(three_classes):
    result = mc.run(
        problem="mlp", method="gd", clients=4, step="1e200", init="paper", rounds=20,
        problem_options={"data": three_classes, "features": 7, "hidden": 0, "reg": 1.0},
    )  # fmt: skip
    assert result.summary["diverged"]
    assert set(result.history[-1]) == set(result.history[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden": "32+"}, "32, 64\\+32, or 0"),
        ({"hidden": -3}, "32, 64\\+32, or 0"),
        ({"activation": "sin"}, "relu"),
        ({"reg": -1.0}, "reg >= 0"),
    ],
)
def test_wrong_options(three_classes, options, message):
    with pytest.raises(ConfigError, match=message):
        make(three_classes, **options)


def test_wrong_data(three_classes, tmp_path):
    with pytest.raises(TheoryError, match="unknown"):
        make(three_classes).smoothness()
    other = tmp_path / "other.svm"
    other.write_text("4 1:1\n")
    with pytest.raises(DataError, match="have the class 4, which no training row"):
        make(three_classes, test=str(other))
    few = tmp_path / "few.svm"
    few.write_text("1 1:1\n2 1:1\n")
    with pytest.raises(DataError, match="too few"):
        make(str(few), clients=1)
