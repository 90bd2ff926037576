"""Losses beside logistic regression and least squares, against NumPy by their definitions; constants against dense Hessians and pairs of
points; the elastic net's proximal step; rows that are scaled and held out."""

from __future__ import annotations

import csv
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

import mpicomp as mc
from mpicomp.data import Prepared, Source
from mpicomp.optimizers.prox import Prox
from mpicomp.problems import problems
from mpicomp.testing import check_problem

N, D, CLIENTS = 41, 6, 5
rng = np.random.default_rng(11)
A = np.where(rng.random((N, D)) < 0.3, 0.0, rng.normal(size=(N, D)) * [1, 3, 0.2, 1, 5, 1])
numbers = A @ rng.normal(size=D) + 3 * rng.standard_t(2, size=N)
two = np.where(numbers > 0, "yes", "no")
three = rng.integers(0, 3, N)


def huber(z, y, delta):
    t = np.abs(z - y)
    return np.where(t <= delta, t**2 / 2, delta * (t - delta / 2))


def hinge(z, y, width):
    """The hinge's Moreau envelope, the smallest of (m − u)²/(2w) + max(0, u): its minimum is where u ≤ 0 or where u ≥ 0."""
    m = 1 - y * z
    sides = np.minimum(m, 0), np.maximum(m - width, 0)
    return np.min([(m - u) ** 2 / (2 * width) + np.maximum(0, u) for u in sides], axis=0)


LINEAR = {  # problem, labels, its loss of (z, y), the largest second derivative, options
    "huber": (numbers, huber, 1.0, {"delta": 0.7, "reg": 0.1}),
    "huber nonconvex": (numbers, huber, 1.0, {"delta": 2.0, "reg": 0.1, "regularizer": "nonconvex"}),
    "smoothed_hinge": (two, hinge, 1 / 0.3, {"width": 0.3, "reg": 0.05}),
    "smoothed_hinge wide, bias": (two, hinge, 0.4, {"width": 2.5, "reg": 0.0, "bias": True}),
}


def built(case: str, **more) -> mc.Problem:
    labels, _, _, options = LINEAR[case]
    return getattr(mc, case.split(" ")[0])(A, labels, clients=CLIENTS, **{**options, **more})


def parts(features: np.ndarray, *columns: np.ndarray):
    """The clients' rows, floor(N/n) each and the remainder at the last."""
    bounds = [*(i * (len(features) // CLIENTS) for i in range(CLIENTS)), len(features)]
    return [(features[a:b], *(column[a:b] for column in columns)) for a, b in pairwise(bounds)]


def values(case: str, x: np.ndarray) -> list[float]:
    labels, loss, _, options = LINEAR[case]
    features = np.column_stack([A, np.ones(N)]) if options.get("bias") else A
    y = labels if labels is numbers else np.where(two == "yes", 1.0, -1.0)
    psi = np.sum(x**2 / (1 + x**2)) if options.get("regularizer") == "nonconvex" else x @ x / 2
    knee = options.get("delta", options.get("width"))
    return [np.mean(loss(a @ x, b, knee)) + options["reg"] * psi for a, b in parts(features, y)]


def slopes(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    return np.stack(
        [(np.array(function(x + step * e)) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))], 1
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", LINEAR)
def test_linear_losses_agree_with_their_definitions(case, dtype):
    problem = built(case)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for size in (0.1, 1.0, 5.0):
        x = (size * np.random.default_rng(2).normal(size=problem.dim)).astype(dtype)
        losses, gradients = np.empty(CLIENTS), np.empty((CLIENTS, problem.dim), dtype)
        block = problem.block(np.arange(CLIENTS), dtype)
        block.losses(x[None], losses)
        block.gradients(x[None], gradients)
        np.testing.assert_allclose(losses, values(case, x.astype(float)), rtol=tolerance)
        exact = slopes(lambda v, case=case: values(case, v), x.astype(float))
        np.testing.assert_allclose(gradients, exact, atol=2e-5 * size if dtype == np.float64 else 2e-3, rtol=1e-4)


@pytest.mark.parametrize("case", LINEAR)
def test_linear_losses_keep_the_contract_and_their_constants_hold(case):
    check_problem(built(case))


@pytest.mark.parametrize("case", LINEAR)
def test_constants_are_those_of_the_proof(case):
    """From dense Gram matrices, by the formulas of docs/explanation/smoothness.md."""
    _, _, c, options = LINEAR[case]
    features = np.column_stack([A, np.ones(N)]) if options.get("bias") else A
    r = options["reg"] * (2 if options.get("regularizer") == "nonconvex" else 1)
    compare_constants(built(case).smoothness(), [a.T @ a / len(a) for (a,) in parts(features)], c, r)


def compare_constants(s: mc.Smoothness, grams: list[np.ndarray], c: float, r: float) -> None:
    def top(matrix):
        return float(np.linalg.eigvalsh(matrix)[-1])

    mean, g = np.mean(grams, axis=0), [top(G) for G in grams]
    Q = np.sqrt(top(np.mean([gi * G for gi, G in zip(g, grams, strict=True)], axis=0)))
    V = np.sqrt(top(np.mean([(G - mean) @ (G - mean) for G in grams], axis=0)))
    L_i = c * np.array(g) + r
    np.testing.assert_allclose(s.L_i, L_i, rtol=1e-9)
    L_plus = min(np.sqrt(np.mean(L_i**2)), c * Q + r)
    wanted = (c * top(mean) + r, L_plus, c * (V + Q) / 2, L_plus, 0.0)
    np.testing.assert_allclose((s.L, s.L_plus, s.L_pm, s.L_A, s.L_B), wanted, rtol=1e-6)


def test_huber_goes_over_into_least_squares_and_the_hinge_into_itself():
    x = rng.normal(size=D)
    wide, squares = mc.huber(A, numbers, clients=1, delta=1e9), mc.least_squares(A, numbers, clients=1)
    assert wide.loss(0, x) == pytest.approx(squares.loss(0, x) / 2, rel=1e-12)
    y = np.where(two == "yes", 1.0, -1.0)
    narrow = mc.smoothed_hinge(A, two, clients=1, width=1e-9, reg=0)
    assert narrow.loss(0, x) == pytest.approx(np.mean(np.maximum(0, 1 - y * (A @ x))), abs=1e-9)


@pytest.mark.parametrize("case", LINEAR)
def test_gradients_that_are_not_numbers_are_seen(case):
    """A NaN in x is one in the gradient, not a zero slope."""
    problem, g = built(case), np.empty(D + ("bias" in LINEAR[case][3]))
    problem.gradient(0, np.full(len(g), np.nan), g)
    assert np.isnan(g).any() and np.isnan(problem.loss(0, np.full(len(g), np.nan)))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("huber", {"delta": 0.0}, "needs delta > 0"),
        ("smoothed_hinge", {"width": -1.0}, "needs width > 0"),
        ("huber", {"delta": float("nan")}, "needs delta > 0"),
        ("logistic", {"scale": "max"}, "unknown scale 'max'; known: largest, maxabs, none, unit"),
        ("logistic", {"test": 1.5}, "above 0 and below 1"),
        ("multinomial", {"test": 0}, "above 0 and below 1"),
    ],
)
def test_wrong_options(name, options, words):
    with pytest.raises(mc.ConfigError, match=words):
        getattr(mc, name)(A, two if name != "huber" else numbers, clients=2, **options)


# ---- multinomial logistic regression --------------------------------------------------------------------------------------------
def cross_entropies(x: np.ndarray, reg: float) -> list[float]:
    W, bias = x[: 3 * D].reshape(D, 3), x[3 * D :]
    return [
        -np.mean(log_softmax(a @ W + bias, axis=1)[np.arange(len(y)), y]) + reg * x @ x / 2 for a, y in parts(A, three)
    ]


def multinomial(**more) -> mc.Problem:
    options = {"clients": CLIENTS, "partition": "contiguous", "reg": 0.02, "test": (A, three), **more}
    return mc.multinomial(A, three, **options)


def test_multinomial_agrees_with_its_definition():
    problem, x = multinomial(), rng.normal(size=3 * D + 3)
    losses, gradients = np.empty(CLIENTS), np.empty((CLIENTS, problem.dim))
    block = problem.block(np.arange(CLIENTS), np.float64)
    block.losses(x[None], losses)
    block.gradients(x[None], gradients)
    np.testing.assert_allclose(losses, cross_entropies(x, 0.02), rtol=1e-12)
    np.testing.assert_allclose(gradients, slopes(lambda v: cross_entropies(v, 0.02), x), atol=1e-7)


def test_multinomial_constants():
    """By the proof's formulas; and L is met within its factor K/2 at 0, where p is 1/K: there the Hessian is (I − 11ᵀ/K)/K."""
    problem = multinomial()
    bordered = np.column_stack([A, np.ones(N)])
    grams = [a.T @ a / len(a) for (a,) in parts(bordered)]
    compare_constants(problem.smoothness(), grams, 0.5, 0.02)
    assert problem.smoothness().mu == 0.02 and problem.convex
    assert not problems.build("mlp", {"hidden": 3, "clients": 2}).convex
    check_problem(problem)
    check_problem(mc.multinomial(A, two, clients=CLIENTS, test=(A, two)))
    p = softmax(rng.normal(size=3))
    assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1] <= 0.5


def test_multinomial_of_two_classes_has_exact_constants():
    """Two classes: at 0 the Hessian by the logits has the eigenvalue ½, so L and L_i are met."""
    problem = mc.multinomial(A, two, clients=CLIENTS, partition="contiguous", test=(A, two))
    step, d = 1e-4, problem.dim
    H = []
    for e in np.eye(d):
        sides = np.empty((2, CLIENTS, d))
        for sign, out in zip((1, -1), sides, strict=True):
            problem.block(np.arange(CLIENTS), np.float64).gradients(sign * step * e[None], out)
        H.append((sides[0] - sides[1]) / (2 * step))
    hessians = np.stack(H).transpose(1, 0, 2)
    s = problem.smoothness()
    np.testing.assert_allclose([np.linalg.eigvalsh((h + h.T) / 2)[-1] for h in hessians], s.L_i, rtol=1e-5)
    mean = hessians.mean(axis=0)
    assert np.linalg.eigvalsh((mean + mean.T) / 2)[-1] == pytest.approx(s.L, rel=1e-5)


def test_networks_with_hidden_layers_still_have_no_constants():
    network = problems.build("mlp", {"hidden": 3, "clients": 2})
    with pytest.raises(mc.TheoryError, match="unknown"):
        network.smoothness()
    with pytest.raises(mc.TheoryError, match="unknown"):
        network.sample_smoothness()


def test_theory_gives_multinomial_a_step():
    result = mc.run(problem=multinomial(reg=0.1), method="ef21", compressor="topk:k=4", rounds=30, step="theory")
    losses = [row["loss"] for row in result.history]
    assert all(after <= before for before, after in pairwise(losses))


# ---- matrix factorisation ---------------------------------------------------------------------------------------------------------
RATINGS = sp.csr_matrix(np.where(rng.random((13, 7)) < 0.5, rng.integers(1, 6, (13, 7)), 0).astype(float))


def squared_errors(x: np.ndarray, matrix: np.ndarray, rank: int, reg: float) -> list[float]:
    U, V = np.split(x.reshape(-1, rank), [len(matrix)])
    errors = np.where(matrix != 0, (U @ V.T - matrix) ** 2, 0)
    return [e.sum() / (m != 0).sum() + reg * x @ x / 2 for e, m in parts(errors, matrix)]


def test_matrix_factorization_agrees_with_its_definition():
    problem = mc.matrix_factorization(RATINGS, rank=3, clients=CLIENTS, reg=0.1)
    assert problem.dim == 3 * 20 and problem.shapes == {"U": (13, 3), "V": (7, 3)}
    x, gradients = rng.normal(size=problem.dim), np.empty((CLIENTS, problem.dim))
    problem.block(np.arange(CLIENTS), np.float64).gradients(x[None], gradients)
    dense = RATINGS.toarray()
    np.testing.assert_allclose([problem.loss(i, x) for i in range(CLIENTS)], squared_errors(x, dense, 3, 0.1))
    np.testing.assert_allclose(gradients, slopes(lambda v: squared_errors(v, dense, 3, 0.1), x), atol=1e-6)
    check_problem(problem)
    check_problem(mc.matrix_factorization(RATINGS, rank=2, clients=4, partition="shuffled", seed=3))


def test_matrix_factorization_finds_a_matrix_of_low_rank():
    truth = np.abs(rng.normal(size=(30, 2))) @ np.abs(rng.normal(size=(2, 20)))
    problem = mc.matrix_factorization(truth, rank=2, clients=5, test=0.1)
    assert problem.describe()["entries"] == 540
    result = mc.run(problem=problem, method="ef21", compressor="topk:fraction=0.3", step=0.5, rounds=4000)
    first, last = result.history[0], result.history[-1]
    assert first["loss"] > 0.1 and last["test_loss"] < 1e-3 * first["test_loss"]
    assert result.summary["measures"]["test_loss"] == last["test_loss"]


def test_ratings_as_triples(tmp_path):
    rows, columns = RATINGS.nonzero()
    order = rng.permutation(len(rows))
    lines = [f"{10 * rows[k]},{columns[k] + 5},{RATINGS[rows[k], columns[k]]:g}" for k in order]
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating\n" + "\n".join(lines) + "\n")
    options = {
        "layout": "triples",
        "label": "rating",
        "data": str(path),
        "clients": 4,
        "rank": 2,
        "test": 0.2,
        "seed": 1,
    }
    ours = problems.build("matrix_factorization", options)
    theirs = mc.matrix_factorization(RATINGS, clients=4, rank=2, test=0.2, seed=1)
    assert ours.digests(np.arange(4)) == theirs.digests(np.arange(4))
    x = rng.normal(size=ours.dim)
    assert ours.measure(x) == theirs.measure(x)
    for text, words in (
        ("1,2,3\n1,2,4\n", "user 1 rates item 2 twice"),
        ("1,2.5,3\n", r"rating 1: item 2.5 is not a whole number"),
        ("1,2,3,4\n", "takes two columns of numbers"),
    ):
        path.write_text(text)
        with pytest.raises(mc.DataError, match=words):
            problems.build("matrix_factorization", {**options, "label": -1, "clients": 1, "test": None})


def test_held_out_ratings_are_where_the_partition_puts_their_users():
    """Whatever the order in which the rows are dealt, an error at a held-out entry is that of its row and column."""
    for partition in ("contiguous", "shuffled"):
        problem = mc.matrix_factorization(RATINGS, clients=4, rank=1, test=0.3, partition=partition)
        known = problem.rows
        at = np.repeat(np.arange(13), np.diff(known.indptr))
        kept = np.zeros((13, 7))
        kept[at, known.indices] = known.values
        rows, columns, held = problem._test
        assert not kept[rows.astype(int), columns.astype(int)].any()
        whole = kept.copy()
        whole[rows.astype(int), columns.astype(int)] = held
        assert sorted(map(tuple, whole)) == sorted(map(tuple, RATINGS.toarray()))


# ---- the elastic net --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_the_elastic_nets_proximal_step_minimises(ratio):
    prox, step = Prox("elastic", weight=0.8, l1_ratio=ratio), 0.6
    y = np.array([[-2.0, -0.3, 0.0, 0.1, 0.5, 3.0]])
    prox.start(y.copy(), step)
    x = y.copy()
    prox.apply(x, step)
    for found, at in zip(x[0], y[0], strict=True):
        best = minimize_scalar(
            lambda v, at=at: prox.value(np.array([v])) + (v - at) ** 2 / (2 * step), bounds=(-5, 5), method="bounded"
        )
        assert found == pytest.approx(best.x, abs=1e-5)
    others = {0.0: "ridge", 1.0: "l1"}
    if ratio in others:
        plain, there = Prox(others[ratio], weight=0.8), y.copy()
        plain.start(y.copy(), step)
        plain.apply(there, step)
        np.testing.assert_array_equal(x, there)
        assert plain.value(y) == prox.value(y)


@pytest.mark.full(reason="20,000 rounds")
def test_elastic_net_regression_by_ef21_prox_is_that_of_coordinate_descent():
    """x solves min (1/N)‖Ax − b‖² + w(ρ‖x‖₁ + (1 − ρ)/2 ‖x‖²); the optimality conditions, by their definition."""
    weight, ratio = 2.0, 0.7
    result = mc.run(
        problem=mc.least_squares(A, numbers, clients=1), method="ef21-prox", compressor="topk:k=3", rounds=20_000, evaluate="none",
        method_options={"r": "elastic", "weight": weight, "l1_ratio": ratio}, step="theory",
    )  # fmt: skip
    x = result.x
    slope = 2 * A.T @ (A @ x - numbers) / N + weight * (1 - ratio) * x
    active = x != 0
    assert 0 < active.sum() < D
    np.testing.assert_allclose(slope[active], -weight * ratio * np.sign(x[active]), atol=1e-6)
    assert (np.abs(slope[~active]) <= weight * ratio + 1e-9).all()


@pytest.mark.parametrize("options", [{"r": "l1", "l1_ratio": 0.5}, {"r": "elastic", "l1_ratio": 1.5}])
def test_a_wrong_share_of_the_1_norm(options):
    with pytest.raises(mc.ConfigError, match="l1_ratio"):
        Prox(**options)


# ---- scaling, choice of labels, rows for the test -----------------------------------------------------------------------------------
def dense(rows, features: int = D) -> np.ndarray:
    out = np.zeros((len(rows.labels), features))
    out[np.repeat(np.arange(len(out)), np.diff(rows.indptr)), rows.indices] = rows.values
    return out


def test_scales():
    for scale, wanted in (
        ("none", A),
        ("maxabs", A / np.abs(A).max(axis=0)),
        ("unit", A / np.where(A.any(axis=1), np.linalg.norm(A, axis=1), 1)[:, None]),
        ("largest", A / np.abs(A).max()),
    ):
        found = dense(Prepared(Source((A, numbers)), scale).read())
        np.testing.assert_allclose(found, wanted, rtol=1e-15)
    large = dense(Prepared(Source((np.array([[3e200, 4e200], [0, 0]]), [0, 1])), "unit").read(), 2)
    np.testing.assert_allclose(large, [[0.6, 0.8], [0, 0]])
    assert np.abs(dense(Prepared(Source((A, numbers)), "maxabs").read())).max(axis=0).tolist() == [1.0] * D


def test_held_out_rows_are_scaled_by_those_for_training_and_keyed_by_the_seed():
    prepared = Prepared(Source((A, numbers)), "maxabs", 0.25, seed=4)
    train = prepared.read()
    tested = prepared.test_rows
    assert len(tested.labels) == 10 and len(train.labels) == 31
    assert sorted([*train.labels, *tested.labels]) == sorted(numbers)
    scale = np.abs(A[np.isin(numbers, train.labels)]).max(axis=0)
    np.testing.assert_allclose(dense(tested), A[[numbers.tolist().index(v) for v in tested.labels]] / scale, rtol=1e-15)
    again = Prepared(Source((A, numbers)), "maxabs", 0.25, seed=5)
    again.read()
    assert sorted(again.test_rows.labels) != sorted(tested.labels)
    with pytest.raises(mc.DataError, match=r"too few to hold 0\.01 of them out"):
        Prepared(Source((A, numbers)), None, 0.01).read()


@pytest.mark.parametrize("name", ["logistic", "smoothed_hinge", "least_squares", "huber"])
def test_loss_and_accuracy_on_held_out_rows(name, tmp_path):
    labels = two if name in ("logistic", "smoothed_hinge") else numbers
    problem = getattr(mc, name)(A, labels, clients=3, test=0.3, bias=True, reg=0.1)
    x = rng.normal(size=D + 1)
    held = dense(problem.test_rows, D + 1)
    y, z = problem.test_rows.labels, held @ x
    assert len(y) == 12 and (held[:, D] == 1).all()
    loss = {
        "logistic": np.logaddexp(0, -y * z),
        "smoothed_hinge": hinge(z, y, 1.0),
        "least_squares": (z - y) ** 2,
        "huber": huber(z, y, 1.0),
    }[name]
    wanted = [np.mean(loss)] + ([np.mean(np.where(z > 0, 1, -1) == y)] if labels is two else [])
    np.testing.assert_allclose(problem.measure(x), wanted, rtol=1e-12)
    result = mc.run(problem=problem, method="gd", rounds=10, step=0.001, out=str(tmp_path / "out"))
    with open(tmp_path / "out" / "rounds.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert [float(last[key]) for key in problem.measures] == list(problem.measure(result.x))
    assert problem.measures == (("test_loss", "accuracy") if labels is two else ("test_loss",))


def test_without_a_test_there_is_nothing_more_to_measure():
    problem = mc.logistic(A, two, clients=2)
    assert problem.measures == () and problem.measure(np.zeros(D)) == ()
    assert "test_rows" not in problem.describe() and "scale" not in problem.describe()


def test_rows_for_the_test_from_elsewhere(tmp_path):
    def table(name: str, names: str, rows) -> str:
        (tmp_path / name).write_text(names + "\n" + "".join(f"{a},{b},{label}\n" for a, b, label in rows))
        return str(tmp_path / name)

    train = table("train.csv", "u,v,label", [(1, 2, "cat"), (3, 4, "dog"), (5, 6, "cat")])
    problem = problems.build(
        "logistic", {"data": train, "clients": 1, "test": table("t.csv", "u,v,label", [(1, 2, "dog")])}
    )
    assert problem.test_rows.labels.tolist() == [1.0]  # one class only: its code is that of training
    for name, names, rows, words in (
        ("a.csv", "v,u,label", [(1, 2, "dog")], "has other columns than .*train.csv .first 'v'"),
        ("b.csv", "u,v,label", [(1, 2, "cow")], "the class 'cow', which no training row of .*train.csv has"),
        ("c.csv", "u,v,label", [(1, 2, 0)], "are not of one kind"),
    ):
        with pytest.raises(mc.DataError, match=words):
            problems.build("logistic", {"data": train, "clients": 1, "test": table(name, names, rows)})
    a9a = problems.build("logistic", {"data": "a9a", "test": "a9a.t"})
    assert len(a9a.test_rows.labels) == 16281
    with pytest.raises(mc.DataError, match="the test rows have the label 7"):
        mc.logistic(A, np.sign(numbers), clients=1, test=(A, np.full(N, 7)))


def test_one_class_against_the_rest():
    for labels, chosen in ((three, 1), (np.array(["a", "b", "c"])[three], "b")):
        problem = mc.logistic(A, labels, clients=1, positive=chosen)
        np.testing.assert_array_equal(problem.rows.labels, np.where(three == 1, 1.0, -1.0))
        with pytest.raises(mc.DataError, match=r"needs two different labels, the file has 3: .*'positive': '?[0a]'?}"):
            mc.logistic(A, labels, clients=1)
        with pytest.raises(mc.DataError, match=r"no row has the label positive='?7'?; there are "):
            mc.smoothed_hinge(A, labels, clients=1, positive=7)
    with pytest.raises(mc.DataError, match="all rows have 3"):
        mc.logistic(A, np.full(N, 3), clients=1, positive=3)
    with pytest.raises(mc.DataError, match=r"needs two different labels, the file has 1: 3$"):
        mc.logistic(A, np.full(N, 3), clients=1)
    with pytest.raises(mc.DataError, match=r"needs numbers as labels, these are text \(no, yes\)"):
        mc.least_squares(A, two, clients=1)
    with pytest.raises(mc.DataError, match="at least two classes, the rows have only 3"):
        mc.multinomial(A, np.full(N, 3), clients=1)


def test_options_of_the_command_line(tmp_path, monkeypatch, capsys):
    """`mpicomp run` in this process: the shorthands are the problem's options, and the table shows the regularisation."""
    from mpicomp.cli import app

    lines = ["x,y,outcome", *(f"{a:.4f},{b:.4f},{label}" for (a, b), label in zip(A[:, :2], two, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    words = [
        "run",
        "--data",
        str(tmp_path / "t.csv"),
        "--label",
        "outcome",
        "--scale",
        "unit",
        "--positive",
        "no",
        "--test",
        "0.25",
    ]
    app(
        [
            *words,
            "--reg",
            "0.03",
            "--clients",
            "3",
            "--method",
            "gd",
            "--rounds",
            "5",
            "--out",
            str(tmp_path / "o"),
            "-q",
        ],
        standalone_mode=False,
    )
    shown = capsys.readouterr().out
    assert "regularisation λ" in shown and "0.03 (nonconvex)" in shown and "accuracy" in shown
    kept = mc.Config.load(tmp_path / "o" / "config.toml")
    given = {"label": "outcome", "scale": "unit", "positive": "no", "test": 0.25, "reg": 0.03}
    assert given.items() <= kept.problem_options.items()
    (tmp_path / "z.svm").write_text("0 0:1\n1 1:1\n")
    app(
        [
            "run",
            "--data",
            str(tmp_path / "z.svm"),
            "--zero-based",
            "--clients",
            "1",
            "--rounds",
            "1",
            "--out",
            str(tmp_path / "z"),
            "-q",
        ],
        standalone_mode=False,
    )
    assert mc.Config.load(tmp_path / "z" / "config.toml").problem_options["zero_based"] is True


def test_a_checkpoint_whose_history_lacks_a_measure_is_refused(tmp_path):
    """As one of `mlp` from a version that told the accuracy alone."""

    class Measured(type(mc.huber(A, numbers, clients=2, test=0.2))):
        pass

    problem = Measured((A, numbers), 2, test=0.2)
    problem.measures = ()
    problem.measure = lambda x: ()
    options = {
        "problem": problem,
        "method": "gd",
        "step": 0.001,
        "out": str(tmp_path / "o"),
        "resume": "auto",
        "checkpoint_every": 4,
    }
    mc.run(**options, rounds=4)
    del problem.measure
    problem.measures = ("test_loss",)
    with pytest.raises(mc.CheckpointError, match="has no column 'test_loss'"):
        mc.run(**options, rounds=8)
