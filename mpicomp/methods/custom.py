"""Any composition from the command line, also those that no paper names."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ..compressors import Compressor, compressors
from ..errors import ConfigError
from ..mechanisms.base import downlinks, uplinks
from ..mechanisms.mcm import memory_rate
from ..oracles.smoothing import Smoothing
from ..registry import Registry, option_names, parse_spec
from .base import Method, Parts, Setting, assumed_omega, methods
from .marina import default_probability

P = TypeVar("P")
WEIGHTS = ("uniform", "lipschitz")


@methods.register("custom")
class Custom(Method):
    """`--method custom --uplink ef21:topk:k=10 --downlink marina-p@p=0.1:permk --optimizer amsgrad --step 0.01`.

    A mechanism is written NAME:COMPRESSOR, its own options NAME@option=value,option=value:COMPRESSOR. Where a probability p is needed
    and not given it is ζ/d of the compressor; a shift step is 1/(1+ω). No theorem covers compositions, so the step is a number.

    Parameters
    ----------
    uplink, downlink : mechanisms. smoothing : β of z_i = (1−β)z_i + βw_i, 1 for none.
    weights : "uniform" for 1/n, "lipschitz" for w_i = L_i/ΣL (as EF21-W).
    replicated : the downlink carries the gradient estimate and every rank takes the optimizer's step.
    """

    summary = "any uplink, downlink and optimizer together"
    formulas = "no theorem: give a number"

    def __init__(
        self,
        uplink: str = "direct",
        downlink: str = "dense",
        smoothing: float = 1.0,
        weights: str = "uniform",
        replicated: bool = False,
    ):
        if weights not in WEIGHTS:
            raise ConfigError(f"custom: weights={weights!r}; allowed: {', '.join(WEIGHTS)}")
        if not 0 < smoothing <= 1:
            raise ConfigError(f"custom: smoothing={smoothing} is not in (0, 1]")
        self.uplink, self.downlink = uplink, downlink
        self.smoothing, self.weights, self.replicated = smoothing, weights, replicated

    def check(self, compressor: Compressor) -> None:
        if compressor.name != "identity":
            raise ConfigError(
                "method 'custom' names its compressors in its options uplink and downlink, for example "
                f"«method_options={{'uplink': 'ef21:{compressor.spec}'}}»; "
                "drop «compressor»"
            )

    def heading(self, compressor: Compressor, downlink_compressor: Compressor) -> str:
        return f"{self.uplink} up, {self.downlink} down"

    def compose(self, setting: Setting, step_size: float) -> Parts:
        lipschitz = setting.smoothness.L_i if self.weights == "lipschitz" else None
        return Parts(
            build(uplinks, self.uplink, setting, step_size),
            build(downlinks, self.downlink, setting, step_size),
            oracle=(lambda oracle: Smoothing(oracle, self.smoothing)) if self.smoothing < 1 else None,
            weights=None if lipschitz is None else np.asarray(lipschitz / lipschitz.sum()),
            replicated=self.replicated,
        )


def build(registry: Registry[P], text: str, setting: Setting, step_size: float, given: Compressor | None = None) -> P:
    """A mechanism from `NAME[@option=value,...][:COMPRESSOR]`; given : a compressor in place of a named one.

    Raises
    ------
    ConfigError : unknown names or options, or a compressor missing where the mechanism needs one.
    """
    head, _, rest = text.partition(":")
    name, _, own = head.partition("@")
    options = parse_spec(f"{name}:{own}")[1]
    known = option_names(registry[name])
    compressor = given
    if given is not None:
        options["compressor"] = given
    elif rest:
        compressor = options["compressor"] = compressors.create(rest)
    elif "compressor" in known and name != "direct":
        raise ConfigError(f"{registry.kind} {text!r} names no compressor; write for example {name}:topk:k=10")
    if compressor is not None:
        if "p" in known and "p" not in options:
            options["p"] = default_probability(compressor, setting)
        if "shift_step" in known and "shift_step" not in options:
            options["shift_step"] = 1.0 / (1.0 + assumed_omega(compressor, setting))
        if name == "dasha" and "a" not in options:
            options["a"] = 1.0 / (1.0 + 2.0 * assumed_omega(compressor, setting))
        if "rate" in known and "rate" not in options:
            options["rate"] = memory_rate(assumed_omega(compressor, setting))
    if "step" in known:
        options["step"] = step_size
    return registry.build(name, options)
