"""EF21-Muon and Muon's step against plain NumPy, written from the papers; in runs, and with PyTorch as an optimizer."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from compressor_table import top_oracle

import mpicomp as mc
from mpicomp.errors import AggregationError, ConfigError
from mpicomp.optimizers import optimizers
from mpicomp.optimizers.muon import Muon, format_shapes, orthogonalized, parse_shapes

SHAPES = {"A": (6, 4), "b": (6,), "C": (3, 2, 2)}
SIZES = [24, 6, 12]
DIM = sum(SIZES)
ROUNDS = 25


# ---- the oracle --------------------------------------------------------------------------------------------------------
def polar(G: np.ndarray, iterations: int) -> np.ndarray:
    """UVᵀ; or the quintic of Jordan et al. 2024 on the singular values, one by one."""
    u, s, v = np.linalg.svd(G, full_matrices=False)
    if iterations == 0:  # a sparse estimate may have a low rank
        return sum(np.outer(u[:, j], v[j]) for j in range(len(s)) if s[j] > 1e-12 * s[0])
    s = s / np.linalg.norm(s)
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


def lmo_step(
    x: np.ndarray, g: np.ndarray, step: float, iterations: int = 5, radius: str = "one", decay: float = 0.0
) -> np.ndarray:
    parts, lo = [], 0
    for shape, size in zip(SHAPES.values(), SIZES, strict=True):
        G, old = g[lo : lo + size], x[lo : lo + size] * (1 - step * decay)
        if len(shape) == 1:
            parts.append(old - step * np.sign(G))
        else:
            a, b = shape[0], size // shape[0]
            rho = {"one": 1.0, "original": max(1, a / b) ** 0.5, "rms": 0.2 * max(a, b) ** 0.5}[radius]
            parts.append(old - step * rho * polar(G.reshape(a, b), iterations).ravel())
        lo += size
    return np.concatenate(parts)


def by_layer(fraction: float, v: np.ndarray) -> np.ndarray:
    parts = np.split(v, np.cumsum(SIZES)[:-1])
    return np.concatenate([top_oracle(part, max(1, int(fraction * part.size))) for part in parts])


def gradient_of(i: int, x: np.ndarray) -> np.ndarray:
    """Of ½‖D_i x − t_i‖² for a diagonal D_i."""
    rng = np.random.default_rng(i)
    D, t = 0.5 + rng.random(DIM), rng.standard_normal(DIM)
    return D * (D * x - t)


class Diagonal(mc.Problem):
    """f_i(x) = ½‖D_i x − t_i‖², with x in tensors."""

    shapes = SHAPES

    def __init__(self, clients: int = 4):
        self.n_clients, self.dim = clients, DIM

    def loss(self, i, x):
        rng = np.random.default_rng(i)
        D, t = 0.5 + rng.random(DIM), rng.standard_normal(DIM)
        return 0.5 * float(((D * x - t) ** 2).sum())

    def gradient(self, i, x, out):
        out[:] = gradient_of(i, x)


def ef21_muon(n: int, eta: float, up: float, down: float, step: float, **options: Any) -> np.ndarray:
    """Gruntkowska et al. 2025, the layer-wise algorithm: server LMO, EF21-P, momentum, EF21."""
    x = np.ones(DIM)
    w = x.copy()
    M = np.array([gradient_of(i, w) for i in range(n)])
    G_i = np.array([by_layer(up, m) for m in M])
    G = G_i.mean(axis=0)
    for k in range(ROUNDS):
        if k:
            for i in range(n):
                M[i] = (1 - eta) * M[i] + eta * gradient_of(i, w)
                R = by_layer(up, M[i] - G_i[i])
                G_i[i] += R
                G = G + R / n
        x = lmo_step(x, G, step, **options)
        w = w + by_layer(down, x - w)
    return x


# ---- the step ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 5), (3, 17), (17, 3), (1, 4), (4, 1), (1, 1)])
def test_the_iteration_is_that_of_the_singular_values(shape):
    G = np.random.default_rng(1).standard_normal(shape)
    for iterations in (0, 1, 5):
        np.testing.assert_allclose(orthogonalized(G, iterations), polar(G, iterations), rtol=1e-9, atol=1e-11)
    assert orthogonalized(G.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(orthogonalized(1e200 * G), orthogonalized(G), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(orthogonalized(1e-200 * G), orthogonalized(G), rtol=1e-12, atol=1e-14)


def test_singular_values_come_near_one():
    """What the docstring says: those of at least a hundredth of ‖G‖ lie in [0.68, 1.14]."""
    s = np.logspace(-2, 0, 4000)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert s.min() >= 0.68 and s.max() <= 1.14


def test_matrices_without_a_direction():
    assert not orthogonalized(np.zeros((3, 2))).any()
    assert np.isnan(orthogonalized(np.array([[1.0, np.nan]]))).all()


@pytest.mark.parametrize("iterations", [5, 0])
@pytest.mark.parametrize("radius", ["one", "original", "rms"])
def test_the_optimizer_steps_tensor_by_tensor(radius, iterations):
    rng = np.random.default_rng(2)
    optimizer, x, y = Muon("6x4+6+3x2x2", iterations, radius, 0.1), np.ones((1, DIM)), np.ones(DIM)
    optimizer.start(x, 0.05)
    for _ in range(10):
        g = rng.standard_normal(DIM)
        optimizer.step(x, g[None])
        y = lmo_step(y, g, 0.05, iterations, radius, 0.1)
    np.testing.assert_allclose(x[0], y, rtol=1e-10)


def test_shapes_are_text():
    assert parse_shapes(format_shapes(list(SHAPES.values()))) == list(SHAPES.values())
    for text in ("3x", "x3", "3+", "0x2", "a", "3,4"):
        with pytest.raises(ConfigError, match="write for example 64x32"):
            optimizers.build("muon", {"shapes": text})
    with pytest.raises(
        ConfigError, match=r"the tensors 6x4 have 24 entries, and x has 42 here; one server must have all of x"
    ):
        Muon("6x4").start(np.ones((1, 42)), 0.1)
    for options, said in (
        ({"radius": "two"}, "known: one, original, rms"),
        ({"iterations": -1}, "whole number"),
        ({"weight_decay": -1.0}, "negative"),
    ):
        with pytest.raises(ConfigError, match=said):
            optimizers.build("muon", options)


# ---- in runs -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("down", [0.3, 1.0])
@pytest.mark.parametrize("up", [0.2, 1.0])
@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_a_run_is_the_papers_algorithm(eta, up, down):
    names = {f: "identity" if f == 1.0 else f"topk:fraction={f}" for f in (up, down)}
    result = mc.run(
        problem=Diagonal(), method="ef21-muon", method_options={"eta": eta}, compressor=names[up], downlink_compressor=names[down],
        step=0.05, rounds=ROUNDS, init="ones",
    )  # fmt: skip
    np.testing.assert_allclose(result.x, ef21_muon(4, eta, up, down, 0.05), rtol=1e-9, atol=1e-12)


def test_the_optimizers_options_go_through_the_run():
    result = mc.run(
        problem=Diagonal(), method="ef21-muon", step=0.05, rounds=ROUNDS, init="ones",
        optimizer_options={"radius": "rms", "iterations": 0, "weight_decay": 0.2},
    )  # fmt: skip
    np.testing.assert_allclose(
        result.x, ef21_muon(4, 0.1, 0.1, 0.1, 0.05, radius="rms", iterations=0, decay=0.2), rtol=1e-9, atol=1e-12
    )


def test_it_descends_and_says_what_it_sends():
    """With a step that falls it comes near the minimum; a tenth of the entries travel each way."""
    result = mc.run(
        problem=Diagonal(), method="ef21-muon", method_options={"eta": 0.5}, step=0.1, rounds=600, init="ones",
        optimizer_options={"schedule": "cosine"}, compressor="topk:fraction=0.3", downlink_compressor="topk:fraction=0.3",
    )  # fmt: skip
    H = np.zeros(DIM)
    b = np.zeros(DIM)
    for i in range(4):
        zero = gradient_of(i, np.zeros(DIM))
        H, b = H + gradient_of(i, np.ones(DIM)) - zero, b - zero
    assert np.linalg.norm(result.x - b / H) < 0.05 * np.linalg.norm(b / H)
    sent = result.summary["bytes"]["uplink"]["payload_bits"] / 600 / 4
    kept = sum(int(0.3 * size) for size in SIZES)
    assert 64 * kept < sent < 64 * kept + 3 * 8 * 6


def test_problems_know_their_tensors():
    from mpicomp.problems import problems

    for name in ("mlp", "autoencoder"):
        problem = problems.build(name, {"clients": 3})
        assert sum(int(np.prod(shape)) for shape in problem.shapes.values()) == problem.dim
    mlp = problems.build("mlp", {"clients": 3, "hidden": "5+4"})
    assert list(mlp.shapes.values()) == [(64, 5), (5,), (5, 4), (4,), (4, 10), (10,)]
    result = mc.run(
        problem=mlp,
        method="ef21-muon",
        step=0.02,
        rounds=60,
        init="normal:1",
        batch=32,
        optimizer_options={"schedule": "cosine"},
    )
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


def test_what_a_run_refuses():
    given = {"problem": Diagonal(), "method": "ef21-muon", "rounds": 2}
    with pytest.raises(mc.TheoryError, match=r"smoothness of each layer in its own norm.*step=0.02"):
        mc.run(**given)
    with pytest.raises(ConfigError, match="the tensors 3x4 have 12 entries, and x has 42"):
        mc.run(**given, step=0.1, method_options={"shapes": "3x4"})
    with pytest.raises(ConfigError, match=r"eta=0.0 is not in"):
        mc.run(**given, step=0.1, method_options={"eta": 0.0})
    with pytest.raises(ConfigError, match="k=7 must be an integer from 1 to the dimension, 6"):
        mc.run(**given, step=0.1, compressor="topk:k=7")


# ---- with PyTorch ------------------------------------------------------------------------------------------------------
def as_tensors(x: np.ndarray, torch: Any, dtype: Any = None) -> dict[str, Any]:
    parts = np.split(x, np.cumsum(SIZES)[:-1])
    return {
        name: torch.nn.Parameter(torch.from_numpy(part.reshape(shape).copy()).to(dtype or torch.float64))
        for (name, shape), part in zip(SHAPES.items(), parts, strict=True)
    }


def flat(parameters: dict[str, Any]) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in parameters.values()])


def set_gradients(parameters: dict[str, Any], g: np.ndarray) -> None:
    import torch

    for p, part in zip(parameters.values(), np.split(g, np.cumsum(SIZES)[:-1]), strict=True):
        p.grad = torch.from_numpy(part.reshape(p.shape).copy()).to(p.dtype)


def loop(parameters: dict[str, Any], optimizer: Any, worker: int, rounds: int) -> None:
    for _ in range(rounds):
        set_gradients(parameters, gradient_of(worker, flat(parameters)))
        optimizer.step()


RULES = [("A", "topk:k=4"), ("b", "topk:k=1"), ("C", "topk:k=2")]  # what topk:fraction=0.2 is for each


def replicated(workers: list[int], momentum: float, step: float, **options: Any) -> np.ndarray:
    """All ranks have G and step by themselves: the paper's algorithm without compression of the model."""
    x, n = np.ones(DIM), len(workers)
    M = np.array([gradient_of(i, x) for i in workers])
    G_i = np.zeros((n, DIM))
    for k in range(ROUNDS):
        for j, i in enumerate(workers):
            if k:
                M[j] = momentum * M[j] + (1 - momentum) * gradient_of(i, x)
            G_i[j] += by_layer(0.2, M[j] - G_i[j])
        x = lmo_step(x, G_i.mean(axis=0), step, **options)
    return x


@pytest.mark.torch
@pytest.mark.parametrize("radius", ["one", "original", "rms"])
@pytest.mark.parametrize("iterations", [5, 0])
def test_one_rank_is_as_simulated(radius, iterations):
    torch = pytest.importorskip("torch")
    from mpicomp.torch import EF21Muon

    parameters = as_tensors(np.ones(DIM), torch)
    agg = mc.Aggregator(None, parameters, uplink="ef21:identity", rules=RULES)
    options = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "radius": radius, "iterations": iterations}
    loop(parameters, EF21Muon(parameters.items(), agg, **options), 0, ROUNDS)
    expected = replicated([0], 0.8, 0.05, radius=radius, iterations=iterations, decay=0.1)
    np.testing.assert_allclose(flat(parameters), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_resumes_exactly_in_every_dtype(dtype):
    torch = pytest.importorskip("torch")
    from mpicomp.torch import EF21Muon

    def fresh():
        parameters = as_tensors(np.ones(DIM), torch, getattr(torch, dtype))
        agg = mc.Aggregator(None, parameters, uplink="ef21:topk:k=3")
        return parameters, EF21Muon(parameters.items(), agg, lr=0.03)

    parameters, optimizer = fresh()
    loop(parameters, optimizer, 1, 9)
    file = io.BytesIO()
    torch.save({"model": parameters, "optimizer": optimizer.state_dict()}, file)
    assert all(state["momentum"].dtype == torch.float32 for state in optimizer.state.values())
    loop(parameters, optimizer, 1, 11)
    others, again = fresh()
    loop(others, again, 1, 2)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for name, p in others.items():
            p.copy_(saved["model"][name])
    loop(others, again, 1, 11)
    assert np.array_equal(flat(parameters), flat(others))


@pytest.mark.torch
def test_gradients_that_cannot_be_used_change_nothing():
    torch = pytest.importorskip("torch")
    from mpicomp.torch import EF21Muon

    parameters = as_tensors(np.ones(DIM), torch)
    optimizer = EF21Muon(parameters.items(), mc.Aggregator(None, parameters, uplink="ef21:topk:k=9"))
    loop(parameters, optimizer, 0, 3)
    before, momentum = flat(parameters), optimizer.state[parameters["A"]]["momentum"].clone()
    set_gradients(parameters, np.full(DIM, np.inf))
    with pytest.raises(AggregationError, match="tensor 'A' holds inf"):
        optimizer.step()
    assert np.array_equal(before, flat(parameters)) and torch.equal(
        momentum, optimizer.state[parameters["A"]]["momentum"]
    )
    optimizer.zero_grad()  # None everywhere: momentum alone goes on
    optimizer.step()
    torch.testing.assert_close(optimizer.state[parameters["A"]]["momentum"], 0.95 * momentum)
    assert np.isfinite(flat(parameters)).all() and not np.array_equal(before, flat(parameters))


@pytest.mark.torch
def test_what_the_optimizer_refuses():
    torch = pytest.importorskip("torch")
    from mpicomp.torch import EF21Muon

    parameters = as_tensors(np.ones(DIM), torch)
    agg = mc.Aggregator(None, parameters)
    with pytest.raises(ConfigError, match=r"give model.named_parameters"):
        EF21Muon(list(parameters.values()), agg)
    with pytest.raises(ConfigError, match="parameter 'b' is only in one of"):
        EF21Muon([(n, p) for n, p in parameters.items() if n != "b"], agg)
    with pytest.raises(ConfigError, match="without weighted=True"):
        EF21Muon(parameters.items(), mc.Aggregator(None, parameters, weighted=True))
    for option, said in (
        ({"lr": -1.0}, "negative"),
        ({"momentum": 1.0}, "not in"),
        ({"radius": "x"}, "known: one"),
        ({"iterations": 1.5}, "whole"),
    ):
        with pytest.raises(ConfigError, match=said):
            EF21Muon(parameters.items(), agg, **option)
    with pytest.raises(ConfigError, match="has no 'mpicomp'"):
        EF21Muon(parameters.items(), agg).load_state_dict(torch.optim.SGD(parameters.values()).state_dict())


@pytest.mark.torch
def test_groups_may_have_options_of_their_own():
    torch = pytest.importorskip("torch")
    from mpicomp.torch import EF21Muon

    parameters = as_tensors(np.ones(DIM), torch)
    named = list(parameters.items())
    optimizer = EF21Muon(
        [{"params": named[:1]}, {"params": named[1:], "lr": 0.0}], mc.Aggregator(None, parameters), lr=0.1
    )
    loop(parameters, optimizer, 0, 2)
    x = flat(parameters)
    assert not np.array_equal(x[:24], np.ones(24)) and np.array_equal(x[24:], np.ones(18))


@pytest.mark.torch
@pytest.mark.mpi
@pytest.mark.parametrize("exchange", ["sharded", "p2p"])
def test_all_ranks_are_as_simulated(exchange):
    """The uplink of sharded cuts whole vectors only, so there each tensor is a bucket of its own."""
    torch = pytest.importorskip("torch")
    from mpi4py import MPI

    from mpicomp.torch import EF21Muon

    comm, parameters = MPI.COMM_WORLD, as_tensors(np.ones(DIM), torch)
    agg = mc.Aggregator(comm, parameters, uplink="ef21:topk:fraction=0.2", exchange=exchange, bucket_nbytes=1)
    optimizer = EF21Muon(parameters.items(), agg, lr=0.05, momentum=0.8, radius="rms")
    loop(parameters, optimizer, comm.rank, ROUNDS)
    workers = [rank for rank, hosts in enumerate(comm.allgather(agg.hosts)) if hosts]
    np.testing.assert_allclose(flat(parameters), replicated(workers, 0.8, 0.05, radius="rms"), rtol=1e-9, atol=1e-12)
    agg.close()


@pytest.mark.torch
@pytest.mark.mpi
@pytest.mark.parametrize("downlink", ["dense", "ef21-p:topk:fraction=0.3", "direct:cast:to=bfloat16"])
def test_all_ranks_have_the_same_bits_after_300_steps(downlink):
    torch = pytest.importorskip("torch")
    from mpi4py import MPI

    from mpicomp.torch import EF21Muon

    comm, parameters = MPI.COMM_WORLD, as_tensors(np.ones(DIM), torch, torch.float32)
    agg = mc.Aggregator(comm, parameters, uplink="ef21:topk:fraction=0.2", downlink=downlink)
    loop(parameters, EF21Muon(parameters.items(), agg, lr=0.01), comm.rank, 300)
    assert len(set(comm.allgather(flat(parameters).tobytes()))) == 1
    agg.close()
