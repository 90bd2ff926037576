"""Steps that no single message shows: fused steps, slices, sparse sums, index coding, the Hadamard transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import lgamma, log
from typing import Any, NamedTuple

import numpy as np

from ..runtime import (
    CHUNK,
    Codec,
    Difference,
    Sum,
    choose_coding,
    compressors,
    lean,
    read_indices,
    transform,
    uplink_keys,
    write_indices,
)
from .timing import Task, ratio, times

_CLIENTS, _ROW, _KEYS = 100, np.zeros(1, np.int64), uplink_keys(0, 0)
_TOGETHER = 16  # clients of a rank


class Operation(NamedTuple):
    """What is timed, beside what it is compared with.

    name : of the operation. run : does it once. ceiling : name of what it is compared with. limit : does that once. goal : of the ratio
    limit / run, or None. details : further figures, such as bits per index.
    """

    name: str
    run: Task
    ceiling: str
    limit: Task
    goal: float | None = None
    details: dict[str, float] = {}  # noqa: RUF012 - never written to


def bench_operations(dim: int, dtype: np.dtype, repeats: int) -> list[dict[str, Any]]:
    """Time each operation in turn with its ceiling, on standard normal vectors.

    Returns
    -------
    One dict for each: kind "operation", dim, dtype, operation, ceiling, goal, seconds and ceiling_seconds [median, low, high], ratio
    (ceiling seconds / seconds, median with interval), and the operation's own details; for index coding also indices_rate (a second).
    """
    rows: list[dict[str, Any]] = []
    for operation in _operations(dim, dtype):
        took = times({"run": [operation.run], "limit": [operation.limit]}, repeats)
        row: dict[str, Any] = {
            "kind": "operation",
            "dim": dim,
            "dtype": str(dtype),
            "operation": operation.name,
        } | operation.details
        row |= {"ceiling": operation.ceiling, "goal": operation.goal} | ratio(took["run"], took["limit"])
        if "count" in row:
            row["indices_rate"] = row["count"] / row["seconds"][0]
        rows.append(row)
    return rows


def _operations(dim: int, dtype: np.dtype) -> Iterator[Operation]:
    x, state, out = np.random.default_rng(0).standard_normal((3, 1, dim)).astype(dtype)

    def memcpy() -> None:
        np.copyto(out, x)

    def add() -> None:
        np.add(out, x, out=out)

    yield Operation("read only: max(x)", lambda: np.max(x), "memcpy", memcpy)
    yield Operation("write only: fill", lambda: out.fill(1), "memcpy", memcpy)
    for spec, goal in (("topk:fraction=0.01", 0.35), ("sign", 0.5)):
        codec = compressors.create(spec).bind(dim, _CLIENTS, dtype)
        if codec.takes_difference:  # not where a vector is so short that it is sent as it is
            yield Operation(f"EF21 step, {spec}", _ef21_step(codec, x, state), "memcpy", memcpy, goal)
    codec = compressors.create("sign").bind(dim, _CLIENTS, dtype)
    yield Operation("EF14 step, sign", _ef14_step(codec, x, state), "memcpy", memcpy, 0.5)
    for spec in ("randk:fraction=0.01", "permk"):
        codec = compressors.create(spec).bind(dim, _CLIENTS, dtype)
        yield from _slices(spec, codec, x, dtype)
    count = max(dim // 100, 1)
    indices = np.sort(np.argpartition(-np.abs(x[0]), count - 1)[:count])
    sparse = f"topk:k={count}"
    codec = compressors.create(sparse).bind(dim, _CLIENTS, dtype)
    buf = np.zeros(codec.max_nbytes, np.uint8)
    end = codec.encode(x, _ROW, _ROW, _KEYS, buf, 0, np.zeros(2, np.int64))
    one = np.ones(1, dtype)

    def decode() -> None:
        codec.decode_add(buf, 0, end, _ROW, _ROW, one, _KEYS, out)

    values = x[0, indices]
    yield Operation("sparse decode, 1 %", decode, "dense add", add, 20.0)
    yield Operation("sparse decode, 1 %", decode, "the same additions alone", lambda: scatter(out[0], indices, values))
    yield from _index_coding(indices, dim)
    rotated = np.zeros(1 << (dim.bit_length() - 1), dtype)
    part = x[0, : len(rotated)]
    rotated[:] = part
    yield Operation(
        "Walsh–Hadamard", lambda: transform(rotated), "memcpy", lambda: np.copyto(out[0, : len(part)], part), 0.08
    )


def _ef21_step(codec: Codec, x: np.ndarray, state: np.ndarray) -> Task:
    """The difference, its message, and the state's update from the message."""
    buf, tally, difference = np.zeros(codec.max_nbytes, np.uint8), np.zeros(2, np.int64), np.empty_like(x)
    one = np.ones(1, x.dtype)

    def step() -> None:
        end = codec.encode(Difference(x, state, difference), _ROW, _ROW, _KEYS, buf, 0, tally)
        codec.decode_add(buf, 0, end, _ROW, _ROW, one, _KEYS, state)

    return step


def _ef14_step(codec: Codec, x: np.ndarray, state: np.ndarray) -> Task:
    """The scaled gradient is added to the error memory, of which the message then is taken away."""
    buf, tally, minus = np.zeros(codec.max_nbytes, np.uint8), np.zeros(2, np.int64), -np.ones(1, x.dtype)

    def step() -> None:
        end = codec.encode(Sum(state, x, 0.1), _ROW, _ROW, _KEYS, buf, 0, tally)
        codec.decode_add(buf, 0, end, _ROW, _ROW, minus, _KEYS, state)

    return step


def _slices(spec: str, codec: Codec, x: np.ndarray, dtype: np.dtype) -> Iterator[Operation]:
    """Messages that are slices, beside copying as many values: one, and those of some clients in one call."""
    buf, tally = np.zeros(codec.max_nbytes, np.uint8), np.zeros(2, np.int64)
    end = codec.encode(x, _ROW, _ROW, _KEYS, buf, 0, tally)
    values = buf[:end].view(dtype)
    starts = np.flatnonzero(x[0] == values[0])
    # from elsewhere, so that neither finds in the cache what the other has brought there
    first = (int(starts[0]) + x.shape[1] // 2) % (x.shape[1] - len(values) + 1)
    copied, part = np.empty_like(values), x[0, first : first + len(values)]
    yield Operation(
        f"{spec}, encode",
        lambda: codec.encode(x, _ROW, _ROW, _KEYS, buf, 0, tally),
        f"copying {len(values):,} values",
        lambda: np.copyto(copied, part),
    )
    clients, rows = np.arange(_TOGETHER), np.zeros(_TOGETHER, np.int64)
    frame = np.zeros(_TOGETHER * codec.max_nbytes, np.uint8)
    places = np.linspace(0, x.shape[1] - len(values), _TOGETHER).astype(np.int64)

    copies = frame[: len(values) * _TOGETHER * dtype.itemsize].view(dtype).reshape(_TOGETHER, -1)

    def copy_all() -> None:
        for place, copy in zip(places, copies, strict=True):
            np.copyto(copy, x[0, place : place + len(values)])

    yield Operation(
        f"{spec}, encode {_TOGETHER} clients",
        lambda: codec.encode(x, rows, clients, _KEYS, frame, 0, tally),
        f"copying {_TOGETHER} · {len(values):,} values",
        copy_all,
    )


@lean
def scatter(acc: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
    for i in range(indices.shape[0]):
        acc[np.uint64(indices[i])] += values[i]  # unsigned: no check for a negative index


def _index_coding(indices: np.ndarray, dim: int) -> Iterator[Operation]:
    """Encoding and decoding a set of indices, beside copying it; bits an index, and log2 C(d, K)/K."""
    count = len(indices)
    fields, top, found = np.empty(count, np.uint32), np.empty(CHUNK, np.uint8), np.empty(count, np.int64)
    buf, copied = np.zeros(8 * count + 64, np.uint8), np.empty_like(indices)

    def write() -> int:
        coding = choose_coding(indices, count, dim)
        return write_indices(indices, count, dim, coding, buf, 0, fields, top)

    end, coding = write(), choose_coding(indices, count, dim)
    entropy = (lgamma(dim + 1) - lgamma(count + 1) - lgamma(dim - count + 1)) / log(2) / count

    def read() -> None:
        read_indices(buf, 0, end, count, dim, coding, found, fields, top)

    def both() -> None:
        write()
        read()

    details = {"count": count, "bits_per_index": 8 * end / count, "entropy": entropy}
    tasks: dict[str, Callable[[], Any]] = {"write": write, "read": read, "write and read": both}
    for name, task in tasks.items():
        yield Operation(
            f"indices, {name}", task, "copying them", lambda: np.copyto(copied, indices), details=dict(details)
        )
