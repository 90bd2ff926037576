"""A small convolutional network with BatchNorm and dropout, trained by six clients whose gradients travel compressed.

python examples/torch_problem.py
mpirun -n 3 python examples/torch_problem.py      the same bits
"""

import torch
from torch import nn

import mpicomp as mc
from mpicomp.torch import TorchProblem

CLIENTS, CLASSES = 6, 4


def images(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of 12 × 12 pixels, with a bright stripe whose direction is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    pixels = 0.7 * torch.randn(rows, 1, 12, 12, generator=generator)
    lines = torch.arange(12)
    for row, label in enumerate(labels.tolist()):
        at = int(torch.randint(2, 10, (), generator=generator))
        stripe = [(lines * 0 + at, lines), (lines, lines * 0 + at), (lines, lines), (lines, 11 - lines)][label]
        pixels[row, 0][stripe] += 1.5
    return pixels, labels


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(16 * 3 * 3, CLASSES),
    )  # fmt: skip


def problem() -> TorchProblem:
    inputs, labels = images(600, seed=1)
    shares = [(inputs[i::CLIENTS], labels[i::CLIENTS]) for i in range(CLIENTS)]
    return TorchProblem(network, nn.CrossEntropyLoss(), shares, metrics=["accuracy", "loss"], test=images(300, seed=2))


def main() -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    task = problem()
    result = mc.run(
        problem=task,
        comm=comm if comm.size > 1 else None,
        method="cd-adam",
        compressor="topk:fraction=0.05",
        optimizer="adamw:weight_decay=0.01,schedule=cosine,warmup=10",
        step=0.01,
        batch=32,
        rounds=150,
        eval_every=30,
        dtype="float32",
        evaluate="measures",
        progress=lambda row: print(f"round {row['round']:3}  accuracy {row['accuracy']:.3f}"),
    )
    if result.x is not None:  # on rank 0
        sent, dense = result.summary["bytes"]["uplink"]["message"], 4 * task.dim * CLIENTS * result.summary["rounds"]
        print(f"{sent / 1e6:.2f} MB of gradients sent; dense ones would be {dense / 1e6:.1f} MB")
        inputs, labels = images(5, seed=3)
        print("predicted", task.trained(result.x)(inputs).argmax(1).tolist(), "of", labels.tolist())
        print(result.summary["iterate_sha256"])


if __name__ == "__main__":
    main()
