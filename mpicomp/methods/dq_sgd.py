"""DQ-SGD and its control AdaQS: the number of bits changes from round to round."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from ..compressors import Compressor
from ..compressors.dynamic import dynamic
from ..errors import ConfigError, TheoryError, unknown
from ..mechanisms.dynamic import BudgetUplink, DynamicQuantizationUplink, ErrorTargetUplink, MeanToStdUplink
from .base import Method, Parts, Setting, methods

DEFAULT_BUDGET = 4.5  # bits an entry
RULES = ("nonconvex", "strongly-convex", "dual")


@methods.register("dq-sgd")
class DQSGD(Method):
    """DQ-SGD (Yan, Huang, Lan and Song 2021): x^{t+1} = x^t − γ (1/n) Σ Q_{s_i}(g_i), with s_i = 2^(B_i−1) − 1.

    B_i follows a rule for the least error.

    Rules for a total budget of bits (the paper's eqs. 18 and 20), ‖g_n‖ the norm of the client's current stochastic gradient:

        strongly-convex: B_n = log2(k a^{(N−n)/2} ‖g_n‖ + 1) + 1,     nonconvex: B_n = log2(k ‖g_n‖ + 1) + 1.

    The dual (derived here, docs/methods/dq-sgd.md): every message gets an equal share of the error ε that quantization may add to the
    bound,

        a known:  s_n = ‖g_n‖ √(L d γ² N a^{N−1−n} / (12 n ε)),      else  s_n = ‖g_n‖ √(L d γ / (6 n (2 − Lγ) ε)),   B = ⌈log2(s + 1)⌉ + 1.

    Theorem 3 holds for every γ < 2/L: mean_n E‖∇f(x^n)‖² ≤ 2δ⁰/(γN(2 − Lγ)) + Lγ/(2 − Lγ) · (variance of the gradients' mean + mean_n
    d/(6n²) Σ_i‖g_{i,n}‖²/s_{i,n}²), where the paper has one client; d/6 is the mean for remainders spread evenly, d/4 the worst case.
    `--step theory` is 1/L, which minimises the first term; with minibatches the best γ depends on their variance.

    Parameters
    ----------
    rule : "nonconvex", "strongly-convex" or "dual".
    budget : mean bits of an entry over the run, norms and widths included, for each client; 4.5 by default, and with `k` no limit.
    a : rate of convergence, 1 − 2μγ + Lμγ² by default where μ is known. k : of the rules, by default solved for (see `Budget`).
    error : ε of the dual: of f(x^N) − f* where a is known, else of the mean of ‖∇f‖².
    """

    summary = "bits of each message from the gradient's norm, the rounds left and the budget"
    formulas = "B_n = log2(k a^{(N−n)/2}‖g_n‖ + 1) + 1; γ = 1/L"
    paper = "Yan, Huang, Lan and Song 2021, DQ-SGD"
    default_compressor = "dynamic"

    def __init__(
        self,
        rule: str = "nonconvex",
        budget: float | None = None,
        a: float | None = None,
        k: float | None = None,
        error: float | None = None,
    ):
        if rule not in RULES:
            raise unknown("rule", rule, RULES)
        if a is not None and not 0 < a <= 1:
            raise ConfigError(f"dq-sgd: a={a} is not in (0, 1]")
        if k is not None and not k > 0:
            raise ConfigError(f"dq-sgd: k={k} must be positive")
        if (rule == "dual") != (error is not None) or (error is not None and not error > 0):
            raise ConfigError(
                "dq-sgd: rule=dual needs error > 0, for example dq-sgd:rule=dual,error=1e-4; no other rule takes it"
            )
        if budget is not None and not 0 < budget < np.inf:
            raise ConfigError(f"dq-sgd: budget={budget} must be a positive number of bits an entry")
        if budget is None and k is None:
            budget = DEFAULT_BUDGET
        self.rule, self.budget, self.a, self.k, self.error = rule, budget, a, k, error

    def check(self, compressor: Compressor) -> None:
        dynamic(compressor, self.name)

    def rate(self, setting: Setting, step_size: float) -> float | None:
        """a, or None where μ is not known.

        Raises
        ------
        TheoryError : with this step size the bound does not contract.
        """
        if self.a is not None:
            return self.a
        s = setting.smoothness
        if not s.mu:
            return None
        a = 1.0 - 2.0 * s.mu * step_size + s.L * s.mu * step_size**2
        if not 0 < a < 1:
            raise TheoryError(
                f"dq-sgd: a = 1 − 2μγ + Lμγ² = {a:.4g} with γ = {step_size:.4g}; γ must be below 2/L = {2 / s.L:.4g}"
            )
        return a

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(self.uplink(setting, step_size))

    def uplink(self, setting: Setting, step_size: float) -> DynamicQuantizationUplink:
        """The mechanism with this rule."""
        compressor = dynamic(setting.compressor, self.name)
        if self.rule == "dual":
            return ErrorTargetUplink(compressor, self._levels_per_norm(setting, step_size))
        if self.rule == "nonconvex":
            return BudgetUplink(compressor, self.budget, setting.rounds, 1.0, self.k)
        a = self.rate(setting, step_size)
        if a is None:
            raise TheoryError(
                "dq-sgd: the strongly convex rule needs the rate of convergence, and μ of this problem is not known; give it, for "
                "example «method_options={'a': 0.99}», or take rule=nonconvex"
            )
        return BudgetUplink(compressor, self.budget, setting.rounds, a, self.k)

    def _levels_per_norm(self, setting: Setting, step: float) -> Callable[[int], float]:
        L, d, n, N = setting.smoothness.L, setting.dim, setting.n_clients, max(setting.rounds, 1)
        a, error = self.rate(setting, step), self.error
        assert error is not None
        if a is None:
            if L * step >= 2:
                raise TheoryError(f"dq-sgd: the bound needs γ < 2/L = {2 / L:.4g}, got {step:.4g}")
            constant = sqrt(L * d * step / (6 * n * (2 - L * step) * error))
            return lambda round: constant
        return lambda round: sqrt(L * d * step**2 * N * a ** max(N - 1 - round, 0) / (12 * n * error))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / setting.smoothness.L

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        raise TheoryError(
            "the bound of dq-sgd has a floor, mean_n d‖g_n‖²/(6 n s_n²), that only a run can tell: no number of rounds is promised; "
            "«step='theory'» is 1/L all the same"
        )


@methods.register("adaqs")
class AdaQS(Method):
    """In the manner of AdaQS (Guo et al. 2020): few bits at first, more as the mean-to-deviation ratio r of the gradient's entries falls.

    B_n = B_0 + log2(r_0/r_n). Experimental: the idea is the paper's, the formula is this project's, which keeps the noise of quantization
    in proportion to r. No theorem, no budget: a control for dq-sgd.

    Parameters
    ----------
    bits : B_0, 2 to 16.
    """

    summary = "bits from the mean-to-deviation ratio of the gradient's entries (control)"
    formulas = "B_n = B_0 + log2(r_0/r_n); γ = 1/L as for dq-sgd"
    paper = "the idea: Guo et al. 2020, AdaQS"
    experimental = "the formula for the bits is this project's, and no theorem covers it; γ = 1/L is dq-sgd's"
    default_compressor = "dynamic"

    def __init__(self, bits: int = 4):
        if not 2 <= bits <= 16:
            raise ConfigError(f"adaqs: bits={bits} must be an integer from 2 to 16")
        self.bits = bits

    def check(self, compressor: Compressor) -> None:
        dynamic(compressor, self.name)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(MeanToStdUplink(dynamic(setting.compressor, self.name), self.bits))

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / setting.smoothness.L
