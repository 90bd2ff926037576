"""DIANA: compressed differences to learned shifts."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError, TheoryError
from ..mechanisms.diana import DianaUplink
from .base import Method, Parts, Setting, assumed_omega, methods


def checked_shift(given: float | None, setting: Setting, name: str) -> float:
    """a of DIANA's shifts, h_i ← h_i + a C(∇f_i − h_i): as given, or 1/(1+ω), which is also the largest that the theory covers.

    Raises
    ------
    ConfigError : outside (0, 1/(1+ω)], or with `allow_unsafe` outside (0, 1].
    TheoryError : the compressor has no ω.
    """
    default = 1.0 / (1.0 + assumed_omega(setting.compressor, setting))
    a, largest = (default if given is None else given), (1.0 if setting.allow_unsafe else default)
    if not 0 < a <= largest * (1 + 1e-12):
        allowed = "(0, 1]" if setting.allow_unsafe else f"(0, 1/(1+ω)] = (0, {largest:.6g}]"
        raise ConfigError(f"{name}: shift_step={a} is outside {allowed}")
    return a


@methods.register("diana")
class Diana(Method):
    """DIANA (Mishchenko, Gorbunov, Takáč and Richtárik 2019, Algorithm 1) with exact gradients, a = 1/(1+ω) by default.

    Step size for nonconvex f, derived here (docs/methods/artemis.md, with ω_down = 0): with
    H^t = (1/n) Σ‖∇f_i(x^t) − h_i^t‖², a ≤ 1/(1+ω) and Young's inequality give E H^{t+1} ≤ (1 − a/2) H^t + (2/a) L₊² E‖x^{t+1} − x^t‖², and
    E‖g^t − ∇f(x^t)‖² ≤ A H^t, where A = ω/n for independent compressors. The Lyapunov function f + (2Lγ²A/a) H then decreases for

        γ = min{ 1/(2L), a/(L₊ √(8A)) },   with   E‖∇f(x̂^T)‖² ≤ 2 (δ⁰ + (2Lγ²A/a) H⁰)/(γT).

    Parameters
    ----------
    shift_step : a in (0, 1/(1+ω)].
    """

    summary = "compressed differences to learned shifts"
    formulas = "a = 1/(1+ω), γ = min{1/(2L), a/(L₊√(8A))} [derived]"
    paper = "Mishchenko, Gorbunov, Takáč and Richtárik 2019"
    default_compressor = "randk:fraction=0.1"
    needs = "unbiased"

    def __init__(self, shift_step: float | None = None):
        self.shift_step = shift_step

    def shift(self, setting: Setting) -> float:
        """a; see `checked_shift`."""
        return checked_shift(self.shift_step, setting, self.name)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(DianaUplink(setting.compressor, self.shift(setting)))

    def covered_shift(self, setting: Setting) -> float:
        """a, which the theorems want to be at most 1/(1+ω).

        Raises
        ------
        TheoryError : it is larger.
        """
        a, largest = self.shift(setting), 1.0 / (1.0 + setting.omega)
        if a > largest * (1 + 1e-12):
            raise TheoryError(
                f"{self.name}: no theorem covers shift_step={a} above 1/(1+ω) = {largest:.6g}; leave it out, or give the step as a "
                "number, for example «step=0.05»"
            )
        return a

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        s, A = setting.smoothness, setting.compressor.ab(setting.dim, setting.n_clients)[0]
        largest = 1.0 / (2.0 * s.L)
        return (
            min(largest, self.covered_shift(setting) / (s.L_plus * sqrt(8.0 * A)))
            if A > 0 and s.L_plus > 0
            else largest
        )

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """(4LγA/a) H⁰, with h_i⁰ = 0 and γ the theory's."""
        s, A = setting.smoothness, setting.compressor.ab(setting.dim, setting.n_clients)[0]
        return 4.0 * s.L * self.step_size(setting) * A / self.shift(setting) * mean_squared_gradient
