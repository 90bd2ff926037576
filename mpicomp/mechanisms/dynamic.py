"""Dynamic quantization: every client chooses, each round, how many bits an entry of its message gets.

Yan, Huang, Lan and Song 2021 (DQ-SGD: a total budget of bits, and its dual); Guo et al. 2020 (AdaQS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..compressors.dynamic import Dynamic, DynamicCodec
from ..errors import ConfigError
from ..kernels.sizes import PARTIAL_SUMS
from ..kernels.widths import LEAST, MOST, budget_widths, error_widths, ratio_widths, row_norms, solve_scale
from ..oracles import Oracle
from ..state import ClientState
from .base import Uplink


class DynamicQuantizationUplink(Uplink):
    """g^t = Σ w_i Q_{s_i}(g_i), s_i = 2^(B_i − 1) − 1, no memory of gradients; `choose` sets the B_i of this round.

    Parameters
    ----------
    compressor : norm and buckets.
    """

    def __init__(self, compressor: Dynamic):
        self.compressor = compressor

    def prepare(self) -> None:
        link = self.link
        self.codec: Any = link.codec(self.compressor)
        self.clients = link.exchange.clients
        self.norms, self.partial_sums = np.zeros(link.hosted), np.zeros(PARTIAL_SUMS)
        self.chooses = isinstance(self.codec, DynamicCodec)  # else d is so small that the vector itself is sent

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        V = None
        if self.link.is_worker:
            V = oracle.value()
            if self.chooses:
                self.choose(V, round)
        self.link.gather(self.codec, V, round, self.mean)
        return self.mean

    def choose(self, V: np.ndarray, round: int) -> None:
        """Set self.codec.widths[i] for each hosted client i, whose vector is its row of V."""
        raise NotImplementedError

    def measure(self, V: np.ndarray) -> np.ndarray:
        """The norms that the rules are about, shape (m,)."""
        row_norms(V, self.codec.bucket, self.codec.use_max, self.partial_sums, self.norms)
        return self.norms


class BudgetUplink(DynamicQuantizationUplink):
    """B_n = log2(k a^{(N−n)/2} ‖g_n‖ + 1) + 1, for each client such that its messages of N rounds take C bits. DQ-SGD, eqs. 18 and 20.

    The paper has no formula for k. Here every client solves for it in every round, from what is left of its own budget, and with the
    power law fitted to its norms so far in place of the norms to come. It never spends more
    than C, and (unless gradients vanish) less only by the part of a bit an entry that the last message cannot use.

    Parameters
    ----------
    bits : C/(dN), mean bits of an entry, everything in a message included; None, with k, for no limit.
    rounds : N. a : 1 in the nonconvex rule.
    k : if given, the rule's own k (`calibrate` finds one from a pilot run); the budget then is only a limit.

    Raises
    ------
    ConfigError : on binding, where even the narrowest or the widest messages miss the budget.
    """

    spent = ClientState(columns=1, dtype=np.int64)  # bits
    history = ClientState(columns=5, dtype=np.float64)  # the sums of the fit

    def __init__(self, compressor: Dynamic, bits: float | None, rounds: int, a: float = 1.0, k: float | None = None):
        super().__init__(compressor)
        self.bits, self.rounds, self.log_a = bits, max(rounds, 1), float(np.log2(a))
        self.log_k = float("nan") if k is None else float(np.log2(k))

    def prepare(self) -> None:
        super().prepare()
        self.log_c = np.zeros(64)
        if self.chooses:
            d = self.link.dim
            least, most = (self.codec.message_bits(width) / d for width in (LEAST, MOST))
            if self.bits is None:
                self.total = int(most * d) * self.rounds + 1
                return
            if not least <= self.bits <= most:
                raise ConfigError(
                    f"a budget of {self.bits} bits an entry cannot be met: with {LEAST} to {MOST} bits an entry, the norms and the width, "
                    f"a message of {d} entries takes {least:.3f} to {most:.3f} bits an entry"
                )
            self.total = int(self.bits * d * self.rounds)

    def choose(self, V: np.ndarray, round: int) -> None:
        budget_widths(
            self.measure(V), self.clients, round, self.rounds, self.log_a, self.log_k, self.total, self.codec.overhead_nbytes,
            self.link.dim, self.spent, self.history, self.log_c, self.codec.widths,
        )  # fmt: skip


class ErrorTargetUplink(DynamicQuantizationUplink):
    """The dual: the fewest bits with which the quantization term of the error bound stays below ε; every message gets an equal share.

    Parameters
    ----------
    levels_per_norm : round ↦ s_n/‖g_n‖.
    """

    def __init__(self, compressor: Dynamic, levels_per_norm: Callable[[int], float]):
        super().__init__(compressor)
        self.levels_per_norm = levels_per_norm

    def choose(self, V: np.ndarray, round: int) -> None:
        error_widths(self.measure(V), self.clients, self.levels_per_norm(round), self.codec.widths)


class MeanToStdUplink(DynamicQuantizationUplink):
    """B grows as the entries' |mean|/std falls: B_n = B_0 + log2(r_0/r_n), r_n a running mean over ten rounds (adaqs).

    Parameters
    ----------
    bits : B_0.
    """

    ratios = ClientState(columns=2, dtype=np.float64)  # r_n and r_0

    def __init__(self, compressor: Dynamic, bits: int):
        super().__init__(compressor)
        self.bits = bits

    def choose(self, V: np.ndarray, round: int) -> None:
        ratio_widths(V, self.clients, self.bits, 0.9, self.ratios, self.codec.widths)


def calibrate(norms: np.ndarray, bits: float, a: float = 1.0) -> float:
    """k of the rule B_n = log2(k a^{(N−n)/2} ‖g_n‖ + 1) + 1 with which a pilot run, whose norms these are, has a mean width of `bits`.

    Parameters
    ----------
    norms : ‖g_0‖, ..., ‖g_{N−1}‖ > 0. bits : from 2 to 16, without norms and widths. a : as in the rule.

    >>> round(calibrate(np.ones(10), 5.0), 6)  # s = 15 levels throughout
    15.0
    """
    N = len(norms)
    log_c = np.log2(np.asarray(norms, np.float64)) + 0.5 * (N - np.arange(N)) * np.log2(a)
    return float(2.0 ** solve_scale(log_c, float(bits)))
