"""Server optimizers and their schedule, against plain NumPy and against PyTorch, in every method that admits them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.errors import ConfigError
from mpicomp.methods import methods
from mpicomp.optimizers import GradientDescent, HeavyBall, optimizers
from mpicomp.registry import default_options, option_names
from mpicomp.runtime.session import choose_parts

D, STEP, T = 7, 0.05, 120


def problem(dim: int = 12, clients: int = 4) -> mc.Problem:
    from mpicomp.problems import problems

    return problems.build("quadratic", {"dim": dim, "clients": clients, "noise": 0.3, "reg": 0.1, "seed": 1})


def gradients(seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(T, D)))


def driven(name: str, options: dict[str, Any], dtype: type = np.float64) -> np.ndarray:
    """x after all of `gradients`, to which the optimizer adds what pulls x to zero."""
    optimizer = optimizers.build(name, options)
    optimizer.rounds_of_run = T
    x = np.ones((1, D), dtype)
    optimizer.start(x, STEP)
    for g in gradients():
        optimizer.step(x, (g + 0.3 * x[0])[None].astype(dtype))
    return x[0]


# ---- schedules: the printed formulas ------------------------------------------------------------------------------------
def cosine(t, W=0, floor=0.0, rounds=T):
    if t <= W:
        return t / W
    s = min((t - 1 - W) / (rounds - W), 1.0)
    return floor + (1 - floor) * (1 + np.cos(np.pi * s)) / 2


SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({}, lambda t: 1.0),
    "warm-up": ({"warmup": 10}, lambda t: min(t / 10, 1)),
    "sqrt": ({"schedule": "sqrt"}, lambda t: t**-0.5),
    "sqrt, warm-up": ({"schedule": "sqrt", "warmup": 9}, lambda t: min(t / 9, (9 / t) ** 0.5)),
    "steps": ({"schedule": "steps"}, lambda t: 1 if t <= T / 2 else 0.1 if t <= 3 * T / 4 else 0.01),
    "milestones": (
        {"schedule": "steps", "milestones": "20+50+51", "drop": 2.0},
        lambda t: 0.5 ** ((t > 20) + (t > 50) + (t > 51)),
    ),
    "milestone, warm-up": (
        {"schedule": "steps", "milestones": 4, "drop": 4.0, "warmup": 8},
        lambda t: min(t / 8, 1) / (4 if t > 4 else 1),
    ),
    "cosine": ({"schedule": "cosine"}, cosine),
    "cosine, warm-up, floor": (
        {"schedule": "cosine", "warmup": 15, "floor": 0.1, "rounds": 100},
        lambda t: cosine(t, 15, 0.1, 100),
    ),
}


def factors(name: str) -> list[float]:
    return [SCHEDULES[name][1](t) for t in range(1, T + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["gd", "heavyball", "sgd", "prox", "adam", "amsgrad", "adamw"])
def test_every_optimizer_has_every_schedule(optimizer, schedule):
    """Gradients of one sign and no memory: each step is γ_t times something that does not change."""
    own = {"heavyball": {"momentum": 0.0}, "prox": {"weight": 0.0}}.get(optimizer, {})
    if optimizer.startswith(("adam", "ams")):
        own = {"b1": 0.0, "b2": 0.0}
    made = optimizers.build(optimizer, {**own, **SCHEDULES[schedule][0]})
    made.rounds_of_run = T
    x = np.zeros((1, D))
    made.start(x, STEP)
    steps = []
    for _ in range(T):
        before = x.copy()
        if optimizer == "adamw":
            before[:] = x[:] = 0.0
        made.step(x, np.ones((1, D)))
        steps.append((before - x)[0, 0])
    np.testing.assert_allclose(steps, STEP * np.array(factors(schedule)), rtol=1e-6)


# ---- optimizers: the printed algorithms ---------------------------------------------------------------------------------
def sgd(x, steps, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = np.zeros_like(x)
    for step, g in zip(steps, gradients(), strict=True):
        u = g + 0.3 * x + weight_decay * x
        v = momentum * v + u
        x = x - step * (u + momentum * v if nesterov else v)
    return x


def adam(x, steps, b1=0.9, b2=0.999, eps=1e-8, coupled=0.0, decoupled=0.0, amsgrad=False):
    m, v, top = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t, (step, g) in enumerate(zip(steps, gradients(), strict=True), 1):
        u = g + 0.3 * x + coupled * x
        m, v = b1 * m + (1 - b1) * u, b2 * v + (1 - b2) * u**2
        top = np.maximum(top, v) if amsgrad else v
        x = x - step * decoupled * x - step * (m / (1 - b1**t)) / (np.sqrt(top / (1 - b2**t)) + eps)
    return x


def heavyball(x, steps, momentum):
    return sgd(x, steps, momentum)


PRINTED: dict[str, tuple[str, dict[str, Any], Any]] = {
    "sgd": ("sgd", {}, lambda x, s: sgd(x, s)),
    "sgd, decay": ("sgd", {"weight_decay": 0.1}, lambda x, s: sgd(x, s, weight_decay=0.1)),
    "sgd, momentum": ("sgd", {"momentum": 0.8, "weight_decay": 0.1}, lambda x, s: sgd(x, s, 0.8, weight_decay=0.1)),
    "sgd, Nesterov": (
        "sgd",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        lambda x, s: sgd(x, s, 0.8, True, 0.1),
    ),
    "heavyball": ("heavyball", {"momentum": 0.7}, lambda x, s: heavyball(x, s, 0.7)),
    "adam": ("adam", {}, lambda x, s: adam(x, s)),
    "adam, decay": ("adam", {"b1": 0.8, "b2": 0.9, "weight_decay": 0.1}, lambda x, s: adam(x, s, 0.8, 0.9, coupled=0.1)),
    "adamw": ("adamw", {}, lambda x, s: adam(x, s, decoupled=0.01)),
    "adamw, decay": ("adamw", {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.5},
              lambda x, s: adam(x, s, 0.8, 0.9, 1e-3, decoupled=0.5)),
    "amsgrad": ("amsgrad", {"variant": "code", "b2": 0.9, "weight_decay": 0.1},
                lambda x, s: adam(x, s, 0.9, 0.9, coupled=0.1, amsgrad=True)),
}  # fmt: skip


@pytest.mark.parametrize("schedule", ["constant", "cosine, warm-up, floor", "steps"])
@pytest.mark.parametrize("case", PRINTED)
def test_optimizers_follow_their_algorithms(case, schedule):
    name, options, oracle = PRINTED[case]
    expected = oracle(np.ones(D), STEP * np.array(factors(schedule)))
    np.testing.assert_allclose(driven(name, {**options, **SCHEDULES[schedule][0]}), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", PRINTED)
def test_in_single_precision(case):
    name, options, oracle = PRINTED[case]
    np.testing.assert_allclose(driven(name, options, np.float32), oracle(np.ones(D), [STEP] * T), rtol=1e-3, atol=1e-4)


# ---- PyTorch ------------------------------------------------------------------------------------------------------------
def of_torch(case: str, parameters):
    torch = pytest.importorskip("torch")
    name, options, _ = PRINTED[case]
    given = {"lr": STEP, "weight_decay": options.get("weight_decay", 0.01 if name == "adamw" else 0.0)}
    if name in ("sgd", "heavyball"):
        return torch.optim.SGD(
            parameters, momentum=options.get("momentum", 0), nesterov=options.get("nesterov", False), **given
        )
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    betas = options.get("b1", 0.9), options.get("b2", 0.999)
    return kind(parameters, betas=betas, eps=options.get("eps", 1e-8), amsgrad=name == "amsgrad", **given)


def schedule_of_torch(schedule: str, optimizer):
    torch = pytest.importorskip("torch")
    s = torch.optim.lr_scheduler
    if schedule == "warm-up":
        return s.LinearLR(optimizer, start_factor=1 / 10, total_iters=9)
    if schedule == "milestones":
        return s.MultiStepLR(optimizer, [20, 50, 51], gamma=0.5)
    if schedule == "cosine":
        return s.CosineAnnealingLR(optimizer, T_max=T)
    if schedule == "cosine, warm-up, floor":
        warm = s.LinearLR(optimizer, start_factor=1 / 15, total_iters=14)
        after = s.CosineAnnealingLR(optimizer, T_max=100 - 15, eta_min=0.1 * STEP)
        return s.SequentialLR(optimizer, [warm, after], milestones=[15])
    return s.LambdaLR(optimizer, lambda t: SCHEDULES[schedule][1](t + 1))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # SequentialLR's own
@pytest.mark.parametrize("schedule", ["constant", "warm-up", "milestones", "cosine", "cosine, warm-up, floor"])
@pytest.mark.parametrize("case", PRINTED)
def test_optimizers_are_those_of_torch(case, schedule):
    torch = pytest.importorskip("torch")
    name, options, _ = PRINTED[case]
    x = torch.ones(D, dtype=torch.float64, requires_grad=True)
    optimizer = of_torch(case, [x])
    scheduler = schedule_of_torch(schedule, optimizer)
    rounds = 100 if "floor" in schedule else T  # PyTorch's cosine goes up again after its end
    for g in gradients()[:rounds]:
        x.grad = torch.from_numpy(g) + 0.3 * x.detach()
        optimizer.step()
        scheduler.step()
    made = optimizers.build(name, {**options, **SCHEDULES[schedule][0]})
    made.rounds_of_run = T
    ours = np.ones((1, D))
    made.start(ours, STEP)
    for g in gradients()[:rounds]:
        made.step(ours, (g + 0.3 * ours[0])[None])
    np.testing.assert_allclose(ours[0], x.detach().numpy(), rtol=1e-12, atol=1e-12)


# ---- in a run -----------------------------------------------------------------------------------------------------------
def run(**options):
    given: dict[str, Any] = {"step": 0.02, "rounds": 24, "init": "normal:3", "allow_unsafe": True, "explosion": 0}
    return mc.run(**{"problem": problem(), **given, **options})


ADMITTING = [name for name in methods if not methods[name].own_optimizer]
NEED_BATCHES = {name for name in methods if methods[name].own_batch is not mc.Method.own_batch} | {
    "vr-diana",
    "vr-marina",
}


@pytest.mark.parametrize("name", shortened(ADMITTING, 4, "four runs of every method"))
def test_every_method_takes_the_optimizers_and_the_schedule(name):
    """γ_t = γ for sgd without options is gd's to the last bit; another schedule, decay or momentum is not without effect."""
    options: dict[str, Any] = {"method": name}
    if name in NEED_BATCHES or "sgd" in name or "page" in name or "mvr" in name:
        options["batch"] = 2
        options["problem"] = sums()
    plain = run(optimizer="gd", **options)
    np.testing.assert_array_equal(run(optimizer="sgd", **options).x, plain.x)
    for optimizer in ("sgd:momentum=0.9,nesterov=true", "adamw:weight_decay=0.1", "gd:schedule=cosine,warmup=3"):
        other = run(optimizer=optimizer, **options)
        assert np.isfinite(other.x).all() and not np.array_equal(other.x, plain.x), optimizer


def sums() -> mc.Problem:
    from mpicomp.problems import problems

    return problems.build("logistic", {"data": "mushrooms", "clients": 4})


def test_the_server_steps_as_the_oracle():
    result = run(method="gd", optimizer="sgd:momentum=0.9,nesterov=true,schedule=cosine,warmup=5", rounds=40)
    p = problem()
    from mpicomp.runtime.config import initial_point

    x, v = initial_point("normal:3", p.dim, 0), np.zeros(p.dim)
    for t in range(1, 41):
        g = np.mean([gradient(p, i, x) for i in range(p.n_clients)], axis=0)
        v = 0.9 * v + g
        x = x - 0.02 * cosine(t, 5, 0.0, 40) * (g + 0.9 * v)
    np.testing.assert_allclose(result.x, x, rtol=1e-11)


def gradient(p: mc.Problem, i: int, x: np.ndarray) -> np.ndarray:
    out = np.empty(p.dim)
    p.gradient(i, x, out)
    return out


def test_options_alone_are_for_the_methods_own_optimizer():
    alone = run(method="marina", optimizer_options={"schedule": "cosine"})
    named = run(method="marina", optimizer="gd:schedule=cosine")
    np.testing.assert_array_equal(alone.x, named.x)
    assert not np.array_equal(alone.x, run(method="marina").x)
    kept = run(method="cd-adam", method_options={"b1": 0.5}, optimizer_options={"warmup": 10})
    whole = run(method="cd-adam", optimizer="amsgrad:b1=0.5,warmup=10")
    np.testing.assert_array_equal(kept.x, whole.x)
    with pytest.raises(ConfigError, match="brings its own optimizer"):
        run(method="onebit-adam", optimizer_options={"warmup": 10})


def test_options_alone_need_an_optimizer_with_a_name():
    class Own(GradientDescent):
        name = "own"

    class Mine(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(methods["gd"]().compose(setting, step_size).uplink, optimizer=Own())

    assert np.isfinite(run(method=Mine()).x).all()
    with pytest.raises(ConfigError, match="Own, has no name"):
        run(method=Mine(), optimizer_options={"warmup": 3})


def test_options_alone_are_in_the_record(tmp_path):
    config = mc.Config(optimizer_options={"schedule": "cosine", "warmup": 7})
    (tmp_path / "c.toml").write_text(config.to_toml())
    assert mc.Config.load(tmp_path / "c.toml") == config


def test_a_slice_is_stepped_as_the_whole():
    """All of it is elementwise: servers of slices come to the same bits."""
    for name in ("sgd:momentum=0.9,nesterov=true,weight_decay=0.01,schedule=cosine", "adamw:warmup=4"):
        text, _, rest = name.partition(":")
        options = dict(part.split("=") for part in rest.split(","))
        options = {k: v if k == "schedule" else json.loads(v) for k, v in options.items()}
        whole, parts = driven(text, options), []
        for columns in (slice(0, 3), slice(3, D)):
            made = optimizers.build(text, options)
            made.rounds_of_run = T
            x = np.ones((1, D))[:, columns].copy()
            made.start(x, STEP)
            for g in gradients():
                made.step(x, (g[columns] + 0.3 * x[0])[None])
            parts.append(x[0])
        np.testing.assert_array_equal(np.concatenate(parts), whole)


SAVED = ["sgd:momentum=0.9,nesterov=true,schedule=cosine,warmup=3", "gd:schedule=sqrt", "adamw:schedule=steps", "sgd"]


@pytest.mark.parametrize("method", ["gd", "cd-adam"])
@pytest.mark.parametrize("optimizer", SAVED)
def test_a_run_that_resumes_goes_on_in_its_schedule(optimizer, method, tmp_path):
    options = {"method": method, "optimizer": optimizer}
    whole = run(**options)
    run(**options, rounds=10, out=str(tmp_path), checkpoint_every=5)
    # a schedule of the run's own T keeps it: here the one of ten rounds
    short = run(**options, out=str(tmp_path), checkpoint_every=5, resume="auto")
    fixed = f"{optimizer}{',' if ':' in optimizer else ':'}rounds=10"
    same = run(method=method, optimizer=fixed)
    np.testing.assert_array_equal(short.x, same.x)
    if "cosine" not in optimizer and "steps" not in optimizer:
        np.testing.assert_array_equal(short.x, whole.x)


@pytest.mark.parametrize(
    "spec, words",
    [
        ("sgd:momentum=1", r"momentum=1 is not in \[0, 1\)"),
        ("sgd:nesterov=true", "momentum=0.9"),
        ("sgd:weight_decay=-1", "negative"),
        ("adamw:weight_decay=-1", "negative"),
        ("gd:schedule=cosin", "did you mean 'cosine'"),
        ("gd:warmup=-1", "negative"),
        ("gd:warmup=2.5", "whole number|integer"),
        ("gd:schedule=steps,drop=0.5", "at least 1"),
        ("gd:schedule=cosine,floor=2", r"\[0, 1\]"),
        ("gd:floor=0.1", "schedule=cosine"),
        ("gd:milestones=5", "schedule=steps"),
        ("gd:schedule=steps,milestones=5+5", "increasing"),
        ("gd:schedule=steps,milestones=a+b", "increasing"),
        ("heavyball:moment=0.1", "momentum"),
    ],
)
def test_wrong_options_are_explained(spec, words):
    with pytest.raises(ConfigError, match=words):
        run(method="gd", optimizer=spec)


def test_objects_and_names_are_the_same():
    assert GradientDescent(schedule="cosine").schedule == "cosine" and HeavyBall(0.5, warmup=3).warmup == 3
    np.testing.assert_array_equal(
        run(method="ef21", compressor="topk:k=2", optimizer=HeavyBall(0.5, warmup=3)).x,
        run(method="ef21", compressor="topk:k=2", optimizer="heavyball:momentum=0.5,warmup=3").x,
    )
    assert "schedule" in option_names(optimizers["sgd"]) and default_options(optimizers["adamw"])["floor"] == 0.0


def test_a_class_of_ones_own_needs_no_constructor():
    class Half(GradientDescent):
        def __init__(self):
            self.factor = 0.5

        def step(self, x, g):
            return super().step(x, self.factor * g)

    np.testing.assert_array_equal(run(method="gd", optimizer=Half()).x, run(method="gd", step=0.01).x)


def test_options_reach_the_choice_of_parts():
    config = mc.Config(method="ef21-hb", optimizer_options={"warmup": 3})
    with pytest.raises(ConfigError, match="own optimizer"):
        choose_parts(config)
