"""A user's parts of every kind, fully typed: `test_typing.py` has them checked by `mypy --strict`, and run on three ranks."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import mpicomp as mc
from mpicomp import extend
from mpicomp.extend import ClientState, Codec, Link, ModelState, Oracle, ServerState
from mpicomp.mechanisms.direct import DenseDownlink
from mpicomp.mechanisms.ef21 import EF21PDownlink


@mc.register_problem("distances")
class Distances(mc.Problem):
    """f_i(x) = ½‖x − t_i‖²."""

    measures = ("distance",)

    def __init__(self, targets: npt.NDArray[np.float64]) -> None:
        self.targets = targets
        self.n_clients, self.dim = targets.shape

    def loss(self, i: int, x: np.ndarray) -> float:
        return 0.5 * float(np.sum((x - self.targets[i]) ** 2))

    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> None:
        out[:] = x - self.targets[i]

    def smoothness(self) -> mc.Smoothness:
        return mc.Smoothness.bounds(np.ones(self.n_clients))

    def measure(self, x: np.ndarray) -> tuple[float, ...]:
        return (float(np.linalg.norm(x - self.targets.mean(axis=0))),)


@mc.register_compressor("half")
class Half(mc.Compressor):
    """Values as float16."""

    deterministic = contractive = True

    def alpha(self, d: int, n: int = 1) -> float:
        return 1 - 2.0**-20

    def max_nbytes(self, d: int, dtype: np.dtype) -> int:
        return 2 * d

    def encode(self, x: np.ndarray, out: np.ndarray, key: mc.MessageKey) -> int:
        out[: 2 * x.size] = x.astype(np.float16).view(np.uint8)
        return 2 * x.size

    def decode(self, buf: np.ndarray, out: np.ndarray, key: mc.MessageKey) -> None:
        out[:] = buf.view(np.float16)


@extend.register_uplink("ef21-and-norms")
class EF21AndNorms(mc.Uplink):
    """EF21, and beside each message the norm of the gradient: two exchanges in a round."""

    g_i = ClientState()
    g = ServerState()

    def __init__(self, compressor: mc.Compressor) -> None:
        self.compressor = compressor
        self.largest = 0.0

    def prepare(self) -> None:
        self.codec: Codec = self.link.contractive_codec(self.compressor)
        self.number = self.link.values(1)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link: Link = self.link
        change, norms, table = None, None, None
        if link.is_worker:
            gradients = oracle.value()
            change = link.difference(self.codec, gradients, self.g_i, "change")
            norms = np.linalg.norm(gradients, axis=1, keepdims=True).astype(link.dtype)
        link.gather(self.codec, change, round, self.mean, add_to=self.g_i)
        if link.is_server:
            table = np.zeros((link.n_clients, 1), link.dtype)
        link.gather(self.number, norms, round, table, separate=True)
        if table is not None:
            self.g += self.mean
            self.largest = float(table.max())
        return self.g


@extend.register_downlink("shifted")
class Shifted(mc.Downlink):
    """EF21-P with the change scaled to entries of at most one: the scale travels before it."""

    w = ServerState(allocate=False)
    w_i = ClientState(allocate=False)

    def __init__(self, compressor: mc.Compressor) -> None:
        self.compressor = compressor

    def prepare(self) -> None:
        self.codec, self.number = self.link.contractive_codec(self.compressor), self.link.values(1)

    def begin(self, v: np.ndarray, /) -> np.ndarray:
        link = self.link
        self.scale = np.ones((1, 1), link.dtype)
        self.received = np.zeros((1, link.dim), link.dtype)
        if link.is_server:
            self.w = v[:, link.served].copy()
        if link.is_worker:
            self.w_i = v.copy()
        return v

    def transmit(self, v: np.ndarray, round: int, /) -> np.ndarray:
        link = self.link
        change: np.ndarray | None = None
        scale: np.ndarray | None = None
        if link.is_server:
            change = v - self.w
            scale = np.full((1, 1), max(float(np.abs(change).max()), 1e-30), link.dtype)
            change /= scale
        link.broadcast(self.number, scale, round, self.scale)
        link.broadcast(self.codec, change, round, self.received)
        if link.is_server:
            self.w += self.scale * self.received
        if link.is_worker:
            self.w_i += self.scale * self.received
            return self.w_i
        return self.w


@extend.register_optimizer("heavy")
class Heavy(mc.Optimizer):
    """m ← bm + g, x ← x − γm."""

    m = ModelState()
    steps = ModelState(columns=1)

    def __init__(self, b: float = 0.2) -> None:
        self.b = b

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        self.steps += 1
        self.m *= self.b
        self.m += g
        x -= self.step_size * self.m


@mc.register_method("both-ways")
class BothWays(mc.Method):
    """The two mechanisms above, or the built-in one down."""

    default_compressor = "half"
    default_downlink_compressor = None

    def __init__(self, shifted: bool = True) -> None:
        self.shifted = shifted

    def compose(self, setting: mc.Setting, step_size: float) -> mc.Parts:
        down = setting.downlink_compressor
        downlink: mc.Downlink = Shifted(down) if self.shifted else EF21PDownlink(down)
        if setting.compressor.name == "identity":
            downlink = DenseDownlink()
        return mc.Parts(uplink=EF21AndNorms(setting.compressor), downlink=downlink, optimizer=Heavy())

    def step_size(self, setting: mc.Setting) -> float:
        return 0.5 * setting.alpha / setting.smoothness.L


@extend.register_exchange("counting")
class Counting(extend.P2PExchange):
    """Point to point; counts the broadcasts of all exchanges of this process."""

    summary = "point to point, and counts"
    broadcasts = 0

    def broadcast(
        self, codec: Codec, v: extend.Vectors, keys: extend.Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        Counting.broadcasts += 1
        super().broadcast(codec, v, keys, round, into, add)


def by_hand() -> npt.NDArray[np.float64]:
    """A message without MPI."""
    compressor: mc.Compressor = mc.compressor("topk:k=10")
    x = np.arange(60.0)
    message: bytes = compressor.compress(x, mc.MessageKey.seeded(1))
    received = mc.compressor("topk", k=10).decompress(message)
    assert np.array_equal(received, compressor.apply(x))
    assert mc.compressor("natural").apply([1, 2, 4]).tolist() == [1, 2, 4]
    return received


def main(directory: str) -> None:
    """Run the parts above, over MPI where this process is one of several."""
    by_hand()
    rows: list[int] = []
    comm = MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() > 1 else None
    hosted: range = mc.hosted_clients(8, comm)
    assert len(hosted) <= 8
    problem = Distances(np.random.default_rng(0).normal(size=(8, 50)))
    try:
        result: mc.Result = mc.run(
            mc.Config(rounds=5),
            comm=comm,
            problem=problem,
            method=BothWays(),
            compressor=Half(),
            optimizer=Heavy(b=0.1),
            exchange=Counting if comm is not None else "local",
            progress=lambda row: rows.append(row["round"]),
            rounds=100,
            step="theory*1.5",
            tol=1e-6,
            seed=1,
            dtype="float64",
            wire_dtype="float32",
            eval_every=10,
            out=directory,
            checkpoint_every=50,
            resume="auto",
            threads=1,
            allow_unsafe=True,
        )
    except mc.UserError as error:
        raise SystemExit(str(error)) from None
    if result.x is not None:
        x: np.ndarray = result.x
        assert np.allclose(x, problem.targets.mean(axis=0), atol=1e-2)
        assert result.history[-1]["round"] == rows[-1]
        assert result.summary["bytes"]["uplink"]
        assert comm is None or Counting.broadcasts >= 2 * rows[-1]
        assert not result.interrupted
    functions = mc.FunctionProblem(
        lambda i, x: 0.5 * float(np.sum(x**2)),
        lambda i, x: x,
        dim=50,
        n_clients=8,
        constants=mc.Smoothness.bounds(np.ones(8)),
    )
    mc.run(problem=functions, method="both-ways", method_options={"shifted": False}, step=0.1, rounds=3, comm=comm)
    mc.run(problem="quadratic", problem_options={"dim": 10}, method="gd", clients=4, rounds=3, init="ones", batch=0)


if __name__ == "__main__":
    main(sys.argv[1])
