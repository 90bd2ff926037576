"""One-bit quantizers: the constants that were published and the right ones, the exact variance, and mean estimation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime import Mean, cheapest_probability, compressor, marina_step
from ..study.estimation import mean_errors
from .evidence import Row

WIRE_BITS = 32
ONE_BIT, SIGN_MAGNITUDE = "one bit {−r, r}", "sign and magnitude {−r, 0, r}"
FORMS = {ONE_BIT: "cq", SIGN_MAGNITUDE: "cq:variant=sign-magnitude"}
SPECS = {"CQ": "cq:radius=common,norm=max", "IQ": "iq:radius=common,norm=max"}


def variances(d: int, n: int) -> dict[str, dict[str, float]]:
    """A of independent and of correlated quantizers for equal inputs, for each set of constants.

    Published, in a library of one of the authors: d/(4n) and d/(4n²), which bound those of the sign-and-magnitude form {−r, 0, r}. Right,
    for one bit and points {−r, r}: (d − 1)/n and d/n².
    """
    return {
        "published": {"IQ": d / (4 * n), "CQ": d / (4 * n**2)},
        "right": {"IQ": (d - 1) / n, "CQ": d / n**2},
    }


def expected_bits(variance: float, c: float) -> tuple[float, float]:
    """(p, (p + (1−p)c)(1 + √((1−p)/p · variance)) at it): the p with the fewest expected bits, and those, dense ones being 1."""

    def step(p: float) -> float:
        return marina_step(1.0, variance, p)

    p = cheapest_probability(step, c)
    return p, (p + (1 - p) * c) / step(p)


def limits() -> list[Row]:
    """The gain at d = n → ∞, where CQ's variance vanishes, for each set of constants and number of bits of an entry."""
    many = 10**13
    readings = [("published", 1.0), ("published", np.log2(3)), ("published", 2.0), ("right", 1.0)]
    rows = []
    for name, bits in readings:
        a, c = variances(many, many)[name], bits / WIRE_BITS
        independent, correlated = expected_bits(a["IQ"], c)[1], expected_bits(a["CQ"], c)[1]
        rows.append({"constants": name, "bits": float(bits), "gain": independent / correlated})
    return rows


def forms_table(dim: int, clients: list[int], draws: int) -> list[Row]:
    """Measured variance for equal inputs of both forms of the quantizer, over the library's constant d/(4n²) times ‖v‖²."""
    rows = []
    for n in clients:
        v = np.random.default_rng(n).standard_normal(dim)
        for form, spec in FORMS.items():
            errors = mean_errors(compressor(spec), np.tile(v, (n, 1)), draws) / (dim / (4 * n**2) * float(v @ v))
            error = float(errors.std(ddof=1) / np.sqrt(draws))
            rows.append({"n": n, "form": form, "ratio": float(errors.mean()), "standard_error": error})
    return rows


def exact_variance(V: np.ndarray, radius: float) -> float:
    """E‖mean Q(v_i) − mean v_i‖² of one-bit CQ with points {−radius, radius}, derived; V of shape (n, d).

    With y_i ∈ [0, 1], k_i = ⌊n y_i⌋, f_i = n y_i − k_i, for a coordinate in units of (2·radius)²:

        Σ_{i≠j} |y_i − y_j|(1 − |y_i − y_j|)/(2n²(n−1)) + Σ_{i≠j, k_i=k_j} min(f_i, f_j)(1 − max(f_i, f_j))/(n³(n−1)).
    """
    n = len(V)
    total = 0.0
    for y in ((V + radius) / (2 * radius)).T:
        gap = np.abs(y[:, None] - y[None])
        k = np.floor(n * y)
        f = n * y - k
        low, high = np.minimum(f[:, None], f[None]), np.maximum(f[:, None], f[None])
        same = (k[:, None] == k[None]) & ~np.eye(n, dtype=bool)
        total += np.sum(gap * (1 - gap)) / (2 * n**2 * (n - 1)) + np.sum((low * (1 - high))[same]) / (n**3 * (n - 1))
    return float(4 * radius**2 * total)


def variance_table(dim: int, clients: list[int], draws: int) -> list[Row]:
    """Measured variance of one-bit CQ beside the exact one, the independent quantizer's, and the published bound."""
    rows = []
    for n in clients:
        for inputs in ("equal", "spread"):
            rng = np.random.default_rng(n)
            V = np.tile(rng.standard_normal(dim), (n, 1)) if inputs == "equal" else rng.standard_normal((n, dim))
            radius = float(np.sqrt((V**2).sum(axis=1).max()))
            errors = mean_errors(compressor("cq:radius=common"), V, draws)
            mean = V.mean(axis=0)
            deviation = np.abs(V - mean).mean(axis=0)
            width = 2 * radius
            rows.append(
                {
                    "n": n,
                    "inputs": inputs,
                    "measured": float(errors.mean()),
                    "standard_error": float(errors.std(ddof=1) / np.sqrt(draws)),
                    "exact": exact_variance(V, radius),
                    "independent": float((radius**2 - V**2).sum() / n**2),
                    "published_bound": float((3 / n * deviation * width + 12 * width**2 / n**2).sum()),
                    "library": dim / (4 * n**2) * float((V**2).sum(axis=1).mean()) if inputs == "equal" else None,
                }
            )
    return rows


# ---- mean estimation --------------------------------------------------------------------------------------------------
def rmse(spec: str, draws: int, dim: int, n: int, sigma: float = 0.04, means: str = "uniform") -> tuple[float, float]:
    """(√ of the mean squared error of a coordinate, σ_md)."""
    problem = Mean(dim=dim, clients=n, sigma=sigma, means=means)
    return float(np.sqrt(mean_errors(compressor(spec), problem.vectors, draws).mean() / dim)), problem.deviation


def estimation_table(dim: int, clients: int, draws: int) -> list[Row]:
    """RMSE over σ, over the number of levels k, over n, and with rotation."""
    rows = []
    points: list[dict[str, Any]] = [{"sweep": "sigma", "sigma": s} for s in (0.01, 0.02, 0.04, 0.08, 0.16)]
    points += [{"sweep": "k", "levels": k} for k in (2, 3, 4, 8, 16)]
    points += [{"sweep": "n", "n": n, "sigma": 0.01} for n in (2, 5, 10, 30, 100, 300) if n <= 3 * clients]
    points += [{"sweep": "rotation", "means": "spikes", "rotate": r} for r in (False, True)]
    for point in points:
        full = {"sigma": 0.04, "levels": 2, "n": clients, "means": "uniform", "rotate": False, **point}
        for name, spec in SPECS.items():
            text = f"{spec},levels={full['levels']}" + (",rotate=true" if full["rotate"] else "")
            error, deviation = rmse(text, draws, dim, full["n"], full["sigma"], full["means"])
            rows.append({**full, "method": name, "rmse": error, "sigma_md": deviation})
    return rows
