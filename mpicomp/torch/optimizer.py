"""An optimizer of PyTorch whose step first averages the gradients of all ranks: for loops without DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ..aggregator import Aggregator
from ..errors import ConfigError
from .alike import ALIKE, check_names, load_memory, parameters_of, with_memory
from .library import torch

Opt = TypeVar("Opt", bound=torch.optim.Optimizer)


def DistributedOptimizer(
    optimizer: Opt,
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    aggregator: Aggregator,
    *,
    overlap: bool = False,
    every: int = 1,
) -> Opt:
    """The optimizer itself, whose `step` from now on averages the gradients of all ranks first.

    Its `state_dict` has this rank's error memory beside its own state, so each rank saves its own.
    To clip the mean, call `optimizer.synchronize()`, clip, and then `step`, which does not average again.

    Parameters
    ----------
    named_parameters : of the model, the same that the aggregator was made for, dict(named_parameters).
    overlap : gradients travel while backward goes on, as soon as a bucket (the aggregator's bucket_nbytes) is complete.
    every : backward passes a step (gradient accumulation); only the last one's gradients travel, which are the sum.

    Raises
    ------
    ConfigError : the parameters are others than the aggregator's, or `every` is below 1; in the first step, ranks have other
        parameters than rank 0, on all ranks; with overlap, more backward passes than `every` from one average to the next.
    """
    parameters = {name: p for name, p in named_parameters if p.requires_grad}
    check_names(aggregator, parameters)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "LBFGS decides by each rank's own loss how often it evaluates, so ranks would part; take another optimizer"
        )
    if every < 1:
        raise ConfigError(f"every={every}: at least one backward pass a step")
    loop = _Loop(parameters, aggregator, overlap, every)
    optimizer.register_step_pre_hook(lambda own, args, kwargs: loop.before_step(args, kwargs))
    optimizer.register_step_post_hook(lambda *ignored: loop.after_step())
    optimizer.register_state_dict_post_hook(lambda own, state: with_memory(state, aggregator))
    optimizer.register_load_state_dict_pre_hook(lambda own, state: load_memory(state, aggregator))
    extended: Any = optimizer
    extended.synchronize = loop.synchronize
    return optimizer


class _Loop:
    """What happens around the steps of an optimizer."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], aggregator: Aggregator, overlap: bool, every: int):
        self.parameters, self.aggregator, self.every = parameters, aggregator, every
        self.done = False
        self.passes = dict.fromkeys(parameters, 0)
        self.overlap = overlap
        self.compared = False
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self.arrived(name, p))

    def arrived(self, name: str, parameter: torch.Tensor) -> None:
        self.done = False  # a loop that has synchronized may leave out the step
        if not self.overlap:
            return
        self.passes[name] += 1
        if self.passes[name] > self.every:
            raise ConfigError(
                f"parameter {name!r} has had its {self.passes[name]}th backward pass since the last average, and its gradient has been "
                f"sent after {self.every}; give every=, or call step or synchronize in between"
            )
        if self.passes[name] == self.every:
            self.aggregator.start(name, parameter.grad)

    def synchronize(self) -> None:
        """Average the gradients now; the next step does not do it again."""
        if self.done:
            return
        agg = self.aggregator
        if self.overlap:
            for name, count in self.passes.items():
                if 0 < count < self.every:
                    agg.start(name, self.parameters[name].grad)
            if not any(self.passes.values()):
                agg.start(next(iter(self.parameters)), next(iter(self.parameters.values())).grad)
            self.passes = dict.fromkeys(self.passes, 0)
            means = agg.wait()
        else:
            means = agg.mean({name: p.grad for name, p in self.parameters.items()})
        if not self.compared:  # all ranks are here, and none has taken a step
            agg.compare(f"DistributedOptimizer with {parameters_of(self.parameters)}", ALIKE)
            self.compared = True
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if parameter.grad is None:
                    parameter.grad = means[name].to(parameter.dtype)
                else:
                    parameter.grad.copy_(means[name])
        self.done = True

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Average, or have the closure do so that the step will evaluate; args : the optimizer, and a closure if any."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.synchronize()
            return None

        def averaged() -> Any:
            loss = closure()
            self.synchronize()
            return loss

        return (args[0], averaged), {name: value for name, value in kwargs.items() if name != "closure"}

    def after_step(self) -> None:
        self.done = False
