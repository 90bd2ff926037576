"""What loops on several ranks must have alike: the aggregator's parameters, and their values at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..aggregator import Aggregator
from ..errors import ConfigError
from .library import torch
from .module import digest

_KEY = "mpicomp"  # of the aggregator's part in an optimizer's state
ALIKE = "give all ranks the same, and the same parameters at the start: seed them alike, or broadcast rank 0's"


def check_names(aggregator: Aggregator, names: Iterable[str]) -> None:
    """Raises ConfigError where the trained parameters are others than those of the aggregator."""
    other = {tensor.name for tensor in aggregator.structure.tensors} ^ set(names)
    if other:
        raise ConfigError(
            f"parameter {min(other)!r} is only in one of the aggregator and the trained named_parameters; make the aggregator with "
            "{name: p for name, p in model.named_parameters() if p.requires_grad}"
        )


def parameters_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """What tells two ranks' parameters apart, for `Aggregator.compare`."""
    return f"parameters {digest(sorted(tensors.items()))}"


def remembered_dtype(parameter: torch.Tensor) -> torch.dtype:
    """In which dtype what is remembered of a parameter is: float64 of float64 parameters, else float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def with_memory(state: dict[str, Any], aggregator: Aggregator) -> dict[str, Any]:
    """An optimizer's state, with the aggregator's beside it."""
    return {**state, _KEY: aggregator.state_dict()}


def load_memory(state: Mapping[str, Any], aggregator: Aggregator) -> dict[str, Any]:
    """Load the aggregator's part of such a state; returns the optimizer's.

    Raises
    ------
    ConfigError : there is none, or the aggregator refuses it.
    """
    rest = dict(state)
    own = rest.pop(_KEY, None)
    if own is None:
        raise ConfigError("the optimizer's state has no 'mpicomp': it was saved without the aggregator's memory")
    aggregator.load_state_dict(own)
    return rest
