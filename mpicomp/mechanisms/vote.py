"""Majority vote: what travels is signs, and their sum is counted exactly."""

from __future__ import annotations

import numpy as np

from ..compressors import Compressor
from ..oracles import Oracle
from .base import Uplink, uplinks


@uplinks.register("vote")
class VoteUplink(Uplink):
    """g^t = Σ_i sign(∇f_i(x^t)): every client has one vote, whatever the weights. Bernstein et al. 2018, Algorithm 3.

    Parameters
    ----------
    compressor : sends signs (sign:norm=unit).
    """

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def prepare(self) -> None:
        self.codec = self.link.codec(self.compressor)
        self.votes = np.ones(self.link.n_clients)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        link.gather(self.codec, oracle.value() if link.is_worker else None, round, self.mean, weights=self.votes)
        return self.mean
