"""PowerSGD: low-rank updates with error feedback."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError, TheoryError
from ..mechanisms.no_downlink import NoDownlink
from ..mechanisms.powersgd import PowerSGDUplink, matrix_shape
from .base import Method, Parts, Setting, methods
from .ef21 import xi


@methods.register("powersgd")
class PowerSGD(Method):
    """PowerSGD (Vogels, Karimireddy and Jaggi 2019), the vector read as one matrix: P up and down, Q up and down, g = PQᵀ.

    The method is linear in the clients' matrices, so its iterates are those of single-node error feedback on their mean. Step size,
    derived here (docs/methods/powersgd.md), for a Gaussian Q drawn afresh in every round, whose P captures at least
    α = r/min(rows, cols) of any matrix in expectation:

        γ = 1/(2L (1 + ξ(α))),   E‖∇f(x̂^T)‖² ≤ 4δ⁰/(γT),   ξ(α) = (1+√(1−α))/α − 1.

    A warm start does better in practice, but no bound holds for it: it may meet a matrix whose rows are all orthogonal to it.

    Parameters
    ----------
    rank : r, 2 by default. rows : number of rows; ⌊√d⌋ by default.
    warm_start : go on from the last round's Q.
    """

    summary = "low-rank updates with error feedback, 2r(rows + columns) values for each client and round"
    formulas = "warm_start=false: γ = 1/(2L(1 + ξ(r/min(rows, cols)))) [derived]"
    paper = "Vogels, Karimireddy and Jaggi 2019, PowerSGD"

    def __init__(self, rank: int | None = None, rows: int | None = None, warm_start: bool = True):
        self.rank, self.rows, self.warm_start = rank, rows, warm_start

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(
                f"method 'powersgd' is its own compression; drop «compressor={compressor.spec!r}», "
                "choose the rank by «method_options={'rank': 2}»"
            )

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(PowerSGDUplink(self.rank, self.rows, self.warm_start), NoDownlink(), replicated=True)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        if self.warm_start:
            raise TheoryError(
                "no bound is known for PowerSGD's warm start; give the step as a number, for example «step=0.05», or draw Q afresh in "
                "every round, «method_options={'warm_start': False}»"
            )
        rows, cols, r = matrix_shape(setting.dim, self.rows, self.rank)
        return 1.0 / (2.0 * setting.smoothness.L * (1.0 + xi(r / min(rows, cols))))

    def gap_factor(self, setting: Setting) -> float:
        return 4.0
