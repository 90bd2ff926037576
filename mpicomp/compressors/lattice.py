"""The lattices of the correlated and independent quantizers, and the constants that follow from their spacing.

All results here are derived and tested by Monte Carlo (`tests/test_correlated.py`); the paper's own constants are
larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from ..errors import ConfigError
from ..kernels.hadamard import first_window

INTERVAL, SIGN_MAGNITUDE = "interval", "sign-magnitude"
VARIANTS = (INTERVAL, SIGN_MAGNITUDE)


@dataclass(frozen=True)
class Lattice:
    """Points r (q − b_j)/slope in [−r, r], q = 0, ..., symbols − 1, with offsets b_j = base + spread·u_j, u_j ∈ (0, 1].

    With v(t) the variance of rounding a coordinate x_j = t r, in units of r²:

    interval, 2 levels {−r, r}: v(t) = 1 − t².
    interval, k ≥ 3 levels (Suresh et al. 2022, Algorithm 2): neighbours are 2βr apart, β = (k+1)/(k(k−1)), and the
    offset moves over a
        window of w = (k−1)/(k+1) of that. v(t) ≤ β²(1 − w²/3), and for odd k also v(t) ≤ β² w(3−w)/3 + 2t²/(k−1).
    sign-magnitude, magnitudes 0, r/s, ..., r: v(t) = f(1−f)/s² with f the fractional part of s|t|.

    Parameters
    ----------
    variant : "interval" or "sign-magnitude". levels : number of points, or of magnitudes with zero among them.
    """

    variant: str
    levels: int

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant={self.variant!r} is unknown; known: {', '.join(VARIANTS)}")
        if not isinstance(self.levels, int) or not 2 <= self.levels <= 32768:
            raise ConfigError(f"levels={self.levels} must be an integer from 2 to 32768")

    @property
    def signed(self) -> bool:
        """Zero is a lattice point, and the number of points is odd."""
        return self.variant == SIGN_MAGNITUDE

    @property
    def spacing(self) -> float:
        """δ: neighbours are 2δr apart."""
        k = self.levels
        if self.signed:
            return 0.5 / (k - 1)
        return 1.0 if k == 2 else (k + 1) / (k * (k - 1))

    @property
    def slope(self) -> float:
        """1/(2δ)."""
        return 0.5 / self.spacing

    @property
    def offset(self) -> tuple[float, float]:
        """(base, spread): z = slope·x/r + base + spread·u lies in [0, symbols − 1]."""
        if self.signed:
            return float(self.levels - 1), 0.0
        return self.slope, 0.0 if self.levels == 2 else 1.0 / (self.levels * self.spacing)

    @property
    def symbols(self) -> int:
        """Number of lattice points."""
        return 2 * self.levels - 1 if self.signed else self.levels

    def omega(self, size: float, d: int, use_max: bool) -> float:
        """A bound on E‖Q(x) − x‖²/‖x‖².

        Parameters
        ----------
        size : a bound on d E r²/‖x‖². d : number of coordinates. use_max : r = max|x_j|, not ‖x‖₂.
        """
        k, delta = self.levels, self.spacing
        if self.signed:
            s = k - 1
            if use_max:  # as QSGD with the max norm
                return min(size / (4 * s**2), (sqrt(1 + (d - 1) / s**2) - 1) / 2)
            return min(size / (4 * s**2), sqrt(d) / s - (s == 1))  # Σ r|x_j| − x_j² for s = 1
        if k == 2:
            return max(size - 1.0, 0.0)
        w = (k - 1) / (k + 1)
        worst = delta**2 * (1 - w**2 / 3) * size
        return worst if k % 2 == 0 else min(worst, delta**2 * w * (3 - w) / 3 * size + 2 / (k - 1))


def largest_square(vectors: int, d: int) -> float:
    """A bound on d E max z_j²/max‖x‖² over `vectors` vectors of dimension d rotated by the same random signs: H D x/√d
    where d is a power of two, else in two windows of the N entries that `hadamard.first_window` names.

    Every z_j is subgaussian with variance proxy ‖x‖²/N, hence E max ≤ (ln(vectors·d) − ½ ln(1−2λ))/λ · ‖x‖²/N for each
    λ < 1/2; and z_j² ≤ ‖x‖².

    >>> round(largest_square(1, 1024), 2), largest_square(1, 2)
    (17.74, 2.0)
    """
    grid = np.linspace(0.05, 0.4999, 200)
    return float(min(np.min((log(vectors * d) - 0.5 * np.log(1 - 2 * grid)) / grid) * (d / first_window(d)), d))
