"""What loops on several ranks must have alike: the aggregator's parameters, and their values at the start."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch

from ..aggregator import Aggregator
from ..errors import ConfigError

ALIKE = "give all ranks the same, and the same parameters at the start: seed them alike, or broadcast rank 0's"


def check_names(aggregator: Aggregator, names: Iterable[str]) -> None:
    """Raises ConfigError where the trained parameters are others than those of the aggregator."""
    other = {tensor.name for tensor in aggregator.structure.tensors} ^ set(names)
    if other:
        raise ConfigError(
            f"parameter {min(other)!r} is only in one of the aggregator and the trained named_parameters; make the aggregator with "
            "{name: p for name, p in model.named_parameters() if p.requires_grad}"
        )


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of names, shapes and bits."""
    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
