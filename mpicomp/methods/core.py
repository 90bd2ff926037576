"""CORE: the gradient by its products with common random vectors."""

from __future__ import annotations

from ..compressors import Compressor
from ..errors import ConfigError
from ..mechanisms.core import CoreUplink
from ..mechanisms.no_downlink import NoDownlink
from .base import Method, Parts, Setting, methods


@methods.register("core")
class CORE(Method):
    """CORE (Yue et al. 2023): m scalars ⟨∇f_i(x), ξ_j⟩ up, their m means down; all step by g = (1/m) Σ_j p_j ξ_j.

    E g = ∇f(x) and E‖g‖² = (1 + (d+1)/m)‖∇f(x)‖², hence, for any L-smooth f (derived here, docs/methods/core.md; the
    paper gains where the Hessian's trace is small, with steps of the order m/tr),

        γ = 1/(L (1 + (d+1)/m)),   E‖∇f(x̂^T)‖² ≤ 2δ⁰/(γT).

    Parameters
    ----------
    m : number of scalars a round. Each costs d Gaussian numbers on every rank, twice on the workers.
    """

    summary = "m scalars in each direction: products with Gaussian vectors that all ranks make themselves"
    formulas = "E‖g‖² = (1 + (d+1)/m)‖∇f‖², γ = 1/(L(1 + (d+1)/m)) [derived]"
    paper = "Yue, Zhao, Fang, He, Wang, Lin and Zhu 2023, CORE"

    def __init__(self, m: int = 10):
        self.m = m

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(
                f"method 'core' is its own compression; drop «compressor={compressor.spec!r}», choose m by «method_options={{'m': 10}}»"
            )

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(CoreUplink(self.m), NoDownlink(), replicated=True)

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        return 1.0 / (setting.smoothness.L * (1.0 + (setting.dim + 1.0) / self.m))
