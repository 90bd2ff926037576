"""EF14, the original error feedback. Seide et al. 2014; in distributed form Stich, Cordonnier and Jaggi 2018, Karimireddy et al. 2019."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..oracles import Oracle
from ..state import ClientState
from .base import Uplink, uplinks


@uplinks.register("ef14")
class EF14Uplink(Uplink):
    """w_i^t = C(e_i^t + γ∇f_i(x^t)); e_i^{t+1} = e_i^t + γ∇f_i(x^t) − w_i^t; the server steps by Σ w_i w_i^t.

    The estimate that it returns is that sum divided by γ, so that any optimizer can follow.
    """

    e_i = ClientState()

    def __init__(self, compressor: Compressor, step: float):
        self.compressor, self.step = compressor, step

    def prepare(self) -> None:
        self.codec = self.link.contractive_codec(self.compressor)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        memory = None
        if link.is_worker:
            memory = link.sum(self.codec, self.e_i, oracle.value(), self.step)  # e_i + γ∇f_i(x)
        link.gather(self.codec, memory, round, self.mean, add_to=self.e_i, scale=-1.0)  # e_i ← e_i + γ∇f_i(x) − w_i
        if link.is_server:
            self.mean /= self.step
        return self.mean
