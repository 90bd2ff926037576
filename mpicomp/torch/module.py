"""A network whose trainable parameters are one vector."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError
from .library import torch


class FlatModule:
    """A copy of a network in the dtype of a run, all trainable parameters of which are views of one vector.

    Parameters
    ----------
    model : stays as it is. dtype : float32 or float64, of floating parameters and buffers. device : where the copy is.

    Attributes
    ----------
    module : the copy. dtype : as PyTorch names it.
    shapes : of each trainable parameter by name, in the order of the vector; one that is tied to another stands once.
    dim : d, the number of entries.
    """

    def __init__(self, model: torch.nn.Module, dtype: np.dtype, device: str = "cpu"):
        self.dtype = getattr(torch, dtype.name)
        self.module = copy.deepcopy(model).to(device=device, dtype=self.dtype)
        named = trainable(self.module)
        self.shapes = {name: tuple(parameter.shape) for name, parameter in named.items()}
        self._parameters = list(named.values())
        sizes = [parameter.numel() for parameter in self._parameters]
        self._ends = np.cumsum([0, *sizes])
        self.dim = int(self._ends[-1])
        self._vector = torch.empty(self.dim, dtype=self.dtype, device=device)
        self._staged = torch.empty_like(self._vector, device="cpu") if device != "cpu" else self._vector
        with torch.no_grad():
            for j, parameter in enumerate(self._parameters):
                view = self._vector[self._ends[j] : self._ends[j + 1]].view(parameter.shape)
                view.copy_(parameter)
                parameter.data = view
        persistent = self.module.state_dict().keys()
        self._buffers = {name: buffer for name, buffer in self.module.named_buffers() if name in persistent}

    def vector(self) -> np.ndarray:
        """A copy of the trainable parameters, shape (d,)."""
        return np.array(self._vector.cpu().numpy())

    def set_vector(self, x: np.ndarray) -> None:
        """Make x, shape (d,), the trainable parameters; x is copied."""
        self._staged.numpy()[:] = x
        if self._staged is not self._vector:
            self._vector.copy_(self._staged)

    def forget_gradients(self) -> None:
        """Before the first `backward`."""
        for parameter in self._parameters:
            parameter.grad = None

    def write_gradients(self, out: np.ndarray) -> None:
        """Write what `backward` has left into `out`, shape (d,); zero for parameters that the loss does not depend on."""
        for j, parameter in enumerate(self._parameters):
            into, found = out[self._ends[j] : self._ends[j + 1]], parameter.grad
            if found is None:
                into[:] = 0
            else:
                into[:] = (found.to_dense() if found.is_sparse else found).reshape(-1).cpu().numpy()
            parameter.grad = None

    def buffers(self) -> dict[str, np.ndarray]:
        """Copies of the buffers that belong to the network's state, by name: float64, int64 or uint8 (of truth values)."""
        found = {}
        for name, buffer in self._buffers.items():
            array = buffer.cpu().numpy()
            kind = np.float64 if array.dtype.kind == "f" else np.uint8 if array.dtype.kind == "b" else np.int64
            found[name] = array.astype(kind)
        return found

    def set_buffers(self, buffers: Mapping[str, np.ndarray]) -> None:
        """Put buffers back, all or some of them."""
        with torch.no_grad():
            for name, array in buffers.items():
                self._buffers[name].copy_(torch.from_numpy(np.array(array)))


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that require gradients, by name.

    Raises
    ------
    ConfigError : there are none, or one of them has no shape yet, or is complex.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise ConfigError(
                f"parameter {name!r} of the model has no shape yet: call the model once on a batch, then make the problem"
            )
        if parameter.is_complex():
            raise ConfigError(
                f"parameter {name!r} of the model is complex ({parameter.dtype}); real ones can be trained"
            )
    if not found:
        raise ConfigError(
            f"the model, {type(model).__name__}, has no parameter that requires gradients; nothing can be trained"
        )
    return found


def digest(tensors: Iterable[tuple[str, Any]]) -> str:
    """Of the names, dtypes, shapes and bits of tensors, in their order; what is no tensor is passed over."""
    hashed = hashlib.blake2b(digest_size=8)
    for name, value in tensors:
        if isinstance(value, torch.Tensor):
            hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            hashed.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b""
            )
    return hashed.hexdigest()
