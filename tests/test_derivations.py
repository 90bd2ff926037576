"""The derivations of docs/derivations and docs/methods, inequality by inequality, by code of their own.

Expectations over RandK's masks, coins and samples are sums over all draws where that is possible. A check of a bound also says how near
to the bound the worst case comes, so that a constant that is too small by more than that would be found.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from derivation_oracles import (
    Random,
    Small,
    all_masks,
    core,
    dasha,
    diana,
    dore,
    ef21,
    m3,
    marina,
    marina_p,
    masks,
    mcm,
    mean_sq,
    simulate,
    sq,
    topk,
    vr_diana,
)

import mpicomp as mc
from mpicomp.methods import Setting, methods
from mpicomp.participation import Sampling

D, N, K = 4, 3, 1
OMEGA = D / K - 1
A = OMEGA / N
ROUNDS, SEEDS = 60, 600


def within(left: Any, right: Any, power: float) -> None:
    """left ≤ right everywhere, and left ≥ power · right somewhere."""
    left, right = np.asarray(left), np.asarray(right)
    assert np.all(left <= right * (1 + 1e-9) + 1e-12)
    assert np.max(left / right) >= power


def built(
    problem: Small, method: str, compressor: str = "randk:k=1", down: str = "randk:k=1", batch: int = 0, **options: Any
):
    """(method, setting, step) as the package has them."""
    setting = Setting(
        problem.dim, problem.n_clients, ROUNDS, mc.compressor(compressor), mc.compressor(down), 0, problem.smoothness,
        batch, float(problem.m if batch else 0), problem,
    )  # fmt: skip
    object_ = methods.build(method, options)
    return object_, setting, object_.step_size(setting)


# ---- what the derivations share -----------------------------------------------------------------------------------------
class TestShared:
    rng = np.random.default_rng(0)

    def test_lemma_1_and_2(self):
        for seed in range(5):
            P = Small(seed)
            L = P.smoothness().L
            x, g = self.rng.standard_normal((2, 1000, D)) * self.rng.uniform(0.01, 10, (2, 1000, 1))
            step = self.rng.uniform(0.01, 2, 1000) / L
            R = step**2 * sq(g)
            right = P.f(x) - step / 2 * sq(P.full(x)) - (1 / (2 * step) - L / 2) * R + step / 2 * sq(g - P.full(x))
            assert np.all(P.f(x - step[:, None] * g) <= right + 1e-9 * np.abs(right))
        M, L = self.rng.uniform(0, 10, (2, 1000))
        step = 1 / (L + M)
        assert np.all(step * L + step**2 * M**2 <= 1 + 1e-12)

    def test_lemma_3(self):
        b = self.rng.random(200) * (self.rng.random(200) < 0.1)
        for theta in (0.02, 0.3, 1.0):
            a, root = [1.0], [0.0]
            for t in range(199):
                a.append((1 - theta) * a[t] + b[t])
                root.append((1 - theta) * root[t] + np.sqrt(b[t]))
            within(np.sum(a), (1 + b.sum()) / theta, 0.5)
            within(np.sum(np.square(root)), b.sum() / theta**2, 0.0)
        steady = [0.0]
        for _ in range(2000):
            steady.append(0.7 * steady[-1] + 1)
        within(np.sum(np.square(steady[1:])), 2000 / 0.3**2, 0.99)

    def test_lemma_5(self):
        draws = masks(D, K)
        for a in (1 / (1 + OMEGA), 0.1):
            u, noise = self.rng.standard_normal((2, D))
            values = [sq(u - a * mask * (u + s * noise)) for mask in draws for s in (-1, 1)]
            within(np.mean(values), (1 - a) * sq(u) + a * sq(noise), 0.99 if a > 0.2 else 0.4)

    @pytest.mark.parametrize("alpha", [0.05, 0.5, 0.9])
    def test_lemma_6(self, alpha):
        """A contractive compressor with equality: C(v) = v with probability α, else 0."""
        theta = 1 - np.sqrt(1 - alpha)
        beta, s = (1 - alpha) / theta, 1 / np.sqrt(1 - alpha) - 1
        assert np.sqrt(beta / theta) == pytest.approx((1 + np.sqrt(1 - alpha)) / alpha - 1)
        error = self.rng.standard_normal((50, D))  # g_i − v_i
        for change, power in ((self.rng.standard_normal((50, D)), 0.0), (-s * error, 0.999)):  # v_i⁺ − v_i
            left = (1 - alpha) * sq(change - error)
            within(left, (1 - theta) * sq(error) + beta * sq(change), power)

    def test_lemma_7(self):
        for beta in (0.05, 0.5):
            for e in (self.rng.standard_normal((400, D)), np.ones((400, D))):
                b = [np.zeros(D)]
                for t in range(400):
                    b.append((1 - beta) * b[t] + beta * e[t])
                assert np.sum(np.square(b)) <= np.sum(np.square(e))
            assert np.sum(np.square(b)) >= 0.9 * np.sum(np.square(e))


# ---- Lyapunov functions: the exact expectation after one round, at many states ------------------------------------------
def increase(P: Small, method: str, factor: float, states: int = 40, seed: int = 0) -> float:
    """The largest E Ψ⁺ − Ψ + c‖∇f‖² over states, in units of Ψ's terms; constants as derived, the step `factor` times the theory's."""
    rng, s = np.random.default_rng(seed), P.smoothness()
    down = masks(D, K)
    p = 0.3
    options: dict[str, Any] = {"vr-diana": {"p": p}, "dore": {"beta": 0.7}}.get(method, {})
    object_, setting, step = built(P, method, **options)
    step = factor * step
    a, L, L_plus = 1 / (1 + OMEGA), s.L, s.L_plus
    ups = all_masks(N, D, K)
    worst = -np.inf
    for _ in range(states):
        scale = 10.0 ** rng.uniform(-3, 1, 4)
        x = np.linalg.solve(P.mean, P.shift) + scale[0] * rng.standard_normal(D)
        u, e, w = (
            scale[1] * rng.standard_normal((N, D)),
            scale[2] * rng.standard_normal(D),
            x + scale[3] * rng.standard_normal(D),
        )
        gradient, h = P.full(x), P.each(x) - u
        if method in ("diana", "artemis"):
            Dn = 1 + OMEGA if method == "artemis" else 1.0
            c, b, gain = 2 * L * step**2 * A * Dn / a, 0.0, step / 2
            m = ups * u
            g = (h + m).mean(axis=1)
            x1 = (x - step * (g[:, None] * down if method == "artemis" else g[:, None])).reshape(-1, D)
            h1 = np.repeat(h + a * m, len(x1) // len(m), axis=0)
            after = P.f(x1) + c * mean_sq(P.each(x1) - h1)
            before = P.f(x) + c * mean_sq(u)
        elif method == "dore":
            beta, eta = 0.7, object_.largest_eta(setting)
            c, b, gain = step * beta * A / (2 * a), 3 * beta * eta**2 / (4 * step), beta * step / 4
            m = ups * u
            q = -step * (h + m).mean(axis=1) + eta * e
            sent = q[:, None] * down
            x1, e1 = (x + beta * sent).reshape(-1, D), (q[:, None] - sent).reshape(-1, D)
            h1 = np.repeat(h + a * m, len(down), axis=0)
            after = P.f(x1) + c * mean_sq(P.each(x1) - h1) + b * sq(e1)
            before = P.f(x) + c * mean_sq(u) + b * sq(e)
        else:
            spread = float(np.mean(P.sample_smoothness() ** 2))
            share = 6 * step**2 * L_plus**2 * A / a**2 + 2 / p * step**2 * spread * (4 * A + 1 / N)
            if share >= 1:
                return np.inf
            Q = L / 2 / (1 - share)
            c, b = 2 * Q * step**2 * A / a, 2 / p * Q * step**2 * spread * (4 * A + 1 / N)
            gain = step - Q * step**2 - 2 * b * step**2 / p
            values, weights = [], []
            for j in product(range(P.m), repeat=N):
                estimate = P.each(x) + P.noise(x, np.array(j)) - P.noise(w, np.array(j))
                m = ups * (estimate - h)
                x1 = x - step * (h + m).mean(axis=1)
                H = mean_sq(P.each(x1) - h - a * m)
                W = p * sq(x1 - x) + (1 - p) * sq(x1 - w)
                values.append(np.mean(P.f(x1) + c * H + b * W))
                weights.append(1)
            after = np.array(values)
            before = P.f(x) + c * mean_sq(u) + b * sq(x - w)
        change = np.mean(after) - before + gain * sq(gradient)
        worst = max(worst, change / (gain * sq(gradient) + c * mean_sq(u) + b * (sq(e) + sq(x - w)) + 1e-300))
    return float(worst)


@pytest.mark.parametrize(("method", "too_much"), [("diana", 3), ("artemis", 3), ("dore", 10), ("vr-diana", 10)])
def test_lyapunov_functions_fall_at_every_state(method, too_much):
    """Also for clients with equal Hessians LI, where most lemmas hold with equality.

    A step `too_much` times as large breaks the inequality somewhere, for vr-diana in that it leaves no Lyapunov function.
    """
    problems = [Small(seed) for seed in range(4)] + [Small(0, spread=0.0, noise=0.5)]
    isotropic = Small(1, spread=0.0)
    isotropic.A[:], isotropic.mean = np.eye(D), np.eye(D)
    for P in [*problems, isotropic]:
        assert increase(P, method, 1.0) <= 1e-9
    assert max(increase(P, method, too_much) for P in [*problems, isotropic]) > 0


# ---- one round of what is summed up ------------------------------------------------------------------------------------
class TestRecursions:
    rng = np.random.default_rng(1)

    def test_dasha_step_1(self):
        ups = all_masks(N, D, K)
        for a in (1 / (2 * OMEGA + 1), 0.2):
            theta = 2 * a - (1 + 2 * OMEGA) * a**2
            for _ in range(20):
                u, any_d = self.rng.standard_normal((2, N, D))
                for d, power in ((any_d, 0.0), (-a * u, 0.999)):
                    after = u + ups * (d - a * u) - d
                    within(mean_sq(after).mean(), (1 - theta) * mean_sq(u) + 2 * OMEGA * mean_sq(d), power)
                    mean = (1 - a) ** 2 * sq(u.mean(axis=0)) + 2 * A * (mean_sq(d) + a**2 * mean_sq(u))
                    within(sq(after.mean(axis=1)).mean(), mean, power)

    @pytest.mark.parametrize("beta", [0.03, 0.3, 1.0])
    @pytest.mark.parametrize("p", [0.03, 0.3, 1.0])
    def test_m3_step_3(self, p, beta):
        """E r² exactly, from the second moments of (e, b): e⁺ = 0 or e + ξ, b⁺ = (1−β)b + βe⁺, for one coordinate."""
        omega, worst = 7.0, 0.0
        for R in (np.ones(3000), np.r_[1.0, np.zeros(2999)], self.rng.random(3000)):
            ee = eb = bb = total = 0.0
            for r in R:
                after, mixed = (1 - p) * (ee + omega * r), (1 - p) * eb  # E e⁺², E e⁺b
                total += beta**2 * (after - 2 * mixed + bb)
                eb = (1 - beta) * mixed + beta * after
                bb = (1 - beta) ** 2 * bb + 2 * beta * (1 - beta) * mixed + beta**2 * after
                ee = after
            worst = max(worst, total / R.sum())
        bound = beta / (2 - beta) * 2 * (1 - p) * omega
        if p < 1:
            within(worst, bound, 0.4 * beta / (beta + (1 - beta) * p))
        assert bound <= 2 * (1 - p) * omega * (p + beta)

    def test_marina_p_step_1(self):
        draws, p = all_masks(N, D, K), 0.3
        e, delta = self.rng.standard_normal((N, D)), self.rng.standard_normal(D)
        after = e + draws * delta - delta
        within((1 - p) * mean_sq(after).mean(), (1 - p) * (mean_sq(e) + OMEGA * sq(delta)), 0.999)
        mean = sq(e.mean(axis=0)) + OMEGA / N * sq(delta)
        within((1 - p) * sq(after.mean(axis=1)).mean(), (1 - p) * mean, 0.999)

    @pytest.mark.parametrize("omega", [0.5, 3.0, 50.0])
    def test_mcm_step_1(self, omega):
        """Exactly, for steps that all have one direction: m = E(x − H), q = E‖x − H‖², one coordinate."""
        for rate in (1 / (1 + omega), 1 / (8 * omega + 1)):
            theta, m, q, S, W, before = 1 - np.sqrt(1 - rate), 0.0, 0.0, 0.0, 0.0, 0.0
            P = omega / theta**2
            for _ in range(4000):
                s = q + 2 * m + 1
                q, m = (1 - 2 * rate + rate**2 * (1 + omega)) * s, (1 - rate) * (m + 1)
                S, W, before = S + s, W + omega * s + omega * before + 1, s
            within(S, 4000 / theta**2, 0.4 if rate * (1 + omega) > 0.99 else 0.2)
            within(W, 4000 * (1 + 2 * np.sqrt(P)) ** 2, 0.1)  # the errors of two rounds are uncorrelated

    @pytest.mark.parametrize("kind", ["nice", "uniform", "importance", "independent"])
    def test_samplings_and_their_compression(self, kind):
        """pp-marina steps 1 and 4: equality in the first, and in the second but for what the constants of all vectors cost."""
        tau, L_i = 2, np.array([0.5, 1.0, 2.5])
        sampling, a = Sampling(kind, tau, N, 0, L_i), self.rng.standard_normal((N, D))
        q = L_i / L_i.sum() if kind in ("importance", "independent") else np.full(N, 1 / N)
        outcomes: list[tuple[float, np.ndarray]] = []
        if kind == "nice":
            outcomes = [(1 / 3, np.where(np.arange(N) == out, 0, 1 / tau)) for out in range(N)]
        elif kind == "independent":
            p = np.minimum(tau * q, 0.999)
            for who in product((0, 1), repeat=N):
                w = np.array(who)
                outcomes.append((float(np.prod(np.where(w, p, 1 - p))), w / (N * p)))
        else:
            for draw in product(range(N), repeat=tau):
                outcomes.append((float(np.prod(q[list(draw)])), np.bincount(draw, minlength=N) / (tau * N * q)))
        assert sum(weight for weight, _ in outcomes) == pytest.approx(1)
        const, B, w = sampling.constants()
        error = sum(weight * sq(xi @ a - a.mean(axis=0)) for weight, xi in outcomes)
        expected = const * np.mean(sq(a) / (N * w)) - B * sq(a.mean(axis=0))
        assert error == pytest.approx(expected)
        draws = all_masks(N, D, K)
        extra = sum(weight * sq(np.sum(xi[:, None] * (draws * a - a), axis=1)).mean() for weight, xi in outcomes)
        assert extra == pytest.approx(OMEGA * np.sum(sampling.second_moments() * sq(a)))

    def test_marina_biased_step_1(self):
        s, beta = 0.4, 1 - 1 / D
        e, a = self.rng.standard_normal((2, 200, D))
        left = sq(e + topk(a, 1) - a)
        within(left, (1 + s) * sq(e) + (1 + 1 / s) * beta * sq(a), 0.3)
        assert np.all(sq(topk(a, 1) - a) <= beta * sq(a))

    def test_core(self):
        m, v = 3, self.rng.standard_normal(D)
        xi = self.rng.standard_normal((200_000, m, D))
        g = np.einsum("sma,smb,b->sa", xi, xi, v) / m
        squares, expected = sq(g), (1 + (D + 1) / m) * sq(v)
        assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(len(g)) < 0.05 * expected
        assert np.all(np.abs(g.mean(axis=0) - v) < 5 * g.std(axis=0) / np.sqrt(len(g)))

    @pytest.mark.parametrize("values", [[1, 1, 1, 1], [3, 2, 1, 0.1], [5, 0, 0, 0]])
    def test_powersgd_captures_its_share(self, values):
        """Step 2; with equal singular values the share is exactly r/k."""
        r, Sigma = 2, np.diag(np.array(values, float))
        basis = np.linalg.qr(
            Sigma @ self.rng.standard_normal((20_000, 4, r)) + 1e-12 * self.rng.standard_normal((4, r))
        )[0]
        shares = sq(np.swapaxes(basis, 1, 2) @ Sigma).sum(axis=-1) / np.sum(Sigma**2)
        slack = 5 * shares.std() / np.sqrt(len(shares))
        assert shares.mean() >= r / 4 - slack
        if len(set(values)) == 1:
            assert shares.mean() == pytest.approx(r / 4, abs=max(slack, 1e-9))

    def test_heavy_ball_sums(self):
        eta, g = 0.8, np.ones(3000)
        v = [0.0]
        for value in g:
            v.append(eta * v[-1] + value)
        within(np.sum(np.square(v)), np.sum(g**2) / (1 - eta) ** 2, 0.98)


@pytest.mark.parametrize(("n", "d", "parts"), [(5, 7, 2), (4, 8, 4), (6, 6, 3)])
def test_permk_cq(n, d, parts):
    """(A, B) and θ by draws of an independent one-bit PermK + CQ; ω_b of one bit is reached, so is A − B but for parts of unequal size."""
    rng, draws, m = np.random.default_rng(3), 40_000, parts
    compressor = mc.compressor(f"permk-cq:parts={m}")
    q, s = divmod(n, m)
    b = -(-d // m)
    kappa = m * (m * q * (q - 1) + 2 * q * s) / (n * (n - 1))
    const, B = (m - kappa + m * (b - 1)) / n, 1 - kappa
    assert compressor.ab(d, n) == pytest.approx((const, B)) and compressor.omega(d, n) == pytest.approx(m * b - 1)
    theta = (m - kappa) / n - B + min(m * (b - 1) / n, b * (m / n) ** 2)
    assert compressor.theta(d, n) == pytest.approx(max(theta, 0))
    bounds = np.arange(m + 1) * d // m
    for equal in (False, True):
        a = np.repeat(rng.standard_normal((1, d)), n, axis=0) if equal else rng.standard_normal((n, d))
        mean = np.zeros((draws, d))
        sigma = np.argsort(rng.random((draws, n)), axis=1)
        turn = rng.integers(m, size=draws)
        U = rng.random((draws, n, d))
        # the strata of a part's holders: their rank among them by σ, plus a shift of each coordinate
        shift = rng.integers(10**6, size=(draws, d))
        for i in range(n):
            part = (sigma[:, i] + turn) % m
            holders = (n - sigma[:, i] % m + m - 1) // m
            stratum = (sigma[:, i, None] // m + shift) % holders[:, None]
            threshold = (stratum + U[:, i]) / holders[:, None]
            for k in range(m):
                at, x = slice(bounds[k], bounds[k + 1]), a[i, bounds[k] : bounds[k + 1]]
                radius = np.sqrt(sq(x))
                bits = np.where(threshold[:, at] < (x / radius + 1) / 2, radius, -radius)
                mean[:, at] += np.where((part == k)[:, None], m * bits / n, 0)
        error = sq(mean - a.mean(axis=0))
        slack = 5 * error.std() / np.sqrt(draws)
        bound = theta * sq(a[0]) if equal else const * mean_sq(a) - B * sq(a.mean(axis=0))
        assert slack < 0.1 * bound and 0.3 * bound < error.mean() < bound + slack
        deviation = 5 * mean.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(mean.mean(axis=0) - a.mean(axis=0)) < deviation + 1e-12)


# ---- whole runs at the theory's step: the sum of errors, and the promise -------------------------------------------------
CASES = [
    ("diana", "", {}), ("artemis", "", {}), ("dore", "", {"beta": 0.7}), ("vr-diana", "", {"p": 0.3}),
    ("dasha", "M", {}), ("dasha", "M", {"a": 0.2}), ("dasha-page", "M", {"p": 0.3}), ("dasha-mvr", "floor", {"b": 0.3}),
    ("mcm", "M", {}), ("mcm", "M", {"rate": 0.25}), ("rand-mcm", "M", {"rate": 0.25}), ("marina-p", "M", {}),
    ("marina-p", "M", {"p": 0.05}), ("m3", "M", {}), ("m3", "M", {"p_up": 0.5, "p_down": 0.1, "beta": 0.5}),
    ("pp-marina", "M", {"r": 2}), ("pp-marina", "M", {"r": 2, "replacement": True}), ("marina-w", "M", {"tau": 2}),
    ("vr-marina", "M", {"p": 0.2}), ("marina-biased", "M", {"p": 0.2}), ("core", "", {"m": 2}),
]  # fmt: skip


def recursion(
    P: Small, method: str, object_: Any, setting: Setting, step: float, x: np.ndarray, options: dict[str, Any]
) -> Any:
    """The method in plain NumPy, with the package's parameters."""
    up, down, a = Random(1, D, K), Random(2, D, K), 1 / (1 + OMEGA)
    if method in ("diana", "artemis"):
        return diana(P, up, x, a, down if method == "artemis" else None)
    if method == "dore":
        return dore(P, up, x, a, down, step, object_.beta, object_.largest_eta(setting))
    if method == "vr-diana":
        return vr_diana(P, up, x, a, options["p"])
    if method.startswith("dasha"):
        return dasha(P, up, x, object_.momentum(setting)[0], method, options.get("p", 1.0), options.get("b", 1.0))
    if method.endswith("mcm"):
        rate = options.get("rate", min(1 / (8 * OMEGA), a))
        return mcm(P, up, x, a, down, rate, each=method == "rand-mcm")
    if method == "marina-p":
        return marina_p(P, x, down, options.get("p", K / D))
    if method == "m3":
        p_up, p_down = object_.probabilities(setting)
        return m3(P, up, x, down, object_.momentum(setting), p_up, p_down)
    if method == "core":
        return core(P, np.random.default_rng(1), x, options["m"])
    if method.startswith("ef21"):
        return ef21(P, up, x, method, down, options.get("p", 1.0), options.get("eta", 1.0))
    weights = None
    if method in ("pp-marina", "marina-w"):
        tau, L_i = 2, P.smoothness().L_i
        q = L_i / L_i.sum() if method == "marina-w" else np.full(N, 1 / N)

        def weights(rng: np.random.Generator, S: int) -> np.ndarray:
            if method == "pp-marina" and not options.get("replacement"):
                return (np.argsort(np.argsort(rng.random((S, N)), axis=1), axis=1) < tau) / tau
            return rng.multinomial(tau, q, size=S) / (tau * N * q)

    return marina(P, up, x, object_.probability(setting), method, weights)


@pytest.mark.parametrize(("method", "kind", "options"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("seed", [0, 1])
def test_sums_of_errors_and_promises(method, kind, options, seed):
    P = Small(seed, spread=0.3, noise=0.3)
    compressor = {"marina-biased": "topk:k=1", "core": "identity"}.get(method, "randk:k=1")
    object_, setting, step = built(P, method, compressor, **options)
    x = np.broadcast_to(np.random.default_rng(seed).standard_normal(D), (SEEDS, D)).copy()
    gap = float(P.f(x[0])) - P.lower_bound()
    start = float(mean_sq(P.each(x[:1]))[0])
    run = simulate(P, recursion(P, method, object_, setting, step, x, options), x, step, ROUNDS)
    floor, noise, first = 0.0, 0.0, 0.0
    L = P.smoothness().L
    if kind == "floor":  # dasha-mvr: σ² is the largest on the way
        noise = 2 * options["b"] ** 2 * P.variance(run["x"].reshape(-1, D)) * object_.memory(setting)
        floor = noise
    else:
        first = object_.initial_term(setting, start)
    if kind:
        M = 1 / step - L
        assert np.mean(run["error"].sum(axis=0)) <= M**2 * np.mean(run["R"].sum(axis=0)) + ROUNDS * noise + first
    mean = run["squared"].mean(axis=0)
    slack = 5 * mean.std() / np.sqrt(SEEDS)
    assert mean.mean() - slack <= object_.gap_factor(setting) * gap / (step * ROUNDS) + first / ROUNDS + floor
    assert np.mean(P.f(run["x"][-1])) < P.f(x[0])


DRIVEN = [
    ("dasha", {}, 0.3), ("dasha-page", {"p": 0.3}, 0.25), ("marina-p", {}, 0.4), ("marina-p", {"p": 0.05}, 0.4), ("m3", {}, 0.1),
    ("pp-marina", {"r": 2}, 0.9), ("pp-marina", {"r": 2, "replacement": True}, 0.9), ("marina-w", {"tau": 2}, 0.9),
    ("vr-marina", {"p": 0.2}, 0.7), ("ef21", {}, 0.25), ("ef21-pp", {"p": 0.4}, 0.25), ("ef21-page", {"p": 0.3}, 0.05),
    ("ef21-sgdm", {"eta": 0.2}, 0.3), ("ef21-sgd2m", {"eta": 0.2}, 0.2), ("ef21-bc", {}, 0.005), ("ef21-p", {}, 0.4),
    ("ef21-p+ef21", {}, 0.01), ("mcm", {"rate": 0.25}, 0.005), ("rand-mcm", {"rate": 0.25}, 0.003),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options", "power"), DRIVEN, ids=lambda value: str(value))
def test_the_sum_of_errors_along_a_straight_line(method, options, power):
    """The lemmas ask nothing of the x^t, so the points may go where the errors are largest: M² of the package's step is neither too small
    nor, up to `power`, larger than needed. (Where two compressors meet, Minkowski's and Young's inequalities cost what `power` says.)"""
    P, rounds = Small(1, spread=0.0, noise=3.0 if method == "vr-marina" else 0.3), 300
    own = {"start": "dense"} if method.startswith("ef21") and method != "ef21-p" else {}
    object_, setting, step = built(P, method, batch=method == "ef21-page", **options, **own)
    M = 1 / step - P.smoothness().L
    first = 0.0 if own else object_.initial_term(setting, float(mean_sq(P.b)))
    squares = np.mean(P.A @ P.A, axis=0)
    worst = 0.0
    for matrix in (squares, P.mean, np.mean(P.N @ P.N, axis=(0, 1))):
        v = np.linalg.eigh(matrix)[1][:, -1]
        x, errors = np.zeros((300, D)), np.zeros(300)
        steps = recursion(P, method, object_, setting, step, x, options)
        g = next(steps)
        for _ in range(rounds):
            errors += sq(g - P.full(x))
            x = x + v
            g = steps.send(x)
        slack = 5 * errors.std() / np.sqrt(len(errors))
        assert errors.mean() - slack <= M**2 * rounds * sq(v) + first
        worst = max(worst, errors.mean() / (M**2 * rounds * sq(v)))
    assert worst >= power


def test_the_algebra_of_the_step_sizes():
    """The last steps of ef21-hb, ef21-prox, ef21-p+diana, ef21-p+dcgd, powersgd and vr-diana, on random constants."""
    rng = np.random.default_rng(0)
    (L, xi, M), eta = (
        10 ** rng.uniform(-3, 3, (3, 10_000)),
        rng.uniform(0, 0.99, 10_000),
    )  # M stands for L_QM ξ and the like

    def holds(left: np.ndarray, bound: float, power: float) -> None:
        within(left, np.full_like(left, bound), power)

    step = 1 / (L * (1 + eta) / (1 - eta) + M)
    holds(L * step + 2 * L * step * eta / (1 - eta) + M**2 * step**2, 1, 0.99)  # hb
    step = 1 / (2 * L + np.sqrt(3) * M)
    q, w = step * L, step * M
    holds((1 + w**2) / (1 - q - w**2), 2, 0.99)  # prox
    step = np.minimum(1 / (L * (2 + np.sqrt(2) * xi)), 1 / (np.sqrt(2) * M))  # M: 2√(Aq)(1 + ξ)L₊/a
    holds(step * L + step**2 * (M**2 + L**2 * xi**2), 1, 0.95)  # p+diana
    m = 1 + np.sqrt(2) * xi
    holds((1 + 2 * xi**2 / m) / m, 1, 0.95)  # p+dcgd
    K = 1 + xi
    holds(1 / (2 * K) + xi**2 / (4 * K**2), 0.5, 0.99)  # powersgd
    m, omega = 10 ** rng.uniform(0, 8, (2, 10_000))
    omega -= 1
    for A in (np.zeros_like(m), omega / 10, omega):
        N = m ** (2 / 3) + omega + 1
        squared = 1 / (100 * N**2 * (1 + A))  # γ²Λ², 𝓛 = L₊ = Λ and n = 1
        share = 6 * squared * A * (1 + omega) ** 2 + 2 * m * squared * (4 * A + 1)
        Q = 0.5 / (1 - share)
        b, step = 2 * m * Q * squared * (4 * A + 1), np.sqrt(squared)
        holds(Q * step + 2 * b * step * m, 0.04, 0.3)
        holds(Q, 0.547, 0.9)
