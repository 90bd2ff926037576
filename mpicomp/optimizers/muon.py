"""Muon's step: each tensor moves to where a linear function is least within a ball of its own norm, spectral for matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod, sqrt
from typing import Unpack

import numpy as np

from ..errors import ConfigError, unknown
from .base import optimizers
from .schedule import Scheduled, ScheduleOptions

RADII = ("one", "original", "rms")
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the Newton–Schulz iteration, Jordan et al. 2024

Shape = tuple[int, ...]


@optimizers.register("muon")
class Muon(Scheduled):
    """x_l ← (1 − γ_t λ) x_l − γ_t ρ_l O(g_l) for each tensor x_l of x. Jordan et al. 2024; Pethick et al. 2025.

    −O(g) is where ⟨g, ·⟩ is least in the unit ball of a norm. For matrices that is the spectral norm, and O(g) = UVᵀ of the singular
    value decomposition g = UΣVᵀ, which a Newton–Schulz iteration approximates: singular values between 0.68 and 1.14. A tensor of more
    than two dimensions is the matrix of its first one and all others. Vectors have the largest magnitude for a norm: O(g) = sign(g).

    Momentum is not part of it: in EF21-Muon it is the clients'.

    Parameters
    ----------
    shapes : of the tensors of x, in their order, "64x32+64" for a matrix and a vector; by default x is one vector.
    iterations : of Newton–Schulz; 0 for the singular value decomposition itself.
    radius : ρ_l of a matrix of a rows and b columns: "one"; "original", √max(1, a/b); or "rms", √max(a, b)/5. 1 for vectors.
    weight_decay : λ ≥ 0. For the others see `Scheduled`.

    Raises
    ------
    ConfigError : an option outside its range, or x of another dimension than the shapes (with one of several servers: of a slice).
    """

    def __init__(
        self,
        shapes: str = "",
        iterations: int = 5,
        radius: str = "one",
        weight_decay: float = 0.0,
        **schedule: Unpack[ScheduleOptions],
    ):
        super().__init__(**schedule)
        if radius not in RADII:
            raise unknown("radius of optimizer 'muon':", radius, RADII)
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
            raise ConfigError(f"{self.name}: iterations={iterations} is a whole number, 0 for an exact decomposition")
        if not weight_decay >= 0:
            raise ConfigError(f"{self.name}: weight_decay={weight_decay} is negative")
        self.shapes, self.iterations, self.radius, self.weight_decay = shapes, iterations, radius, weight_decay
        self._tensors = parse_shapes(shapes)

    def start(self, x: np.ndarray, step_size: float) -> None:
        super().start(x, step_size)
        dim = sum(map(prod, self._tensors))
        if self._tensors and dim != x.shape[1]:
            raise ConfigError(
                f"{self.name}: the tensors {self.shapes} have {dim} entries, and x has {x.shape[1]} here; one server must have all of x, "
                "as with «exchange='p2p'»"
            )

    def step(self, x: np.ndarray, g: np.ndarray) -> None:
        step = self.advance()
        if self.weight_decay:
            x *= x.dtype.type(1.0 - step * self.weight_decay)
        lo = 0
        for shape in self._tensors or [(x.shape[1],)]:
            hi = lo + prod(shape)
            part = g[0, lo:hi]
            if len(shape) < 2:
                direction, size = np.sign(part), 1.0
            else:
                matrix = part.reshape(shape[0], -1)
                direction, size = (
                    orthogonalized(matrix, self.iterations).reshape(-1),
                    radius_of(self.radius, matrix.shape),
                )
            x[0, lo:hi] -= x.dtype.type(step * size) * direction
            lo = hi


def orthogonalized(g: np.ndarray, iterations: int = 5) -> np.ndarray:
    """UVᵀ of g = UΣVᵀ, in g's dtype and shape (a, b); by so many steps of X ← aX + (bA + cA²)X, A = XXᵀ, from X = g/‖g‖; 0: exactly.

    Directions in which g is zero stay zero: of a matrix of rank r, U and V have r columns. Of a matrix that is not finite, NaN.
    """
    if not np.isfinite(g).all():
        return np.full_like(g, np.nan)
    largest = np.max(np.abs(g), initial=0)
    if largest == 0:
        return np.zeros_like(g)
    if iterations == 0:
        u, s, v = np.linalg.svd(g, full_matrices=False)
        found = s > s[0] * max(g.shape) * np.finfo(g.dtype).eps  # the others have no direction
        return u[:, found] @ v[found]
    X = g / largest  # whose squares neither overflow nor vanish
    X = X / np.linalg.norm(X)
    if g.shape[0] > g.shape[1]:
        X = X.T
    a, b, c = (g.dtype.type(value) for value in COEFFICIENTS)
    for _ in range(iterations):
        A = X @ X.T
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.T if g.shape[0] > g.shape[1] else X


def radius_of(radius: str, shape: Sequence[int]) -> float:
    """ρ of a matrix of this shape."""
    if radius == "original":
        return sqrt(max(1.0, shape[0] / shape[1]))
    return 0.2 * sqrt(max(shape)) if radius == "rms" else 1.0


def parse_shapes(text: str) -> list[Shape]:
    """Shapes from their text; a dimension of 0 has no place in it.

    >>> parse_shapes("64x32+64"), parse_shapes("")
    ([(64, 32), (64,)], [])

    Raises
    ------
    ConfigError : the text is none.
    """
    text = str(text)
    if text and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*(\+[1-9]\d*(x[1-9]\d*)*)*", text):
        raise ConfigError(f"shapes={text!r}: write for example 64x32+64 for a matrix of 64 rows and a vector")
    return [tuple(int(n) for n in part.split("x")) for part in text.split("+")] if text else []


def format_shapes(shapes: Sequence[Shape]) -> str:
    """The text of `parse_shapes`; scalars count as vectors of one entry.

    >>> format_shapes([(64, 32), (), (7,)])
    '64x32+1+7'
    """
    return "+".join("x".join(map(str, shape or (1,))) for shape in shapes)
