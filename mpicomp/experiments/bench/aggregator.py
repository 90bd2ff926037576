"""What `Aggregator` costs: on a network's tensors beside one flat vector, and without compression beside a bare Allreduce."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..runtime import Aggregator, median_interval

BOTH_WAYS = ("ef14:sign", "ef21:qsgd:bits=4,bucket=512,norm=max", "ef21:topk:fraction=0.01")
DENSE = (100, 1 << 22)


def resnet18() -> dict[str, tuple[int, ...]]:
    """The shapes of ResNet-18's 62 tensors for images of 3 channels and 10 classes, 11.2 million entries."""
    shapes: dict[str, tuple[int, ...]] = {"conv1": (64, 3, 3, 3), "bn1.weight": (64,), "bn1.bias": (64,)}
    width = 64
    for layer, channels in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            for conv, inputs in (("1", width), ("2", channels)):
                shapes[f"{name}.conv{conv}"] = (channels, inputs, 3, 3)
                shapes[f"{name}.bn{conv}.weight"] = shapes[f"{name}.bn{conv}.bias"] = (channels,)
            if width != channels:
                shapes[f"{name}.down.conv"] = (channels, width, 1, 1)
                shapes[f"{name}.down.bn.weight"] = shapes[f"{name}.down.bn.bias"] = (channels,)
            width = channels
    return {**shapes, "fc.weight": (10, 512), "fc.bias": (10,)}


def _slowest(comm: Any, work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float, float]]:
    """(median, low, high) seconds of the slowest rank of each piece of work, all in turn."""
    from mpi4py import MPI

    took = {name: np.zeros(repeats) for name in work}
    for r in range(-3, repeats):
        for name, call in work.items():
            comm.Barrier()
            start = time.perf_counter()
            call()
            seconds = comm.allreduce(time.perf_counter() - start, MPI.MAX)
            if r >= 0:
                took[name][r] = seconds
    return {name: median_interval(each) for name, each in took.items()}


def tensors_and_flat(comm: Any, specs: tuple[str, ...] = BOTH_WAYS, repeats: int = 20) -> list[dict[str, Any]]:
    """For each mechanism, seconds of a step on ResNet-18's tensors, each compressed by itself, and on one vector of as many entries.

    The same mechanism goes both ways where it has a downlink (EF14), else a cast to 16 bits comes down. On rank 0; collective.

    Returns
    -------
    A dict for each: spec, tensors and flat (median, low, high), ratio of the medians, and the bytes that a rank sends a step.
    """
    shapes, rows = resnet18(), []
    rng = np.random.default_rng(comm.Get_rank())
    gradients = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    flat = np.concatenate([gradients[name].ravel() for name in sorted(gradients)])
    assert flat.size == sum(map(prod, shapes.values()))
    for spec in specs:
        mechanism, compressor = spec.split(":", 1)
        downlink = spec if mechanism == "ef14" else "direct:cast:to=bfloat16"
        each = Aggregator(comm, gradients, uplink=spec, downlink=downlink, rules=[("*", compressor)])
        whole = Aggregator(comm, flat, uplink=spec, downlink=downlink)
        work: dict[str, Callable[[], Any]] = {
            "tensors": partial(each.mean, gradients),
            "flat": partial(whole.mean, flat),
        }
        found = _slowest(comm, work, repeats)
        sent = sum(each.last.bytes[way]["message"] for way in ("uplink", "downlink"))
        rows.append({"spec": spec, **found, "ratio": found["tensors"][0] / found["flat"][0], "sent": sent})
        each.close()
        whole.close()
    return rows if comm.Get_rank() == 0 else []


def dense_and_allreduce(comm: Any, dims: tuple[int, ...] = DENSE, repeats: int = 200) -> list[dict[str, Any]]:
    """Without compression: a step in place beside a bare Allreduce of the vector and its division by the number of ranks. On rank 0.

    Returns
    -------
    A dict for each dimension: dim, aggregator and bare (median, low, high), ratio, extra (seconds).
    """
    from mpi4py import MPI

    rows, size = [], comm.Get_size()
    for dim in dims:
        vector = np.ones(dim, np.float32)
        values = np.ones(dim, np.float32)
        aggregator = Aggregator(comm, vector)

        def bare(values: np.ndarray = values) -> None:
            comm.Allreduce(MPI.IN_PLACE, values, MPI.SUM)
            values /= size

        def ours(vector: np.ndarray = vector, aggregator: Aggregator = aggregator) -> None:
            aggregator.mean_(vector)

        often = repeats if dim < 1 << 18 else max(repeats // 10, 10)
        found = _slowest(comm, {"aggregator": ours, "bare": bare}, often)
        ratio, extra = found["aggregator"][0] / found["bare"][0], found["aggregator"][0] - found["bare"][0]
        rows.append({"dim": dim, **found, "ratio": ratio, "extra": extra})
        aggregator.close()
    return rows if comm.Get_rank() == 0 else []
