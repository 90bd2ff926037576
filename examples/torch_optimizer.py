"""A PyTorch loop without DistributedDataParallel: the optimizer averages the gradients, compressed, before each step.

    mpicomp launch -n 3 -- python examples/torch_optimizer.py

It saves in the middle and goes on from there, bit for bit.
"""

import io

import torch
from mpi4py import MPI
from torch import nn

import mpicomp as mc
from mpicomp.torch import DistributedOptimizer

torch.set_num_threads(1)
comm = MPI.COMM_WORLD
torch.manual_seed(0)
teacher = nn.Linear(20, 3)
draws = torch.Generator().manual_seed(100 + comm.rank)
inputs = torch.randn(2000, 20, generator=draws)
labels = teacher(inputs).argmax(1)


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same model on every rank, and its optimizer."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    named = dict(model.named_parameters())
    aggregator = mc.Aggregator(
        comm, named, uplink="ef14:sign", downlink="ef14:sign", rules=[("ndim<2", "direct:identity")]
    )
    adam = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, DistributedOptimizer(adam, model.named_parameters(), aggregator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps first .. last − 1."""
    for step in range(first, last):
        batch = torch.randint(0, len(inputs), (64,), generator=torch.Generator().manual_seed(1000 * step + comm.rank))
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.synchronize()  # the mean of the gradients is there now: clip it
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


model, optimizer = make()
train(model, optimizer, 0, 60)
file = io.BytesIO()  # each rank has a file of its own: the error memory differs
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
train(model, optimizer, 60, 120)

again, other = make()
file.seek(0)
saved = torch.load(file, weights_only=True)
again.load_state_dict(saved["model"])
other.load_state_dict(saved["optimizer"])
train(again, other, 60, 120)

same = all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
with torch.no_grad():
    accuracy = (model(inputs).argmax(1) == labels).float().mean()
if comm.rank == 0:
    print(f"accuracy {accuracy:.1%}; the resumed loop ends with the same bits: {same}")
