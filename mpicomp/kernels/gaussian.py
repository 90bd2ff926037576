"""Products with Gaussian vectors ξ_1, …, ξ_m that are made on the way and never stored together."""

from __future__ import annotations

from . import njit
from .random import client_key, fill_normal


@njit
def project(key, V, xi, out):
    """out[i, j] = ⟨V_i, ξ_j⟩; `xi` is scratch, float64, shape (d,). ξ_j depends on the key and j alone."""
    for j in range(out.shape[1]):
        fill_normal(client_key(key, j), xi)
        for i in range(V.shape[0]):
            total = 0.0
            for c in range(xi.shape[0]):
                total += V[i, c] * xi[c]
            out[i, j] = total


@njit
def combine(key, p, xi, out):
    """out = (1/m) Σ_j p_j ξ_j with the vectors of `project`."""
    out[:] = 0
    m = p.shape[0]
    for j in range(m):
        fill_normal(client_key(key, j), xi)
        factor = p[j] / m
        for c in range(xi.shape[0]):
            out[c] += factor * xi[c]
