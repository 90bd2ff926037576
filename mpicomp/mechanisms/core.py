"""CORE: m scalars up and m scalars down, the gradient's products with Gaussian vectors that nobody sends. Yue et al. 2023."""

from __future__ import annotations

import numpy as np

from ..compressors.identity import Identity
from ..errors import ConfigError
from ..kernels.gaussian import combine, project
from ..oracles import Oracle
from .base import Uplink


class CoreUplink(Uplink):
    """p_ij = ⟨∇f_i(x^t), ξ_j⟩ up, p_j = Σ w_i p_ij down to everybody; g^t = (1/m) Σ_j p_j ξ_j on every rank.

    ξ_1, …, ξ_m ~ N(0, I) follow from the round's shared key. All ranks make g from the decoded p_j, so their copies are equal bit for
    bit. The price is 2md Gaussian numbers a round on every worker, md on the server.

    Parameters
    ----------
    m : number of scalars, at least 1.

    Raises
    ------
    ConfigError : m < 1.
    """

    def __init__(self, m: int):
        if not isinstance(m, int) or m < 1:
            raise ConfigError(f"core: m={m} must be an integer, at least 1")
        self.m = m

    def prepare(self) -> None:
        link, m = self.link, self.m
        self.codec = link.codec(Identity(), dim=m)
        self.products = np.zeros((link.hosted, m), link.dtype)
        self.mean_products = np.zeros((1, m), link.dtype)
        self.p, self.g = np.zeros((1, m), link.dtype), np.zeros((1, link.dim), link.dtype)
        self._xi = np.zeros(link.dim)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link, key = self.link, self.link.keys(round).shared
        if link.is_worker:
            project(key, oracle.value(), self._xi, self.products)
        link.gather(self.codec, self.products, round, self.mean_products if link.is_server else None)
        link.broadcast(self.codec, self.mean_products, round, self.p)
        combine(key, self.p[0], self._xi, self.g[0])
        return self.g
