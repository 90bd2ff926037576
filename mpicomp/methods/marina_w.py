"""MARINA on a sample of the clients, drawn by importance."""

from __future__ import annotations

import numpy as np

from ..errors import TheoryError
from ..mechanisms.direct import DenseDownlink
from ..mechanisms.sampled_marina import CatchUpDownlink, SampledMarinaUplink, TwoPoints
from ..participation import Sampling
from .base import Parts, Setting, methods
from .marina import Marina


@methods.register("marina-w")
class MarinaW(Marina):
    """MARINA whose compressed rounds ask a sample of the clients.

    The theory is the weighted one of Tyurin, Sun, Burlachenko and Richtárik 2023 (weighted AB inequality, weighted Hessian
    variance).

    With probability p all clients send ∇f_i(x^{t+1}); else g^{t+1} = g^t + Σ ξ_i C_i(∇f_i(x^{t+1}) − ∇f_i(x^t)),
    `sampling` drawing the ξ_i. Step size:

        γ = 1/(L₋ + √((1−p)/p · V)),   V = (A−B) L₊,w² + B L±,w² + ω V_C,

    A, B, w of the sampling, L₊,w² and L±,w² the constants of (1/n) Σ ‖∇f_i(x) − ∇f_i(y)‖²/(n w_i), without and with
    ‖∇f(x) − ∇f(y)‖² subtracted (`Problem.weighted_smoothness`; exact for quadratics). Derived here
    (docs/methods/pp-marina.md): errors of different clients are uncorrelated or negatively correlated, so that V_C is
    the constant of Σ E ξ_i² ‖∇f_i(x) − ∇f_i(y)‖²; compressors for which this is not so (PermK, shared masks, common
    radii) are not covered. E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    A weighted mean alone, with all clients, changes nothing for independent unbiased compressors: Σ w_i C_i(a_i/(n
    w_i)) = mean C_i(a_i).

    Parameters
    ----------
    sampling : "importance" (q_i = L_i/ΣL, with replacement), "uniform" (with replacement), "nice" (without),
        "independent" (p_i ∝ L_i).
    tau : τ, number of draws; a tenth of the clients, at least one, by default.
    p : as in MARINA; the rule is ζτ/(dn).
    catch_up : the model goes only to the clients that the next round asks, together with the one before where they
        lack it; else to all in every round.
    """

    summary = "MARINA on sampled clients: importance sampling, weighted Hessian variance"
    formulas = "p = ζτ/(dn), γ = 1/(L₋ + √((1−p)/p · ((A−B)L₊,w² + B L±,w² + ωV_C))) [derived]"
    paper = "Tyurin, Sun, Burlachenko and Richtárik 2023, Sharper rates and flexible framework (weighted AB)"
    default_compressor = "identity"

    def __init__(
        self,
        sampling: str = "importance",
        tau: int | None = None,
        p: float | str | None = "auto",
        catch_up: bool = True,
    ):
        super().__init__(p)
        self.sampling, self.tau, self.catch_up = sampling, tau, catch_up

    def draws(self, setting: Setting) -> int:
        """τ."""
        return max(1, setting.n_clients // 10) if self.tau is None else self.tau

    def sampler(self, setting: Setting) -> Sampling:
        """The sampling."""
        L_i = setting.smoothness.L_i if self.sampling in ("importance", "independent") else None
        return Sampling(self.sampling, self.draws(setting), setting.n_clients, setting.seed, L_i)

    def auto_probability(self, setting: Setting) -> float:
        share = min(1.0, self.draws(setting) / setting.n_clients)
        return super().auto_probability(setting) * share

    def variance(self, setting: Setting) -> float:
        d, n, compressor, problem = setting.dim, setting.n_clients, setting.compressor, setting.problem
        omega = compressor.omega(d, n)
        a, b = compressor.ab(d, n)
        if a > omega / n * (1 + 1e-12) or b != 0.0:
            raise TheoryError(
                f"{self.name}: the errors of {compressor.spec} are correlated over the clients, which a sample does not inherit; "
                "use randk, qsgd, natural or identity, or give the step size as a number"
            )
        if problem is None:
            raise TheoryError(f"{self.name} needs the problem for its weighted constants")
        sampling = self.sampler(setting)
        A, B, w = sampling.constants()
        plus, pm = problem.weighted_smoothness(w)
        V = (A - B) * plus**2 + B * pm**2
        if omega:
            u = n * sampling.second_moments()  # Σ E ξ_i²‖a_i‖² = (1/n) Σ u_i‖a_i‖²
            total = float(np.sum(1.0 / u))
            V += omega * n / total * problem.weighted_smoothness(1.0 / (u * total))[0] ** 2
        return V

    def compose(self, setting: Setting, step_size: float) -> Parts:
        uplink = SampledMarinaUplink(setting.compressor, self.probability(setting), self.sampler(setting))
        if not self.catch_up:
            return Parts(uplink, DenseDownlink())
        downlink = CatchUpDownlink(uplink)
        return Parts(uplink, downlink, oracle=lambda oracle: TwoPoints(oracle, downlink))
