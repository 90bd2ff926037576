"""signSGD with majority vote: one bit a coordinate up, one bit down."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError, TheoryError
from ..mechanisms.error_feedback import DirectDownlink
from ..mechanisms.vote import VoteUplink
from .base import Method, Parts, Setting, methods


@methods.register("signsgd")
class SignSGD(Method):
    """x^{t+1} = x^t − γ sign(Σ_i sign(∇f_i(x^t))), on every worker. Bernstein et al. 2018, Algorithm 3. A tied vote counts as +1.

    d bits up and d bits down, no scale. The theorems are about one function sampled by all clients (and unimodal, symmetric noise);
    with clients that differ, the majority may be wrong for ever, so there is no step size from theory here.
    """

    summary = "signs up, sign of the majority down: d bits each way"
    formulas = "no computable step size; give a number"
    paper = "Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD"
    default_compressor = "sign:norm=unit"
    default_downlink_compressor = None

    def check(self, compressor: Compressor) -> None:
        if compressor.spec != self.default_compressor:
            raise ConfigError(
                f"method 'signsgd' sends plain signs, {self.default_compressor!r}; with {compressor.spec!r} take dcgd, ef14 or ef21"
            )

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(VoteUplink(setting.compressor), DirectDownlink(setting.downlink_compressor), replicated=True)

    def step_size(self, setting: Setting) -> float:
        raise TheoryError(
            "signsgd has no step size from theory for clients that differ; give a number, for example «step=0.001»: every coordinate "
            "moves by exactly that much in every round"
        )
