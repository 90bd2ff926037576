"""The clients that were drawn speak for all, without memory."""

from __future__ import annotations

import numpy as np

from ..oracles import Oracle
from .direct import DirectUplink


class SampledUplink(DirectUplink):
    """g^t = Σ_{i∈S_t} (w_i/p_i) C(∇f_i(x^t)), p_i = Prob(i ∈ S_t): unbiased; 1/s for each of s clients drawn from n without replacement."""

    def prepare(self) -> None:
        super().prepare()
        participation = self.link.participation
        assert participation is not None, "nobody is drawn; take Direct"
        self.shares = self.link.exchange.weights / participation.probabilities()

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link = self.link
        V = oracle.value() if link.is_worker else None
        link.gather(self.codec, V, round, self.mean, active=link.active(round), weights=self.shares)
        return self.mean
