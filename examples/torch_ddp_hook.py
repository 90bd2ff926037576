"""DistributedDataParallel with compressed gradients: three lines beside the usual program.

    torchrun --nproc-per-node 3 examples/torch_ddp_hook.py
    mpicomp launch -n 3 -- python examples/torch_ddp_hook.py --mpi

By torchrun the messages travel over the process group's gloo, with --mpi over MPI.
"""

import hashlib
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mpicomp as mc
from mpicomp.torch import CommState, hook

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
comm = dist.group.WORLD
if "--mpi" in sys.argv:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD

torch.manual_seed(0)
teacher = nn.Linear(20, 3)
model = DistributedDataParallel(
    nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
)
aggregator = mc.Aggregator(  # small tensors in 16 bits, of the matrices 5 % of the entries, with error feedback
    comm,
    dict(model.module.named_parameters()),
    uplink="ef21:topk:fraction=0.05",
    rules=[("ndim<2", "cast:to=bfloat16")],
)
model.register_comm_hook(CommState(aggregator), hook)

optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
draws = torch.Generator().manual_seed(rank)
inputs = torch.randn(2000, 20, generator=draws)
labels = teacher(inputs).argmax(1)
for _ in range(150):
    batch = torch.randint(0, len(inputs), (64,), generator=draws)
    loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    accuracy = (model(inputs).argmax(1) == labels).float().mean()
    digest = hashlib.sha256(torch.cat([p.ravel() for p in model.parameters()]).numpy()).hexdigest()
aggregator.compare(f"weights of SHA-256 {digest}", "start all ranks from the same weights")
if rank == 0:
    sent, entries = aggregator.last.bytes["uplink"]["message"], sum(p.numel() for p in model.parameters())
    print(f"accuracy {accuracy:.1%} on the samples of rank 0; the model is the same on all ranks: {digest[:16]}")
    print(f"a step sends {sent} bytes up from each rank; the gradients have {4 * entries}")
aggregator.close()
dist.destroy_process_group()
