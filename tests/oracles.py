"""The methods as their papers print them, in plain NumPy: what the runtime must reproduce.

Everything is written from the papers (and `spec/*.md`), for one process and one client after the other; nothing here is shared with
the package but the compressed vectors themselves, which come from `Compressor.apply`, and the keyed coins.

Conventions: round t evaluates gradients, sends the uplink messages with round t's keys, makes x^{t+1}, and sends the downlink message
with round t's keys. Every function yields x^0, x^1, ..., x^T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mpicomp import Compressor, MessageKey, Problem
from mpicomp.kernels.random import Stream, derive, downlink_keys, uniform64, uplink_keys

Vectors = list[np.ndarray]


@dataclass
class Task:
    """min (1/n) Σ f_i, a compressor, a seed, and how values travel.

    Attributes
    ----------
    heads : for each direction, the rounds in which the coin showed heads. g_i : the clients' estimates (EF21), as they are now.
    """

    problem: Problem
    compressor: Compressor | None = None
    seed: int = 0
    dtype: type = np.float64
    wire_dtype: type | None = None
    start: np.ndarray | None = None
    heads: dict[str, list[int]] = field(default_factory=lambda: {"uplink": [], "downlink": []})
    g_i: Vectors = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n, self.d = self.problem.n_clients, self.problem.dim
        self.wire = self.wire_dtype or self.dtype
        self.x0 = np.zeros(self.d, self.dtype) if self.start is None else self.start.astype(self.dtype)
        self.blocks = [self.problem.block(np.array([i]), np.dtype(self.dtype)) for i in range(self.n)]

    # ---- the problem --------------------------------------------------------------------------------------------
    def gradient(self, i: int, x: np.ndarray) -> np.ndarray:
        """∇f_i(x)."""
        out = np.zeros((1, self.d), self.dtype)
        self.blocks[i].gradients(x[None], out)
        return out[0]

    def gradients(self, x: np.ndarray) -> Vectors:
        """∇f_1(x), ..., ∇f_n(x)."""
        return [self.gradient(i, x) for i in range(self.n)]

    def loss(self, x: np.ndarray) -> float:
        """f(x)."""
        out = np.zeros((self.n, 1))
        for i in range(self.n):
            self.blocks[i].losses(x[None], out[i])
        return float(out.mean())

    def full_gradient(self, x: np.ndarray) -> np.ndarray:
        """∇f(x)."""
        return sum(self.gradients(x)) / self.n

    # ---- messages -----------------------------------------------------------------------------------------------
    def zeros(self) -> np.ndarray:
        return np.zeros(self.d, self.dtype)

    def dense(self, v: np.ndarray) -> np.ndarray:
        """v after it has travelled uncompressed."""
        return v.astype(self.wire).astype(self.dtype)

    def up(self, i: int, v: np.ndarray, t: int) -> np.ndarray:
        """C_i(v), as client i sends it in round t."""
        return self._apply(v, i, uplink_keys(self.seed, t))

    def down(self, i: int, v: np.ndarray, t: int) -> np.ndarray:
        """C_i(v), as the server sends it to client i in round t (i = 0 where one message is for all)."""
        return self._apply(v, i, downlink_keys(self.seed, t))

    def _apply(self, v: np.ndarray, i: int, keys) -> np.ndarray:
        return self.compressor.apply(v, MessageKey.of(keys, i, self.n), self.wire)

    def coin(self, direction: str, p: float, t: int) -> bool:
        """The coin of round t in a direction."""
        stream = Stream.UPLINK_COIN if direction == "uplink" else Stream.DOWNLINK_COIN
        heads = bool(uniform64(derive(self.seed, stream, t), 0) < p)
        if heads:
            self.heads[direction].append(t)
        return heads

    def mean(self, vectors: Vectors, factor: float = 1.0) -> np.ndarray:
        """Σ (factor / n) v_i, one client after the other."""
        weight = self.dtype(1.0 / self.n * factor)
        total = self.zeros()
        for v in vectors:
            total = total + weight * v
        return total

    @property
    def contraction(self) -> float:
        """The factor that makes the compressor contractive: 1/(1 + ω) for an unbiased one."""
        c = self.compressor
        return 1.0 / (1.0 + c.omega(self.d, self.n)) if c.unbiased and not c.contractive else 1.0


Trajectory = Iterator[np.ndarray]
Oracle = Callable[..., Trajectory]


def gd(task: Task, step: float, rounds: int, momentum: float = 0.0) -> Trajectory:
    """x^{t+1} = x^t − γ v^t, v^t = η v^{t−1} + ∇f(x^t) (heavy ball for η > 0)."""
    x, v, w = task.x0, task.zeros(), task.x0
    yield x
    for _ in range(rounds):
        v = momentum * v + task.mean([task.dense(g) for g in task.gradients(w)])
        x = x - task.dtype(step) * v
        w = task.dense(x)
        yield x


def dcgd(task: Task, step: float, rounds: int) -> Trajectory:
    """x^{t+1} = x^t − γ (1/n) Σ C_i(∇f_i(x^t)) (Alistarh et al. 2017; Khirirat et al. 2018)."""
    x = w = task.x0
    yield x
    for t in range(rounds):
        x = x - task.dtype(step) * task.mean([task.up(i, g, t) for i, g in enumerate(task.gradients(w))])
        w = task.dense(x)
        yield x


def diana(task: Task, step: float, rounds: int, shift_step: float | None = None, momentum: float = 0.0) -> Trajectory:
    """m_i = C_i(∇f_i(x^t) − h_i); g = h + mean m_i; h_i += a m_i; h += a mean m_i; a = 1/(1+ω) (Mishchenko et al. 2019)."""
    a = shift_step if shift_step is not None else 1.0 / (1.0 + task.compressor.omega(task.d, task.n))
    x = w = task.x0
    h, h_i, v = task.zeros(), [task.zeros() for _ in range(task.n)], task.zeros()
    yield x
    for t in range(rounds):
        m_i = [task.up(i, task.gradient(i, w) - h_i[i], t) for i in range(task.n)]
        m = task.mean(m_i)
        g = h + m
        h_i = [h_i[i] + task.dtype(a) * m_i[i] for i in range(task.n)]
        h = h + task.dtype(a) * m
        v = momentum * v + g
        x = x - task.dtype(step) * v
        w = task.dense(x)
        yield x


def ef14(task: Task, step: float, rounds: int) -> Trajectory:
    """w_i = C(e_i + γ∇f_i(x^t)); e_i = e_i + γ∇f_i(x^t) − w_i; x^{t+1} = x^t − mean w_i (Seide et al. 2014)."""
    x = point = task.x0
    e_i = [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        u_i = [e_i[i] + task.dtype(step) * task.gradient(i, point) for i in range(task.n)]
        c_i = [task.up(i, u_i[i], t) for i in range(task.n)]
        e_i = [u_i[i] - task.dtype(task.contraction) * c_i[i] for i in range(task.n)]
        x = x - task.mean(c_i, task.contraction)
        point = task.dense(x)
        yield x


def ef21(task: Task, step: float, rounds: int, start: str = "compressed", momentum: float = 0.0) -> Trajectory:
    """c_i = C(∇f_i(x^t) − g_i); g_i += c_i; g += mean c_i; x^{t+1} = x^t − γ g (Richtárik, Sokolov, Fatkhullin 2021, Algorithm 1).

    g_i^0 = C(∇f_i(x^0)), ∇f_i(x^0) or 0, for start = "compressed", "dense", "zero".
    """
    x = w = task.x0
    g, v, task.g_i = task.zeros(), task.zeros(), [task.zeros() for _ in range(task.n)]
    yield x
    for t in range(rounds):
        if t == 0 and start == "dense":
            factor, c_i = 1.0, [task.dense(task.gradient(i, w)) for i in range(task.n)]
        elif t == 0 and start == "zero":
            factor, c_i = 1.0, [task.zeros() for _ in range(task.n)]
        else:
            factor = task.contraction
            c_i = [task.up(i, task.gradient(i, w) - task.g_i[i], t) for i in range(task.n)]
        task.g_i = [task.g_i[i] + task.dtype(factor) * c_i[i] for i in range(task.n)]
        g = g + task.mean(c_i, factor)
        v = momentum * v + g
        x = x - task.dtype(step) * v
        w = task.dense(x)
        yield x


def ef21_p(task: Task, step: float, rounds: int) -> Trajectory:
    """x^{t+1} = x^t − γ mean ∇f_i(w^t); w^{t+1} = w^t + C(x^{t+1} − w^t), broadcast (Gruntkowska, Tyurin, Richtárik 2023)."""
    x = w = task.x0
    yield x
    for t in range(rounds):
        x = x - task.dtype(step) * task.mean([task.dense(g) for g in task.gradients(w)])
        w = w + task.dtype(task.contraction) * task.down(0, x - w, t)
        yield x


def marina(task: Task, step: float, rounds: int, p: float, momentum: float = 0.0) -> Trajectory:
    """g^t = mean ∇f_i(x^t) with probability p (and for t = 0), else g^{t−1} + mean C_i(∇f_i(x^t) − ∇f_i(x^{t−1})); x^{t+1} = x^t − γ g^t
    (Gorbunov, Burlachenko, Li, Richtárik 2021, Algorithm 1)."""
    x = w = task.x0
    v, g, before = task.zeros(), task.zeros(), task.zeros()
    yield x
    for t in range(rounds):
        if t == 0 or task.coin("uplink", p, t):
            g = task.mean([task.dense(u) for u in task.gradients(w)])
        else:
            difference = [task.gradient(i, w) - task.gradient(i, before) for i in range(task.n)]
            g = g + task.mean([task.up(i, u, t) for i, u in enumerate(difference)])
        v = momentum * v + g
        x, before = x - task.dtype(step) * v, w
        w = task.dense(x)
        yield x


def marina_p(task: Task, step: float, rounds: int, p: float) -> Trajectory:
    """x^{t+1} = x^t − γ mean ∇f_i(w_i^t); w_i^{t+1} = x^{t+1} with probability p, else w_i^t + C_i(x^{t+1} − x^t)
    (Gruntkowska, Tyurin, Richtárik 2024, MARINA-P)."""
    x = task.x0
    w_i = [x] * task.n
    yield x
    for t in range(rounds):
        new = x - task.dtype(step) * task.mean([task.dense(task.gradient(i, w_i[i])) for i in range(task.n)])
        heads = task.coin("downlink", p, t)
        w_i = [task.dense(new) if heads else w_i[i] + task.down(i, new - x, t) for i in range(task.n)]
        x = new
        yield x


METHODS: dict[str, Oracle] = {
    "gd": gd,
    "dcgd": dcgd,
    "diana": diana,
    "ef14": ef14,
    "ef21": ef21,
    "ef21-p": ef21_p,
    "marina": marina,
    "marina-p": marina_p,
}
