"""What counts as a vector where a user hands one over."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError

_EXACT = 2**53  # integers up to here are float64 numbers


def vector_of(x: ArrayLike, name: str = "x") -> np.ndarray:
    """x as a contiguous vector of float32 or float64, shape (d,), d ≥ 1; converted only where that loses nothing.

    float32 and float64 stay what they are, float16 becomes float32, and booleans, integers and lists of numbers become float64.

    >>> vector_of([1, 2, 3])
    array([1., 2., 3.])

    Raises
    ------
    ConfigError : x has another number of dimensions, no entry, or entries that are not real numbers or do not fit; names them.
    """
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ConfigError(f"{name} is not an array: {error}") from None
    if array.ndim != 1:
        remedy = "; compress its rows one by one, or flatten it with ravel()" if array.ndim > 1 else ""
        raise ConfigError(f"{name} has shape {array.shape}, a vector of shape (d,) is needed{remedy}")
    if array.size == 0:
        raise ConfigError(f"{name} has no entries; at least one is needed")
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        dtype = np.float64 if array.dtype.itemsize == 8 else np.float32
        return np.ascontiguousarray(array, dtype)  # also from the other byte order
    if array.dtype.kind in "biu":
        if array.dtype.itemsize == 8 and np.any(
            (array > _EXACT) | (array < -_EXACT if array.dtype.kind == "i" else False)
        ):
            raise ConfigError(
                f"{name} holds integers above 2**53, which float64 cannot hold; scale them, or round them yourself"
            )
        return np.ascontiguousarray(array, np.float64)
    if array.dtype.kind == "f":
        converted = np.ascontiguousarray(array, np.float64)
        if np.array_equal(converted, array, equal_nan=True):
            return converted
    raise ConfigError(f"{name} holds {array.dtype} entries; float32, float64, or what they hold without loss is needed")
