"""The two stages of 1-bit Adam: gradients sent as they are, then the momentum, compressed with error feedback in both directions.

Tang et al. 2021, Algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..compressors import Compressor
from ..compressors.identity import Identity
from ..oracles import Oracle
from ..state import ClientState
from .base import Uplink
from .direct import DenseDownlink
from .error_feedback import EF14Downlink

if TYPE_CHECKING:
    from ..optimizers.adam import OneBitAdam


class MomentumUplink(Uplink):
    """t < T_w: g^t = Σ w_i ∇f_i(x^t). Later: m_i = b₁m^t + (1−b₁)∇f_i(x^t); c_i = C(m_i + e_i); e_i ← m_i + e_i − c_i; m^{t+1} = Σ w_i c_i.

    Parameters
    ----------
    compressor : C. optimizer : the replicated one (`OneBitAdam`); its m is m^t, its dense_rounds T_w, its b1 b₁.
    """

    e_i = ClientState()

    def __init__(self, compressor: Compressor, optimizer: OneBitAdam):
        self.compressor, self.optimizer = compressor, optimizer

    def prepare(self) -> None:
        self.codec, self.dense = self.link.contractive_codec(self.compressor), self.link.codec(Identity())

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link, b1 = self.link, self.optimizer.b1
        if not link.reached(round, self.optimizer.dense_rounds):
            link.gather(self.dense, oracle.value() if link.is_worker else None, round, self.mean)
            return self.mean
        u_i = None
        if link.is_worker:
            u_i = link.scratch("delta", link.hosted)
            np.multiply(oracle.value(), 1.0 - b1, out=u_i)
            self.e_i += u_i
            np.multiply(self.optimizer.m, b1, out=u_i)
            u_i += self.e_i  # m_i + e_i
            self.e_i[:] = u_i
        link.gather(self.codec, u_i, round, self.mean, add_to=self.e_i, scale=-1.0)
        return self.mean


class MomentumDownlink(EF14Downlink):
    """t < T_w: the estimate as it is; later C(m + e) with the server's error memory e."""

    def __init__(self, compressor: Compressor, warmup: int):
        super().__init__(compressor)
        self.warmup, self.dense = warmup, DenseDownlink()

    def prepare(self) -> None:
        super().prepare()
        self.dense.mirrored = True
        self.dense.start(self.link)

    def begin(self, g: np.ndarray, /) -> np.ndarray:
        self.dense.begin(g)
        return super().begin(g)

    def transmit(self, g: np.ndarray, round: int, /) -> np.ndarray:
        if not self.link.reached(round, self.warmup):
            return self.dense.transmit(g, round)
        return super().transmit(g, round)
