"""Local SGD and its relatives: K steps at each client between two rounds of communication."""

from __future__ import annotations

from math import sqrt

from ..errors import ConfigError, TheoryError
from ..mechanisms.direct import DirectUplink
from ..mechanisms.ef21 import EF21Uplink
from ..mechanisms.sampled import SampledUplink
from ..oracles.local import Local
from ..participation import Nice
from .base import Method, Parts, Setting, methods
from .dcgd import DCGD
from .ef21 import EF21 as EF21Method


@methods.register("local-sgd")
class LocalSGD(Method):
    """Local SGD (Stich 2019): y_i = x; K times y_i ← y_i − η_l ∇f_i(y_i) (minibatches with --batch); x ← x + η_g mean C(y_i − x).

    The step γ = K η_l η_g is that along the mean direction of the path, so that K = 1 is DCGD or EF21 with step γ. η_g = 1 unless
    `local_step` says otherwise: the server then takes the mean of the clients' models. What is compressed is (x − y_i)/(K η_l): by an
    unbiased compressor as it is (DCGD's scheme), by a biased one through EF21.

    Where the clients differ, K > 1 local steps lead away from the stationary points of f, by an amount that no constant here bounds: the
    theoretical step exists for K = 1 only.

    Parameters
    ----------
    local_steps : K. local_step : η_l; γ/K by default.
    sample : so many clients, drawn without replacement, speak in a round; 0 for all.
    """

    summary = "K local steps at each client, then the (compressed) mean of what they moved"
    formulas = "K = 1: those of dcgd or ef21; K > 1: no bound without assumptions on how clients differ"
    paper = "Stich 2019, Local SGD; McMahan et al. 2017"

    def __init__(self, local_steps: int = 5, local_step: float | None = None, sample: int = 0):
        if not isinstance(local_steps, int) or local_steps < 1:
            raise ConfigError(f"{self.name}: local_steps={local_steps} must be an integer, at least 1")
        if local_step is not None and not local_step > 0:
            raise ConfigError(f"{self.name}: local_step={local_step} must be positive")
        if not isinstance(sample, int) or sample < 0:
            raise ConfigError(f"{self.name}: sample={sample} must be a number of clients, 0 for all")
        self.local_steps, self.local_step, self.sample = local_steps, local_step, sample

    @property
    def proximal(self) -> float:
        """μ of the term (μ/2)‖y − x‖² in the local objectives."""
        return 0.0

    def taking_part(self, setting: Setting) -> int:
        """How many clients speak in a round; 0 for all."""
        return self.sample

    def compose(self, setting: Setting, step_size: float) -> Parts:
        step = step_size / self.local_steps if self.local_step is None else self.local_step
        compressor = setting.compressor
        s = self.taking_part(setting)
        participation = Nice(s, setting.n_clients, setting.seed) if s else None
        memoryless = SampledUplink if participation else DirectUplink
        return Parts(
            memoryless(compressor) if compressor.unbiased else EF21Uplink(compressor),
            oracle=lambda oracle: Local(oracle, self.local_steps, step, self.proximal),
            participation=participation,
        )

    def step_size(self, setting: Setting) -> float:
        self.refuse_minibatch(setting)
        if self.local_steps > 1 or self.taking_part(setting):
            raise TheoryError(
                f"no step size is known for method {self.name!r} without a bound on how much the clients' gradients differ; "
                f"a common choice is γ ≤ 1/(8 L_max √(1+ω/n)), here «step={self._common(setting):.3g}»"
            )
        return DCGD().step_size(setting) if setting.compressor.unbiased else EF21Method().step_size(setting)

    @staticmethod
    def _common(setting: Setting) -> float:
        omega = setting.compressor.ab(setting.dim, setting.n_clients)[0] if setting.compressor.unbiased else 0.0
        return 1.0 / (8.0 * setting.smoothness.L_max * sqrt(1.0 + omega))


@methods.register("fedavg")
class FedAvg(LocalSGD):
    """FedAvg (McMahan et al. 2017): local SGD in which a fraction of the clients, drawn anew in every round, takes part.

    The objective stays f = (1/n) Σ f_i, so the clients weigh alike; the paper's weights N_i/ΣN are those of the mean over all samples.

    Parameters
    ----------
    fraction : C in (0, 1]; max(1, ⌊Cn⌋) clients take part. local_steps, local_step : as for local-sgd.
    """

    summary = "local SGD by a random fraction of the clients in every round"
    paper = "McMahan, Moore, Ramage, Hampson and Agüera y Arcas 2017, FedAvg"

    def __init__(self, fraction: float = 0.5, local_steps: int = 5, local_step: float | None = None):
        super().__init__(local_steps, local_step)
        if not 0 < fraction <= 1:
            raise ConfigError(f"{self.name}: fraction={fraction} is not in (0, 1]")
        self.fraction = fraction

    def taking_part(self, setting: Setting) -> int:
        s = max(1, int(self.fraction * setting.n_clients))
        return s if s < setting.n_clients else 0


@methods.register("fedprox")
class FedProx(LocalSGD):
    """FedProx (Li et al. 2020), solved by K gradient steps: local SGD on f_i(y) + (μ/2)‖y − x‖².

    Parameters
    ----------
    mu : μ ≥ 0. local_steps, local_step, sample : as for local-sgd.
    """

    summary = "local steps on f_i(y) + (μ/2)‖y − x‖², which keeps the clients near the server's model"
    paper = "Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith 2020, FedProx"

    def __init__(self, mu: float = 0.1, local_steps: int = 5, local_step: float | None = None, sample: int = 0):
        super().__init__(local_steps, local_step, sample)
        if not mu >= 0:
            raise ConfigError(f"fedprox: mu={mu} is negative")
        self.mu = mu

    @property
    def proximal(self) -> float:
        return self.mu
