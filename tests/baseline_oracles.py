"""The baselines as their papers print them, in plain NumPy; for conventions see `oracles.py`.

Random draws come from public calls: compressed vectors from `Compressor.apply`, samples, coins and Gaussians from the keyed functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from oracles import Task

from mpicomp.kernels.random import Stream, below, client_key, derive, normal, uniform64, uplink_keys
from mpicomp.participation import Nice

Trajectory = Iterator[np.ndarray]


def samples(task: Task, i: int, t: int, batch: int, local: int = 0) -> np.ndarray:
    """The samples that client i draws in (a local step of) round t."""
    key = np.uint64(client_key(derive(task.seed, Stream.MINIBATCH, t, local), i))
    return np.array([below(key, s, task.problem.n_samples(i)) for s in range(batch)])


def batch_gradient(task: Task, i: int, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(1/b) Σ ∇f_ij(x) over the samples drawn."""
    out = task.zeros()
    task.problem.batch_gradient(i, x, drawn, out)
    return out


def heads(task: Task, p: float, t: int) -> bool:
    """The oracles' common coin of round t."""
    return bool(uniform64(derive(task.seed, Stream.ORACLE_COIN, t), 0) < p)


def vr_diana(task: Task, step: float, rounds: int, p: float, batch: int = 1) -> Trajectory:
    """g_i = ∇f_iS(x^t) − ∇f_iS(w^t) + ∇f_i(w^t); m_i = C_i(g_i − h_i); g = h + mean m_i; h_i += a m_i; w = x^t with probability p."""
    a = 1.0 / (1.0 + task.compressor.omega(task.d, task.n))
    x = w = task.x0
    h, h_i = task.zeros(), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        g_i = []
        for i in range(task.n):
            S = samples(task, i, t, batch)
            g_i.append(batch_gradient(task, i, x, S) - batch_gradient(task, i, w, S) + task.gradient(i, w))
        m_i = [task.up(i, g_i[i] - h_i[i], t) for i in range(task.n)]
        g = h + task.mean(m_i)
        h_i, h = [h_i[i] + a * m_i[i] for i in range(task.n)], h + a * task.mean(m_i)
        if heads(task, p, t):
            w = x
        x = x - step * g
        yield x


def dasha(
    task: Task, step: float, rounds: int, a: float | None = None, start: str = "dense", estimate: Callable | None = None
) -> Trajectory:
    """m_i = C_i(h_i⁺ − h_i − a(g_i − h_i)); g_i += m_i; g += mean m_i; `estimate(task, i, t, x, x_before, h_i)` gives h_i⁺."""
    a = 1.0 / (2.0 * task.compressor.omega(task.d, task.n) + 1.0) if a is None else a
    x = task.x0
    h_i = [task.dense(task.gradient(i, x)) for i in range(task.n)]
    if start == "dense":
        g_i = h_i
    elif start == "compressed":
        g_i = [task.up(i, h_i[i], 0) for i in range(task.n)]
    else:
        g_i = [task.zeros() for _ in range(task.n)]
    g = task.mean(g_i)
    yield x
    for t in range(1, rounds + 1):
        before, x = x, x - step * g
        yield x
        if estimate is None:
            new = [task.gradient(i, x) for i in range(task.n)]
        else:
            new = [estimate(task, i, t, x, before, h_i[i]) for i in range(task.n)]
        m_i = [task.up(i, new[i] - h_i[i] - a * (g_i[i] - h_i[i]), t) for i in range(task.n)]
        h_i, g_i = new, [g_i[i] + m_i[i] for i in range(task.n)]
        g = g + task.mean(m_i)


def dasha_page(task: Task, step: float, rounds: int, p: float, batch: int = 1, **options) -> Trajectory:
    """h_i⁺ = ∇f_i(x⁺) with probability p, one coin for all, else h_i + ∇f_iS(x⁺) − ∇f_iS(x)."""

    def estimate(task, i, t, x, before, h):
        if heads(task, p, t):
            return task.gradient(i, x)
        S = samples(task, i, t, batch)
        return h + batch_gradient(task, i, x, S) - batch_gradient(task, i, before, S)

    return dasha(task, step, rounds, estimate=estimate, **options)


def dasha_mvr(task: Task, step: float, rounds: int, b: float, batch: int = 1, **options) -> Trajectory:
    """h_i⁺ = ∇f_iS(x⁺) + (1−b)(h_i − ∇f_iS(x))."""

    def estimate(task, i, t, x, before, h):
        S = samples(task, i, t, batch)
        return batch_gradient(task, i, x, S) + (1 - b) * (h - batch_gradient(task, i, before, S))

    return dasha(task, step, rounds, estimate=estimate, **options)


def _diana_uplink(task: Task) -> Callable:
    """Returns f(gradients, t) = ĝ, which keeps the shifts."""
    a = 1.0 / (1.0 + task.compressor.omega(task.d, task.n))
    h_i = [task.zeros() for _ in range(task.n)]

    def estimate(gradients, t):
        m_i = [task.up(i, gradients[i] - h_i[i], t) for i in range(task.n)]
        g = sum(h_i) / task.n + task.mean(m_i)
        for i in range(task.n):
            h_i[i] = h_i[i] + a * m_i[i]
        return g

    return estimate


def artemis(task: Task, step: float, rounds: int) -> Trajectory:
    """x⁺ = x − γ C(ĝ), ĝ as in DIANA."""
    x, uplink = task.x0, _diana_uplink(task)
    yield x
    for t in range(rounds):
        x = x - step * task.down(0, uplink(task.gradients(x), t), t)
        yield x


def dore(task: Task, step: float, rounds: int, beta: float = 1.0, eta: float = 1.0) -> Trajectory:
    """x^{k+1} = x̂^k − γĝ; q = x^{k+1} − x̂^k + ηe; q̂ = C(q); e = q − q̂; x̂^{k+1} = x̂^k + βq̂. The model is x̂."""
    xhat, e, uplink = task.x0, task.zeros(), _diana_uplink(task)
    yield xhat
    for t in range(rounds):
        q = -step * uplink(task.gradients(xhat), t) + eta * e
        qhat = task.down(0, q, t)
        e, xhat = q - qhat, xhat + beta * qhat
        yield xhat


def mcm(task: Task, step: float, rounds: int, rate: float, private: bool = False) -> Trajectory:
    """Ω_i = C(x⁺ − H_i), w_i = H_i + Ω_i, H_i += rate Ω_i: one message for all, or one each (Rand-MCM). Gradients at w_i."""
    x, uplink = task.x0, _diana_uplink(task)
    H, w = [x] * task.n, [x] * task.n
    yield x
    for t in range(rounds):
        x = x - step * uplink([task.gradient(i, w[i]) for i in range(task.n)], t)
        omega = [task.down(i if private else 0, x - H[i], t) for i in range(task.n)]
        w = [H[i] + omega[i] for i in range(task.n)]
        H = [H[i] + rate * omega[i] for i in range(task.n)]
        yield x


def core(task: Task, step: float, rounds: int, m: int) -> Trajectory:
    """p_j = mean ⟨∇f_i(x), ξ_j⟩; x⁺ = x − (γ/m) Σ p_j ξ_j."""
    x = task.x0
    yield x
    for t in range(rounds):
        shared = uplink_keys(task.seed, t).shared
        keys = [np.uint64(client_key(shared, j)) for j in range(m)]
        Xi = np.array([[normal(key, c) for c in range(task.d)] for key in keys])
        p = sum(task.dense(Xi @ task.gradient(i, x)) for i in range(task.n)) / task.n
        x = x - step / m * (Xi.T @ task.dense(p))
        yield x


def powersgd(task: Task, step: float, rounds: int, rank: int, rows: int, warm_start: bool = True) -> Trajectory:
    """P = mean M_i Q, orthonormalised (here by Householder's QR); Q = mean M_iᵀP; x⁺ = x − γ PQᵀ; e_i = M_i − PQᵀ (as published)."""
    cols = -(-task.d // rows)
    padding = rows * cols - task.d
    x, e_i = task.x0, [np.zeros((rows, cols)) for _ in range(task.n)]
    yield x
    for t in range(rounds):
        if t == 0 or not warm_start:
            shared = uplink_keys(task.seed, t).shared
            keys = [np.uint64(client_key(shared, s)) for s in range(rank)]
            Q = np.array([[normal(key, c) for key in keys] for c in range(cols)])
        M_i = [np.append(task.gradient(i, x), np.zeros(padding)).reshape(rows, cols) + e_i[i] for i in range(task.n)]
        P = np.linalg.qr(sum(M @ Q for M in M_i) / task.n)[0]
        Q = sum(M.T @ P for M in M_i) / task.n
        out = P @ Q.T
        out.ravel()[task.d :] = 0  # nothing is there
        e_i = [M - out for M in M_i]
        x = x - step * out.ravel()[: task.d]
        yield x


def local_sgd(
    task: Task, step: float, rounds: int, K: int, local_step: float, mu: float = 0.0, batch: int = 0, sample: int = 0
) -> Trajectory:
    """y_i = x, K times y_i −= η(∇f_i(y_i) + μ(y_i − x)); x += (γ/(Kη)) mean of C((y_i − x)) over those who take part."""
    x, participation = task.x0, Nice(sample or task.n, task.n, task.seed)
    yield x
    for t in range(rounds):
        active, moves = participation.active(t), []
        for i in range(task.n):
            y = x
            for k in range(K):
                g = batch_gradient(task, i, y, samples(task, i, t, batch, k)) if batch else task.gradient(i, y)
                y = y - local_step * (g + mu * (y - x))
            if active[i]:
                moves.append(task.up(i, (x - y) / (K * local_step), t))
        x = x - step * sum(moves) / len(moves)
        yield x
