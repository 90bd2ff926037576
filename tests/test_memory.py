"""What a run needs of memory: vectors of the model's length on each rank, and rows of data."""

from __future__ import annotations

import re

import pytest

from mpicomp.exchanges.local import LocalExchange

VECTORS = """
import resource, sys
from mpi4py import MPI
import mpicomp as mc

comm, method, d = MPI.COMM_WORLD, sys.argv[1], 1 << 22

def run(dim):
    options = {"compressor": "topk:fraction=0.01"} if method == "ef21" else {}
    options.update(problem="quadratic", problem_options={"dim": dim}, clients=1, method=method, step=0.1, rounds=3, dtype="float32")
    mc.run(comm=comm, **options)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = run(64)  # Python, NumPy, Numba and MPI, with their kernels
print(f"rank {comm.rank}: {(run(d) - before) / (4 * d):.2f} vectors", flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("method", ["gd", "ef21"])
def test_a_rank_needs_six_or_seven_vectors(mpi, tmp_path, method):
    """A worker: its point and gradient; in an evaluation x, a gradient, and the sums of the chain in float64. EF21's server has g, too."""
    (tmp_path / "vectors.py").write_text(VECTORS)
    said = mpi.run(2, [tmp_path / "vectors.py", method], timeout=100).check().out
    needed = {int(rank): float(count) for rank, count in re.findall(r"rank (\d): ([\d.]+) vectors", said)}
    assert set(needed) == {0, 1} and max(needed.values()) < 7.6, said


def test_buffers_are_made_again_when_they_are_needed():
    exchange = LocalExchange(1, 5)
    first = exchange.buffer(("frame",), 100)
    assert exchange.buffer(("frame",), 50) is first
    exchange.drop_buffers()
    assert exchange.buffer(("frame",), 50) is not first
