"""What an aggregator remembers on this rank, by tensor, and the way back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import ConfigError
from .bucket import Vector
from .tensors import as_numpy

FORMAT = 1
_KEYS = {"format", "facts", "calls", "tensors", "others", "point"}


def saved_arrays(
    facts: dict[str, Any], calls: int, torch: bool, buckets: list[Vector], point: dict[str, np.ndarray]
) -> dict[str, Any]:
    """See `Aggregator.state_dict`. torch : arrays become PyTorch's tensors."""
    tensors: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    for number, bucket in enumerate(buckets):
        for name, array in bucket.arrays().items():
            if bucket.by_tensor(name):
                for tensor in bucket.tensors:
                    part = array[0, bucket.places[tensor.name]].reshape(tensor.shape)
                    tensors.setdefault(tensor.name, {})[name] = _given(torch, part)
            else:
                others[f"{number}/{name}"] = _given(torch, array)
    return {
        "format": FORMAT,
        "facts": facts,
        "calls": calls,
        "tensors": tensors,
        "others": others,
        "point": {name: _given(torch, array) for name, array in point.items()},
    }


def load_arrays(
    facts: dict[str, Any], state: dict[str, Any], buckets: list[Vector]
) -> tuple[int, dict[str, np.ndarray]]:
    """See `Aggregator.load_state_dict`; returns the number of calls and the last point."""
    if not isinstance(state, dict) or set(state) != _KEYS:
        raise ConfigError("the state is none that an aggregator's state_dict gave")
    for name, own, saved in [
        ("format", FORMAT, state["format"]),
        *((name, own, state["facts"].get(name)) for name, own in facts.items()),
    ]:
        if saved != own:
            raise ConfigError(
                f"the state was saved with {name}={saved!r}, this aggregator has {own!r}; make it as it was, then call `set`"
            )
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number, bucket in enumerate(buckets):
        for name, array in bucket.arrays().items():
            if bucket.by_tensor(name):
                for tensor in bucket.tensors:
                    target = array[0, bucket.places[tensor.name]].reshape(tensor.shape)
                    found.append((target, _saved(state["tensors"].get(tensor.name, {}), name, target)))
            else:
                found.append((array, _saved(state["others"], f"{number}/{name}", array)))
    point = {name: np.array(as_numpy(array)) for name, array in state["point"].items()}
    for target, saved in found:
        target[...] = saved
    return int(state["calls"]), point


def _saved(table: dict[str, Any], name: str, like: np.ndarray) -> np.ndarray:
    if name not in table:
        raise ConfigError(f"the state has no {name}")
    array = as_numpy(table[name])
    if array.shape != like.shape or array.dtype != like.dtype:
        raise ConfigError(
            f"{name} is {array.dtype} of shape {array.shape} in the state, not {like.dtype} of {like.shape}"
        )
    return array


def _given(torch: bool, array: np.ndarray) -> Any:
    copy = np.array(array)
    return sys.modules["torch"].from_numpy(copy) if torch else copy
