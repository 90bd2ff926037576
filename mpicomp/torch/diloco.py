"""Local steps with an outer optimizer: DiLoCo (Douillard et al. 2023), and with a fading error memory SparseLoCo (Sarfi et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..aggregator import Aggregator
from ..errors import ConfigError, MpicompError
from .alike import ALIKE, check_names, parameters_of, remembered_dtype
from .library import torch

_KEYS = {"global", "inner", "outer", "aggregator", "local_steps", "rounds"}


class DiLoCo:
    """Every rank takes H steps of its inner optimizer by itself; then the ranks average how far they went, and all take one outer step.

    With θ the parameters that all ranks share and θ_i those of rank i after H inner steps from θ,

        Δ = (1/n) Σ C(θ − θ_i),   θ ← outer(θ, Δ),   θ_i ← θ,

    where the aggregator makes Δ, the pseudo-gradient, with whatever it remembers of what compression left out, and the outer optimizer
    takes it for a gradient. The inner optimizers keep their states. Δ is the same on all ranks bit for bit, and so is θ.

    Made once, before the first step; from then on every H-th `inner.step()` does all of it. θ is remembered, and the outer optimizer
    works, in float64 for float64 parameters and in float32 for all others. Buffers (of BatchNorm) stay each rank's own.

    Parameters
    ----------
    named_parameters : of the model, or the model itself; the same that the aggregator was made for, dict(model.named_parameters()).
        Equal on all ranks.
    inner : the optimizer of the local steps.
    aggregator : averages the pseudo-gradients, for instance with uplink="ef14:topk:fraction=0.01" or, for SparseLoCo,
        "ef14@decay=0.95:chunked-topk:k=64". Its error memory starts from zero.
    every : H, inner steps from one average to the next; the same on all ranks.
    outer : an optimizer of the same parameters that has not taken a step; by default DiLoCo's, SGD(lr=0.7, momentum=0.9, nesterov=True).
        SparseLoCo takes SGD without momentum, whose part the fading memory plays.

    Attributes
    ----------
    rounds : averages made. local_steps : inner steps since the last one.

    Raises
    ------
    ConfigError : H below 1, parameters that are others than the aggregator's or the outer optimizer's, a weighted aggregator, ranks with
        other parameters, H or outer optimizer than rank 0; on all ranks.
    """

    def __init__(
        self,
        named_parameters: torch.nn.Module | Iterable[tuple[str, torch.nn.Parameter]],
        inner: torch.optim.Optimizer,
        aggregator: Aggregator,
        *,
        every: int,
        outer: torch.optim.Optimizer | None = None,
    ):
        if isinstance(named_parameters, torch.nn.Module):
            named_parameters = named_parameters.named_parameters()
        self.parameters = {name: p for name, p in named_parameters if p.requires_grad}
        self.aggregator, self.inner, self.every = aggregator, inner, every
        described = error = ""
        try:
            self._check()
            self._shared = {name: _master(p) for name, p in self.parameters.items()}
            self.outer = self._moved(outer)
            described = f"every={every}, {type(self.outer).__name__}, {parameters_of(self._shared)}"
        except MpicompError as found:
            error = str(found)
        aggregator.compare(f"DiLoCo with {described}", ALIKE, error)
        self.rounds = self.local_steps = 0
        inner.register_step_post_hook(lambda *ignored: self._stepped())

    def _check(self) -> None:
        check_names(self.aggregator, self.parameters)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"every={self.every!r}: a number of inner steps is needed, at least 1")
        if self.aggregator.weighted:
            raise ConfigError("DiLoCo weighs all ranks alike; make the aggregator without weighted=True")

    def _moved(self, outer: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
        """The outer optimizer, which from now on has the shared parameters in place of this rank's."""
        if outer is None:
            return torch.optim.SGD(self._shared.values(), lr=0.7, momentum=0.9, nesterov=True)
        if outer is self.inner:
            raise ConfigError(
                "outer is the inner optimizer; make another, for instance torch.optim.SGD(params, lr=0.7)"
            )
        if outer.state:
            raise ConfigError(
                "the outer optimizer has taken steps; make it anew, load_state_dict of DiLoCo brings its state"
            )
        shared = {id(p): self._shared[name] for name, p in self.parameters.items()}
        theirs = {id(p) for group in outer.param_groups for p in group["params"] if p.requires_grad}
        if theirs != set(shared):
            raise ConfigError(
                f"the outer optimizer has {len(theirs)} parameters, {len(theirs & set(shared))} of which are among the {len(shared)} of "
                "named_parameters; make it with model.parameters()"
            )
        for group in outer.param_groups:
            group["params"] = [shared[id(p)] for p in group["params"] if id(p) in shared]
        return outer

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def _stepped(self) -> None:
        self.local_steps += 1
        if self.local_steps >= self.every:
            self.sync()

    @torch.no_grad()
    def sync(self) -> None:
        """Average now and take the outer step; all ranks call it. A loop needs it only where it ends between two averages.

        Raises
        ------
        AggregationError : a rank's parameters are not finite; on all ranks, and nothing has changed.
        RankFailure : a rank has not come for `timeout` seconds of the aggregator.
        """
        # A server's vectors are not sent, but say in which dtype the mean is.
        gone = {name: shared - self.parameters[name].to(shared) for name, shared in self._shared.items()}
        means = self.aggregator.mean(gone)
        for name, shared in self._shared.items():
            shared.grad = means[name].to(shared)
        self.outer.step()
        for name, shared in self._shared.items():
            shared.grad = None
            self.parameters[name].copy_(shared)
        self.local_steps = 0
        self.rounds += 1

    # ---- state ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """All but the model: θ, the states of both optimizers, this rank's error memory, and the counts. Each rank saves its own, with its
        `model.state_dict()`: between two averages the ranks' parameters differ."""
        return {
            "global": {name: shared.detach().clone() for name, shared in self._shared.items()},
            "inner": self.inner.state_dict(),
            "outer": self.outer.state_dict(),
            "aggregator": self.aggregator.state_dict(),
            "local_steps": self.local_steps,
            "rounds": self.rounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that this rank's `state_dict` gave; with the model's own state, all bits are as without the interruption.

        Raises
        ------
        ConfigError : the state is none of these, or of other parameters, or the aggregator refuses its part; nothing has been changed.
        """
        if not isinstance(state, dict) or set(state) != _KEYS:
            raise ConfigError("the state is none that DiLoCo's state_dict gave")
        shapes = {name: tuple(shared.shape) for name, shared in self._shared.items()}
        if {name: tuple(array.shape) for name, array in state["global"].items()} != shapes:
            raise ConfigError("the state is one of other parameters, in name or shape")
        self.aggregator.load_state_dict(state["aggregator"])
        with torch.no_grad():
            for name, shared in self._shared.items():
                shared.copy_(state["global"][name])
        self.inner.load_state_dict(state["inner"])
        self.outer.load_state_dict(state["outer"])
        self.local_steps, self.rounds = int(state["local_steps"]), int(state["rounds"])


def _master(parameter: torch.Tensor) -> torch.nn.Parameter:
    """A copy in the dtype in which it is remembered."""
    return torch.nn.Parameter(parameter.detach().to(remembered_dtype(parameter), copy=True))
