"""How fast compressors encode and decode, against copying and adding the same vector and against what else one would use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runtime import compressors, median_interval, uplink_keys
from .operations import bench_operations
from .timing import Task, times

DIMS = (1 << 22, 1 << 24)
SPECS = (
    "sign",
    "natural",
    *(f"qsgd:bits={bits},norm=max,bucket=512" for bits in (2, 4, 8)),
    "topk:fraction=0.01",
    "randk:fraction=0.01",
    "permk",
    "cq:norm=max",
    "cq:levels=4,norm=max",
    "qsgd:bits=4,norm=max,bucket=512,entropy=true",
)
CLIENTS = 100


def bench_compressors(
    dims: Sequence[int] = DIMS,
    specs: Sequence[str] = SPECS,
    dtype: DTypeLike = "float32",
    repeats: int = 30,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Time one message of a standard normal vector in each of so many threads, in turn with a copy and a dense sum.

    Parameters
    ----------
    dims, specs : dimensions and compressors; each is bound for 100 clients.
    dtype : of the vectors and of the wire, float32 or float64.
    repeats : how often each is timed, after two rounds of warm-up.
    threads : how many vectors are handled at once.

    Returns
    -------
    One dict for each dimension and compressor, and for each idiom of NumPy and, where installed, of torch (`kind` is "ours" or
    "against"): dim, spec, dtype, threads, payload_bits (of a message, per entry), and for encode, decode (and adding up; None for
    an idiom) and their ceilings memcpy and add the median seconds and its 95 % interval [median, low, high]; encode_rate, decode_rate
    (bytes of dense vectors per second); encode_ratio, the time of memcpy divided by that of encode, and decode_ratio, the same of add
    and decode: medians over the repeats with their intervals. With one thread also the rows of `bench_operations`.
    """
    dtype, rows = np.dtype(dtype), []
    with ThreadPoolExecutor(threads) as pool:
        for dim in dims:
            vectors = np.random.default_rng(0).standard_normal((threads, dim)).astype(dtype)
            copies, sums = np.zeros_like(vectors), np.zeros_like(vectors)
            # a list of tasks has one for each thread
            memcpy = [_copy(vectors[t], copies[t]) for t in range(threads)]
            add = [_add(vectors[t], sums[t]) for t in range(threads)]
            common = {"dim": dim, "dtype": str(dtype), "threads": threads}
            for spec in specs:
                ours = [message(spec, vectors[t : t + 1], sums[t : t + 1]) for t in range(threads)]
                bits = ours[0][2]
                tasks = {"memcpy": memcpy, "encode": [m[0] for m in ours], "add": add, "decode": [m[1] for m in ours]}
                took = times(tasks, repeats, pool)
                rows.append({"kind": "ours", "spec": spec, **common, **_figures(took, vectors.nbytes, bits / dim)})
            for name, (idiom, bits_per_entry) in _against(dim, dtype).items():
                tasks = {"memcpy": memcpy, "encode": [_call(idiom, vectors[t]) for t in range(threads)]}
                took = times(tasks, repeats, pool)
                rows.append(
                    {"kind": "against", "spec": name, **common, **_figures(took, vectors.nbytes, bits_per_entry)}
                )
            if threads == 1:
                rows += bench_operations(dim, dtype, repeats)
    return rows


def _copy(x: np.ndarray, out: np.ndarray) -> Task:
    return lambda: np.copyto(out, x)


def _add(x: np.ndarray, out: np.ndarray) -> Task:
    return lambda: np.add(out, x, out=out)


def _call(function: Callable[[np.ndarray], Any], x: np.ndarray) -> Task:
    return lambda: function(x)


def message(spec: str, x: np.ndarray, out: np.ndarray) -> tuple[Task, Task, int]:
    """(encode, decode and add, payload bits) of one message of x, shape (1, dim)."""
    codec = compressors.create(spec).bind(x.shape[1], CLIENTS, x.dtype)
    buf, tally = np.zeros(codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
    zero, weight, keys = np.zeros(1, np.int64), np.ones(1, x.dtype), uplink_keys(0, 0)
    if codec.round_maximum is not None and codec.measure is not None:
        codec.round_maximum[0] = codec.measure(x, zero, zero, keys)[0]

    def encode() -> int:
        return codec.encode(x, zero, zero, keys, buf, 0, tally)

    end = encode()
    return encode, lambda: codec.decode_add(buf, 0, end, zero, zero, weight, keys, out), int(tally[0])


def _against(dim: int, dtype: np.dtype) -> dict[str, tuple[Callable[[np.ndarray], Any], float]]:
    """What one would write without this package: {name: (function of a vector, bits an entry)}."""
    k = max(dim // 100, 1)
    sparse = 8.0 * k * (dtype.itemsize + 8) / dim

    def top(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = np.argpartition(np.abs(x), dim - k)[dim - k :]
        return indices, x[indices]

    idioms: dict[str, tuple[Callable[[np.ndarray], Any], float]] = {
        "numpy: packbits(signbit(x))": (lambda x: np.packbits(np.signbit(x)), 1.0),
        "numpy: astype(float16)": (lambda x: x.astype(np.float16), 16.0),
        "numpy: argpartition, 1 %": (top, sparse),
    }
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)  # this module starts the threads

        def torch_top(x: np.ndarray) -> Any:
            tensor = torch.from_numpy(x)
            indices = torch.topk(tensor.abs(), k, sorted=False).indices
            return indices, tensor[indices]

        idioms["torch: topk, 1 %"] = (torch_top, sparse)
        idioms["torch: to(bfloat16)"] = (lambda x: torch.from_numpy(x).to(torch.bfloat16), 16.0)
    return idioms


def _figures(took: dict[str, np.ndarray], nbytes: int, payload_bits: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"payload_bits": payload_bits}
    for name, ceiling in (("encode", "memcpy"), ("decode", "add")):
        there = name in took
        figures[name] = median_interval(took[name]) if there else None
        figures[ceiling] = median_interval(took[ceiling]) if there else None
        figures[f"{name}_rate"] = nbytes / figures[name][0] if there else None
        figures[f"{name}_ratio"] = median_interval(took[ceiling] / took[name]) if there else None
    return figures
