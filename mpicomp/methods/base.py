"""What a method is: a named composition of the five parts, with the step size that its theory allows.

A method is one file: a class registered by `@methods.register("name")`, whose `compose` returns the parts and whose `step_size` is the
theorem's. Nothing else knows the method's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..compressors import Compressor
from ..errors import ConfigError, TheoryError
from ..mechanisms.base import Downlink, Uplink
from ..mechanisms.direct import DenseDownlink
from ..optimizers import GradientDescent, Optimizer
from ..oracles import Oracle
from ..participation import Participation
from ..problems import Problem, Smoothness
from ..registry import Registry

methods: Registry[Method] = Registry("method", "mpicomp.methods")


@dataclass
class Setting:
    """What a method may know of the run when it composes its parts and chooses its step size.

    Attributes
    ----------
    dim, n_clients, rounds : d, n, T. seed : of the run.
    compressor, downlink_compressor : those that the user chose, or the method's defaults.
    find_smoothness : computes the problem's constants; called once, on rank 0, and only when a method asks for them.
    batch : samples per client and round, 0 for the method's own number (`Method.own_batch`).
    samples : mean of the N_i, 0 where f_i is not a finite sum.
    problem : the problem itself, for constants that only some methods want.
    wire_dtype : of the values that travel. allow_unsafe : options may lie outside of what the theory covers.
    """

    dim: int
    n_clients: int
    rounds: int
    compressor: Compressor
    downlink_compressor: Compressor
    seed: int = 0
    find_smoothness: Callable[[], Smoothness] = field(repr=False, default=lambda: _no_constants())
    batch: int = 0
    samples: float = 0.0
    problem: Problem | None = field(repr=False, default=None)
    wire_dtype: str = "float64"
    allow_unsafe: bool = False

    @cached_property
    def smoothness(self) -> Smoothness:
        """The problem's smoothness constants."""
        return self.find_smoothness()

    @property
    def omega(self) -> float:
        """ω of the compressor."""
        return self.compressor.omega(self.dim, self.n_clients)

    @property
    def alpha(self) -> float:
        """α of the compressor in its contractive form."""
        return self.compressor.alpha(self.dim, self.n_clients)


def assumed_omega(compressor: Compressor, setting: Setting) -> float:
    """ω, by which a method chooses the options that are not given.

    With `allow_unsafe` a compressor without ω counts as a Rand-K whose messages are as long, d/ζ − 1; no theory is behind that.

    Raises
    ------
    TheoryError : the compressor has no ω.
    """
    try:
        return compressor.omega(setting.dim, setting.n_clients)
    except TheoryError:
        if not setting.allow_unsafe:
            raise
        return setting.dim / min(max(compressor.density(setting.dim, setting.n_clients), 1.0), setting.dim) - 1.0


def _no_constants() -> Smoothness:
    raise TheoryError(
        "this problem's smoothness constants are unknown; give the step size as a number, for example «step=0.05»"
    )


@dataclass
class Parts:
    """What a method is made of: its uplink and downlink, the optimizer, and what wraps the clients' oracles.

    Attributes
    ----------
    uplink, downlink, optimizer : the mechanisms and the step.
    oracle : wraps the run's oracle (full or minibatch) into the method's own, for instance momentum or smoothing; None for none.
    weights : w_i > 0 with Σ w_i = 1, shape (n,); the clients then evaluate ∇f_i/(n w_i). None for 1/n.
    participation : who speaks in which round; None for everybody.
    replicated : the downlink carries the gradient estimate and every rank takes the optimizer's step itself; otherwise the server
        takes the step and the downlink carries the model.
    """

    uplink: Uplink
    downlink: Downlink = field(default_factory=DenseDownlink)
    optimizer: Optimizer = field(default_factory=GradientDescent)
    oracle: Callable[[Oracle], Oracle] | None = None
    weights: np.ndarray | None = None
    participation: Participation | None = None
    replicated: bool = False


class Method:
    """Base class of all methods; constructor options are the method's own (`--set method.p=0.1`).

    Class attributes
    ----------------
    summary, formulas, paper : one line each, for `mpicomp list` and the docs.
    default_compressor, default_downlink_compressor : used where the user names none; None for the downlink's: as the uplink's.
    takes_downlink_compressor : a second compressor is chosen by --downlink-compressor.
    own_optimizer : the optimizer is part of the method, --optimizer is refused.
    neighbourhood : with a fixed step the bound does not go to zero, so no number of rounds is promised.
    needs : "unbiased", "contractive" (an unbiased one enters as C/(1+ω)), or "any".
    downlink_needs : the same of the second compressor; "unbiased" or "any".
    experimental : why the theory's step, or the algorithm itself, stands on neither a published theorem nor a derivation in docs;
        empty where it does. Shown by `mpicomp list` and `mpicomp theory`, and when `mpicomp run` takes the theory's step.
    """

    name: ClassVar[str] = "user"
    summary: ClassVar[str] = ""
    formulas: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    default_compressor: ClassVar[str] = "identity"
    default_downlink_compressor: ClassVar[str | None] = "identity"
    takes_downlink_compressor: ClassVar[bool] = False
    own_optimizer: ClassVar[bool] = False
    needs: ClassVar[str] = "any"
    downlink_needs: ClassVar[str] = "any"
    neighbourhood: ClassVar[bool] = False
    experimental: ClassVar[str] = ""

    def compose(self, setting: Setting, step_size: float) -> Parts:
        """The parts, for one run."""
        raise NotImplementedError(f"{type(self).__name__} must define compose(setting, step_size)")

    def step_size(self, setting: Setting) -> float:
        """The largest step size that the theorem allows.

        Raises
        ------
        TheoryError : no theorem covers the combination.
        """
        raise TheoryError(
            f"method {self.name!r} brings no theory; give the step size as a number, for example «step=0.05»"
        )

    def heading(self, compressor: Compressor, downlink_compressor: Compressor) -> str:
        """What messages are made of, in a line, for headings."""
        if self.takes_downlink_compressor:
            return f"{compressor.spec} up, {downlink_compressor.spec} down"
        return compressor.spec

    def gap_factor(self, setting: Setting) -> float:
        """The factor of δ⁰/(γT) in the theorem, 2 for most."""
        return 2.0

    def initial_term(self, setting: Setting, mean_squared_gradient: float) -> float:
        """What the theorem E‖∇f(x̂^T)‖² ≤ (2δ⁰/γ + this)/T has beside δ⁰ = f(x⁰) − inf f.

        Parameters
        ----------
        mean_squared_gradient : (1/n) Σ‖∇f_i(x⁰)‖².
        """
        return 0.0

    def own_batch(self, setting: Setting) -> int:
        """Samples per client and round where the run's `batch` is 0; 0 for exact gradients."""
        return 0

    def check(self, compressor: Compressor) -> None:
        """Refuse a compressor that the method's theory does not cover.

        Raises
        ------
        ConfigError : naming what is needed and a remedy.
        """
        if self.needs == "unbiased":
            self._refuse_biased(compressor, "an unbiased compressor")

    def check_downlink(self, compressor: Compressor) -> None:
        """The same for the compressor of the way down.

        Raises
        ------
        ConfigError : naming what is needed and a remedy.
        """
        if self.downlink_needs == "unbiased":
            self._refuse_biased(compressor, "an unbiased compressor for the downlink, too")

    def _refuse_biased(self, compressor: Compressor, what: str) -> None:
        if not compressor.unbiased:
            raise ConfigError(
                f"method {self.name!r} needs {what}, {compressor.spec!r} is biased; use for example randk, permk, "
                "qsgd or natural, or method ef21; «allow_unsafe=True» runs it all the same, with a step size of your own"
            )

    def refuse_minibatch(self, setting: Setting) -> None:
        """For step sizes whose theorem is about exact gradients."""
        if setting.batch:
            raise TheoryError(
                f"the step size of method {self.name!r} is proved for exact gradients; with «batch={setting.batch}» give a number, "
                "for example «step=0.05»"
            )
