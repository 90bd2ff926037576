"""Steps that weights and the Polyak–Łojasiewicz inequality allow, and EF21-W as EF21 on clones: against formulas and runs of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, TheoryError
from mpicomp.methods import Setting, methods
from mpicomp.methods.pl import STEPS
from mpicomp.problems import problems
from mpicomp.testing.small import SmallLeastSquares

N, D, ROWS = 40, 30, 3


# ---- rare features --------------------------------------------------------------------------------------------------------
def data(sigma: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and labels of clients with twelve of D features each; log L_i has deviation sigma."""
    rng = np.random.default_rng(2)
    clients = []
    for _ in range(N):
        A = np.zeros((ROWS, D))
        A[:, rng.permutation(D)[:12]] = rng.standard_normal((ROWS, 12))
        A *= np.exp(0.5 * sigma * rng.standard_normal()) / np.linalg.norm(A, 2)
        clients.append((A, A @ np.ones(D) + 0.1 * rng.standard_normal(ROWS)))
    return clients


def problem_of(sigma: float, path: Path) -> mc.Problem:
    lines = [
        f"{label:.17g} " + " ".join(f"{j + 1}:{row[j]:.17g}" for j in np.flatnonzero(row))
        for A, b in data(sigma)
        for row, label in zip(A, b, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return problems.build("least_squares", {"data": str(path), "clients": N, "features": D})


def setting_of(problem: mc.Problem, compressor: str, **more) -> Setting:
    given = mc.compressor(compressor)
    return Setting(problem.dim, problem.n_clients, 50, given, given, 0, problem.smoothness, 0, 0.0, problem, **more)


def expected(sigma: float, k: int) -> dict[str, float]:
    """The steps by the statement of docs/derivations/rare-features.md, from the rows."""
    hessians = np.array([2 / ROWS * A.T @ A for A, _ in data(sigma)])
    L_i, L = np.linalg.eigvalsh(hessians)[:, -1], np.linalg.eigvalsh(hessians.mean(axis=0))[-1]
    L_plus = np.sqrt(np.linalg.eigvalsh((hessians @ hessians).mean(axis=0))[-1])
    has = np.array([np.any(A != 0, axis=0) for A, _ in data(sigma)])
    alpha = k / has.sum(axis=1).max()
    xi = np.sqrt(1 - alpha) / (1 - np.sqrt(1 - alpha))
    share = has.sum(axis=0).max() / N
    w = L_i / L_i.sum()
    smooth = {
        "uniform": np.sqrt(share) * min(L_plus, np.sqrt(share) * L_i.max()),
        "smoothness": np.sqrt((w @ has).max()) * L_i.mean(),
    }
    steps = {name: 1 / (L + value * xi) for name, value in smooth.items()}
    return {**steps, "best": max(steps.values())}


@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("k", [1, 3])
def test_steps_for_rare_features(sigma, k, tmp_path):
    problem = problem_of(sigma, tmp_path / "rare.svm")
    steps = {
        weights: methods.build("ef21-rare", {"weights": weights}).step_size(setting_of(problem, f"topk:k={k}"))
        for weights in ("uniform", "smoothness", "best")
    }
    assert steps == pytest.approx(expected(sigma, k))
    assert methods.build("ef21-rare", {}).step_size(setting_of(problem, f"topk:k={k}")) == steps["best"]
    assert (steps["smoothness"] > steps["uniform"]) == (sigma > 0)  # neither proof is the better one for all data


def test_the_inequality_behind_it_holds_and_is_reached():
    """‖(1/n) Σ v_i‖² ≤ max_j Σ_{i∈I_j} w_i · Σ‖v_i‖²/(n² w_i)."""
    rng = np.random.default_rng(3)
    largest = 0.0
    for _ in range(300):
        n, d = 6, 5
        has = rng.random((n, d)) < rng.uniform(0.2, 1.0)
        w = rng.exponential(size=n)
        w /= w.sum()
        kappa = (w @ has).max()
        v = rng.standard_normal((n, d)) * has
        if rng.random() < 0.5:  # the worst case: one coordinate, in proportion to the weights
            v = np.zeros((n, d))
            j = np.argmax(w @ has)
            v[:, j] = w * has[:, j]
        bound = kappa * np.sum(v**2 / w[:, None]) / n**2
        if bound > 0:
            largest = max(largest, np.sum(v.mean(axis=0) ** 2) / bound)
    assert 1 - 1e-9 < largest <= 1 + 1e-9


@pytest.mark.parametrize("weights", ["uniform", "smoothness"])
def test_theorem_of_rare_features(weights, tmp_path):
    problem = problem_of(2.0, tmp_path / "rare.svm")
    options = {"weights": weights}
    result = mc.run(problem=problem, method="ef21-rare", method_options=options, compressor="topk:k=1", rounds=300,
                    eval_every=1, init="ones")  # fmt: skip
    gradients = np.array([2 / ROWS * A.T @ (A @ np.ones(D) - b) for A, b in data(2.0)])
    loss = np.mean([np.mean((A @ np.ones(D) - b) ** 2) for A, b in data(2.0)])
    squared = np.mean(np.sum(gradients**2, axis=1))
    start = methods.build("ef21-rare", options).initial_term(setting_of(problem, "topk:k=1"), float(squared))
    mean = np.mean([row["grad_norm_sq"] for row in result.history[:-1]])
    assert 0 < mean <= (2 * loss / result.summary["step"] + start) / 300


def test_weights_have_names():
    with pytest.raises(ConfigError, match=r"weights of ef21-rare: 'smooth'.*did you mean 'smoothness'"):
        methods.build("ef21-rare", {"weights": "smooth"})


# ---- the Polyak–Łojasiewicz inequality ----------------------------------------------------------------------------------
def test_pl_steps_are_those_of_the_statement():
    problem = SmallLeastSquares(dim=8, clients=4, samples=3)
    s = problem.smoothness()
    alpha, omega = 2 / 8, 8 / 2 - 1
    theta = 1 - np.sqrt(1 - alpha)
    xi = np.sqrt(1 - alpha) / theta
    for name, mean in (("ef21", s.L_QM), ("ef21-am", s.L_AM), ("ef21-w", s.L_AM)):
        wanted = min(1 / (s.L + np.sqrt(2) * mean * xi), theta / (2 * s.mu))
        assert STEPS[name](methods.build(name, {}), setting_of(problem, "topk:k=2")) == pytest.approx(wanted)
    for p in (0.25, 1e-4):  # the second one is bound by p/(2μ)
        V = omega / 4 * s.L_plus**2
        wanted = min(1 / (s.L + np.sqrt(2 * (1 - p) / p * V)), p / (2 * s.mu))
        found = STEPS["marina"](methods.build("marina", {"p": p}), setting_of(problem, "randk:k=2"))
        assert found == pytest.approx(wanted)
    assert 1e-4 / (2 * s.mu) < 1 / (s.L + np.sqrt(2 * 0.9999 / 1e-4 * omega / 4) * s.L_plus) * 1e3


@pytest.mark.parametrize(
    ("method", "compressor", "seeds"),
    [("gd", "identity", 1), ("ef21", "topk:k=2", 1), ("ef21-am", "topk:k=2", 1), ("ef21-w", "natural", 8),
     ("marina", "randk:k=2", 12), ("marina", "permk", 12)],
)  # fmt: skip
def test_linear_convergence(method, compressor, seeds):
    """E[f(x^T) − f*] ≤ (1 − γμ)^T Ψ⁰, and much faster than that a step would be suspicious: within its square root's power of ten."""
    problem = SmallLeastSquares(dim=8, clients=4, samples=3)
    s, rounds, gaps, step = problem.smoothness(), 120, [], 0.0
    H = np.einsum("isj,isk->jk", problem.rows, problem.rows) / 12 + problem.reg * np.eye(8)
    best = np.linalg.solve(H, np.einsum("isj,is->j", problem.rows, problem.targets) / 12)
    least = np.mean([problem.loss(i, best) for i in range(4)])
    for seed in range(seeds):
        result = mc.run(problem=problem, method=method, compressor=compressor, rounds=rounds, step="pl", seed=seed,
                        eval_every=10, init="ones")  # fmt: skip
        gaps.append([row["loss"] - least for row in result.history])
        step = result.summary["step"]
    start = gaps[0][0]
    if method.startswith("ef21"):
        alpha = 2 / 8 if compressor != "natural" else 8 / 9
        theta = 1 - np.sqrt(1 - alpha)
        w = s.L_i / s.L_i.sum() if method != "ef21" else np.full(4, 0.25)
        gradients = np.zeros((4, 8))
        for i in range(4):
            problem.gradient(i, np.ones(8), gradients[i])
        start += step / theta * (1 - alpha) * np.sum(np.sum(gradients**2, axis=1) / w) / 16
    t = np.arange(0, rounds + 1, 10)
    assert np.all(np.mean(gaps, axis=0) <= (1 - step * s.mu) ** t * start * (1 + 1e-9))
    assert np.mean(gaps, axis=0)[-1] < 0.9 * gaps[0][0]


def test_pl_steps_are_refused_where_no_theorem_is():
    options = {"problem": "quadratic", "problem_options": {"dim": 8, "reg": 0.1}, "clients": 4, "rounds": 2}
    with pytest.raises(
        TheoryError, match=r"'ef21-hb' has no theorem for the PŁ inequality here.*ef21, ef21-am, ef21-w"
    ):
        mc.run(method="ef21-hb", step="pl", **options)  # though it is built on EF21
    with pytest.raises(TheoryError, match="μ of this problem is not known"):
        mc.run(method="ef21", step="pl", problem="logistic", clients=4, rounds=2)
    halved = mc.run(method="gd", step="pl*0.5", **options).summary["step"]
    assert halved == pytest.approx(0.5 * mc.run(method="gd", step="pl", **options).summary["step"])
    with pytest.raises(ConfigError, match="'pl', the step of the theorem"):
        mc.run(method="gd", step="pll", **options)


# ---- cloning --------------------------------------------------------------------------------------------------------------
class Clones(mc.Problem):
    """f_i of another problem, N_i times (N/(nN_i)) f_i each, N = ΣN_i: the mean of all is f."""

    def __init__(self, of: SmallLeastSquares, counts: np.ndarray):
        self.of, self.dim, self.n_clients = of, of.dim, int(counts.sum())
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self.factor = self.n_clients / (len(counts) * counts[self.owner])

    def loss(self, i: int, x: np.ndarray) -> float:
        return float(self.factor[i]) * self.of.loss(int(self.owner[i]), x)

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        self.of.gradient(int(self.owner[i]), x, out)
        out *= self.factor[i]


class Weighted(SmallLeastSquares):
    """The same with given L_i, which make the weights of EF21-W."""

    def __init__(self, L_i: np.ndarray):
        super().__init__(dim=8, clients=4, samples=3)
        self.L_i = np.asarray(L_i, np.float64)

    def smoothness(self):
        return mc.Smoothness.bounds(self.L_i, float(self.L_i.max()))


def last(problem: mc.Problem, method: str) -> np.ndarray:
    """x after some rounds with a compressor that is deterministic and not positively homogeneous, so that weights matter."""
    found = mc.run(problem=problem, method=method, compressor="cast:to=bfloat16", wire_dtype="float32", step="0.3", rounds=12,
                   init="ones", allow_unsafe=True)  # fmt: skip
    return np.array(found.x)


@pytest.mark.parametrize("many", [0, 1, 10])
def test_ef21_w_is_ef21_on_clones(many):
    """EF21 on N_i clones of client i is EF21-W with w_i = N_i/N, and N_i = ⌈M L_i/L_AM⌉ makes that L_i/ΣL as M grows; M = 0: integers."""
    L_i = SmallLeastSquares(dim=8, clients=4, samples=3).smoothness().L_i
    counts = np.array([1, 3, 2, 5]) if many == 0 else np.ceil(many * L_i / L_i.mean()).astype(int)
    weighted = last(Weighted(counts), "ef21-w")
    np.testing.assert_allclose(last(Clones(Weighted(counts), counts), "ef21"), weighted, rtol=1e-12)
    if many == 0:
        assert np.max(np.abs(last(Weighted(counts), "ef21") - weighted)) > 1e-6  # the weights do matter
    else:
        assert np.max(np.abs(counts / counts.sum() - L_i / L_i.sum())) < 1 / many
