"""Mistakes that a type checker has to find; a line with one names mypy's code for it."""

from __future__ import annotations

import numpy as np

import mpicomp as mc
from mpicomp.extend import Codec, Oracle, P2PExchange, ServerState

mc.run(rouns=3)  # error: call-arg
mc.run(rounds="x")  # error: arg-type
mc.run(step=None)  # error: arg-type
mc.run(problem_options=[1])  # error: arg-type
mc.run(method=mc.compressor("topk:k=1"))  # error: arg-type
mc.run(comm="world")  # error: arg-type
mc.compressor("topk", k=[1])  # error: arg-type
mc.run(exchange=P2PExchange.create)  # error: arg-type
mc.register_methods("mine")  # error: attr-defined
mc.compressor("topk:k=1").compress("text", 1)  # error: arg-type
summary = mc.run().sumary  # error: attr-defined
mc.FunctionProblem(lambda i: 1.0, lambda i, x: x, dim=1, n_clients=1)  # error: arg-type, misc
P2PExchange("comm", 3)  # error: call-arg, arg-type


class WithoutOut(mc.Problem):
    def gradient(self, i: int, x: np.ndarray) -> None:  # error: override
        pass


class Returning(mc.Problem):
    def gradient(self, i: int, x: np.ndarray, out: np.ndarray) -> np.ndarray:  # error: override
        return x


class OfAllClients(mc.Problem):
    def loss(self, x: np.ndarray) -> float:  # error: override
        return float(x.sum())


class WithoutDtype(mc.Compressor):
    def max_nbytes(self, d: int) -> int:  # error: override
        return d


class Nothing(mc.Uplink):
    def transmit(self, oracle: Oracle, round: int) -> None:  # error: override
        oracle.values()  # error: attr-defined


class Number(mc.Uplink):
    g = ServerState()

    def transmit(self, oracle: Oracle, round: int) -> float:  # error: override
        self.g = 1.0  # error: assignment
        self.link.gather(self.codec, oracle.value())  # error: call-arg
        self.link.gather(self.codec, 1.0, round, self.mean)  # error: arg-type
        return 0.0

    def prepare(self) -> None:
        self.codec: Codec = self.link.contractive_codec("topk")  # error: arg-type


class WithoutRound(mc.Downlink):
    def transmit(self, v: np.ndarray, /) -> np.ndarray:  # error: override
        return v


class Text(mc.Optimizer):
    def step(self, x: np.ndarray, g: np.ndarray) -> str:  # error: override
        return ""


class Single(mc.Method):
    def compose(self, setting: mc.Setting, step_size: float) -> mc.Uplink:  # error: override
        return Nothing()

    def step_size(self, setting: mc.Setting) -> float:
        return setting.smoothness.Lmax  # error: attr-defined, no-any-return


class Silent(P2PExchange):
    def broadcast(self, codec: Codec, v: np.ndarray, round: int) -> None:  # error: override
        pass
