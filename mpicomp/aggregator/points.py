"""Gradients at two points: the change since the last call's point, for mechanisms such as MARINA's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..kernels.rows import finite_rows
from .bucket import ONE_ROW, Vector
from .tensors import Structure, as_numpy, copy_in, copy_out, told


class TwoPoints:
    """The last call's point, and this one's.

    Attributes
    ----------
    previous : arrays by tensor; None where there is no point to compare with.
    current : of the call that is under way.
    error : what was found wrong at the last point, while others exchange.
    """

    def __init__(self, structure: Structure):
        self.structure = structure
        self.previous: dict[str, np.ndarray] | None = None
        self.current: dict[str, np.ndarray] | None = None
        self.error = ""

    def begin(self) -> None:
        """A call begins; until it gives a point, that of the last call stays."""
        self.current, self.error = self.previous, ""

    def end(self) -> None:
        """The call has gone well."""
        self.previous = self.current

    def forget(self, buckets: list[Vector]) -> None:
        """Mechanisms of two points begin anew, with the gradient itself for the next change: their memory is of the last point."""
        self.previous = None
        for bucket in buckets:
            if bucket.two_points:
                bucket.restart()

    def give(self, evaluate: Callable[[Any], Any], at: Any, buckets: list[Vector]) -> None:
        """Let the uplinks ask for the change since the last call's point, and remember this one."""
        point = {name: np.array(as_numpy(array)) for name, array in self.structure.taken(at).items()}
        if len(point) < len(self.structure.tensors):
            raise ConfigError("mean got a function without a point; give the point, agg.mean(gradient, at=params)")
        previous, self.current = self.previous, point
        found: dict[str, Any] = {}

        def change(bucket: Vector) -> np.ndarray:
            other = np.zeros((1, bucket.dim), bucket.dtype)
            try:
                if previous is not None and not found and not self.error:
                    found.update(self.structure.taken(evaluate(self._as_given(previous, at))))
                for tensor in bucket.tensors:
                    if tensor.name in found:
                        copy_in(other[0, bucket.places[tensor.name]], tensor, found[tensor.name])
                np.multiply(other, bucket.dtype.type(bucket.given.scale), out=other)
                np.subtract(bucket.given.V, other, out=other)
                if not finite_rows(other, ONE_ROW):
                    raise ConfigError("the gradient at the point before is not finite")
            except Exception as error:
                self.error = self.error or f"at the point before, {told(error)}"
            if self.error:
                bucket.refuse()
                other[:] = 0
            return other

        for bucket in buckets:
            bucket.given.change = lambda bucket=bucket: change(bucket)

    def _as_given(self, point: dict[str, np.ndarray], at: Any) -> Any:
        """A remembered point, as the caller has points."""
        like, arrays = self.structure.taken(at), {}
        for tensor in self.structure.tensors:
            arrays[tensor.name] = self.structure.fresh(tensor, like.get(tensor.name))
            copy_out(arrays[tensor.name], tensor, point[tensor.name].reshape(-1))
        return self.structure.put_together(arrays)
