"""EF14, the original error feedback. Seide et al. 2014; in distributed form Stich, Cordonnier and Jaggi 2018, Karimireddy et al. 2019."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..errors import ConfigError
from ..oracles import Oracle
from ..state import ClientState
from .base import Uplink, uplinks


@uplinks.register("ef14")
class EF14Uplink(Uplink):
    """w_i^t = C(e_i^t + γ∇f_i(x^t)); e_i^{t+1} = e_i^t + γ∇f_i(x^t) − w_i^t; the server steps by Σ w_i w_i^t.

    The estimate that it returns is that sum divided by γ, so that any optimizer can follow.

    Parameters
    ----------
    decay : β in [0, 1], by which e_i^t is multiplied before anything is added. β < 1 makes the memory take the part of an outer momentum,
        as in SparseLoCo (Sarfi, Thérien, Lidin and Belilovsky 2025); 0 is no memory, and 1 forgets nothing.

    Raises
    ------
    ConfigError : decay is outside [0, 1].
    """

    e_i = ClientState()

    def __init__(self, compressor: Compressor, step: float, decay: float = 1.0):
        if not 0 <= decay <= 1:
            raise ConfigError(f"ef14: decay={decay} is not in [0, 1]")
        self.compressor, self.step, self.decay = compressor, step, decay

    def prepare(self) -> None:
        self.codec = self.link.contractive_codec(self.compressor)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        memory = None
        if link.is_worker:
            if self.decay != 1:
                self.e_i *= self.decay
            memory = link.sum(self.codec, self.e_i, oracle.value(), self.step)  # e_i + γ∇f_i(x)
        link.gather(self.codec, memory, round, self.mean, add_to=self.e_i, scale=-1.0)  # e_i ← e_i + γ∇f_i(x) − w_i
        if link.is_server:
            self.mean /= self.step
        return self.mean
