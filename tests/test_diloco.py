"""mpicomp.torch.DiLoCo against a simulation of all workers in plain NumPy, written from the papers' pseudocode."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
from compressor_table import chunked_oracle, top_oracle  # noqa: E402

import mpicomp as mc  # noqa: E402
from mpicomp.errors import AggregationError, ConfigError  # noqa: E402
from mpicomp.torch import DiLoCo  # noqa: E402

pytestmark = pytest.mark.torch
IN, OUT = 7, 3
DIM = IN * OUT + OUT
H, ROUNDS = 4, 12


def batch(worker: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Each worker's data are of another kind, so that local steps part."""
    rng = np.random.default_rng([worker, step])
    X = rng.standard_normal((8, IN)) + worker
    return X, X @ np.linspace(-1, 1, IN * OUT).reshape(IN, OUT) + rng.standard_normal((8, OUT))


def start() -> np.ndarray:
    """(bias, weight), in the order of names, flat."""
    return np.random.default_rng(3).standard_normal(DIM)


def model_at(x: np.ndarray, dtype: Any = torch.float64) -> torch.nn.Module:
    model = torch.nn.Linear(IN, OUT).to(dtype)
    with torch.no_grad():
        model.bias.copy_(torch.from_numpy(x[:OUT]))
        model.weight.copy_(torch.from_numpy(x[OUT:].reshape(OUT, IN)))
    return model


def vector_of(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model.bias.double().numpy(), model.weight.double().numpy().ravel()])


def gradient(x: np.ndarray, worker: int, step: int) -> np.ndarray:
    """Of the mean over all entries of (X Wᵀ + b − y)²."""
    X, y = batch(worker, step)
    residual = 2 * (X @ x[OUT:].reshape(OUT, IN).T + x[:OUT] - y) / y.size
    return np.concatenate([residual.sum(axis=0), (residual.T @ X).ravel()])


def sgd(x: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
    return x - 0.05 * g


def adamw(x: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
    """Loshchilov and Hutter 2019, Algorithm 2, with PyTorch's default constants."""
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g * g
    step = memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)
    return x * (1 - 0.02 * 0.01) - 0.02 * step


INNER: dict[str, tuple[Callable, Callable]] = {
    "sgd": (sgd, lambda p: torch.optim.SGD(p, lr=0.05)),
    "adamw": (adamw, lambda p: torch.optim.AdamW(p, lr=0.02)),
}


def simulated(workers: list[int], inner: str, C: Callable, decay: float, lr: float, momentum: float) -> np.ndarray:
    """x after all rounds. DiLoCo, and with a memory that fades SparseLoCo."""
    x, v, t = start(), np.zeros(DIM), 0
    e, memory = {i: np.zeros(DIM) for i in workers}, {i: {} for i in workers}
    for _ in range(ROUNDS):
        delta = np.zeros(DIM)
        for i in workers:
            local = x.copy()
            for h in range(H):
                local = INNER[inner][0](local, gradient(local, i, t + h), memory[i], t + h + 1)
            e[i] = decay * e[i] + (x - local)
            sent = C(e[i])
            e[i] = e[i] - sent
            delta += sent / len(workers)
        t += H
        v = momentum * v + delta
        x = x - lr * (delta + momentum * v)
    return x


def made(model: torch.nn.Module, agg: mc.Aggregator, inner: str, lr: float, momentum: float) -> DiLoCo:
    outer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)
    return DiLoCo(model, INNER[inner][1](model.parameters()), agg, every=H, outer=outer)


def train(model: torch.nn.Module, loop: DiLoCo, worker: int, first: int, last: int, dtype: Any = torch.float64) -> None:
    for step in range(first, last):
        X, y = (torch.from_numpy(a).to(dtype) for a in batch(worker, step))
        loop.inner.zero_grad()
        torch.nn.functional.mse_loss(model(X), y).backward()
        loop.inner.step()


CASES = {  # uplink, C, decay, outer step, momentum
    "dense": ("direct", lambda v: v, 1.0, 0.7, 0.9),
    "topk": ("ef14:topk:k=5", lambda v: top_oracle(v, 5), 1.0, 0.7, 0.9),
    "sparseloco": (
        "ef14@decay=0.9:chunked-topk:k=6,chunk=12",
        lambda v: chunked_oracle(mc.compressor("chunked-topk:k=6,chunk=12"), v), 0.9, 1.0, 0.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("case", CASES)
def test_one_worker_is_as_simulated(case, inner):
    uplink, C, decay, lr, momentum = CASES[case]
    model = model_at(start())
    agg = mc.Aggregator(None, dict(model.named_parameters()), uplink=uplink)
    loop = made(model, agg, inner, lr, momentum)
    train(model, loop, 0, 0, H * ROUNDS)
    assert loop.rounds == ROUNDS and loop.local_steps == 0 and agg.calls == ROUNDS
    np.testing.assert_allclose(vector_of(model), simulated([0], inner, C, decay, lr, momentum), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes(dtype):
    """float32 to its rounding; what bfloat16 parameters are remembered in is float32, so that small outer steps are not lost."""
    kind = getattr(torch, dtype)
    model = model_at(start(), kind)
    agg = mc.Aggregator(None, dict(model.named_parameters()), uplink="direct")
    loop = DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.05), agg, every=H)
    train(model, loop, 0, 0, H * ROUNDS, kind)
    expected = simulated([0], "sgd", lambda v: v, 1.0, 0.7, 0.9)
    tolerance = {"float32": 1e-6, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(vector_of(model), expected, rtol=tolerance, atol=tolerance * 4)
    shared = loop.state_dict()["global"]
    assert all(tensor.dtype == torch.float32 for tensor in shared.values())
    assert all(torch.equal(p.detach(), shared[name].to(kind)) for name, p in model.named_parameters())


def test_the_default_outer_optimizer_is_dilocos():
    model = model_at(start())
    loop = DiLoCo(model.named_parameters(), torch.optim.SGD(model.parameters(), lr=0.05), aggregator(model), every=3)
    group = loop.outer.param_groups[0]
    assert isinstance(loop.outer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.7, 0.9, True)


def aggregator(model: torch.nn.Module, **options: Any) -> mc.Aggregator:
    return mc.Aggregator(None, dict(model.named_parameters()), **options)


@pytest.mark.parametrize("stop", [2 * H, 2 * H + 3])
def test_resume_is_exact_also_between_two_averages(stop):
    uplink = "ef14@decay=0.9:chunked-topk:k=6,chunk=12"

    def fresh() -> tuple[torch.nn.Module, DiLoCo]:
        model = model_at(start())
        return model, made(model, aggregator(model, uplink=uplink), "adamw", 0.7, 0.9)

    model, loop = fresh()
    train(model, loop, 0, 0, stop)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "loop": loop.state_dict()}, file)
    train(model, loop, 0, stop, 8 * H)
    again, other = fresh()
    train(again, other, 0, 0, 5)  # what it has done before is overwritten
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["loop"])
    train(again, other, 0, stop, 8 * H)
    assert np.array_equal(vector_of(model), vector_of(again))
    assert (loop.rounds, loop.local_steps) == (other.rounds, other.local_steps) == (8, 0)


def test_a_loop_that_ends_between_two_averages_may_average_once_more():
    model = model_at(start())
    loop = DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.05), aggregator(model), every=100)
    train(model, loop, 0, 0, 3)
    before = vector_of(model)
    loop.sync()
    assert loop.rounds == 1 and loop.local_steps == 0
    np.testing.assert_allclose(vector_of(model), start() - 1.9 * 0.7 * (start() - before), rtol=1e-12)


def test_parameters_that_are_not_finite_change_nothing():
    """The average that is made after the failed one has the bits that it would have had without it."""
    found = []
    for fails in (False, True):
        model = model_at(start())
        agg = aggregator(model, uplink="ef14:topk:k=3", downlink="ef14:topk:k=3")
        loop = DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.05), agg, every=2)
        train(model, loop, 0, 0, 3)
        if fails:
            kept = float(model.bias[1].detach())
            with torch.no_grad():
                model.bias[1] = float("nan")
            with pytest.raises(AggregationError, match="tensor 'bias' holds nan at entry 1"):
                loop.sync()
            assert (loop.rounds, loop.local_steps) == (1, 1)
            with torch.no_grad():
                model.bias[1] = kept
        train(model, loop, 0, 3, 8)
        found.append(vector_of(model))
    assert np.isfinite(found[0]).all() and np.array_equal(*found)


def test_frozen_parameters_stay_as_they_are():
    model = model_at(start())
    model.bias.requires_grad_(False)
    agg = mc.Aggregator(None, {"weight": model.weight})
    loop = DiLoCo(
        model, torch.optim.SGD([model.weight], lr=0.05), agg, every=2, outer=torch.optim.SGD(model.parameters(), lr=1.0)
    )
    train(model, loop, 0, 0, 4)
    assert np.array_equal(vector_of(model)[:OUT], start()[:OUT]) and loop.rounds == 2


def test_what_cannot_work_is_refused():
    model = model_at(start())
    inner, agg = torch.optim.SGD(model.parameters(), lr=0.1), aggregator(model)
    for every in (0, 2.5, True):
        with pytest.raises(ConfigError, match=f"every={every}: a number of inner steps"):
            DiLoCo(model, inner, agg, every=every)
    with pytest.raises(ConfigError, match="parameter 'bias' is only in one of"):
        DiLoCo([("weight", model.weight)], inner, agg, every=2)
    with pytest.raises(ConfigError, match="the outer optimizer has 1 parameters, 1 of which are among the 2"):
        DiLoCo(model, inner, agg, every=2, outer=torch.optim.SGD([model.weight], lr=1.0))
    with pytest.raises(ConfigError, match="outer is the inner optimizer"):
        DiLoCo(model, inner, agg, every=2, outer=inner)
    used = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    torch.nn.functional.mse_loss(model(torch.ones(1, IN).double()), torch.ones(1, OUT).double()).backward()
    used.step()
    with pytest.raises(ConfigError, match="has taken steps; make it anew"):
        DiLoCo(model, inner, agg, every=2, outer=used)
    with pytest.raises(ConfigError, match="without weighted=True"):
        DiLoCo(model, inner, aggregator(model, weighted=True), every=2)
    loop = DiLoCo(model, inner, agg, every=2)
    for state in ({}, {**loop.state_dict(), "global": {}}):
        with pytest.raises(ConfigError, match="the state is"):
            loop.load_state_dict(state)


# ---- on three ranks ----------------------------------------------------------------------------------------------------
@pytest.fixture
def comm():
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.mark.mpi
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("case", "exchange"), [("dense", "auto"), ("topk", "sharded"), ("sparseloco", "p2p")])
def test_all_workers_are_as_simulated(comm, case, exchange, inner):
    """Under p2p rank 0 is a server without data, which calls `sync` by itself."""
    uplink, C, decay, lr, momentum = CASES[case]
    model = model_at(start())
    agg = mc.Aggregator(comm, dict(model.named_parameters()), uplink=uplink, exchange=exchange)
    loop = made(model, agg, inner, lr, momentum)
    if agg.hosts:
        train(model, loop, comm.rank, 0, H * ROUNDS)
    else:
        for _ in range(ROUNDS):
            loop.sync()
    workers = [rank for rank, hosts in enumerate(comm.allgather(agg.hosts)) if hosts]
    expected = simulated(workers, inner, C, decay, lr, momentum)
    np.testing.assert_allclose(vector_of(model), expected, rtol=1e-10, atol=1e-11)
    assert len(set(comm.allgather(vector_of(model).tobytes()))) == 1
    agg.close()


@pytest.mark.mpi
@pytest.mark.parametrize("uplink", ["ef14@decay=0.95:chunked-topk:k=2,chunk=8", "ef21:sign", "ef14:qsgd:bits=4"])
def test_all_ranks_have_the_same_bits_after_300_steps(comm, uplink):
    model = model_at(start(), torch.float32)
    agg = mc.Aggregator(comm, dict(model.named_parameters()), uplink=uplink, downlink="direct:cast:to=bfloat16")
    loop = DiLoCo(model, torch.optim.AdamW(model.parameters(), lr=0.01), agg, every=10)
    train(model, loop, comm.rank, 0, 300, torch.float32)
    assert loop.rounds == 30
    assert len(set(comm.allgather(vector_of(model).tobytes()))) == 1
    agg.close()


@pytest.mark.mpi
def test_ranks_that_begin_apart_are_told(comm):
    model = model_at(start() + (comm.rank == comm.size - 1))
    agg = mc.Aggregator(comm, dict(model.named_parameters()))
    with pytest.raises(
        ConfigError, match=f"rank {comm.size - 1} has DiLoCo with every=2, SGD, parameters .* broadcast rank 0's"
    ):
        DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.1), agg, every=2)
    model = model_at(start())
    with pytest.raises(ConfigError, match="rank 1 has DiLoCo with every=3"):
        DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.1), agg, every=2 + (comm.rank == 1))
    agg.close()


# ---- as users run it ---------------------------------------------------------------------------------------------------
@pytest.mark.process
@pytest.mark.parametrize("start", ["torchrun", "mpicomp launch"])
def test_the_example_learns_and_sends_little(start):
    launched = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
        "mpicomp launch": [sys.executable, "-m", "mpicomp", "launch", "-n", "2", "--", "python"],
    }[start]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    argv = [*launched, "examples/diloco.py"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\w+): accuracy ([\d.]+)%, ([\d.]+) kB", done.stdout, re.MULTILINE)
    (dense, dense_accuracy, dense_kB), (sparse, sparse_accuracy, sparse_kB) = found
    assert (dense, sparse) == ("DiLoCo", "SparseLoCo")
    assert float(dense_accuracy) > 90 and float(sparse_accuracy) > 90
    assert float(sparse_kB) < float(dense_kB) / 50
