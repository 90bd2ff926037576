"""Data-parallel logistic regression with mpi4py, and one line changed.

    mpicomp launch -n 3 -- python examples/allreduce_numpy.py

The loop is the one that everybody has: each rank has its own samples, an Allreduce averages the gradients, every rank takes the step.
With the aggregator in place of the Allreduce the messages are compressed; the rest stays as it is.
"""

import numpy as np
from mpi4py import MPI

import mpicomp as mc

comm = MPI.COMM_WORLD
rng = np.random.default_rng(comm.rank)
d, samples = 2000, 400
truth = np.random.default_rng(100).standard_normal(d)
A = rng.standard_normal((samples, d))
y = np.sign(A @ truth + 0.1 * rng.standard_normal(samples))


def gradient(x: np.ndarray) -> np.ndarray:
    """Of the mean logistic loss of this rank's samples, with a small ridge."""
    s = -y / (1.0 + np.exp(y * (A @ x)))
    return A.T @ s / samples + 1e-3 * x


x = np.zeros(d)
aggregator = mc.Aggregator(comm, x, uplink="ef21:topk:fraction=0.01", downlink="ef21-p:topk:fraction=0.05")
sent = 0
for _ in range(300):
    g = aggregator.mean(gradient(x))  # before: comm.Allreduce(gradient(x), g); g /= comm.size
    x -= 1.0 * g
    sent += aggregator.last.bytes["uplink"]["message"] + aggregator.last.bytes["downlink"]["message"]

right = comm.allreduce(int(np.sum(np.sign(A @ x) == y))) / (samples * comm.size)
same = len(set(comm.allgather(x.tobytes()))) == 1
if comm.rank == 0:
    dense = 300 * 2 * x.nbytes
    print(f"{right:.1%} of the training samples are right; the model is the same on all ranks: {same}")
    print(f"rank 0 sent {sent / 1e6:.2f} MB; two dense vectors a step would be {dense / 1e6:.2f} MB")
aggregator.close()
