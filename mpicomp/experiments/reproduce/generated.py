"""Data that a paper generated: least squares whose clients differ in smoothness, or share few features. Written as LIBSVM text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Clients = list[tuple[np.ndarray, np.ndarray]]  # (A_i, b_i) of each client, all of the same number of rows


def uneven(n: int, dim: int, rows: int, sigma: float, L: float, seed: int = 0) -> Clients:
    """Clients of f_i(x) = (1/N)‖A_i x − b_i‖² whose L_i are log-normal with deviation σ, all scaled so that f has the constant `L`.

    A_i is normal before it is scaled, b_i = A_i x* + noise. The mean of the L_i is about the same for every σ, their variance is not.
    """
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, rows, dim))
    wanted = np.exp(sigma * rng.normal(size=n))
    A *= np.sqrt(wanted / np.linalg.norm(A, ord=2, axis=(1, 2)) ** 2)[:, None, None]
    together = np.einsum("irj,irk->jk", A, A) * (2.0 / (n * rows))
    A *= np.sqrt(L / np.linalg.eigvalsh(together)[-1])
    b = A @ rng.normal(size=dim) + 0.1 * rng.normal(size=(n, rows))
    return list(zip(A, b, strict=True))


def rare(
    n: int, dim: int, rows: int, share: float, seed: int = 0, mu: float = 1.0, L: float = 20.0, sigma: float = 0.0
) -> Clients:
    """Each feature occurs at c = ⌈share·n⌉ random clients; the Hessians (2/N) A_iᵀA_i have eigenvalues evenly between μ and L.

    As in the program of Richtárik, Gasanov and Burlachenko 2023: singular values √((L−μ) j/(k−1) + μ), of which 0.9 is taken and, at
    client 0, 1 is added; b_i = A_i·½ + U[−2, 2]. With sigma > 0 each client's Hessian is multiplied by exp(sigma z), z normal.
    """
    rng = np.random.default_rng(seed)
    c = int(np.ceil(share * n))
    has = np.zeros((n, dim), bool)
    for feature in range(dim):
        has[rng.choice(n, c, replace=False), feature] = True
    clients = []
    for i in range(n):
        columns = np.flatnonzero(has[i])
        k = min(rows, len(columns))
        A = np.zeros((rows, dim))
        if k:
            left, _ = np.linalg.qr(rng.normal(size=(rows, k)))
            right, _ = np.linalg.qr(rng.normal(size=(len(columns), k)))
            values = 0.9 * np.sqrt((L - mu) * np.arange(k) / max(k - 1, 1) + mu) + (1.0 if i == 0 else 0.0)
            A[:, columns] = (left * values) @ right.T * np.sqrt(rows / 2)
        if sigma:
            A *= np.exp(0.5 * sigma * rng.normal())
        clients.append((A, A @ np.full(dim, 0.5) + rng.uniform(-2, 2, rows)))
    return clients


def write(path: Path, clients: Clients) -> str:
    """Write the rows, client after client, where they are not written yet; partition `contiguous` gives every client its own.

    Numbers have the digits that bring them back exactly. Returns the path.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        with open(half, "w", encoding="utf-8") as file:
            for A, b in clients:
                for row, label in zip(A, b, strict=True):
                    entries = " ".join(f"{c + 1}:{row[c]:.17g}" for c in np.flatnonzero(row))
                    file.write(f"{label:.17g} {entries}\n")
        half.replace(path)
    return str(path)
