"""Every method of the registry against an independent NumPy code with its own random numbers, in distribution.

The other oracles are fed the runtime's own draws, so a wrong law of these would be in both.
Here the mean trajectories are compared: f, ‖x‖², the variance and every coordinate of x at five rounds, over SEEDS runs of the runtime and
REPLICAS of the other code (`independent_methods.py`, `independent_messages.py`).
All differences of a case lie within the number of standard errors that, over so many differences, is passed by chance as rarely as three
are by one.
Seeds are fixed, so a case that passes does so again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import NormalDist
from typing import Any

import independent_messages as messages
import independent_methods as independent
import numpy as np
import pytest
from independent_messages import Message
from independent_methods import EXACT, Task, Trajectory

import mpicomp as mc
from mpicomp.compressors import compressors
from mpicomp.exchanges.local import LocalExchange
from mpicomp.methods import methods
from mpicomp.problems import problems
from mpicomp.runtime.config import Config
from mpicomp.runtime.session import Composition, Session

SEEDS, REPLICAS = 400, 3000
ROUNDS = (1, 2, 4, 8, 12)
LENGTH = ROUNDS[-1]
N, M, D = 4, 5, 10  # clients, rows of each, dimension; 4 does not divide 10
LARGE_SUM = 2 * (1 - NormalDist().cdf(3))

# ---- compressors: the runtime's text, and the other code ---------------------------------------------------------------
RAND = "randk:k=3,sampling=uniform"
OMEGA = D / 3 - 1
RAND_K = Message(messages.rand_k(3), OMEGA)
NATURAL = Message(messages.natural, 1 / 8)
TOP_2 = Message(messages.top_k(2))
PERM = "permk:layout=uniform"
PERM_K = Message(messages.perm_k, N - 1.0)
SENT: dict[str, Message] = {
    RAND: RAND_K,
    "randk:k=3,sampling=uniform,mask=shared": Message(messages.rand_k(3, same=True), OMEGA),
    "randk:k=3": Message(messages.window_k(3), OMEGA),
    PERM: PERM_K,
    "qsgd:levels=2": Message(messages.qsgd(2)),
    "qsgd:bits=3,norm=max": Message(messages.qsgd(3, messages.largest)),
    "natural": NATURAL,
    "natural-dithering:levels=3": Message(messages.natural_dithering(3)),
    "ternary": Message(messages.ternary),
    "dynamic:bits=3": Message(messages.qsgd(3, messages.largest)),
    "cq": Message(messages.one_bit(correlated=True)),
    "iq": Message(messages.one_bit(correlated=False)),
    "cq:variant=sign-magnitude": Message(messages.sign_magnitude(correlated=True)),
    "iq:variant=sign-magnitude": Message(messages.sign_magnitude(correlated=False)),
}


@dataclass(frozen=True)
class Case:
    """A method of the runtime with its options, and the same in the other code.

    Attributes
    ----------
    code : the trajectory, given a task. up, down : the other code's compressors. compressor, downlink : the runtime's.
    """

    method: str
    code: Callable[[Task], Trajectory]
    options: dict[str, Any] = field(default_factory=dict)
    compressor: str | None = None
    up: Message = EXACT
    downlink: str | None = None
    down: Message = EXACT
    batch: int = 0
    step: float = 0.05

    @property
    def name(self) -> str:
        own = ",".join(f"{k}={v}" for k, v in self.options.items())
        return "-".join(
            filter(None, [self.method, own, self.compressor, self.downlink, self.batch and f"b{self.batch}"])
        )


def compressed(method: str, code: Callable[..., Trajectory], **more: Any) -> Case:
    """A case with Rand-K up."""
    return Case(method, code, compressor=RAND, up=RAND_K, **more)


def both_ways(method: str, code: Callable[..., Trajectory], **more: Any) -> Case:
    """A case with Rand-K up and down."""
    return compressed(method, code, downlink=RAND, down=RAND_K, **more)


def of(make: Callable[[Task], Any], method: Callable[..., Trajectory], **more: Any) -> Callable[[Task], Trajectory]:
    """A method on an oracle, or an estimate, that is made for the task."""
    return lambda task: method(task, make(task), **more)


def mean_gradient(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    return lambda w: task.fresh(w).mean(axis=1)


def on_estimate(kind: Callable[[Task], Any]) -> Callable[[Task], Callable[[np.ndarray], np.ndarray]]:
    def make(task: Task) -> Callable[[np.ndarray], np.ndarray]:
        estimate = kind(task)
        return lambda w: estimate(task.fresh(w))

    return make


def heard(p: float) -> Callable[[Task], Trajectory]:
    """EF21-PP's participation."""
    return lambda task: independent.ef21(task, speaks=lambda: task.coin(p, task.n))


def drawn(s: int) -> Callable[[Task], Trajectory]:
    """s clients without replacement."""

    def code(task: Task) -> Trajectory:
        who = independent.without_replacement(s)
        return independent.ef21(task, weighted=True, speaks=lambda: who(task) > 0)

    return code


ef21, marina = independent.ef21, independent.marina
THIRD = {"p": 1 / 3}
CASES = [
    Case("gd", independent.dcgd, batch=2),
    *(Case("dcgd", independent.dcgd, compressor=text, up=message) for text, message in SENT.items()),
    Case("qsgd", independent.dcgd, compressor="qsgd:bits=3,bucket=512", up=Message(messages.qsgd(3)), batch=2),
    Case("signsgd", independent.sign_sgd, batch=1),
    Case("terngrad", partial(independent.terngrad, clip=1.5), {"clip": 1.5}),
    Case("core", partial(independent.core, m=3), {"m": 3}, step=0.02),
    Case("dq-sgd", partial(independent.dq_sgd, k=0.5), {"k": 0.5}),
    Case(
        "dq-sgd",
        partial(independent.dq_sgd_dual, error=0.2, rounds=LENGTH, a=0.97),
        {"rule": "dual", "error": 0.2, "a": 0.97},
    ),
    Case("adaqs", partial(independent.adaqs, bits=3), {"bits": 3}),
    Case("amsgrad", independent.amsgrad, batch=2),
    Case("amsgrad-naive", independent.amsgrad, compressor="qsgd:levels=2", up=SENT["qsgd:levels=2"],
         downlink="natural", down=NATURAL),
    both_ways("ef-amsgrad", independent.ef_amsgrad),
    both_ways("cd-adam", partial(independent.ef21_bc, adam=True)),
    Case("onebit-adam", partial(independent.onebit_adam, warmup=3), {"warmup": 3}, up=Message(messages.scaled_sign),
         down=Message(messages.scaled_sign), batch=2),
    Case("powersgd", partial(independent.powersgd, rank=2, rows=3), {"rank": 2, "rows": 3}),
    # DIANA and what is built on it
    compressed("diana", independent.diana),
    Case("diana", independent.diana, compressor="natural", up=NATURAL, batch=2),
    compressed("vr-diana", partial(independent.vr_diana, p=0.2), options={"p": 0.2}, batch=2),
    both_ways("artemis", independent.artemis, step=0.03),
    both_ways("dore", partial(independent.dore, beta=0.9, eta=0.3), options={"beta": 0.9, "eta": 0.3}, step=0.03),
    both_ways("mcm", partial(independent.mcm, rate=0.2), options={"rate": 0.2}, step=0.03),
    both_ways("rand-mcm", partial(independent.rand_mcm, rate=0.2), options={"rate": 0.2}, step=0.03),
    # MARINA
    compressed("marina", partial(marina, p=1 / 3), options=THIRD),
    Case("marina", partial(marina, p=1 / 3), THIRD, PERM, PERM_K),
    Case("marina", partial(marina, p=1 / 3), THIRD, "cq", SENT["cq"], step=0.03),
    Case("marina-biased", partial(marina, p=1 / 3), THIRD, "topk:k=2", TOP_2),
    compressed("vr-marina", partial(marina, p=1 / 3), options=THIRD, batch=2),
    compressed("vr-marina", partial(marina, p=1 / 3, large=4), options={**THIRD, "sync": 4}, batch=1),
    compressed("pp-marina", partial(marina, p=1 / 3, xi=independent.without_replacement(2)), options={**THIRD, "r": 2}),
    Case("marina-w", partial(marina, p=1 / 3, xi=independent.importance(2)),
         {**THIRD, "sampling": "importance", "tau": 2}, "natural", NATURAL, batch=2),
    Case("marina-p", partial(independent.marina_p, p=1 / 3), THIRD, PERM, down=PERM_K),
    Case("marina-p", partial(independent.marina_p, p=1 / 3), THIRD, RAND, down=RAND_K, batch=2),
    Case("m3", partial(independent.m3, p_up=0.3, p_down=0.4, beta=0.6), {"p_up": 0.3, "p_down": 0.4, "beta": 0.6},
         RAND, RAND_K, PERM, PERM_K),
    Case("custom", partial(independent.diana_under_marina_p, p=0.4, beta=0.5),
         {"uplink": f"diana:{RAND}", "downlink": f"marina-p@p=0.4:{PERM}", "smoothing": 0.5},
         up=RAND_K, down=PERM_K),
    # DASHA
    compressed("dasha", independent.dasha),
    compressed("dasha-page", of(lambda task: independent.Page(task, 0.3, shared=True), independent.dasha),
               options={"p": 0.3}, batch=2),
    compressed("dasha-mvr", of(lambda task: independent.MVR(task, 0.2), independent.dasha), options={"b": 0.2}, batch=2),
    # error feedback
    compressed("ef14", independent.ef14),
    *(compressed(name, ef21) for name in ("ef21", "ef21-am", "ef21-rare")),
    Case("ef21", ef21, compressor="natural", up=NATURAL),
    Case("ef21+", independent.ef21_plus, compressor="topk:k=2", up=TOP_2, batch=2),
    compressed("ef21-hb", partial(ef21, momentum=0.5), options={"momentum": 0.5}),
    compressed("ef21-prox", partial(ef21, l1=0.1), options={"r": "l1", "weight": 0.1}),
    compressed("ef21-sgd", ef21, batch=2),
    compressed("ef21-sgdm", of(lambda task: independent.Momentum(task, 0.3), ef21), options={"eta": 0.3}, batch=1),
    compressed("ef21-sgd2m", of(lambda task: independent.Momentum(task, 0.3, twice=True), ef21), options={"eta": 0.3},
               batch=1),
    compressed("ef21-page", of(lambda task: independent.Page(task, 0.3, shared=False), ef21), options={"p": 0.3}, batch=2),
    compressed("ef21-pp", heard(0.5), options={"p": 0.5}),
    Case("ef21-w", partial(ef21, weighted=True), compressor="natural", up=NATURAL),
    Case("ef21-w-sgd", partial(ef21, weighted=True), compressor="natural", up=NATURAL, batch=1),
    Case("ef21-w-pp", drawn(2), {"s": 2}, "natural", NATURAL),
    both_ways("ef21-bc", independent.ef21_bc),
    Case("ef21-p", of(mean_gradient, independent.ef21_p), compressor=RAND, down=RAND_K),
    both_ways("ef21-p+dcgd", of(on_estimate(lambda task: lambda v: task.send(v).mean(axis=1)), independent.ef21_p)),
    both_ways("ef21-p+diana", of(on_estimate(independent.Diana), independent.ef21_p)),
    both_ways("ef21-p+ef21", of(on_estimate(independent.EF21), independent.ef21_p)),
    both_ways("ef21-muon", partial(independent.ef21_muon, eta=0.3, shape=(2, 5)), options={"eta": 0.3, "shapes": "2x5"},
              batch=2),
    # local steps
    compressed("local-sgd", partial(independent.local_sgd, steps=3), options={"local_steps": 3}, batch=2),
    compressed("fedavg", partial(independent.local_sgd, steps=3, sample=2), options={"local_steps": 3, "fraction": 0.5}),
    compressed("fedprox", partial(independent.local_sgd, steps=3, prox=0.5, sample=3),
               options={"local_steps": 3, "mu": 0.5, "sample": 3}, batch=1),
]  # fmt: skip

# wrong versions of the other code, some of them from published programs: each must be found
WRONG = {
    "all clients draw the same mask": (compressed("dcgd", independent.dcgd), Message(messages.rand_k(3, same=True))),
    "a mask's values scaled a tenth too small": (
        compressed("marina", partial(marina, p=1 / 3), options=THIRD), Message(messages.rand_k(3, scale=0.9)),
    ),
    "levels rounded down": (
        Case("dcgd", independent.dcgd, compressor="qsgd:levels=2"), Message(messages.qsgd(2, floor=True)),
    ),
    "thresholds not correlated": (Case("dcgd", independent.dcgd, compressor="cq"), SENT["iq"]),
    "dense rounds twice as rare": (compressed("marina", partial(marina, p=1 / 6), options=THIRD), RAND_K),
    "DIANA's server averages the new shifts": (compressed("diana", partial(independent.diana, damped=True)), RAND_K),
    "EF21's messages not damped": (compressed("ef21", ef21), Message(messages.rand_k(3))),
    "clients drawn with replacement": (
        Case("pp-marina", partial(marina, p=0.1, xi=lambda task: uniform(task, 3)), {"p": 0.1, "r": 3}, "natural"), NATURAL,
    ),
    "η for 1 − η": (
        Case("ef21-sgdm", of(lambda task: independent.Momentum(task, 0.8), ef21), {"eta": 0.2}, "natural", batch=1),
        NATURAL,
    ),
}  # fmt: skip


def uniform(task: Task, tau: int) -> np.ndarray:
    """k_i/τ, k_i how often client i is drawn in τ uniform draws."""
    return task.rng.multinomial(tau, np.full(task.n, 1 / task.n), task.R)[..., None] / tau


@cache
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n, m, d), targets (n, m), x⁰ (d,): clients whose L_i differ by a factor of about ten."""
    rng = np.random.default_rng(18)
    rows = rng.standard_normal((N, M, D)) * np.array([0.3, 0.5, 0.7, 1.0])[:, None, None]
    return rows, rng.standard_normal((N, M)) + rows @ np.ones(D), rng.standard_normal(D)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> mc.Problem:
    """The same as one of the package's problems, from a file."""
    rows, targets, _ = data()
    path = tmp_path_factory.mktemp("data") / "rows.libsvm"
    lines = (
        f"{y:.17g} " + " ".join(f"{j + 1}:{v:.17g}" for j, v in enumerate(row))
        for row, y in zip(rows.reshape(-1, D), targets.ravel(), strict=True)
    )
    path.write_text("\n".join(lines) + "\n")
    return problems.build("least_squares", {"data": str(path), "clients": N, "features": D})


def statistics(points: np.ndarray, centres: np.ndarray, task: Task) -> np.ndarray:
    """f, ‖x‖², ‖x − centre‖² and the coordinates of points (ROUNDS, R, d): shape (ROUNDS, R, 3 + d)."""
    loss = np.array([task.loss(x) for x in points])
    squares = np.sum(points**2, axis=2), np.sum((points - centres[:, None]) ** 2, axis=2)
    return np.concatenate([np.stack([loss, *squares], axis=2), points], axis=2)


def of_runtime(case: Case, problem: mc.Problem) -> np.ndarray:
    """The runtime's iterates, shape (ROUNDS, SEEDS, d)."""
    points = np.empty((len(ROUNDS), SEEDS, D))
    for seed in range(SEEDS):
        config = Config(
            method=case.method, method_options=dict(case.options), compressor=case.compressor,
            downlink_compressor=case.downlink, rounds=LENGTH, batch=case.batch, seed=1000 + seed, allow_unsafe=True,
        )  # fmt: skip
        composition = Composition(config, problem)
        exchange = LocalExchange(N, D, np.float64)
        session = Session(config, problem, composition.parts(case.step), exchange, case.step, data()[2])
        for t in range(LENGTH):
            session.round(t)
            if t + 1 in ROUNDS:
                points[ROUNDS.index(t + 1), seed] = session.x[0]
    return points


def of_code(case: Case, task: Task) -> np.ndarray:
    """The other code's iterates, shape (ROUNDS, R, d)."""
    path = case.code(task)
    points = [next(path) for _ in range(LENGTH)]
    return np.array([points[t - 1] for t in ROUNDS])


def task_of(case: Case, replicas: int = REPLICAS, up: Message | None = None) -> Task:
    return Task(*data(), replicas, 5, up or case.up, case.down, case.batch, case.step)


def distances(mine: np.ndarray, other: np.ndarray, task: Task) -> np.ndarray:
    """Differences of the mean statistics in standard errors of the difference, (ROUNDS, 3 + d); rounding counts as one error."""
    centres = other.mean(
        axis=1
    )  # so that the third statistic is the variance, in which a wrong law of the draws shows most
    mine, other = statistics(mine, centres, task), statistics(other, centres, task)
    error = np.sqrt(mine.var(axis=1, ddof=1) / mine.shape[1] + other.var(axis=1, ddof=1) / other.shape[1])
    rounding = 1e-10 * (1 + np.abs(other.mean(axis=1)))
    return np.abs(mine.mean(axis=1) - other.mean(axis=1)) / (error + rounding)


def limit(differences: int) -> float:
    """Standard errors that the largest of so many differences passes by chance as rarely as one of them passes three."""
    return NormalDist().inv_cdf(1 - LARGE_SUM / (2 * differences))


def check(case: Case, problem: mc.Problem, up: Message | None = None) -> None:
    task = task_of(case, up=up)
    found = distances(of_runtime(case, problem), of_code(case, task), task)
    worst = np.unravel_index(np.argmax(found), found.shape)
    names = ["f", "‖x‖²", "‖x − its mean‖²", *(f"x_{j}" for j in range(D))]
    assert found.max() < limit(found.size), (
        f"{case.name}: {names[worst[1]]} in round {ROUNDS[worst[0]]} is {found.max():.1f} standard errors away from the other code"
    )


@pytest.mark.full(reason="many seeds of every method")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mean_trajectories_are_those_of_the_other_code(case, problem):
    check(case, problem)


@pytest.mark.full(reason="many seeds")
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_version_is_found(fault, problem):
    case, up = WRONG[fault]
    with pytest.raises(AssertionError, match="standard errors"):
        check(case, problem, up)


def test_no_method_is_without_a_case():
    assert sorted({case.method for case in CASES}) == sorted(ours(methods))


def test_cases_are_random(problem):
    """A case without any randomness would compare two deterministic trajectories."""
    for case in CASES:
        assert of_code(case, task_of(case, 20))[-1].std(axis=0).max() > 1e-9, case.name


def ours(registry: Any) -> list[str]:
    """Names of the package's own parts: tests of other files may have registered theirs."""
    return [name for name in registry if registry[name].__module__.startswith("mpicomp.")]


def test_no_unbiased_compressor_is_without_a_case():
    named = {mc.compressor(text).name for text in SENT}
    left_out = {
        "identity",
        "drive",
        "eden",
        "permk-cq",
        "uniform",
        "cast",
        "integers",
    }  # not random, or rotations, codebooks and grids, whose laws tests/test_compressors.py and test_uniform.py check one by one
    assert {name for name in ours(compressors) if compressors[name].unbiased} - left_out <= named
