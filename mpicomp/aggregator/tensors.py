"""What a caller's arrays are: names, shapes, and copies between them and flat vectors. PyTorch's tensors are known by their methods."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..errors import ConfigError, MpicompError

_TORCH_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Tensor:
    """One array or tensor of the caller's.

    Attributes
    ----------
    name : its key, or its place in a list; empty for a single one. shape : of it. kind : its dtype, as its library calls it.
    dtype : float64 where it is float64, else float32: what is summed and remembered.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def called(self) -> str:
        """The tensor in a message."""
        return f"tensor {self.name!r}" if self.name else "the array"


def is_torch(value: Any) -> bool:
    """It is a tensor of PyTorch."""
    return (type(value).__module__.split(".", 1)[0] == "torch" and hasattr(value, "detach")) or _is_parameter(value)


def _is_parameter(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class Structure:
    """The caller's arrays, tensors, a list or dict of them, or a dimension.

    Parameters
    ----------
    like : what later values look like; its numbers are not looked at.

    Attributes
    ----------
    tensors : in the caller's order. torch : they are PyTorch's. parameters : PyTorch's tensors by name, where a dict of them was given.

    Raises
    ------
    ConfigError : it is none of these, is empty, or holds other numbers than floating-point ones.
    """

    def __init__(self, like: Any):
        self._single = not isinstance(like, Mapping | list | tuple)
        self._mapping = isinstance(like, Mapping)
        if isinstance(like, int | np.integer) and not isinstance(like, bool):
            if like < 1:
                raise ConfigError(f"like={like}: a dimension is at least 1")
            like = np.broadcast_to(np.zeros(1), (int(like),))
        if self._single:
            items: list[tuple[Any, Any]] = [("", like)]
        elif isinstance(like, Mapping):
            items = list(like.items())
        else:
            items = [(str(i), value) for i, value in enumerate(like)]
        self.keys = [key for key, _ in items]
        self.tensors = [_described(str(key), value) for key, value in items]
        self.torch = any(is_torch(value) for _, value in items)
        self._like = {str(key): value for key, value in items} if self.torch else {}
        self.parameters = self._like if self._mapping else {}
        names = [tensor.name for tensor in self.tensors]
        if not names or not sum(tensor.size for tensor in self.tensors):
            raise ConfigError("like holds no array with an entry; give the arrays, or what looks like them")
        if len(set(names)) < len(names):
            raise ConfigError(f"two tensors are called {next(n for n in names if names.count(n) > 1)!r}")

    def described(self) -> list[list[Any]]:
        """What all ranks must have alike, as JSON: name, shape and dtype of the sums."""
        return [[tensor.name, list(tensor.shape), tensor.dtype.name] for tensor in self.tensors]

    def taken(self, value: Any) -> dict[str, Any]:
        """The caller's arrays by name; those that are None are left out.

        Raises
        ------
        ConfigError : a tensor is missing, unknown, or of another shape; named.
        """
        if self._single:
            found = {"": value}
        elif self._mapping:
            if not isinstance(value, Mapping):
                raise ConfigError(f"a dict of {len(self.tensors)} tensors is expected, got {type(value).__name__}")
            found = {str(key): array for key, array in value.items()}
        else:
            if not isinstance(value, Sequence) or len(value) != len(self.tensors):
                got = f"{len(value)} tensors" if isinstance(value, Sequence) else type(value).__name__
                raise ConfigError(f"a list of {len(self.tensors)} tensors is expected, got {got}")
            found = {str(i): array for i, array in enumerate(value)}
        if len(found) != len(self.tensors) or any(tensor.name not in found for tensor in self.tensors):
            self._refuse_names(found)
        for tensor in self.tensors:
            array = found[tensor.name]
            if array is not None:
                check_shape(tensor, array)
        return {name: array for name, array in found.items() if array is not None}

    def _refuse_names(self, found: dict[str, Any]) -> None:
        known = {tensor.name for tensor in self.tensors}
        added, missing = [n for n in found if n not in known], [n for n in known if n not in found]
        if added:
            raise ConfigError(f"tensor {added[0]!r} is not one of those that the aggregator was made for; make another")
        raise ConfigError(f"tensor {min(missing)!r} is missing; give None for one without a gradient")

    def named(self, name: str) -> Tensor:
        """The tensor of that name. Raises ConfigError where there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise ConfigError(f"tensor {name!r} is not one of those that the aggregator was made for")

    def fresh(self, tensor: Tensor, given: Any) -> Any:
        """An empty array or tensor for a result: as the caller's, or where that is None as `like`."""
        if self.torch:
            like = given if is_torch(given) and not given.is_sparse else self._like[tensor.name]
            return sys.modules["torch"].empty_like(like, requires_grad=False)
        kind = given.dtype if isinstance(given, np.ndarray) and given.dtype.kind == "f" else np.dtype(tensor.kind)
        return np.empty(tensor.shape, kind)

    def put_together(self, arrays: dict[str, Any]) -> Any:
        """Arrays by name, as the caller had them."""
        if self._single:
            return arrays[""]
        if self._mapping:
            return {key: arrays[str(key)] for key in self.keys}
        return [arrays[tensor.name] for tensor in self.tensors]


def _described(name: str, value: Any) -> Tensor:
    if is_torch(value):
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in _TORCH_DTYPES:
            raise ConfigError(f"tensor {name!r} is of dtype {kind}; allowed: {', '.join(_TORCH_DTYPES)}")
    else:
        value = np.asanyarray(value)
        kind = value.dtype.name
        if value.dtype.kind != "f" or value.dtype.itemsize > 8:
            what = f"tensor {name!r}" if name else "the array"
            raise ConfigError(f"{what} is of dtype {kind}; allowed: float16, float32, float64")
    return Tensor(name, tuple(value.shape), kind, np.dtype(np.float64 if kind == "float64" else np.float32))


def told(error: BaseException) -> str:
    """An exception in a message: mpicomp's own by what they say, others with their kind."""
    return str(error) if isinstance(error, MpicompError) else f"{type(error).__name__}: {error}"


def check_shape(tensor: Tensor, array: Any) -> None:
    """Raises ConfigError where an array is none of the tensor's shape."""
    shape = getattr(array, "shape", None)
    if shape is None or tuple(shape) != tensor.shape:
        got = type(array).__name__ if shape is None else f"shape {tuple(shape)}"
        raise ConfigError(f"{tensor.called} has shape {tensor.shape}, got {got}")


def not_finite(tensor: Tensor, flat: np.ndarray) -> str:
    """Which entry of a tensor is not finite, for a message; empty where all are. flat : its entries, shape (size,)."""
    if np.isfinite(flat).all():
        return ""
    at = int(np.flatnonzero(~np.isfinite(flat))[0])
    return f"{tensor.called} holds {flat[at]} at entry {at}"


def as_numpy(array: Any) -> np.ndarray:
    """An array or tensor as NumPy's, not copied where that is possible; bfloat16, which NumPy lacks, in float32."""
    if not is_torch(array):
        return np.asarray(array)
    here = array.detach().cpu()
    return np.asarray((here.float() if str(here.dtype) == "torch.bfloat16" else here).numpy())


def check_writable(tensor: Tensor, array: Any) -> None:
    """Raises ConfigError where a mean cannot be written into an array or tensor."""
    if is_torch(array):
        twice = not array.is_sparse and any(
            step == 0 and size > 1 for step, size in zip(array.stride(), array.shape, strict=True)
        )
        why = "is expanded: entries share memory" if twice else ""
        why = why or ("" if array.is_floating_point() else f"is of dtype {array.dtype}")
    elif not isinstance(array, np.ndarray):
        why = f"is a {type(array).__name__}"
    else:
        why = "" if array.dtype.kind == "f" else f"is of dtype {array.dtype}"
        why = why or ("" if array.flags.writeable else "is read-only")
    if why:
        raise ConfigError(
            f"{tensor.called} {why}, so the mean cannot be written into it; use mean, which gives new arrays"
        )


def copy_in(flat: np.ndarray, tensor: Tensor, array: Any) -> None:
    """flat ← the entries of an array or tensor, in flat's dtype; flat : shape (size,), contiguous."""
    if is_torch(array):
        torch = sys.modules["torch"]
        if array.is_complex():
            raise ConfigError(f"{tensor.called} is of dtype {array.dtype}; a mean is of real numbers")
        dense = array.detach()
        torch.from_numpy(flat).view(tensor.shape).copy_(dense.to_dense() if dense.is_sparse else dense)
    else:
        np.copyto(flat.reshape(tensor.shape), array, casting="same_kind")


def copy_out(array: Any, tensor: Tensor, flat: np.ndarray) -> None:
    """The entries of an array or tensor ← flat, in the array's dtype."""
    if is_torch(array):
        torch = sys.modules["torch"]
        with torch.no_grad():
            array.copy_(torch.from_numpy(flat).view(tensor.shape))
    else:
        np.copyto(array, flat.reshape(tensor.shape), casting="same_kind")
