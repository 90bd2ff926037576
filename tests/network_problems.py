"""Small problems in NumPy that have what networks have: random gradients, and buffers that rounds change. Also a program for ranks.

`python network_problems.py clock|means|resume ...` is started on several ranks by the tests.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import mpicomp as mc


class Masked(mc.Problem):
    """f_i(x) = ½ Σ_c h_ic (x_c − a_ic)²; a gradient sees a part of the coordinates, which a key draws (dropout).

    A client's state: `seen`, a moving mean of x as its gradients saw it, with a `count` of them (BatchNorm's running mean), and the state
    of a `generator` that adds noise. Evaluations measure Σ seen and count themselves.
    """

    measures = ("buffer", "loss_at_buffer")

    def __init__(self, clients: int = 6, dim: int = 40, noise: float = 0.01, sleep: float = 0.0):
        self.n_clients, self.dim, self.noise, self.sleep = clients, dim, noise, sleep
        rng = np.random.default_rng(5)
        self.a, self.h = rng.normal(size=(clients, dim)), rng.uniform(0.5, 1.5, size=(clients, dim))
        self.calls = {"loss": 0, "gradient": 0, "measure": 0}
        self.told: list[tuple[int, int]] = []
        self.key: int | None = None
        self.mean: dict[str, np.ndarray] = {}
        self.begin_run()

    def begin_run(self) -> None:
        self.seen = {i: np.zeros((2, self.dim // 2), np.float32) for i in range(self.n_clients)}
        self.count = dict.fromkeys(range(self.n_clients), 0)
        self.drawn = dict.fromkeys(range(self.n_clients), 0)

    def begin_round(self, round: int, key: int) -> None:
        self.key = key
        self.told.append((round, key))

    def begin_evaluation(self, mean: dict[str, np.ndarray]) -> None:
        self.key, self.mean = None, mean

    def mask(self, i: int, key: int) -> np.ndarray:
        return np.random.default_rng([key, i]).integers(0, 2, self.dim)

    def loss(self, i: int, x: np.ndarray) -> float:
        assert self.key is None, "a loss is asked for in evaluations only"
        self.calls["loss"] += 1
        time.sleep(self.sleep)
        return float(0.5 * np.sum(self.h[i] * (x - self.a[i]) ** 2) + sum(np.sum(v) for v in self.mean.values()))

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        self.calls["gradient"] += 1
        out[:] = self.h[i] * (x - self.a[i])
        if self.key is None:
            return
        mask = self.mask(i, self.key)
        out *= mask
        if self.noise:
            self.drawn[i] += 1  # a sequential generator
            out += self.noise * np.random.default_rng([7, i, self.drawn[i]]).normal(size=self.dim)
        self.count[i] += 1
        self.seen[i] *= np.float32(0.9)
        self.seen[i] += (0.1 * mask * x).reshape(2, -1).astype(np.float32)

    def state(self, i: int) -> dict[str, np.ndarray]:
        return {
            "seen": self.seen[i],
            "count": np.array(self.count[i]),
            "generator": np.array([self.drawn[i], 255], np.uint8),
        }

    def load_state(self, i: int, state: dict[str, np.ndarray]) -> None:
        assert state["seen"].shape == (2, self.dim // 2) and state["seen"].dtype == np.float32
        self.seen[i], self.count[i] = state["seen"], int(state["count"])
        self.drawn[i] = int(state["generator"][0])

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        self.calls["measure"] += 1
        buffer = self.mean.get("seen", np.full((2, 1), np.nan))
        return float(buffer.sum()), float(np.sum(x.reshape(2, -1) * buffer))


OPTIONS = {"method": "ef21", "compressor": "topk:k=8", "step": 0.1, "rounds": 12, "eval_every": 3}


def clock(comm: object) -> None:
    """Every exchange, with evaluations that take long: what each rank's phases add up to, and its rounds."""
    found = {}
    for exchange in ("p2p", "collective", "sharded", "hierarchical", "allreduce"):
        problem = Masked(sleep=0.02)
        options = {**OPTIONS, "method": "gd", "compressor": "identity", "exchange": exchange, "rounds": 4}
        result = mc.run(problem=problem, comm=comm, **options)
        if result.summary:
            found[exchange] = [rank["seconds"] for rank in result.manifest["ranks"]]
    if found:
        print(json.dumps(found))


def means(comm: object) -> None:
    """Every exchange: history and iterate."""
    found = {}
    for exchange in ("p2p", "collective", "sharded", "hierarchical"):
        result = mc.run(problem=Masked(), comm=comm, exchange=exchange, **OPTIONS)
        if result.summary:
            rows = [[row[name] for name in ("loss", *Masked.measures)] for row in result.history]
            found[exchange] = {"rows": rows, "x": result.summary["iterate_sha256"]}
    if found:
        print(json.dumps(found))


def evaluate(comm: object) -> None:
    """Every exchange and kind of evaluation: the iterate, the measures, and the largest evaluation message of any rank."""
    found = {}
    for exchange in ("p2p", "sharded"):
        for what in ("full", "measures", "none"):
            problem = Masked(dim=20_000)
            result = mc.run(problem=problem, comm=comm, exchange=exchange, evaluate=what, **OPTIONS)
            if result.summary:
                calls = [rank["mpi_calls"] for rank in result.manifest["ranks"]]
                moved = sum(c[1] for rank in calls for name, c in rank.items() if name.startswith("evaluation "))
                found[f"{exchange} {what}"] = {
                    "x": result.summary["iterate_sha256"], "bytes": moved, "measures": result.summary["measures"], "calls": problem.calls,
                }  # fmt: skip
    if found:
        print(json.dumps(found))


def auto(comm: object) -> None:
    """Large and small vectors, and an object that says nothing of who holds what: the exchange, why, and the iterate."""
    found = {}
    options = {"method": "ef21", "compressor": "topk:k=100", "clients": 6, "rounds": 3, "step": 0.1, "evaluate": "none"}
    for name, dim, exchange in (("large", 100_000, "auto"), ("star", 100_000, "p2p"), ("small", 1000, "auto")):
        result = mc.run(problem="quadratic", problem_options={"dim": dim}, comm=comm, exchange=exchange, **options)
        if result.summary:
            found[name] = [result.summary[key] for key in ("exchange", "exchange_choice", "iterate_sha256")]
    hosted = mc.hosted_clients(6, comm)

    class Own(Masked):
        def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
            assert i in hosted
            super().gradient(i, x, out)

    result = mc.run(problem=Own(dim=100_000), comm=comm, **{**OPTIONS, "rounds": 2, "evaluate": "none"})
    if result.summary:
        found["object"] = [result.summary["exchange"], result.summary["exchange_choice"]]
        print(json.dumps(found))


def resume(comm: object, out: str, exchange: str) -> None:
    """Go on from a checkpoint in `out`, under another exchange."""
    result = mc.run(problem=Masked(), comm=comm, exchange=exchange, out=out, resume="auto", **OPTIONS)
    if result.summary:
        print(result.summary["iterate_sha256"], json.dumps(result.history[-1]["buffer"]))


if __name__ == "__main__":
    import network_problems  # by its own name, which checkpoints hold
    from mpi4py import MPI

    getattr(network_problems, sys.argv[1])(MPI.COMM_WORLD, *sys.argv[2:])
