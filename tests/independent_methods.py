"""The methods from the algorithm boxes of their papers, for many replicas at once, in NumPy with NumPy's own random numbers.

Nothing of the package is imported here, and none of its draws are used: what agrees with it in distribution was written twice.
Points of the clients have shape (R, 1, d) where all are at one, else (R, n, d). Every method yields x¹, x², ... of shape (R, d).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from independent_messages import Message, euclidean, largest, qsgd, random_subset

Trajectory = Iterator[np.ndarray]
Samples = np.ndarray | None
EXACT = Message(lambda rng, v: v)


class Task:
    """min (1/n) Σ f_i, f_i(x) = (1/m) Σ_j (a_ijᵀx − y_ij)², R replicas.

    Attributes
    ----------
    up, down : compressors of the two directions. batch : samples drawn with replacement, 0 for exact gradients. step : γ.
    """

    def __init__(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        x0: np.ndarray,
        replicas: int,
        seed: int,
        up: Message = EXACT,
        down: Message = EXACT,
        batch: int = 0,
        step: float = 0.1,
    ):
        self.rows, self.targets = rows, targets
        self.n, self.m, self.d = rows.shape
        self.rng, self.R = np.random.default_rng(seed), replicas
        self.x0 = np.tile(x0, (replicas, 1))
        self.up, self.down, self.batch, self.step = up, down, batch, step
        hessians = np.einsum("imd,ime->ide", rows, rows) * (2.0 / self.m)
        self.L_i = np.linalg.eigvalsh(hessians)[:, -1]
        self.L = np.linalg.eigvalsh(hessians.mean(axis=0))[-1]

    # ---- the problem ----------------------------------------------------------------------------------------------
    def loss(self, x: np.ndarray) -> np.ndarray:
        """f at R points, shape (R,)."""
        return np.mean((np.einsum("imd,rd->rim", self.rows, x) - self.targets) ** 2, axis=(1, 2))

    def samples(self, size: int | None = None) -> np.ndarray:
        """Samples of each client, shape (R, n, b)."""
        return self.rng.integers(0, self.m, (self.R, self.n, size or self.batch))

    def gradients(self, points: np.ndarray, samples: Samples = None) -> np.ndarray:
        """∇f_i, or its mean over the samples, shape (R, n, d)."""
        points = np.broadcast_to(points if points.ndim == 3 else points[:, None], (self.R, self.n, self.d))
        if samples is None:
            residuals = np.einsum("imd,rid->rim", self.rows, points) - self.targets
            return 2.0 / self.m * np.einsum("rim,imd->rid", residuals, self.rows)
        client = np.arange(self.n)[None, :, None]
        rows, targets = self.rows[client, samples], self.targets[client, samples]
        residuals = np.einsum("ribd,rid->rib", rows, points) - targets
        return 2.0 / samples.shape[2] * np.einsum("rib,ribd->rid", residuals, rows)

    def fresh(self, points: np.ndarray) -> np.ndarray:
        """What a round's gradients are: exact, or of a new minibatch."""
        return self.gradients(points, self.samples() if self.batch else None)

    # ---- draws ----------------------------------------------------------------------------------------------------
    def zeros(self, clients: int = 0) -> np.ndarray:
        return np.zeros((self.R, clients, self.d) if clients else (self.R, self.d))

    def coin(self, p: float, clients: int = 1) -> np.ndarray:
        """Heads with probability p, shape (R, clients, 1)."""
        return self.rng.random((self.R, clients, 1)) < p

    def send(self, v: np.ndarray, contractive: bool = False) -> np.ndarray:
        """C_i(v_i) of all clients."""
        return (self.up.contractive() if contractive else self.up).compress(self.rng, v)

    def tell(self, v: np.ndarray, contractive: bool = False) -> np.ndarray:
        """C(v) of the server, one message for all."""
        return (self.down.contractive() if contractive else self.down).compress(self.rng, v[:, None])[:, 0]

    def tell_each(self, v: np.ndarray) -> np.ndarray:
        """C_i(v), or C_i(v_i), a message for each client."""
        return self.down.compress(self.rng, np.broadcast_to(v if v.ndim == 3 else v[:, None], (self.R, self.n, self.d)))


# ---- the server's step ----------------------------------------------------------------------------------------------
class AMSGrad:
    """v̂ = max(v̂, v); x ← x − γ m/√(v̂ + ν), b₁ = 0.9, b₂ = 0.99 (Wang, Lin and Chen 2022)."""

    def __init__(self, task: Task):
        self.m, self.v, self.largest, self.step = task.zeros(), task.zeros(), task.zeros(), task.step

    def __call__(self, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.99 * self.v + 0.01 * g**2
        self.largest = np.maximum(self.largest, self.v)
        return x - self.step * self.m / np.sqrt(self.largest + 1e-8)


def descend(task: Task, estimates: Callable[[np.ndarray], np.ndarray]) -> Trajectory:
    """x ← x − γ g(x)."""
    x = task.x0
    while True:
        x = x - task.step * estimates(x)
        yield x


# ---- no memory ------------------------------------------------------------------------------------------------------
def dcgd(task: Task) -> Trajectory:
    """x ← x − γ mean C_i(∇f_i(x))."""
    return descend(task, lambda x: task.send(task.fresh(x)).mean(axis=1))


def amsgrad(task: Task) -> Trajectory:
    """AMSGrad on C(mean C_i(∇f_i(x)))."""
    x, move = task.x0, AMSGrad(task)
    while True:
        x = move(x, task.tell(task.send(task.fresh(x)).mean(axis=1)))
        yield x


def sign_sgd(task: Task) -> Trajectory:
    """x ← x − γ sign(Σ sign(∇f_i(x))), a tie counts as +1."""
    return descend(task, lambda x: np.where(np.sign(task.fresh(x)).sum(axis=1) < 0, -1.0, 1.0))


def terngrad(task: Task, clip: float) -> Trajectory:
    """Clipped at c standard deviations; then s·sign with probability |g|/s, s the largest magnitude of all clients."""

    def estimate(x: np.ndarray) -> np.ndarray:
        g = task.fresh(x)
        bound = clip * g.std(axis=2, keepdims=True)
        g = np.clip(g, -bound, bound)
        s = np.abs(g).max(axis=(1, 2), keepdims=True)
        return (s * np.sign(g) * (task.rng.random(g.shape) * s < np.abs(g))).mean(axis=1)

    return descend(task, estimate)


def core(task: Task, m: int) -> Trajectory:
    """(1/m) Σ_j ⟨∇f, ξ_j⟩ ξ_j with Gaussian ξ_j that all share."""

    def estimate(x: np.ndarray) -> np.ndarray:
        xi = task.rng.standard_normal((task.R, m, task.d))
        p = np.einsum("rid,rjd->rij", task.fresh(x), xi).mean(axis=1)
        return np.einsum("rj,rjd->rd", p, xi) / m

    return descend(task, estimate)


def quantized(task: Task, width: Callable[[np.ndarray, int], np.ndarray]) -> Trajectory:
    """x ← x − γ mean Q_{s_i}(g_i), s_i = 2^{B_i − 1} − 1, B_i = width(g, t) from 2 to 16 of shape (R, n, 1)."""
    x, t = task.x0, 0
    while True:
        g = task.fresh(x)
        s = 2.0 ** (np.clip(width(g, t), 2, 16) - 1) - 1
        x, t = x - task.step * qsgd(s, largest)(task.rng, g).mean(axis=1), t + 1
        yield x


def dq_sgd(task: Task, k: float) -> Trajectory:
    """B = log2(k‖g‖ + 1) + 1, the nonconvex rule (eq. 20)."""
    return quantized(task, lambda g, t: np.rint(np.log2(k * largest(g) + 1) + 1))


def dq_sgd_dual(task: Task, error: float, rounds: int, a: float) -> Trajectory:
    """s_n = ‖g‖ √(L d γ² N a^{N−1−n}/(12 n ε)), B = ⌈log2(s + 1)⌉ + 1."""
    L, step = task.L, task.step

    def width(g: np.ndarray, t: int) -> np.ndarray:
        s = largest(g) * np.sqrt(L * task.d * step**2 * rounds * a ** (rounds - 1 - t) / (12 * task.n * error))
        return np.ceil(np.log2(s + 1)) + 1

    return quantized(task, width)


def adaqs(task: Task, bits: int) -> Trajectory:
    """B_n = B_0 + log2(r_0/r_n), r_n the running mean 0.9 r + 0.1 |mean|/std of the entries (Guo et al. 2020)."""
    kept: list[np.ndarray] = []

    def width(g: np.ndarray, t: int) -> np.ndarray:
        ratio = np.abs(g.mean(axis=2, keepdims=True)) / g.std(axis=2, keepdims=True)
        kept.append(0.9 * kept[-1] + 0.1 * ratio if kept else ratio)
        return np.rint(bits + np.log2(kept[0] / kept[-1]))

    return quantized(task, width)


# ---- DIANA and what is built on it ----------------------------------------------------------------------------------
class Diana:
    """m_i = C_i(v_i − h_i); g = h + mean m_i; h_i += a m_i; h += a mean m_i; a = 1/(1+ω)."""

    def __init__(self, task: Task, damped: bool = False):
        self.task, self.h_i, self.a, self.damped = task, task.zeros(task.n), 1 / (1 + task.up.omega), damped

    def __call__(self, v: np.ndarray) -> np.ndarray:
        m = self.task.send(v - self.h_i)
        before, self.h_i = self.h_i, self.h_i + self.a * m
        # damped : the wrong estimate of a published program, the mean of the new shifts
        return self.h_i.mean(axis=1) if self.damped else (before + m).mean(axis=1)


def diana(task: Task, damped: bool = False) -> Trajectory:
    estimate = Diana(task, damped)
    return descend(task, lambda x: estimate(task.fresh(x)))


def vr_diana(task: Task, p: float) -> Trajectory:
    """DIANA on L-SVRG's estimates; the reference point is renewed with probability p, one coin for all."""
    x, w, estimate = task.x0, task.x0, Diana(task)
    while True:
        samples = task.samples()
        v = task.gradients(x, samples) - task.gradients(w, samples) + task.gradients(w)
        w = np.where(task.coin(p)[:, 0], x, w)
        x = x - task.step * estimate(v)
        yield x


def artemis(task: Task) -> Trajectory:
    """DIANA up, C(ĝ) down, no memory there."""
    estimate = Diana(task)
    return descend(task, lambda x: task.tell(estimate(task.fresh(x))))


def dore(task: Task, beta: float, eta: float) -> Trajectory:
    """DIANA up; q = −γĝ + ηe; x += βC(q); e = q − C(q)."""
    x, e, estimate = task.x0, task.zeros(), Diana(task)
    while True:
        q = -task.step * estimate(task.fresh(x)) + eta * e
        sent = task.tell(q)
        x, e = x + beta * sent, q - sent
        yield x


def mcm(task: Task, rate: float) -> Trajectory:
    """DIANA up at w; Ω = C(x − H), w = H + Ω, H += rate Ω."""
    x = w = H = task.x0
    estimate = Diana(task)
    while True:
        x = x - task.step * estimate(task.fresh(w))
        omega = task.tell(x - H)
        w, H = H + omega, H + rate * omega
        yield x


def rand_mcm(task: Task, rate: float) -> Trajectory:
    """MCM with a message and a memory for each client."""
    x, estimate = task.x0, Diana(task)
    w = H = np.repeat(x[:, None], task.n, axis=1)
    while True:
        x = x - task.step * estimate(task.fresh(w))
        omega = task.tell_each(x[:, None] - H)
        w, H = H + omega, H + rate * omega
        yield x


# ---- MARINA ---------------------------------------------------------------------------------------------------------
def marina(task: Task, p: float, xi: Callable[[Task], np.ndarray] | None = None, large: int = 0) -> Trajectory:
    """g = mean ∇f_i(x) in round 0 and with probability p, else g + mean C_i(∇f_i(x) − ∇f_i(x_before)), the same samples at both points.

    Parameters
    ----------
    xi : weights (R, n, 1) of a round's compressed differences in place of 1/n (partial participation). large : samples of a dense round,
        0 for exact gradients.
    """
    x, before, g, t = task.x0, task.x0, task.zeros(), 0
    while True:
        dense = task.gradients(x, task.samples(large) if large else None)
        samples = task.samples() if task.batch else None
        change = task.send(task.gradients(x, samples) - task.gradients(before, samples))
        moved = g + ((change * xi(task)).sum(axis=1) if xi else change.mean(axis=1))
        g = np.where(task.coin(p)[:, 0] | (t == 0), dense.mean(axis=1), moved)
        x, before, t = x - task.step * g, x, t + 1
        yield x


def without_replacement(r: int) -> Callable[[Task], np.ndarray]:
    """1/r for each of r clients."""
    return lambda task: random_subset(task.rng, (task.R, task.n), r)[..., None] / r


def importance(tau: int) -> Callable[[Task], np.ndarray]:
    """k_i/(τ n q_i), k_i how often client i is drawn in τ draws with probabilities q_i = L_i/ΣL."""

    def weights(task: Task) -> np.ndarray:
        q = task.L_i / task.L_i.sum()
        return task.rng.multinomial(tau, q, task.R)[..., None] / (tau * task.n * q[:, None])

    return weights


def downlink_marina(task: Task, p: float, beta: float, estimate: Callable[[np.ndarray], np.ndarray]) -> Trajectory:
    """w_i = x with probability p, else w_i + Q_i(x − x_before); z_i = (1−β) z_i + β w_i; x ← x − γ g(z)."""
    x = task.x0
    w = z = np.repeat(x[:, None], task.n, axis=1)
    while True:
        before, x = x, x - task.step * estimate(z)
        w = np.where(task.coin(p), x[:, None], w + task.tell_each(x - before))
        z = (1 - beta) * z + beta * w
        yield x


def marina_p(task: Task, p: float) -> Trajectory:
    """MARINA-P: dense gradients at the clients' models."""
    return downlink_marina(task, p, 1.0, lambda w: task.fresh(w).mean(axis=1))


def m3(task: Task, p_up: float, p_down: float, beta: float) -> Trajectory:
    """M3: MARINA-P down, momentum, MARINA up."""
    kept: dict[str, np.ndarray] = {}

    def estimate(z: np.ndarray) -> np.ndarray:
        gradients = task.gradients(z)
        mean = gradients.mean(axis=1)
        if kept:
            change = task.send(gradients - task.gradients(kept["z"])).mean(axis=1)
            mean = np.where(task.coin(p_up)[:, 0], mean, kept["g"] + change)
        kept["z"], kept["g"] = z, mean
        return mean

    return downlink_marina(task, p_down, beta, estimate)


def diana_under_marina_p(task: Task, p: float, beta: float) -> Trajectory:
    """DIANA up, MARINA-P down, the clients' models averaged: a composition that no paper names."""
    estimate = Diana(task)
    return downlink_marina(task, p, beta, lambda z: estimate(task.fresh(z)))


# ---- DASHA ----------------------------------------------------------------------------------------------------------
def dasha(task: Task, oracle: Callable[[np.ndarray], np.ndarray] | None = None) -> Trajectory:
    """m_i = C_i(h_i⁺ − h_i − a(g_i − h_i)); g_i += m_i; a = 1/(2ω+1); g_i = h_i at the start."""
    x, a, value = task.x0, 1 / (2 * task.up.omega + 1), oracle or task.fresh
    h = g = value(x)
    while True:
        x = x - task.step * g.mean(axis=1)
        new = value(x)
        g, h = g + task.send(new - h - a * (g - h)), new
        yield x


class Page:
    """Exact with probability p and at first, else the last estimate moved on by a minibatch; a coin for each client, or one for all."""

    def __init__(self, task: Task, p: float, shared: bool):
        self.task, self.p, self.coins = task, p, 1 if shared else task.n
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        task, v = self.task, self.task.gradients(x)
        if self.kept is not None:
            before, last = self.kept
            samples = task.samples()
            moved = last + task.gradients(x, samples) - task.gradients(before, samples)
            v = np.where(task.coin(self.p, self.coins), v, moved)
        self.kept = x, v
        return v


class MVR:
    """∇f_i(x, ξ) + (1−b)(v − ∇f_i(x_before, ξ)), exact at first."""

    def __init__(self, task: Task, b: float):
        self.task, self.b = task, b
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        task, v = self.task, self.task.gradients(x)
        if self.kept is not None:
            before, last = self.kept
            samples = task.samples()
            v = task.gradients(x, samples) + (1 - self.b) * (last - task.gradients(before, samples))
        self.kept = x, v
        return v


class Momentum:
    """v = (1−η) v + η ∇f_i(x, ξ), the first minibatch at first; averaged so twice for EF21-SGD2M."""

    def __init__(self, task: Task, eta: float, twice: bool = False):
        self.task, self.eta, self.twice = task, eta, twice
        self.v: np.ndarray | None = None
        self.u: np.ndarray | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        new = self.task.fresh(x)
        self.v = new if self.v is None else (1 - self.eta) * self.v + self.eta * new
        self.u = self.v if self.u is None else (1 - self.eta) * self.u + self.eta * self.v
        return self.u if self.twice else self.v


# ---- error feedback -------------------------------------------------------------------------------------------------
class EF21:
    """c_i = C(v_i − g_i), g_i += c_i, the estimate Σ w_i g_i; who is silent keeps its g_i. C is contractive."""

    def __init__(self, task: Task, weights: np.ndarray | None = None, speaks: Callable[[], np.ndarray] | None = None):
        self.task, self.g_i, self.t, self.speaks = task, task.zeros(task.n), 0, speaks
        self.w = np.full((task.n, 1), 1 / task.n) if weights is None else weights[:, None]

    def __call__(self, v: np.ndarray) -> np.ndarray:
        c = self.task.send(v / (self.task.n * self.w) - self.g_i, contractive=True)
        if self.speaks and self.t > 0:
            c = np.where(self.speaks(), c, 0.0)
        self.g_i, self.t = self.g_i + c, self.t + 1
        return (self.w * self.g_i).sum(axis=1)


def by_smoothness(task: Task) -> np.ndarray:
    """w_i = L_i/ΣL."""
    return task.L_i / task.L_i.sum()


def ef21(
    task: Task,
    oracle: Callable[[np.ndarray], np.ndarray] | None = None,
    weighted: bool = False,
    speaks: Callable[[], np.ndarray] | None = None,
    momentum: float = 0.0,
    l1: float = 0.0,
) -> Trajectory:
    """EF21 and its variants: minibatches, weights L_i/ΣL, partial participation, the heavy ball, a proximal step for l1‖x‖₁."""
    x, v = task.x0, task.zeros()
    estimate, value = EF21(task, by_smoothness(task) if weighted else None, speaks), oracle or task.fresh
    while True:
        v = momentum * v + estimate(value(x))
        x = x - task.step * v
        x = np.sign(x) * np.maximum(np.abs(x) - task.step * l1, 0.0)
        yield x


def ef21_plus(task: Task) -> Trajectory:
    """g_i = g_i + C(v_i − g_i), or C(v_i) where that is nearer to v_i; C deterministic."""
    x, g = task.x0, task.zeros(task.n)
    while True:
        v = task.fresh(x)
        m, b = g + task.send(v - g, contractive=True), task.send(v, contractive=True)
        g = np.where(euclidean(m - v) <= euclidean(b - v), m, b)
        x = x - task.step * g.mean(axis=1)
        yield x


def ef14(task: Task) -> Trajectory:
    """w_i = C(e_i + γ∇f_i); e_i += γ∇f_i − w_i; x ← x − mean w_i."""
    x, e = task.x0, task.zeros(task.n)
    while True:
        u = e + task.step * task.fresh(x)
        c = task.send(u, contractive=True)
        x, e = x - c.mean(axis=1), u - c
        yield x


def ef21_p(task: Task, estimate: Callable[[np.ndarray], np.ndarray]) -> Trajectory:
    """Gradients at w; x ← x − γ g; w += C(x − w), broadcast."""
    x = w = task.x0
    while True:
        x = x - task.step * estimate(w)
        w = w + task.tell(x - w, contractive=True)
        yield x


def ef21_bc(task: Task, adam: bool = False) -> Trajectory:
    """EF21 up; g += C_M(g̃ − g) down; x ← x − γ g, or AMSGrad's step (CD-Adam)."""
    x, g, up = task.x0, task.zeros(), EF21(task)
    move: Callable[[np.ndarray, np.ndarray], np.ndarray] = AMSGrad(task) if adam else lambda x, g: x - task.step * g
    while True:
        g = g + task.tell(up(task.fresh(x)) - g, contractive=True)
        x = move(x, g)
        yield x


def ef_amsgrad(task: Task) -> Trajectory:
    """u_i = ∇f_i + e_i, c_i = C(u_i), e_i = u_i − c_i; the same at the server with the mean; AMSGrad."""
    x, e_i, e, move = task.x0, task.zeros(task.n), task.zeros(), AMSGrad(task)
    while True:
        u_i = task.fresh(x) + e_i
        c_i = task.send(u_i, contractive=True)
        u = c_i.mean(axis=1) + e
        c = task.tell(u, contractive=True)
        e_i, e, x = u_i - c_i, u - c, move(x, c)
        yield x


def onebit_adam(task: Task, warmup: int, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Trajectory:
    """Adam without bias correction; after the warm-up v is frozen, and momentum travels compressed with error feedback both ways."""
    x, m, v = task.x0, task.zeros(), task.zeros()
    e_i, e, t = task.zeros(task.n), task.zeros(), 0
    while True:
        g, t = task.fresh(x), t + 1
        if t <= warmup:
            mean = g.mean(axis=1)
            m, v = b1 * m + (1 - b1) * mean, b2 * v + (1 - b2) * mean**2
        else:
            u_i = b1 * m[:, None] + (1 - b1) * g + e_i
            c_i = task.send(u_i)
            u = c_i.mean(axis=1) + e
            m = task.tell(u)
            e_i, e = u_i - c_i, u - m
        x = x - task.step * m / (np.sqrt(v) + eps)
        yield x


def ef21_muon(task: Task, eta: float, shape: tuple[int, int]) -> Trajectory:
    """x −= γ O(g), O the five Newton–Schulz steps of Jordan et al. 2024; EF21-P down, momentum and EF21 up."""
    x = w = task.x0
    value, estimate = Momentum(task, eta), EF21(task)
    while True:
        X = estimate(value(w)).reshape(task.R, *shape)
        X = X / np.linalg.norm(X, axis=(1, 2), keepdims=True)
        for _ in range(5):
            A = X @ X.transpose(0, 2, 1)
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        x = x - task.step * X.reshape(task.R, -1)
        w = w + task.tell(x - w, contractive=True)
        yield x


def powersgd(task: Task, rank: int, rows: int) -> Trajectory:
    """Vogels, Karimireddy and Jaggi 2019, Algorithms 1 and 2, warm start, on the clients' mean: the method is linear in their matrices.

    The vector is read as a matrix row after row, and filled up with zeros in every round.
    """
    cols = -(-task.d // rows)
    x, e = task.x0, task.zeros()
    Q = task.rng.standard_normal((task.R, cols, rank))
    while True:
        e = e + task.fresh(x).mean(axis=1)
        M = np.pad(e, ((0, 0), (0, rows * cols - task.d))).reshape(task.R, rows, cols)
        P, _ = np.linalg.qr(M @ Q)
        Q = M.transpose(0, 2, 1) @ P
        g = (P @ Q.transpose(0, 2, 1)).reshape(task.R, -1)[:, : task.d]
        x, e = x - task.step * g, e - g
        yield x


# ---- local steps ----------------------------------------------------------------------------------------------------
def local_sgd(task: Task, steps: int, sample: int = 0, prox: float = 0.0) -> Trajectory:
    """K steps y ← y − (γ/K)(∇f_i(y) + μ(y − x)); x ← x + mean over those who take part of γ C((y − x)/γ)."""
    x = task.x0
    while True:
        y = np.repeat(x[:, None], task.n, axis=1)
        for _ in range(steps):
            y = y - task.step / steps * (task.fresh(y) + prox * (y - x[:, None]))
        moved = task.send((x[:, None] - y) / task.step)
        weights = without_replacement(sample)(task) if sample else 1 / task.n
        x = x - task.step * (weights * moved).sum(axis=1)
        yield x
