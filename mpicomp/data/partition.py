"""Which client holds which rows.

A partition is an order of the rows and offsets into it: client i holds rows `order[offsets[i]:offsets[i+1]]`. Unless a
partition says otherwise the sizes are floor(N/n), and the last client also gets the remainder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, unknown
from ..kernels.dealing import deal_rows
from ..kernels.random import Stream, derive, permutation
from ..kernels.sparse import squared_norms
from ..registry import parse_spec
from .tables import SparseRows

MOST_CLASSES = 100
EIGENVECTORS, EIGENVECTORS_NBYTES = 16, 1 << 30  # that partition `heterogeneous` keeps for each client, and for all


class Partition(NamedTuple):
    """Rows of client i: `order[offsets[i]:offsets[i+1]]`; int64, shapes (N,) and (n + 1,)."""

    order: np.ndarray
    offsets: np.ndarray


def partition_rows(text: str, rows: SparseRows, clients: int, seed: int = 0) -> Partition:
    """Share the rows out as `text` says: `contiguous`, `shuffled`, `sorted`, `sorted:key=norm`, `dirichlet:0.1`,
    `heterogeneous`.

    >>> from mpicomp.data import load
    >>> partition_rows("contiguous", load("mushrooms"), 20).offsets[-3:]
    array([7308, 7714, 8124])

    Raises
    ------
    ConfigError : unknown partition or option, more clients than rows.
    """
    n_rows = len(rows.labels)
    if not 1 <= clients <= n_rows:
        raise ConfigError(
            f"{clients} clients cannot share {n_rows} rows: every client needs one; choose 1 to {n_rows} clients"
        )
    name, _, rest = text.strip().partition(":")
    if name not in partitions:
        raise unknown("partition", name, partitions)
    if name == "dirichlet" and rest and "=" not in rest:
        text = f"{name}:beta={rest}"
    try:
        return partitions[name](rows, clients, seed, **parse_spec(text)[1])
    except TypeError as error:
        raise ConfigError(f"partition {text!r}: {error}") from error


def contiguous(rows: SparseRows, clients: int, seed: int) -> Partition:
    """the order of the file"""
    return _equal_sizes(np.arange(len(rows.labels)), clients)


def shuffled(rows: SparseRows, clients: int, seed: int) -> Partition:
    """a uniform permutation of the rows"""
    return _equal_sizes(_permutation(len(rows.labels), seed), clients)


def by_key(rows: SparseRows, clients: int, seed: int, key: str = "label") -> Partition:
    """increasing label (or with key=norm increasing Euclidean norm), ties in the order of the file"""
    if key == "label":
        values = rows.labels
    elif key == "norm":
        values = squared_norms(rows.indptr, rows.values)
    else:
        raise unknown("key of partition 'sorted':", key, ("label", "norm"))
    return _equal_sizes(np.argsort(values, kind="stable"), clients)


def dirichlet(rows: SparseRows, clients: int, seed: int, beta: float = 0.5) -> Partition:
    """each class in proportions drawn from the symmetric Dirichlet(β): the smaller β, the more the labels differ

    Label skew as in Hsu, Qi and Brown 2019 (arXiv 1909.06335). A client left without rows takes one from the largest
    client.
    """
    if not (isinstance(beta, (int, float)) and 0 < beta < np.inf):
        raise ConfigError(f"partition 'dirichlet' needs a number above 0, for example dirichlet:0.1; got {beta!r}")
    classes, label_of = np.unique(rows.labels, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        raise ConfigError(f"partition 'dirichlet' needs classes, but the labels have {len(classes)} different values")
    shuffle = _permutation(len(label_of), seed)
    owner = np.empty(len(label_of), np.int64)
    for c in range(len(classes)):
        members = shuffle[label_of[shuffle] == c]
        generator = np.random.Generator(np.random.Philox(key=int(derive(seed, Stream.PARTITION, c + 1))))
        cuts = np.rint(np.cumsum(generator.dirichlet(np.full(clients, float(beta)))) * len(members)).astype(np.int64)
        owner[members] = np.searchsorted(cuts[:-1], np.arange(len(members)), side="right")
    sizes = np.bincount(owner, minlength=clients)
    for empty in np.flatnonzero(sizes == 0):
        largest = np.argmax(sizes)
        owner[np.flatnonzero(owner == largest)[-1]] = empty
        sizes[largest] -= 1
        sizes[empty] = 1
    return Partition(np.argsort(owner, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))


def heterogeneous(rows: SparseRows, clients: int, seed: int) -> Partition:
    """equal shares whose smoothness constants differ as much as a greedy search makes them

    In the manner of Richtárik, Gasanov and Burlachenko 2024 (arXiv 2402.10774), whose L_var on phishing with n = 1000 it gives.
    The rows stand in increasing order of their own smoothness, which is proportional to ‖a‖²; client i = 1..n begins with row
    ⌊(i − ½)N/n⌋ of that order; every other row, in order, goes to the client with less than ⌊N/n⌋ rows for which the variance of the
    λ_max(A_iᵀA_i)/N_i, the L_i up to constants, becomes largest. What is left when all are full goes to the last client.
    """
    order = np.argsort(squared_norms(rows.indptr, rows.values), kind="stable")
    owner = np.empty(len(order), np.int64)
    rank = int(np.clip(EIGENVECTORS_NBYTES // (8 * clients * rows.features), 1, EIGENVECTORS))
    deal_rows(rows.indptr, rows.indices, rows.values, order, clients, len(order) // clients, rows.features, rank, owner)
    owner[owner < 0] = clients - 1
    return Partition(
        np.argsort(owner, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=clients))])
    )


partitions: dict[str, Callable[..., Partition]] = {
    "contiguous": contiguous,
    "shuffled": shuffled,
    "sorted": by_key,
    "dirichlet": dirichlet,
    "heterogeneous": heterogeneous,
}


def needs_entries(text: str) -> bool:
    """A partition looks at the rows' entries, not only at their labels.

    >>> needs_entries("sorted:key=norm"), needs_entries("dirichlet:0.1")
    (True, False)
    """
    name, _, options = text.strip().partition(":")
    return name not in ("contiguous", "shuffled", "dirichlet") and (name, options) not in (
        ("sorted", ""),
        ("sorted", "key=label"),
    )


def _equal_sizes(order: np.ndarray, clients: int) -> Partition:
    offsets = np.arange(clients + 1, dtype=np.int64) * (len(order) // clients)
    offsets[-1] = len(order)
    return Partition(order.astype(np.int64), offsets)


def _permutation(n: int, seed: int) -> np.ndarray:
    order = np.empty(n, np.int64)
    permutation(derive(seed, Stream.PARTITION), order)
    return order
