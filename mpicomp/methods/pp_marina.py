"""PP-MARINA: MARINA with partial participation."""

from __future__ import annotations

from .base import methods
from .marina_w import MarinaW


@methods.register("pp-marina")
class PPMarina(MarinaW):
    """PP-MARINA (Gorbunov, Burlachenko, Li and Richtárik 2021, Algorithm 4): compressed rounds ask r clients.

    With probability p all clients send ∇f_i(x^{t+1}); else g^{t+1} = g^t + (1/r) Σ_{i∈S} C_i(∇f_i(x^{t+1}) −
    ∇f_i(x^t)), |S| = r.

    S is drawn without replacement, unless `replacement` is set. p = ζr/(dn). Step size derived here
    (docs/methods/pp-marina.md), with L₋, L₊ and L±, and without replacement never below the paper's 1/(L(1 +
    √((1−p)(1+ω)/(pr)))), L = √(mean L_i²):

        γ = 1/(L₋ + √((1−p)/p · ((n−r)/(r(n−1)) L±² + (ω/r) L₊²))),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT),

    or, with replacement, L±²/r + ω(1/r + (1 − 1/r)/n) L₊²: a client drawn twice sends one message, which counts twice.

    A client that is asked needs x^{t+1} and x^t. Nobody else is sent anything, so one that was not asked before gets
    both (catch_up): the cost of catching up is in the downlink's bytes.

    Parameters
    ----------
    r : clients asked in a compressed round; a tenth of them, at least one, by default.
    replacement : draw with replacement. p, catch_up : as in marina-w.
    """

    summary = "MARINA with partial participation: r clients speak in a compressed round"
    formulas = "p = ζr/(dn), γ = 1/(L₋ + √((1−p)/p · ((n−r)/(r(n−1)) L±² + (ω/r) L₊²))) [derived]"
    paper = "Gorbunov, Burlachenko, Li and Richtárik 2021, PP-MARINA"
    default_compressor = "randk:fraction=0.1"

    def __init__(
        self, r: int | None = None, replacement: bool = False, p: float | str | None = "auto", catch_up: bool = True
    ):
        super().__init__("uniform" if replacement else "nice", r, p, catch_up)
        self.r, self.replacement = r, replacement
