"""CD-Adam: Adam with compressed messages in both directions, against error feedback, naive compression, 1-bit Adam, and no compression."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from ...study.compare import Stored, common_target
from ..axes import column, message_bytes, rounds, up_bits
from ..drawing import Line, convergence, shared_legend
from ..effects import Effect
from ..evidence import Evidence, Row
from ..networks import accuracy, final, finite, inaccuracy
from ..repeated import by_seed, with_seeds
from ..reproduction import FAILS, HOLDS, NETWORK_SEEDS, SEEDS, UNDECIDED, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "AMSGrad": "amsgrad",
    "CD-Adam": "cd-adam",
    "EF-AMSGrad": "ef-amsgrad",
    "naive": "amsgrad-naive",
    "1-bit Adam": "onebit-adam",
}
DETERMINED = {
    "1-bit Adam": {"warmup": 100, "eps": 1e-2}
}  # a warm-up of 6.5 % as published; with a smaller ε it diverges later
COMPRESSORS = {"sign": "sign", "Top-5 %": "topk:fraction=0.05"}
CURES: dict[str, dict[str, Any]] = {  # of the stall of Top-5 % with minibatches, by what is changed
    "AMSGrad": {"method": "amsgrad"},
    "CD-Adam, Top-5 %": {"method": "cd-adam", "compressor": "topk:fraction=0.05"},
    "EF-AMSGrad, Top-5 %": {"method": "ef-amsgrad", "compressor": "topk:fraction=0.05"},
    "CD-Adam, sign": {"method": "cd-adam", "compressor": "sign"},
    "CD-Adam, Top-20 %": {"method": "cd-adam", "compressor": "topk:fraction=0.2"},
    "CD-Adam, Top-5 %, all samples": {"method": "cd-adam", "compressor": "topk:fraction=0.05", "batch": 0},
    "EF21 up, dense down, Top-5 %": {
        "method": {"name": "custom", "uplink": "ef21:topk:fraction=0.05"}, "optimizer": "amsgrad",
    },
    "momentum before Top-5 %": {
        "method": "ef21-sgdm:eta=0.1", "compressor": "topk:fraction=0.05", "optimizer": "amsgrad:b1=0,b2=0.99",
    },
}  # fmt: skip
STALLING, MOMENTUM = "CD-Adam, Top-5 %", "momentum before Top-5 %"
STALL_BATCH, STALL_STEP = 32, 0.01
CLOSE = 1e-3  # the target, as a part of ‖∇f(x⁰)‖²
ALIKE = 1.5  # times as many rounds are "about as many"
NEAR = 0.01  # of accuracy, a point


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes
    ----------
    sets : of the logistic regressions, n = 20. rounds, seeds : their lengths, and how many starts and seeds.
    steps, batches : common to all methods where they are compared so; 0 for exact gradients.
    images, hidden : data set and hidden units of the network.
    workers, batch, network_rounds, network_seeds : its training.
    """

    sets: tuple[str, ...]
    rounds: int
    seeds: int
    steps: tuple[float, ...]
    batches: tuple[int, ...]
    images: str
    hidden: int
    workers: int
    batch: int
    network_rounds: int
    network_seeds: int


def both_ways(stored: Stored) -> np.ndarray:
    """Bits for each worker as the paper's program counts them: twice those of the values that go up."""
    return 2.0 * up_bits(stored)


def level(stored: Stored) -> float:
    """Mean ‖∇f‖² over the last tenth of the evaluations."""
    norms = column(stored, "grad_norm_sq")
    return finite(float(np.mean(norms[-max(1, len(norms) // 10) :])))


def label(method: str, where: str, compressor: str) -> str:
    """Of a curve; what sends dense vectors has one for all compressors."""
    return f"{method} {where}" if method == "AMSGrad" else f"{method} {where} {compressor}"


def compressed(method: str, compressor: str) -> dict[str, Any]:
    """The options that say what a method sends. The scale of 1-bit Adam's signs is its own."""
    if method == "AMSGrad":
        return {}
    own = method == "1-bit Adam" and compressor == "sign"
    return {"compressor": "sign:norm=l2" if own else COMPRESSORS[compressor]}


# ---- claims -----------------------------------------------------------------------------------------------------------
def places(evidence: Evidence) -> list[tuple[str, str]]:
    """(data set, compressor) of the logistic regressions with tuned steps."""
    return list(dict.fromkeys((r["data"], r["compressor"]) for r in evidence.tables["tuned"]))


def compare(evidence: Evidence, entry: str, other: str, most: float) -> list[Effect]:
    """CD-Adam's entry over that of another method, which is to be at most `most`, each with its own best step."""
    effects = []
    for data, compressor in places(evidence):
        mine, theirs = (
            by_seed(evidence, "tuned", entry, data=data, compressor=compressor, method=m) for m in ("CD-Adam", other)
        )
        effects.append(Effect.factor(f"{data} {compressor}", mine, theirs, most, at_most=True))
    return effects


def judge_naive(evidence: Evidence) -> Verdict:
    """Without memory ten times as many rounds are needed, or the target is not reached at all."""
    return Verdict.tested(compare(evidence, "rounds", "naive", 0.1), "rounds of CD-Adam over those without memory: ")


def judge_common_step(evidence: Evidence) -> Verdict:
    """With sign and a common step CD-Adam is close after at most ALIKE times AMSGrad's rounds."""
    effects = []
    for data, step, batch in dict.fromkeys((r["data"], r["step"], r["batch"]) for r in evidence.tables["common"]):
        mine, theirs = (
            by_seed(evidence, "common", "rounds", data=data, step=step, batch=batch, method=m)
            for m in ("CD-Adam", "AMSGrad")
        )
        name = f"{data} γ = {step:g}, {f'batch {batch}' if batch else 'all samples'}"
        effects.append(Effect.factor(name, mine, theirs, ALIKE, at_most=True))
    return Verdict.tested(effects, "rounds of CD-Adam over AMSGrad's: ")


def judge_tuned(evidence: Evidence) -> Verdict:
    """Each with its own best step CD-Adam is close after at most ALIKE times AMSGrad's rounds."""
    return Verdict.tested(compare(evidence, "rounds", "AMSGrad", ALIKE), "rounds of CD-Adam over AMSGrad's: ")


def judge_bits(evidence: Evidence) -> Verdict:
    """CD-Adam is close after half of AMSGrad's bits at most."""
    return Verdict.tested(compare(evidence, "bits", "AMSGrad", 0.5), "bits of CD-Adam over AMSGrad's: ")


def judge_feedback(evidence: Evidence) -> Verdict:
    """CD-Adam is close after no more rounds than EF-AMSGrad."""
    return Verdict.tested(compare(evidence, "rounds", "EF-AMSGrad", 1.0), "rounds of CD-Adam over EF-AMSGrad's: ")


def judge_onebit(evidence: Evidence) -> Verdict:
    """CD-Adam is close after fewer bits than 1-bit Adam."""
    return Verdict.tested(compare(evidence, "bits", "1-bit Adam", 1.0), "bits of CD-Adam over 1-bit Adam's: ")


def levels(evidence: Evidence, data: str, case: str) -> list[float]:
    """The final ‖∇f‖² of a case of CURES, seed by seed."""
    return by_seed(evidence, "stall", "level", data=data, case=case)


def judge_stall(evidence: Evidence) -> Verdict:
    """Top-5 % with minibatches ends at more than ten times AMSGrad's ‖∇f‖², with the step and the batch in common."""
    data = evidence.tables["stall"][0]["data"]
    effect = Effect.factor(data, levels(evidence, data, STALLING), levels(evidence, data, "AMSGrad"), 10.0)
    return Verdict.tested([effect], f"final ‖∇f‖² over AMSGrad's, batch {STALL_BATCH}, γ = {STALL_STEP:g}: ")


def judge_cure(evidence: Evidence) -> Verdict:
    """Momentum before the compression ends at less than a third of CD-Adam's ‖∇f‖²; what else was tried is told."""
    data = evidence.tables["stall"][0]["data"]
    stall = levels(evidence, data, STALLING)
    effect = Effect.factor(MOMENTUM, levels(evidence, data, MOMENTUM), stall, 1 / 3, at_most=True)
    others = {c: np.exp(np.mean(np.log(levels(evidence, data, c)))) for c in CURES if c not in (STALLING, MOMENTUM)}
    said = ", ".join(f"{case} {value:.2g}" for case, value in others.items())
    return Verdict.tested([effect], f"final ‖∇f‖² over CD-Adam's: {data}, ", f"; ‖∇f‖² at the end of others: {said}")


def judge_network(evidence: Evidence) -> Verdict:
    """On the network CD-Adam's accuracy is within a point of AMSGrad's, and not below that of naive compression and error feedback."""
    of = {m: [100 * a for a in by_seed(evidence, "network", "accuracy", method=m)] for m in METHODS}
    effects = [
        Effect.difference(f"over {other}", of["CD-Adam"], of[other], -100 * NEAR if other == "AMSGrad" else 0.0)
        for other in ("AMSGrad", "naive", "EF-AMSGrad")
    ]
    shown = {m: f"{np.mean(a):.2f} %" if np.all(np.isfinite(a)) else "diverges" for m, a in of.items()}
    sent = {
        c: [by_seed(evidence, "network", c, method=m)[0] for m in ("AMSGrad", "CD-Adam")] for c in ("bits", "bytes")
    }
    saving, honest = (dense / mine for dense, mine in sent.values())
    said = ", ".join(f"{name} {text}" for name, text in shown.items())
    return Verdict.tested(
        effects, "points of accuracy: ", f"; {said}; {saving:.1f}× fewer bits than AMSGrad ({honest:.1f}× fewer bytes)"
    )


# ---- figures ----------------------------------------------------------------------------------------------------------
def draw_logistic(evidence: Evidence, figure: Any) -> None:
    """Above: ‖∇f‖² over rounds; below: over bits. A column for each data set and compressor."""
    found = places(evidence)
    panels = figure.subplots(2, len(found), squeeze=False, sharey=True)
    for (above, below), (data, compressor) in zip(panels.T, found, strict=True):
        lines = [Line(m, evidence.curves[label(m, data, compressor)], i) for i, m in enumerate(METHODS)]
        convergence(above, lines, rounds, "rounds")
        convergence(below, lines, both_ways, "bits for each worker")
        below.set_xscale("log")
        above.set_title(f"{data}, {compressor}")
    for ax in panels[:, 1:].ravel():
        ax.set_ylabel("")
    shared_legend(figure, panels[0, 0], columns=len(METHODS))


def draw_network(evidence: Evidence, figure: Any) -> None:
    """Accuracy of the network over rounds, bits and bytes."""
    lines = [Line(m, evidence.curves[f"{m} network"], i) for i, m in enumerate(METHODS)]
    panels = figure.subplots(1, 3, sharey=True)
    axes = {"rounds": rounds, "bits for each worker": both_ways, "bytes sent, both directions": message_bytes}
    best = 100 * max(column(line.stored, "accuracy").max() for line in lines)
    for ax, (name, axis) in zip(panels, axes.items(), strict=True):
        accuracy(ax, lines, axis, name)
        ax.set_ylim(best - 45, best + 2)
        ax.label_outer()
    shared_legend(figure, panels[0], columns=len(METHODS))


@papers.register("cd-adam")
class CDAdamReproduction(Reproduction):
    """Nonconvex logistic regression with sign and Top-k, n = 20, λ = 0.1; a small network on images."""

    summary = "CD-Adam against error feedback, naive compression, 1-bit Adam and AMSGrad"
    paper = "Wang, Lin and Chen 2022, CD-Adam (arXiv 2111.00705)"
    sizes: ClassVar = {
        "small": Size(
            ("mushrooms",), 1500, SEEDS, (1e-2, 3e-3), (0, STALL_BATCH), "digits", 32, 8, 128, 400, NETWORK_SEEDS
        ),
        "paper": Size(
            ("phishing", "mushrooms", "a9a"), 4000, SEEDS, (1e-2, 3e-3, 1e-3), (0, 1, STALL_BATCH), "mnist5k", 32, 8, 128,
            1000, SEEDS,
        ),
    }  # fmt: skip
    claims = (
        Claim("naive", "Compression without memory stalls", judge_naive, {"small": HOLDS}, SEEDS),
        Claim(
            "common-step",
            "With signs and a common step of at most 0.01 CD-Adam needs about as many rounds as AMSGrad without compression",
            judge_common_step,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "tuned",
            "Not in the paper, whose rate is an order in T that a constant factor cannot refute: so it is with each one's own best step",
            judge_tuned,
            {"small": FAILS},
            SEEDS,
        ),
        Claim("bits", "CD-Adam gets there with less than half of AMSGrad's bits", judge_bits, {"small": HOLDS}, SEEDS),
        Claim(
            "feedback",
            "CD-Adam needs no more rounds than AMSGrad with the original error feedback",
            judge_feedback,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "onebit",
            "CD-Adam needs fewer bits than 1-bit Adam, whose warm-up is dense",
            judge_onebit,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "stall",
            "Not in the paper: with Top-5 % and minibatches CD-Adam stalls",
            judge_stall,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "cure", "Not in the paper: momentum before the compression cures that", judge_cure, {"small": HOLDS}, SEEDS
        ),
        Claim(
            "network",
            "On a network its accuracy is AMSGrad's, and not below that of the other compressed methods",
            judge_network,
            {"small": UNDECIDED},
            NETWORK_SEEDS,
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("logistic", draw_logistic, (10.5, 6.0)),
        Figure("network", draw_network, (10.0, 3.6)),
        Figure("honest", draw_honest(both_ways, "bits for each worker"), (11.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        runner.table("tuned", [row for data in size.sets for row in tuned(runner, size, data)])
        runner.table("common", [row for data in size.sets for row in with_common_steps(runner, size, data)])
        runner.table("stall", [row for case in CURES for row in stalling(runner, size, case)])
        runner.table("network", [row for method in METHODS for row in on_network(runner, size, method)])
        labels = {m: label(m, size.sets[0], "sign") for m in METHODS}
        dense, mine = (runner.evidence.curves[labels[m]] for m in ("AMSGrad", "CD-Adam"))
        target = max(CLOSE * float(column(dense, "grad_norm_sq")[0]), common_target([dense, mine]))
        runner.again_over_mpi(labels.values(), target)
        measure_seconds(runner, {m: f"{name} mpi" for m, name in labels.items()}, both_ways, target)


def regression(runner: ExperimentRunner, size: Size, data: str) -> dict[str, Any]:
    """Options of all logistic regressions; every seed has its own start, the same for all methods."""
    return {
        "problem": {"name": "logistic", "reg": 0.1}, "data": runner.data(data), "clients": 20, "rounds": size.rounds,
        "init": "normal:{seed}", "wire_dtype": "float32", "eval_every": max(1, size.rounds // 300), "allow_unsafe": True,
    }  # fmt: skip


def method_options(method: str, compressor: str) -> dict[str, Any]:
    """Of a method, and of what it sends."""
    return {"method": {"name": METHODS[method], **DETERMINED.get(method, {})}, **compressed(method, compressor)}


def first_target(runner: ExperimentRunner, options: dict[str, Any], data: str) -> float:
    """CLOSE times the smallest ‖∇f(x⁰)‖² of all starts, which one round of each tells."""
    once = {**options, "method": "amsgrad", "step": "0.01", "rounds": 1, "eval_every": 1}
    starts = runner.seeds(f"start {data}", SEEDS, **once)
    return CLOSE * min(float(column(run, "grad_norm_sq")[0]) for run in starts)


def tuned(runner: ExperimentRunner, size: Size, data: str) -> list[Row]:
    """All methods with all compressors on one data set, each with its own best step, exact gradients."""
    options = regression(runner, size, data)
    target = first_target(runner, options, data)
    rows = []
    for compressor in COMPRESSORS:
        for method in METHODS:
            own = {**method_options(method, compressor), **options}
            found = with_seeds(runner, label(method, data, compressor), target, size.seeds, start=2.0**-7, **own)
            rows += [
                {"data": data, "compressor": compressor, "method": method, **row, "bits": 2.0 * row["up_bits"]}
                for row in found
            ]
    return rows


def with_common_steps(runner: ExperimentRunner, size: Size, data: str) -> list[Row]:
    """AMSGrad and CD-Adam with signs, at the same steps and batches."""
    options = regression(runner, size, data)
    target = first_target(runner, options, data)
    rows = []
    for step, batch, method in product(size.steps, size.batches, ("AMSGrad", "CD-Adam")):
        own = {**method_options(method, "sign"), **options, "batch": batch, "step": repr(step)}
        name = f"{method} {data} step {step:g} batch {batch}"
        for row in with_seeds(runner, name, target, size.seeds, tuned=False, **own):
            rows.append({"data": data, "batch": batch, "method": method, **row})
    return rows


def stalling(runner: ExperimentRunner, size: Size, case: str) -> list[Row]:
    """One of CURES on the first data set: where it is at the end."""
    data = size.sets[0]
    options = {**regression(runner, size, data), "batch": STALL_BATCH, "step": repr(STALL_STEP), **CURES[case]}
    runs = runner.seeds(f"stall {case}", size.seeds, **options)
    return [{"data": data, "case": case, "seed": seed, "level": level(run)} for seed, run in enumerate(runs, 1)]


def on_network(runner: ExperimentRunner, size: Size, method: str) -> list[Row]:
    """One method on the network, with signs; the step falls at T/2 and at 3T/4."""
    options: dict[str, Any] = {
        **method_options(method, "sign"), "problem": {"name": "mlp", "hidden": size.hidden}, "data": runner.data(size.images),
        "partition": "shuffled", "clients": size.workers, "batch": size.batch, "rounds": size.network_rounds,
        "eval_every": max(1, size.network_rounds // 40), "init": "paper", "dtype": "float32", "allow_unsafe": True,
    }  # fmt: skip
    own = {key: value for key, value in DETERMINED.get(method, {}).items() if key != "warmup"}
    options["method"] = {"name": METHODS[method], "schedule": "steps", **own}
    name = f"{method} network"
    step = runner.tune(name, cost=inaccuracy, start=2.0**-7, **options).summary["step"]
    return [
        {
            "method": method,
            "seed": seed,
            "data": size.images,
            "step": step,
            "accuracy": final(stored, "accuracy"),
            "loss": final(stored, "loss"),
            "bits": float(both_ways(stored)[-1]),
            "bytes": float(message_bytes(stored)[-1]),
        }
        for seed, stored in enumerate(runner.seeds(name, size.network_seeds, **options, step=repr(step)), 1)
    ]
