"""The EF21 family as its papers print it, in plain NumPy, and the problems that its tests share.

Written from the papers and from `spec/ef-family.md`. Shared with the package are the problems' gradients, the compressed vectors and the
keyed draws (samples, coins, who speaks), which are recomputed here one client at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from oracles import Task

import mpicomp as mc
from mpicomp.kernels.random import Stream, below, client_key, derive, uniform64
from mpicomp.methods import methods
from mpicomp.participation import Nice
from mpicomp.problems import problems
from mpicomp.runtime.config import initial_point

T = 220
START = "normal:7"
FAMILY = [name for name in methods if name.startswith("ef21")]


@cache
def quadratic(dim: int = 33, clients: int = 5, noise: float = 0.3, reg: float = 1e-2, seed: int = 1) -> mc.Problem:
    return problems.build("quadratic", {"dim": dim, "clients": clients, "noise": noise, "reg": reg, "seed": seed})


@cache
def mushrooms() -> mc.Problem:
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


@cache
def rare(tmp: Path) -> mc.Problem:
    """60 clients, 40 features, of which each client has only a few; rows of +-1 and a label each."""
    rng, lines = np.random.default_rng(3), []
    for _ in range(60):
        own = np.sort(rng.permutation(40)[:5])
        for _ in range(4):
            lines.append(
                f"{rng.normal():.6f} "
                + " ".join(f"{j + 1}:{rng.choice([-1, 1]) * rng.uniform(0.5, 1):.6f}" for j in own)
            )
    path = tmp / "rare.libsvm"
    path.write_text("\n".join(lines) + "\n")
    return problems.build("least_squares", {"data": str(path), "clients": 60, "features": 40})


class Method(Task):
    """A task and what the methods of the family need beside it."""

    down_compressor: mc.Compressor
    G: float  # the Lyapunov function's second term at the last point that gradients were taken at

    def L(self) -> np.ndarray:
        return np.asarray(self.problem.smoothness().L_i)

    def send(self, i: int, v: np.ndarray, t: int) -> np.ndarray:
        """C(v) in its contractive form, as client i sends it in round t."""
        return self.dtype(self.contraction) * self.up(i, v, t)

    def broadcast(self, v: np.ndarray, t: int) -> np.ndarray:
        """C_M(v) in its contractive form, as the server sends it in round t."""
        up, self.compressor = self.compressor, self.down_compressor
        result = self.dtype(self.contraction) * self.down(0, v, t)
        self.compressor = up
        return result

    def minibatch(self, i: int, t: int, tau: int) -> np.ndarray:
        """The samples of client i in round t, with replacement."""
        key = np.uint64(client_key(derive(self.seed, Stream.MINIBATCH, t), i))
        return np.array([below(key, s, self.problem.n_samples(i)) for s in range(tau)])

    def stochastic(self, i: int, x: np.ndarray, t: int, tau: int) -> np.ndarray:
        """The gradient of f_i at x from the samples of round t; exact for τ = 0."""
        if tau == 0:
            return self.gradient(i, x)
        out = np.zeros(self.d)
        self.problem.batch_gradient(i, x, self.minibatch(i, t, tau), out)
        return out


Vectors = Callable[[int, int, np.ndarray], np.ndarray]


def error_feedback(
    task: Method,
    step: float,
    rounds: int,
    vector: Vectors | None = None,
    weights: np.ndarray | None = None,
    speaks: Callable[[int, int], bool] = lambda i, t: True,
    move: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """c_i = C(u_i − g_i) for the clients that speak; g_i += c_i; g = Σ w_i g_i; x ← x − γ g; u_i = vector(i, t, x), or ∇f_i(x)."""
    vector = vector or (lambda i, t, x: task.gradient(i, x))
    weights = np.full(task.n, 1 / task.n) if weights is None else weights
    x, task.g_i = task.x0, [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        for i in range(task.n):
            u = vector(i, t, x)
            if t == 0 or speaks(i, t):
                task.g_i[i] = task.g_i[i] + task.send(i, u - task.g_i[i], t)
        g = sum(w * v for w, v in zip(weights, task.g_i, strict=True))
        x = x - step * g if move is None else move(x, g)
        yield x


def ef21_plus(task: Method, step: float, rounds: int) -> Iterator[np.ndarray]:
    """The nearer of m = g_i + C(∇f_i − g_i) and b = C(∇f_i)."""
    x, g_i = task.x0, [task.zeros() for _ in range(task.n)]
    task.branches = np.zeros(2, int)
    yield x
    for t in range(rounds):
        for i in range(task.n):
            u = task.gradient(i, x)
            m, b = g_i[i] + task.send(i, u - g_i[i], t), task.send(i, u, t)
            fresh = np.sum((m - u) ** 2) > np.sum((b - u) ** 2)
            task.branches[int(fresh)] += 1
            g_i[i] = b if fresh else m
        x = x - step * sum(g_i) / task.n
        yield x


def smoothness_weights(task: Method) -> np.ndarray:
    return task.L() / task.L().sum()


def ef21_w(task: Method, step: float, rounds: int, tau: int = 0, **more: Any) -> Iterator[np.ndarray]:
    """Client i compresses ∇f_i/(n w_i) − g_i."""
    w = smoothness_weights(task)
    return error_feedback(
        task, step, rounds, lambda i, t, x: task.stochastic(i, x, t, tau) / (task.n * w[i]), w, **more
    )


def independent_speakers(task: Method, p: float) -> Callable[[int, int], bool]:
    return lambda i, t: uniform64(derive(task.seed, Stream.PARTICIPATION, t), i) < p


def nice_speakers(task: Method, s: int) -> Callable[[int, int], bool]:
    sampling = Nice(s, task.n, task.seed)
    return lambda i, t: bool(sampling.active(t)[i])


def ef21_pp(task, step, rounds, p=None, s=None, run=error_feedback):
    return run(task, step, rounds, speaks=independent_speakers(task, p) if s is None else nice_speakers(task, s))


def ef21_page(
    task: Method, step: float, rounds: int, p: float, tau: int, coin: str = "private"
) -> Iterator[np.ndarray]:
    """v_i = ∇f_i(x^t) with probability p, else v_i + mean of ∇f_ij(x^t) − ∇f_ij(x^{t−1})."""
    v_i: dict[int, np.ndarray] = {}
    last: dict[int, np.ndarray] = {}
    task.exact = 0

    def vector(i, t, x):
        key = derive(task.seed, Stream.ORACLE_COIN, t)
        if t == 0 or uniform64(key, 0 if coin == "shared" else 1 + i) < p:
            task.exact += t > 0
            v_i[i] = task.gradient(i, x)
        else:
            v_i[i] = v_i[i] + task.stochastic(i, x, t, tau) - task.stochastic(i, last[i], t, tau)
        last[i] = x
        return v_i[i]

    return error_feedback(task, step, rounds, vector)


def ef21_bc(task: Method, step: float, rounds: int) -> Iterator[np.ndarray]:
    """All ranks: x ← x − γ g; clients: g̃_i += C_w(∇f_i(x) − g̃_i); server: b = C_M(g̃ − g); all: g += b."""
    x, g, own = task.x0, task.zeros(), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        own = [own[i] + task.send(i, task.gradient(i, x) - own[i], t) for i in range(task.n)]
        g = g + task.broadcast(sum(own) / task.n - g, t)
        x = x - step * g
        yield x


def ef21_hb(task: Method, step: float, rounds: int, momentum: float) -> Iterator[np.ndarray]:
    """v^t = η v^{t−1} + g^t, v⁰ = g⁰; x^{t+1} = x^t − γ v^t: γ once, unlike the poster."""
    v = task.zeros()

    def move(x, g):
        nonlocal v
        v = momentum * v + g
        return x - step * v

    return error_feedback(task, step, rounds, move=move)


def ef21_prox(task: Method, step: float, rounds: int, r: str, weight: float = 0.0, low: float = 0.0, high: float = 0.0):
    """x ← prox_{γr}(x − γ g)."""

    def prox(y):
        if r == "l1":
            return np.where(y > step * weight, y - step * weight, np.where(y < -step * weight, y + step * weight, 0.0))
        return y / (1 + step * weight) if r == "ridge" else np.minimum(np.maximum(y, low), high)

    return error_feedback(task, step, rounds, move=lambda x, g: prox(x - step * g))


def ef21_sgdm(
    task: Method, step: float, rounds: int, eta: float, tau: int = 0, twice: bool = False
) -> Iterator[np.ndarray]:
    """v_i = (1−η) v_i + η ∇̂f_i; u_i = (1−η) u_i + η v_i."""
    v_i: dict[int, np.ndarray] = {}
    u_i: dict[int, np.ndarray] = {}

    def vector(i, t, x):
        new = task.stochastic(i, x, t, tau)
        v_i[i] = (1 - eta) * v_i[i] + eta * new if t else new
        u_i[i] = (1 - eta) * u_i[i] + eta * v_i[i] if t else v_i[i]
        return u_i[i] if twice else v_i[i]

    return error_feedback(task, step, rounds, vector)


def stacked(task: Method, step: float, rounds: int, up: str) -> Iterator[np.ndarray]:
    """x ← x − γ g, g from gradients at w by EF21, DIANA or DCGD; w ← w + C_M(x − w)."""
    x = w = task.x0
    omega = task.compressor.omega(task.d, task.n) if up != "ef21" else 0.0
    a, h_i = 1 / (1 + omega), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        m_i = []
        for i in range(task.n):
            u = task.gradient(i, w)
            if up == "dcgd":
                m_i.append(task.up(i, u, t))
            elif up == "diana":
                m_i.append(h_i[i] + task.up(i, u - h_i[i], t))
                h_i[i] = (1 - a) * h_i[i] + a * m_i[i]
            else:
                h_i[i] = h_i[i] + task.send(i, u - h_i[i], t)
                m_i.append(h_i[i])
        x = x - step * sum(m_i) / task.n
        w = w + task.broadcast(x - w, t)
        yield x


def run(problem: mc.Problem, method: str, compressor: str = "topk:k=2", **options: Any) -> mc.Result:
    common = {"eval_every": 1, "allow_unsafe": True, "step": 0.1, "seed": 3, "init": START}
    return mc.run(problem=problem, method=method, compressor=compressor, **{**common, **options})


def task_of(problem: mc.Problem, compressor: str, down: str | None = None, seed: int = 3) -> Method:
    task = Method(problem, mc.compressor(compressor), seed, start=initial_point(START, problem.dim, seed))
    task.down_compressor = mc.compressor(down or compressor)
    return task


def session_of(problem: mc.Problem, method: str, compressor: str, **options: Any):
    from mpicomp.exchanges.local import LocalExchange
    from mpicomp.runtime.config import Config
    from mpicomp.runtime.session import Composition, Session

    config = Config(method=method, compressor=compressor, step="0.1", init=START, **options)
    composition = Composition(config, problem)
    exchange = LocalExchange(problem.n_clients, problem.dim, np.dtype(config.dtype))
    return Session(config, problem, composition.parts(0.1), exchange, 0.1)


@cache
def hessians(problem: mc.Problem) -> list[np.ndarray]:
    """Of a quadratic, which its gradients give away."""
    task = Task(problem)
    return [
        np.array([task.gradient(i, e) - task.gradient(i, task.zeros()) for e in np.eye(task.d)]) for i in range(task.n)
    ]
