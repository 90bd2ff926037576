"""CD-Adam: Adam with compressed messages in both directions, against error feedback, naive compression, 1-bit Adam, and no compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...study.compare import Stored, common_target
from ..axes import at_target, column, message_bytes, rounds, up_bits
from ..drawing import Line, convergence, shared_legend
from ..evidence import Evidence, Row
from ..networks import accuracy, final, finite, inaccuracy
from ..reproduction import FAILS, HOLDS, IN_PART, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "AMSGrad": "amsgrad",
    "CD-Adam": "cd-adam",
    "EF-AMSGrad": "ef-amsgrad",
    "naive": "amsgrad-naive",
    "1-bit Adam": "onebit-adam",
}
COMPRESSORS = {"sign": "sign", "Top-5 %": "topk:fraction=0.05"}
CLOSE = 1e-3  # the target, as a part of ‖∇f(x⁰)‖²


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes
    ----------
    sets : of the logistic regressions, n = 20. rounds, steps : their lengths and the steps tried.
    images, hidden : data set and hidden units of the network. workers, batch, network_rounds, network_steps : its training.
    """

    sets: tuple[str, ...]
    rounds: int
    steps: tuple[float, ...]
    images: str
    hidden: int
    workers: int
    batch: int
    network_rounds: int
    network_steps: tuple[float, ...]


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
def cases(evidence: Evidence) -> list[tuple[str, str, dict[str, Row]]]:
    """(data set, compressor, the row of each method) for every logistic regression that was run."""
    rows = evidence.tables["logistic"]
    places = dict.fromkeys((r["data"], r["compressor"]) for r in rows)
    return [(d, c, {r["method"]: r for r in evidence.rows("logistic", data=d, compressor=c)}) for d, c in places]


def compare(evidence: Evidence, entry: str, other: str, most: float) -> Verdict:
    """In every case CD-Adam's entry is at most `most` times that of another method."""
    parts, said = [], []
    for data, compressor, rows in cases(evidence):
        mine, theirs = rows["CD-Adam"][entry], rows[other][entry]
        parts.append(bool(mine <= most * theirs) and np.isfinite(mine))
        said.append(f"{data} {compressor} {mine:.3g} against {theirs:.3g}")
    return Verdict.of(parts, f"CD-Adam against {other}: " + "; ".join(said))


def judge_naive(evidence: Evidence) -> Verdict:
    """The final ‖∇f‖² without memory is at least ten times CD-Adam's."""
    return compare(evidence, "level", "naive", 0.1)


def judge_rate(evidence: Evidence) -> Verdict:
    """CD-Adam is close after at most twice AMSGrad's rounds."""
    return compare(evidence, "rounds", "AMSGrad", 2.0)


def judge_bits(evidence: Evidence) -> Verdict:
    """CD-Adam is close after half of AMSGrad's bits at most."""
    return compare(evidence, "bits", "AMSGrad", 0.5)


def judge_feedback(evidence: Evidence) -> Verdict:
    """CD-Adam ends no higher than EF-AMSGrad."""
    return compare(evidence, "level", "EF-AMSGrad", 1.0)


def judge_onebit(evidence: Evidence) -> Verdict:
    """CD-Adam is close after fewer bits than 1-bit Adam."""
    return compare(evidence, "bits", "1-bit Adam", 1.0)


def judge_network(evidence: Evidence) -> Verdict:
    """On the network CD-Adam's accuracy is within a point of AMSGrad's, and above that of naive compression and of error feedback."""
    rows = {r["method"]: r for r in evidence.tables["network"]}
    mine = rows["CD-Adam"]["accuracy"]
    parts = [
        mine >= rows["AMSGrad"]["accuracy"] - 0.01,
        *(mine >= rows[m]["accuracy"] for m in ("naive", "EF-AMSGrad")),
    ]
    shown = {m: f"{100 * r['accuracy']:.2f} %" if np.isfinite(r["accuracy"]) else "diverges" for m, r in rows.items()}
    said = ", ".join(f"{name} {text}" for name, text in shown.items())
    saving, honest = (rows["AMSGrad"][c] / rows["CD-Adam"][c] for c in ("bits", "bytes"))
    return Verdict.of(
        parts, f"test accuracy: {said}; CD-Adam sends {saving:.1f}× fewer bits ({honest:.1f}× fewer bytes)"
    )


# ---- figures ----------------------------------------------------------------------------------------------------------
def draw_logistic(evidence: Evidence, figure: Any) -> None:
    """Above: ‖∇f‖² over rounds; below: over bits. A column for each data set and compressor."""
    places = cases(evidence)
    panels = figure.subplots(2, len(places), squeeze=False, sharey=True)
    for (above, below), (data, compressor, _) in zip(panels.T, places, strict=True):
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
    """Nonconvex logistic regression with sign and Top-k, n = 20, λ = 0.1; a small network on images. Steps are tuned for each method."""

    summary = "CD-Adam against error feedback, naive compression, 1-bit Adam and AMSGrad"
    paper = "Wang, Lin and Chen 2022, CD-Adam (arXiv 2111.00705)"
    sizes: ClassVar = {
        "small": Size(("mushrooms",), 1500, (3e-2, 1e-2, 3e-3), "digits", 32, 8, 16, 800, (1e-2, 3e-3)),
        "paper": Size(
            ("phishing", "mushrooms", "a9a"), 2000, (3e-2, 1e-2, 3e-3), "mnist5k", 32, 8, 16, 1000, (1e-2, 3e-3)
        ),
    }
    claims = (
        Claim(
            "naive",
            "Compression without memory stalls",
            judge_naive,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "rate",
            "CD-Adam needs about as many rounds as AMSGrad without compression",
            judge_rate,
            {"small": FAILS, "paper": IN_PART},
        ),
        Claim(
            "bits",
            "CD-Adam gets there with less than half of AMSGrad's bits",
            judge_bits,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "feedback",
            "CD-Adam ends below AMSGrad with the original error feedback",
            judge_feedback,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "onebit",
            "CD-Adam needs fewer bits than 1-bit Adam, whose warm-up is dense",
            judge_onebit,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "network",
            "On a network its accuracy is AMSGrad's, and above that of the other compressed methods",
            judge_network,
            {"small": IN_PART, "paper": IN_PART},
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
        rows = [row for data in size.sets for row in self.measure_logistic(runner, size, data)]
        runner.table("logistic", rows)
        runner.table("network", [self.measure_network(runner, size, method) for method in METHODS])
        labels = {m: label(m, size.sets[0], "sign") for m in METHODS}
        dense, mine = (runner.evidence.curves[labels[m]] for m in ("AMSGrad", "CD-Adam"))
        target = max(CLOSE * float(column(dense, "grad_norm_sq")[0]), common_target([dense, mine]))
        runner.again_over_mpi(labels.values(), target)
        measure_seconds(runner, {m: f"{name} mpi" for m, name in labels.items()}, both_ways, target)

    @staticmethod
    def measure_logistic(runner: ExperimentRunner, size: Size, data: str) -> list[Row]:
        """All methods with all compressors on one data set."""
        options: dict[str, Any] = {
            "problem": {"name": "logistic", "reg": 0.1}, "data": runner.data(data), "clients": 20, "rounds": size.rounds,
            "init": "normal:1", "wire_dtype": "float32", "eval_every": max(1, size.rounds // 300), "allow_unsafe": True,
        }  # fmt: skip
        rows = []
        for compressor in COMPRESSORS:
            for method, name in METHODS.items():
                more: dict[str, Any] = {"method": name, **compressed(method, compressor), **options}
                stored = runner.tune(label(method, data, compressor), size.steps, theory=False, cost=level, **more)
                target = CLOSE * float(column(stored, "grad_norm_sq")[0])
                rows.append(
                    {
                        "data": data,
                        "compressor": compressor,
                        "method": method,
                        "step": stored.summary["step"],
                        "level": level(stored),
                        "rounds": at_target(stored, rounds, target),
                        "bits": at_target(stored, both_ways, target),
                        "bytes": at_target(stored, message_bytes, target),
                    }
                )
        return rows

    @staticmethod
    def measure_network(runner: ExperimentRunner, size: Size, method: str) -> Row:
        """One method on the network, with signs; the step falls at T/2 and at 3T/4."""
        stored = runner.tune(
            f"{method} network", size.network_steps, theory=False, cost=inaccuracy,
            method={"name": METHODS[method], "schedule": "steps"}, **compressed(method, "sign"),
            problem={"name": "mlp", "hidden": size.hidden}, data=runner.data(size.images), partition="shuffled", clients=size.workers,
            batch=size.batch, rounds=size.network_rounds, eval_every=max(1, size.network_rounds // 40), init="paper",
            dtype="float32", allow_unsafe=True,
        )  # fmt: skip
        return {
            "method": method,
            "data": size.images,
            "step": stored.summary["step"],
            "accuracy": final(stored, "accuracy"),
            "loss": final(stored, "loss"),
            "bits": float(both_ways(stored)[-1]),
            "bytes": float(message_bytes(stored)[-1]),
        }
