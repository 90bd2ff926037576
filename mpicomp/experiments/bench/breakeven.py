"""The link speed below which a compressor pays, from measured times and bytes; and rounds in the network lab on both sides of it.

A round of n workers at a server whose link carries r bit/s each way: all encode (e seconds), their messages of m bytes arrive one after the
other while those before are decoded and added (c seconds each), and the model, 4d bytes, goes back to each. A short model goes to all at
once, and directions follow each other:

    T(r) = e + n max(8m/r, c) + min(8m/r, c) + n 32d/r.

A long one (`exchanges.p2p.IN_TURN_NBYTES`) goes to one after the other, and the first ones answer while the last ones receive. Then
either the last one's answer ends the round, or the messages that came after the first model:

    T(r) = max(n 32d/r + e + 8m/r + c,  32d/r + e + n max(8m/r, c) + min(8m/r, c)).

Dense messages have e = 0, m = 4d and c = a dense sum. The two are equal at the break-even speed.

As a program (`python -m mpicomp.experiments.bench.breakeven`) this is one rank of a job whose rounds are timed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runtime import (
    HEADER_NBYTES,
    IN_TURN_NBYTES,
    Block,
    Config,
    ConfigError,
    Problem,
    Smoothness,
    compressors,
    physical_cores,
    run,
    uplink_keys,
)
from .timing import samples

DENSE = "identity"
SPECS = (
    "sign",
    "natural",
    "qsgd:bits=4,bucket=512,norm=max",
    "topk:fraction=0.01",
    "randk:fraction=0.01",
    "cast:to=bfloat16",
    "cq:levels=16,entropy=true",
    "eden:bits=1",
    "eden:bits=4",
)
HIGHEST = 1e13  # bit/s; beyond it a compressor pays at any speed


@dataclass(frozen=True)
class Rates:
    """One message of a compressor: seconds to encode, seconds to decode and add, bytes with the header."""

    spec: str
    encode: float
    decode: float
    nbytes: int

    def round_seconds(self, bits_per_second: float, workers: int, dim: int, at_once: int) -> float:
        """T(r) of the module's formula, `at_once` workers encoding at the same time."""
        flight, model = 8 * self.nbytes / bits_per_second, 32 * dim / bits_per_second
        encode = self.encode * workers / min(workers, at_once)
        up = workers * max(flight, self.decode) + min(flight, self.decode)
        if 4 * dim < IN_TURN_NBYTES:
            return encode + up + workers * model
        return encode + max(workers * model + flight + self.decode, model + up)


def measure(spec: str, dim: int, workers: int, repeats: int = 20) -> Rates:
    """Time a float32 message of a standard normal vector in this process."""
    codec = compressors.create(spec).bind(dim, workers, np.dtype("float32"))
    V = np.random.default_rng(0).standard_normal((1, dim)).astype(np.float32)
    buf, total, zero = np.zeros(codec.max_nbytes + 8, np.uint8), np.zeros_like(V), np.zeros(1, np.int64)
    keys, tally, weight = uplink_keys(0, 0), np.zeros(2, np.int64), np.ones(1, np.float32)
    if codec.round_maximum is not None and codec.measure is not None:
        codec.round_maximum[0] = codec.measure(V, zero, zero, keys)[0]
    end = codec.encode(V, zero, zero, keys, buf, 0, tally)
    encode = np.median(samples(lambda: codec.encode(V, zero, zero, keys, buf, 0, tally), repeats))
    decode = np.median(samples(lambda: codec.decode_add(buf, 0, end, zero, zero, weight, keys, total), repeats))
    # a dense vector travels from where it lies
    return Rates(spec, 0.0 if spec == DENSE else float(encode), float(decode), HEADER_NBYTES + end)


def break_even(few: Rates, dense: Rates, workers: int, dim: int, at_once: int) -> float | None:
    """The link speed (bit/s) below which `few` has the shorter round; infinite above HIGHEST, None where it never has."""

    def gain(speed: float) -> float:
        return dense.round_seconds(speed, workers, dim, at_once) - few.round_seconds(speed, workers, dim, at_once)

    low, high = 1e3, HIGHEST
    if gain(low) <= 0:
        return None
    if gain(high) > 0:
        return float("inf")
    for _ in range(60):  # the gain falls with the speed where fewer bytes are bought with work
        middle = np.sqrt(low * high)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return float(low)


def breakeven(
    dim: int = 1 << 18, workers: int = 4, specs: Sequence[str] = SPECS, repeats: int = 20, at_once: int = 0
) -> list[dict[str, Any]]:
    """Break-even speeds of DCGD against dense gradient descent, one client on each worker, float32.

    Parameters
    ----------
    dim, workers : d, n. at_once : workers that can encode at the same time; 0 for all of them, as on nodes of their own.

    Returns
    -------
    A dict for each compressor, the dense one first: spec, encode and decode (seconds), nbytes, times_fewer (dense bytes by its own),
    speed (bit/s or infinity; None for dense, and where it never pays), dim, workers.
    """
    dense = measure(DENSE, dim, workers, repeats)
    rows = [dense, *(measure(spec, dim, workers, repeats) for spec in specs)]
    return [
        {
            "spec": rates.spec,
            "encode": rates.encode,
            "decode": rates.decode,
            "nbytes": rates.nbytes,
            "times_fewer": dense.nbytes / rates.nbytes,
            "speed": None if rates is dense else break_even(rates, dense, workers, dim, at_once or workers),
            "dim": dim,
            "workers": workers,
        }
        for rates in rows
    ]


def check(
    dim: int = 1 << 18,
    workers: int = 4,
    spec: str = "eden:bits=4",
    around: float = 4.0,
    rounds: int = 6,
    repeats: int = 20,
) -> dict[str, Any]:
    """Rounds in the network lab at the predicted break-even speed, and at this factor below and above it, dense and compressed in turn.

    The lab's nodes share this machine's cores, so the prediction is made for so many workers that encode at once.

    Returns
    -------
    spec, speed (the prediction, bit/s), rows: a dict for each of the three speeds with speed, predicted and measured (dense seconds by
    compressed seconds of a round: above 1 compression pays), dense and compressed (seconds).

    Raises
    ------
    LabError : no lab can be made here. ConfigError : there is no break-even speed, or a run fails.
    """
    from ..lab import NetworkLab

    cores = physical_cores()
    dense, few = measure(DENSE, dim, workers, repeats), measure(spec, dim, workers, repeats)
    speed = break_even(few, dense, workers, dim, cores)
    if speed is None or not np.isfinite(speed):
        raise ConfigError(
            f"bench breakeven --check: {spec} has no break-even speed at d = {dim}; choose another by --spec"
        )
    rows = []
    with NetworkLab(nodes=workers + 1) as lab:
        for factor in (1 / around, 1.0, around):
            lab.set_rate(f"{max(int(factor * speed / 1000), 1)}kbit")
            done = lab.run(job(dim=dim, specs=[DENSE, spec], rounds=rounds), timeout=150)
            if done.code:
                raise ConfigError(
                    f"bench breakeven --check: the run failed with exit code {done.code}\n{done.stderr.strip()}"
                )
            took = json.loads(done.stdout.splitlines()[-1])
            predicted = [rates.round_seconds(factor * speed, workers, dim, cores) for rates in (dense, few)]
            rows.append(
                {
                    "speed": factor * speed,
                    "predicted": predicted[0] / predicted[1],
                    "measured": took[DENSE] / took[spec],
                    "dense": took[DENSE],
                    "compressed": took[spec],
                }
            )
    return {"spec": spec, "speed": speed, "rows": rows}


class Slopes(Problem):
    """f_i(x) = ⟨a_i, x⟩ with normal a_i: a gradient that costs a copy, and that no compressor finds easy."""

    name = "slopes"

    def __init__(self, dim: int, n_clients: int):
        self.dim, self.n_clients = dim, n_clients

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> Block:
        return _SlopesBlock(self, clients, np.dtype(dtype))

    def smoothness(self) -> Smoothness:
        return Smoothness.bounds(np.ones(self.n_clients))


class _SlopesBlock(Block):
    def __init__(self, problem: Problem, clients: np.ndarray, dtype: np.dtype) -> None:
        super().__init__(problem, clients, dtype)
        self.slopes = np.array([np.random.default_rng(int(i)).standard_normal(problem.dim) for i in clients], dtype)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        out[:] = (self.slopes * W).sum(axis=1)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.slopes


def job(**what: Any) -> list[str]:
    """The command of a rank that times rounds: dim, specs, rounds."""
    return [sys.executable, "-m", "mpicomp.experiments.bench.breakeven", json.dumps(what)]


def round_medians(comm: Any, dim: int, specs: Sequence[str], rounds: int) -> dict[str, float]:
    """Median seconds of a round of DCGD with each compressor (gradient descent for the identity), on rank 0."""
    problem, medians = Slopes(dim, comm.Get_size() - 1), {}
    for spec in specs:
        config = Config(method="gd" if spec == DENSE else "dcgd", compressor=spec, exchange="p2p", rounds=rounds)
        config.eval_every, config.step, config.dtype, config.allow_unsafe = rounds, "1e-6", "float32", True
        result = run(config, comm=comm, problem=problem)
        if result.summary:
            medians[spec] = result.summary["seconds"]["round_median"]
    return medians


if __name__ == "__main__":
    from ..runtime import world

    found = round_medians(world(), **json.loads(sys.argv[1]))
    if found:
        print(json.dumps(found))
