"""The data of a client or of a test: minibatches by index from whatever PyTorch takes for a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from .library import torch

Collate = Callable[[list[Any]], Any]


class Samples:
    """A data set with a length, whose samples are asked for by index.

    Parameters
    ----------
    data : a Dataset with `__len__` and `__getitem__`, a sequence of samples, or tensors (or arrays) of equally many rows, for instance
        (inputs, targets).
    owner : whose it is, for messages: "client 3". collate : makes a batch of a list of samples; None for PyTorch's own.

    Raises
    ------
    ConfigError : something else was given, or nothing is in it.
    """

    def __init__(self, data: Any, owner: str, collate: Collate | None = None):
        arrays = (
            isinstance(data, list | tuple)
            and len(data) > 0
            and all(isinstance(part, torch.Tensor | np.ndarray) for part in data)
        )
        if arrays:
            tensors = [torch.as_tensor(part) for part in data]
            rows = [len(part) if part.dim() else 0 for part in tensors]
            if len(set(rows)) > 1:
                raise ConfigError(
                    f"the tensors of {owner} have {', '.join(map(str, rows))} rows; all must have one for each sample"
                )
            data = torch.utils.data.TensorDataset(*tensors)
        if isinstance(data, torch.utils.data.DataLoader):
            raise ConfigError(
                f"{owner} has a DataLoader; give its data set, loader.dataset, and the size of a batch to the run, «batch=32»"
            )
        if isinstance(data, torch.utils.data.IterableDataset) or not (
            hasattr(data, "__len__") and hasattr(data, "__getitem__")
        ):
            raise ConfigError(
                f"the data set of {owner}, {type(data).__name__}, has no length or no samples by index; a map-style Dataset, a list of "
                "samples, or a tuple of tensors (inputs, targets) is needed"
            )
        if len(data) == 0:
            raise ConfigError(f"the data set of {owner} is empty; each needs at least one sample")
        self._data, self._collate = data, collate
        self._tensors: tuple[torch.Tensor, ...] | None = None
        if type(data) is torch.utils.data.TensorDataset and collate is None:
            self._tensors = data.tensors

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, indices: Sequence[int]) -> Any:
        """These samples, collated."""
        if self._tensors is not None:
            return [tensor[torch.tensor(indices)] for tensor in self._tensors]
        several = getattr(self._data, "__getitems__", None)
        samples = several(list(indices)) if several else [self._data[j] for j in indices]
        return (self._collate or torch.utils.data.default_collate)(samples)

    def batches(self, size: int) -> Iterator[tuple[int, Any]]:
        """All samples in their order, in batches of at most `size`: (how many, collated)."""
        for first in range(0, len(self), size):
            indices = list(range(first, min(first + size, len(self))))
            yield len(indices), self.batch(indices)

    def digest(self) -> str:
        """Of the tensors; of data that samples are made from, of their number, the first and the last one."""
        hashed = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
        for part in self._tensors if self._tensors is not None else (self._data[0], self._data[len(self) - 1]):
            _feed(hashed, part)
        return hashed.hexdigest()


def _feed(hashed: Any, value: Any) -> None:
    """Hash a sample: tensors, arrays, numbers and text in tuples, lists and dictionaries; of anything else its type."""
    if isinstance(value, torch.Tensor):
        hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray):
        hashed.update(f"{value.dtype} {value.shape}".encode())
        hashed.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in value:
            hashed.update(repr(key).encode())
            _feed(hashed, value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            _feed(hashed, part)
    elif isinstance(value, int | float | str | bytes | bool | np.generic):
        hashed.update(repr(value).encode())
    else:
        hashed.update(type(value).__qualname__.encode())


def converted(batch: Any, dtype: torch.dtype, device: str) -> Any:
    """The batch with floating tensors in this dtype and all tensors on this device, also within dictionaries, lists and tuples."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device=device, dtype=dtype if batch.is_floating_point() else batch.dtype)
    if isinstance(batch, dict):
        return {key: converted(value, dtype, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(converted(part, dtype, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(converted(part, dtype, device) for part in batch)
    return batch
