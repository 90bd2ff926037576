"""Sums round a ring: every rank has the same bits, those of the order that is promised, and hands MPI the bytes that are said."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.cluster import ring
from mpicomp.cluster.comm import Comm
from mpicomp.cluster.ledger import Ledger


def test_when_a_ring_pays():
    least = ring.LEAST_NBYTES
    assert ring.moves_less(5, 5, 5 * least) and ring.moves_less(3, 2, 3 * least) and ring.moves_less(12, 3, 100 * least)
    assert not any(ring.moves_less(size, size, 100 * least) for size in (1, 2, 4, 8, 16))
    assert not ring.moves_less(5, 1, 5 * least) and not ring.moves_less(5, 5, 5 * least - 1)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_bytes_of_a_ring(size):
    """2 (P − 1)/P vectors, and no rank's share is further from it than two numbers a step."""
    for count in (size, 1000, 100_003):
        shares = [ring.ring_nbytes(rank, size, count, 4) for rank in range(size)]
        assert sum(shares) == 4 * count * 2 * (size - 1)
        assert max(shares) - min(shares) <= 4 * 2 * size


@pytest.mark.process
@pytest.mark.parametrize("ranks", shortened([3, 5, 2], 1, "other numbers of ranks"))
def test_sums(mpi, ranks):
    mpi.run(ranks, [__file__, "sums"], timeout=120, MPICOMP_NAP="30").check()


@pytest.mark.process
def test_runs_and_their_bytes(mpi):
    extra = [] if mpi.is_open_mpi else ["-genv", "MPIR_CVAR_NUM_CLIQUES", "3"]
    if not extra:
        pytest.skip("only MPICH pretends to have several nodes")
    mpi.run(3, [__file__, "runs"], timeout=120, extra=extra, MPICOMP_NAP="30").check()


def sums(comm: Any) -> None:
    counted = Comm(comm, Ledger())
    size, rank = counted.size, counted.rank
    for piece in (1 << 18, 64):
        ring.PIECE_NBYTES = piece
        for dtype in (np.float32, np.float64):
            for count in (1, size, 1001, 20_011):
                X = np.random.default_rng(count).standard_normal((size, count)).astype(dtype)
                X[:, 0] = np.nan if count == 1001 else X[:, 0]
                values = X[rank].copy()
                before = sum(nbytes for _, nbytes in counted.ledger.by_function().values())
                ring.ring_sum(counted, values, np.empty(ring.ring_scratch(size, values), np.uint8))
                handed = sum(nbytes for _, nbytes in counted.ledger.by_function().values()) - before
                assert handed == ring.ring_nbytes(rank, size, count, values.itemsize)
                expected = np.empty(count, dtype)
                for s in range(size):
                    own = slice(s * count // size, (s + 1) * count // size)
                    total = X[s, own].copy()
                    for k in range(1, size):
                        total += X[(s + k) % size, own]
                    expected[own] = total
                np.testing.assert_array_equal(values, expected)
    counted.free()


def runs(comm: Any) -> None:
    """The trajectory of the star up to rounding, by the ring and by the library; the ledger's bytes are those handed to MPI."""
    options: dict[str, Any] = {
        "problem": "quadratic", "problem_options": {"dim": 50_000, "reg": 0.01}, "clients": 6, "rounds": 5, "step": 0.01, "method": "gd",
        "init": "normal:1", "eval_every": 5,
    }  # fmt: skip
    star = mc.run(comm=comm, exchange="p2p", **options)
    result = mc.run(comm=comm, exchange="allreduce", **options)
    if comm.rank == 0:
        np.testing.assert_allclose(result.x, star.x, rtol=1e-10, atol=1e-12)
        message = result.summary["bytes"]["uplink"]["message"]
        vectors = message / (8 * 50_004 * 2 * (comm.size - 1))
        assert vectors == round(vectors) and vectors >= 5, vectors


if __name__ == "__main__":
    from mpi4py import MPI

    {"sums": sums, "runs": runs}[sys.argv[1]](MPI.COMM_WORLD)
