"""Local steps with an outer optimizer: DiLoCo with dense averages, and SparseLoCo, which sends 2 bits for one entry in 32, and where it is.

    mpicomp launch -n 2 -- python examples/diloco.py
    torchrun --nproc-per-node 2 examples/diloco.py

Every rank trains on data of its own and meets the others only every 25 steps.
"""

import os

import torch
from torch import nn

import mpicomp as mc
from mpicomp.torch import DiLoCo

torch.set_num_threads(1)
if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started it: the messages travel over gloo
    import torch.distributed as dist

    dist.init_process_group("gloo")
    comm, rank = dist.group.WORLD, dist.get_rank()
else:
    from mpi4py import MPI

    comm, rank = MPI.COMM_WORLD, MPI.COMM_WORLD.rank

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 3))
draws = torch.Generator().manual_seed(100 + rank)
inputs = torch.randn(4000, 20, generator=draws)
with torch.no_grad():
    labels = teacher(inputs).argmax(1)


def train(uplink: str, downlink: str, lr: float, momentum: float) -> tuple[float, int]:
    """The accuracy after 40 rounds of 25 local steps, and the bytes that this rank has sent."""
    torch.manual_seed(1)  # all ranks begin with the same model
    model = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    aggregator = mc.Aggregator(comm, dict(model.named_parameters()), uplink=uplink, downlink=downlink)
    inner = torch.optim.AdamW(model.parameters(), lr=1e-3)
    outer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)
    loop = DiLoCo(model, inner, aggregator, every=25, outer=outer)
    sent = 0
    while loop.rounds < 40:
        batch = torch.randint(0, len(inputs), (32,), generator=draws)
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        inner.zero_grad()
        loss.backward()
        inner.step()  # every 25th of them averages and takes the outer step
        if loop.local_steps == 0:
            sent += sum(way["message"] for way in aggregator.last.bytes.values())
    test = torch.randn(4000, 20, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        right = (model(test).argmax(1) == teacher(test).argmax(1)).float().mean()
    aggregator.close()
    return float(right), sent


for name, uplink, downlink, lr, momentum in (
    ("DiLoCo", "direct", "dense", 0.7, 0.9),
    ("SparseLoCo", "ef14@decay=0.95:chunked-topk:k=128", "ef14:chunked-topk:k=128", 1.0, 0.0),
):
    accuracy, sent = train(uplink, downlink, lr, momentum)
    if rank == 0:
        print(f"{name}: accuracy {accuracy:.1%}, {sent / 40 / 1e3:.1f} kB sent a round by rank 0")
