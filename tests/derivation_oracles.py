"""What the derivations speak of, in plain NumPy: small random quadratics, RandK in all its draws, and the methods' recursions for many
seeds at once. Nothing here is shared with the package but the class `Problem`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

import mpicomp as mc

Array = np.ndarray


class Small(mc.Problem):
    """f_ij(x) = ½ xᵀ(A_i + N_ij)x − (b_i + c_ij)ᵀx with Σ_j N_ij = 0, Σ_j c_ij = 0; f strongly convex, single f_i not always.

    Attributes
    ----------
    A : shape (n, d, d). b : (n, d). N : (n, m, d, d). c : (n, m, d).
    """

    def __init__(self, seed: int, n: int = 3, d: int = 4, m: int = 2, spread: float = 1.0, noise: float = 0.5):
        rng = np.random.default_rng(seed)
        self.n_clients, self.dim, self.m = n, d, m

        def symmetric(*shape: int) -> Array:
            M = rng.standard_normal((*shape, d, d))
            return (M + np.swapaxes(M, -1, -2)) / np.sqrt(8 * d)

        deviation = spread * symmetric(n)
        mean = np.diag(np.linspace(0.2, 1.0, d))
        self.A = mean + deviation - deviation.mean(axis=0)
        self.b = rng.standard_normal((n, d))
        N, c = noise * symmetric(n, m), noise * rng.standard_normal((n, m, d))
        self.N, self.c = N - N.mean(axis=1, keepdims=True), c - c.mean(axis=1, keepdims=True)
        self.mean, self.shift = self.A.mean(axis=0), self.b.mean(axis=0)

    # ---- the package's contract ---------------------------------------------------------------------------------
    def loss(self, i, x):
        return 0.5 * x @ self.A[i] @ x - self.b[i] @ x

    def gradient(self, i, x, out):
        out[:] = self.A[i] @ x - self.b[i]

    def n_samples(self, i):
        return self.m

    def smoothness(self):
        def norm(M: Array) -> float:
            return float(np.linalg.norm(M, 2))

        squares, L = np.mean(self.A @ self.A, axis=0), norm(self.mean)
        L_i = np.array([norm(M) for M in self.A])
        return mc.Smoothness.quadratic(L, L_i, np.sqrt(norm(squares)), np.sqrt(norm(squares - self.mean @ self.mean)))

    def sample_smoothness(self):
        return np.array([np.sqrt(np.linalg.norm(np.mean(M @ M, axis=0), 2)) for M in self.N])

    def lower_bound(self):
        return float(-0.5 * self.shift @ np.linalg.solve(self.mean, self.shift))

    # ---- for many points at once --------------------------------------------------------------------------------
    def f(self, x: Array) -> Array:
        return 0.5 * np.einsum("...a,ab,...b", x, self.mean, x) - x @ self.shift

    def full(self, x: Array) -> Array:
        """∇f(x)."""
        return x @ self.mean - self.shift

    def each(self, x: Array) -> Array:
        """∇f_i(x): (..., d) → (..., n, d); or ∇f_i(x_i): (..., n, d) → the same."""
        x = x if x.shape[-2:-1] == (self.n_clients,) and x.ndim > 2 else x[..., None, :]
        return np.einsum("iab,...ib->...ia", self.A, np.broadcast_to(x, (*x.shape[:-2], *self.b.shape))) - self.b

    def noise(self, x: Array, j: Array) -> Array:
        """∇f_ij(x) − ∇f_i(x) for the samples j, shape (..., n)."""
        i = np.arange(self.n_clients)
        return np.einsum("...iab,...b->...ia", self.N[i, j], x) - self.c[i, j]

    def variance(self, x: Array) -> float:
        """The largest mean variance of one sample's gradient at the points."""
        J = np.stack(
            [np.mean([self.noise(x, np.full((len(x), self.n_clients), j)) ** 2 for j in range(self.m)], axis=0)]
        )
        return float(J[0].sum(axis=-1).mean(axis=-1).max())


def sq(x: Array) -> Array:
    """‖x‖² along the last axis."""
    return np.sum(x * x, axis=-1)


def mean_sq(v: Array) -> Array:
    """mean_i ‖v_i‖²."""
    return sq(v).mean(axis=-1)


# ---- RandK -------------------------------------------------------------------------------------------------------------
def masks(d: int, k: int) -> Array:
    """All masks of RandK times d/k, shape (number, d)."""
    return np.array([[(d / k) * (j in kept) for j in range(d)] for kept in combinations(range(d), k)])


def all_masks(n: int, d: int, k: int) -> Array:
    """All draws of n independent masks, shape (number, n, d)."""
    one = masks(d, k)
    return np.array([one[list(draw)] for draw in product(range(len(one)), repeat=n)])


class Random:
    """Draws for S seeds at once."""

    def __init__(self, seed: int, d: int, k: int):
        self.rng, self.masks = np.random.default_rng(seed), masks(d, k)

    def compress(self, V: Array) -> Array:
        """RandK of every row, independently."""
        return V * self.masks[self.rng.integers(len(self.masks), size=V.shape[:-1])]

    def contract(self, V: Array) -> Array:
        """RandK as a contractive compressor, C/(1+ω): E‖C(v) − v‖² = (1 − k/d)‖v‖²."""
        return self.compress(V) / self.masks.max()

    def coin(self, S: int, p: float, n: int = 1) -> Array:
        """Shape (S, n)."""
        return self.rng.random((S, n)) < p

    def samples(self, S: int, problem: Small) -> Array:
        return self.rng.integers(problem.m, size=(S, problem.n_clients))


def topk(V: Array, k: int) -> Array:
    """Top-k of every row."""
    kept = np.argsort(-np.abs(V), axis=-1)[..., :k]
    out = np.zeros_like(V)
    np.put_along_axis(out, kept, np.take_along_axis(V, kept, -1), -1)
    return out


# ---- recursions: generators that yield g^t for the points x^t they are sent ---------------------------------------------
Recursion = Iterator[Array]


def diana(P: Small, r: Random, x: Array, a: float, down: Random | None = None) -> Recursion:
    """DIANA, or with a downlink compressor Artemis."""
    h = np.zeros((len(x), *P.b.shape))
    while True:
        m = r.compress(P.each(x) - h)
        g = (h + m).mean(axis=1)
        h = h + a * m
        x = yield g if down is None else down.compress(g)


def dore(P: Small, r: Random, x: Array, a: float, down: Random, step: float, beta: float, eta: float) -> Recursion:
    h, e = np.zeros((len(x), *P.b.shape)), np.zeros_like(x)
    while True:
        m = r.compress(P.each(x) - h)
        q = -step * (h + m).mean(axis=1) + eta * e
        h, sent = h + a * m, down.compress(q)
        e = q - sent
        x = yield -beta * sent / step


def vr_diana(P: Small, r: Random, x: Array, a: float, p: float) -> Recursion:
    h, w = np.zeros((len(x), *P.b.shape)), x
    while True:
        j = r.samples(len(x), P)
        m = r.compress(P.each(x) + P.noise(x, j) - P.noise(w, j) - h)
        g = (h + m).mean(axis=1)
        h, w = h + a * m, np.where(r.coin(len(x), p), x, w)
        x = yield g


def dasha(P: Small, r: Random, x: Array, a: float, kind: str = "dasha", p: float = 1.0, b: float = 1.0) -> Recursion:
    h = P.each(x)
    g_i = h
    while True:
        before, x = x, (yield g_i.mean(axis=1))
        j = r.samples(len(x), P)
        if kind == "dasha":
            fresh = P.each(x)
        elif kind == "dasha-page":
            tails = h + P.each(x) - P.each(before) + P.noise(x, j) - P.noise(before, j)
            fresh = np.where(r.coin(len(x), p)[..., None], P.each(x), tails)
        else:
            fresh = P.each(x) + P.noise(x, j) + (1 - b) * (h - P.each(before) - P.noise(before, j))
        g_i = g_i + r.compress(fresh - h - a * (g_i - h))
        h = fresh


def mcm(P: Small, r: Random, x: Array, a: float, down: Random, rate: float, each: bool) -> Recursion:
    """MCM, or with `each` Rand-MCM."""
    h = np.zeros((len(x), *P.b.shape))
    w = H = np.repeat(x[:, None], P.n_clients if each else 1, axis=1)
    while True:
        m = r.compress(P.each(np.broadcast_to(w, h.shape)) - h)
        g = (h + m).mean(axis=1)
        h = h + a * m
        x = yield g
        omega = down.compress(x[:, None] - H)
        w, H = H + omega, H + rate * omega


def marina_p(P: Small, x: Array, down: Random, p: float) -> Recursion:
    w = np.repeat(x[:, None], P.n_clients, axis=1)
    while True:
        before, x = x, (yield P.each(w).mean(axis=1))
        w = moved(P, w, before, x, down, p)


def moved(P: Small, w: Array, before: Array, x: Array, down: Random, p: float) -> Array:
    """The clients' models after a downlink of MARINA-P."""
    delta = np.repeat((x - before)[:, None], P.n_clients, axis=1)
    return np.where(down.coin(len(x), p)[..., None], x[:, None], w + down.compress(delta))


def m3(P: Small, r: Random, x: Array, down: Random, beta: float, p_up: float, p_down: float) -> Recursion:
    w = z = np.repeat(x[:, None], P.n_clients, axis=1)
    g = P.each(z).mean(axis=1)
    while True:
        before, x = x, (yield g)
        w, old = moved(P, w, before, x, down, p_down), P.each(z)
        z = (1 - beta) * z + beta * w
        change = r.compress(P.each(z) - old).mean(axis=1)
        g = np.where(r.coin(len(x), p_up), P.each(z).mean(axis=1), g + change)


def marina(P: Small, r: Random, x: Array, p: float, kind: str, weights=None, k: int = 1) -> Recursion:
    """pp-marina and marina-w (`weights` draws the ξ_i), vr-marina, or marina-biased with Top-k."""
    g = P.full(x)
    while True:
        before, x = x, (yield g)
        v = P.each(x) - P.each(before)
        if kind == "vr-marina":
            j = r.samples(len(x), P)
            v = v + P.noise(x, j) - P.noise(before, j)
        sent = topk(v, k) if kind == "marina-biased" else r.compress(v)
        xi = np.full(v.shape[:2], 1 / P.n_clients) if weights is None else weights(r.rng, len(x))
        g = np.where(r.coin(len(x), p), P.full(x), g + np.sum(xi[..., None] * sent, axis=1))


def ef21(P: Small, r: Random, x: Array, kind: str, down: Random, p: float = 1.0, eta: float = 1.0) -> Recursion:
    """The EF21 family with contractive RandK, from g_i = ∇f_i(x⁰)."""
    g_i = v = u = P.each(x)
    w, g = x, g_i.mean(axis=1)
    while True:
        before, x = x, (yield g)
        w = w + down.contract(x - w) if kind in ("ef21-p", "ef21-p+ef21") else x
        if kind == "ef21-page":
            j = r.samples(len(x), P)
            tails = v + P.each(x) - P.each(before) + P.noise(x, j) - P.noise(before, j)
            v = np.where(r.coin(len(x), p, P.n_clients)[..., None], P.each(x), tails)
        else:
            v = (1 - eta) * v + eta * P.each(w)
        u = (1 - eta) * u + eta * v if kind == "ef21-sgd2m" else v
        sent = u - g_i if kind == "ef21-p" else r.contract(u - g_i)
        if kind == "ef21-pp":
            sent = np.where(r.coin(len(x), p, P.n_clients)[..., None], sent, 0)
        g_i = g_i + sent
        g = g + down.contract(g_i.mean(axis=1) - g) if kind == "ef21-bc" else g_i.mean(axis=1)


def core(P: Small, rng: np.random.Generator, x: Array, m: int) -> Recursion:
    while True:
        xi = rng.standard_normal((len(x), m, P.dim))
        x = yield np.einsum("sma,smb,sb->sa", xi, xi, P.full(x)) / m


def simulate(P: Small, recursion: Recursion, x: Array, step: float, rounds: int) -> dict[str, Array]:
    """‖∇f(x^t)‖², ‖g^t − ∇f(x^t)‖² and R^t, each of shape (rounds, S), and the points."""
    found: dict[str, list[Array]] = {"squared": [], "error": [], "R": [], "x": [x]}
    g = next(recursion)
    for _ in range(rounds):
        gradient = P.full(x)
        found["squared"].append(sq(gradient))
        found["error"].append(sq(g - gradient))
        found["R"].append(step**2 * sq(g))
        x = x - step * g
        found["x"].append(x)
        g = recursion.send(x)
    return {name: np.array(values) for name, values in found.items()}
