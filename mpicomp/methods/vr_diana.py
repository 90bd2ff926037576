"""VR-DIANA: DIANA with variance-reduced minibatches."""

from __future__ import annotations

import numpy as np

from ..errors import TheoryError
from ..mechanisms.base import probability
from ..oracles.lsvrg import LSVRG
from .base import Parts, Setting, methods
from .diana import Diana
from .ef21_page import the_problem
from .finite_sum import mean_samples, minibatch, own_batch


@methods.register("vr-diana")
class VRDiana(Diana):
    """VR-DIANA (Horváth, Kovalev, Mishchenko, Richtárik and Stich 2023, the L-SVRG variant): DIANA on L-SVRG's estimates.

    Step size of the form of Theorem 4 of the paper (nonconvex f), its bound derived here (docs/derivations/vr-diana.md):

        γ = 1/(10 Λ √(1 + A) (m^{2/3} + ω + 1)),   a = 1/(1+ω),   E‖∇f(x̂^T)‖² ≤ 4δ⁰/(γT) + (4LγA/a) H⁰/T.

    A = ω/n for independent compressors, and H⁰ = mean‖∇f_i(x⁰)‖². Here m = 1/p, because the number of samples enters the proof only
    through the reference point's age, and Λ² = max_i (𝓛_i² + L_i²) bounds what the proof wants of the samples. Larger minibatches are
    covered, having less variance.

    Where f_i is not a finite sum, or p = 1, this is DIANA (m = 1, with this step). Without --batch it draws one sample.

    Parameters
    ----------
    p : probability that the reference point is renewed; 1/m, the inverse of the mean number of samples, by default.
    shift_step : a in (0, 1/(1+ω)].
    """

    summary = "compressed differences to learned shifts, of variance-reduced minibatch gradients (L-SVRG)"
    formulas = "p = 1/m, a = 1/(1+ω), γ = 1/(10 Λ √(1+A) (m^{2/3} + ω + 1)) [bound derived]"
    paper = "Horváth, Kovalev, Mishchenko, Richtárik and Stich 2023, VR-DIANA"

    def __init__(self, p: float | None = None, shift_step: float | None = None):
        super().__init__(shift_step)
        self.p = p

    def probability(self, setting: Setting) -> float:
        """p."""
        if self.p is not None:
            return probability(self.p, "vr-diana")
        return 1.0 / max(1.0, mean_samples(setting))

    def own_batch(self, setting: Setting) -> int:
        return own_batch(setting)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        parts, p = super().compose(setting, step_size), self.probability(setting)
        if mean_samples(setting):
            parts.oracle = lambda oracle: LSVRG(minibatch(oracle, setting), p, setting.seed)
        return parts

    def step_size(self, setting: Setting) -> float:
        s, omega, m = setting.smoothness, setting.omega, 1.0 / self.probability(setting)
        if abs(self.shift(setting) * (1.0 + omega) - 1.0) > 1e-12:
            raise TheoryError(
                f"vr-diana: the theorem wants shift_step = 1/(1+ω) = {1 / (1 + omega):.6g}; leave it out, or give the step as a number"
            )
        squares = np.square(s.L_i)
        if mean_samples(setting):
            squares = squares + np.square(the_problem(setting).sample_smoothness())
        L = np.sqrt(np.max(squares))
        A = setting.compressor.ab(setting.dim, setting.n_clients)[0]
        return float(1.0 / (10.0 * L * np.sqrt(1.0 + A) * (m ** (2.0 / 3.0) + omega + 1.0)))

    def gap_factor(self, setting: Setting) -> float:
        return 4.0
