"""The option `values` of the sparsifiers: in how many bits the kept values travel, and what that does to the theory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, unknown
from ..kernels.bits import CHUNK
from ..kernels.few_bits import EXACT, HALF, MOST, SIGN, values_nbytes

VALUES = ("exact", 2, 4, 8, "sign", "bfloat16")
ROUNDINGS = ("nearest", "stochastic")
BUCKET = 64  # values
_BITS = {"exact": EXACT, "sign": SIGN, "bfloat16": HALF}


class FewBits(NamedTuple):
    """How the values of a sparse message are coded; docs/derivations/few-bits.md derives the constants.

    Attributes
    ----------
    bits : of a value: 2, 4, 8, or EXACT, SIGN or HALF. stochastic : rounded without bias, else to the nearest.
    bucket : number of consecutive values that share scales.
    """

    bits: int
    stochastic: bool
    bucket: int

    @property
    def exact(self) -> bool:
        """The values themselves."""
        return self.bits == EXACT

    @property
    def nonexpansive(self) -> bool:
        """‖Q(v)‖ ≤ ‖v‖."""
        return self.exact or (not self.stochastic and self.bits != HALF)

    def _steps(self) -> int:
        """S: the largest number of a magnitude."""
        return int(2 ** (self.bits - 1)) - 1

    def omega(self, count: int) -> float:
        """ω of stochastic rounding, E‖Q(v) − v‖² ≤ ω‖v‖², for messages of `count` values."""
        m = min(count, self.bucket)
        if self.exact:
            return 0.0
        if self.bits == HALF:
            return 2.0**-16
        if self.bits == SIGN:
            return m - 1.0
        return (math.sqrt(1.0 + max(m - 2, 0) / self._steps() ** 2) - 1.0) / 2.0

    def kappa(self, count: int) -> float:
        """κ with E‖Q(v) − v‖² ≤ (1 − κ)‖v‖² for messages of `count` values; not positive where there is none."""
        if self.exact:
            return 1.0
        if self.stochastic:
            return 1.0 - self.omega(count)
        m, steps = min(count, self.bucket), self._steps()
        if self.bits == HALF:
            return 1.0 - 2.0**-17
        if self.bits == SIGN:
            return 1.0 / m
        if m <= 2:
            return 1.0
        if steps == 1:
            return min(0.5, 2.0 / (1.0 + math.sqrt(1.0 + (m - 1) / 4.0)))
        return 4.0 * steps**2 / (4.0 * steps**2 + m - 2)

    def nbytes(self, count: int, wire: np.dtype) -> int:
        """Bytes of `count` values."""
        return min(values_nbytes(count, self.bits, self.bucket, wire.itemsize), count * wire.itemsize)

    def part_nbytes(self, count: int, wire: np.dtype) -> int:
        """A bound on the bytes of `count` values in a part of a message."""
        if self.bits in (EXACT, HALF):
            return self.nbytes(count, wire)
        few = values_nbytes(count, self.bits, self.bucket, wire.itemsize, self.bucket - 1)
        return 2 + max(few, count * wire.itemsize)

    def scratch(self, count: int, wire: np.dtype) -> tuple | None:
        """What kernels need for `count` values at most: `few` of `kernels.few_bits.write_values`.

        None for exact values, which kernels copy: then no code for others is compiled.
        """
        return None if self.exact else self.arrays(count, wire)

    def arrays(self, count: int, wire: np.dtype) -> tuple:
        """The same also for exact values."""
        arrays = np.empty(count), np.empty(count, wire), np.empty(count, np.uint32), np.empty(CHUNK, np.uint8)
        return tuple(self), *arrays


def few_bits(name: str, values: Any, bucket: int | None, rounding: str = "nearest") -> FewBits:
    """What the options of compressor `name` say.

    Raises
    ------
    ConfigError : one of them is unknown, or does not go with the others.
    """
    if isinstance(values, bool) or not isinstance(values, int | str) or values not in VALUES:
        raise unknown(f"values of compressor {name!r}:", str(values), map(str, VALUES))
    if rounding not in ROUNDINGS:
        raise unknown(f"rounding of compressor {name!r}:", str(rounding), ROUNDINGS)
    if bucket is not None and (isinstance(bucket, bool) or not isinstance(bucket, int) or not 1 <= bucket <= MOST):
        raise ConfigError(f"{name}: bucket={bucket} must be an integer from 1 to {MOST}, a number of values")
    if bucket is not None and values in ("exact", "bfloat16"):
        raise ConfigError(f"{name}: values={values} has no scales that a bucket could share; drop bucket={bucket}")
    bits = _BITS[values] if isinstance(values, str) else values
    return FewBits(bits, rounding == "stochastic", bucket or BUCKET)
