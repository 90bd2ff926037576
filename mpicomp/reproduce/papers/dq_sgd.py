"""DQ-SGD: bits of each message by a rule, against fixed widths, TernGrad, signSGD and AdaQS, on small networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...study.compare import Stored
from ..axes import column, message_bytes, rounds, seconds_at, up_bits
from ..drawing import Line, series, shared_legend
from ..networks import accuracy, at_accuracy, final, inaccuracy
from ..seconds import SPEEDS, TABLE, draw_honest, same_bits_claim, seconds_claim
from ..study import FAILS, HOLDS, IN_PART, Claim, Evidence, Figure, Row, Study, Verdict, papers

SGD, SIGN, TERNARY, RULE, ADAPTIVE, EQUAL = "SGD", "signSGD", "TernGrad", "DQ-SGD", "AdaQS", "DQ-SGD, 4 bits"
FIXED = {bits: f"QSGD {bits} bit" for bits in (2, 4, 6, 8)}
BUDGET, LITTLE = 4.5, 4.0  # mean bits of an entry: as in the paper's table, and as a fixed width
OPTIONS: dict[str, dict[str, Any]] = {
    SGD: {"method": "gd"},
    SIGN: {"method": "signsgd"},
    TERNARY: {"method": "terngrad"},
    **{name: {"method": "qsgd", "compressor": f"qsgd:bits={bits},norm=max"} for bits, name in FIXED.items()},
    ADAPTIVE: {"method": "adaqs:bits=4"},
    RULE: {"method": {"name": "dq-sgd", "budget": BUDGET}},
    EQUAL: {"method": {"name": "dq-sgd", "budget": LITTLE}},
}
SHOWN = (SGD, SIGN, TERNARY, FIXED[4], FIXED[6], ADAPTIVE, RULE)
Axis = Callable[[Stored], np.ndarray]
NEAR = 0.005  # accuracies that differ by no more than this, half a point, are equal


@dataclass(frozen=True)
class Task:
    """A network to train: SGD's step γ, which all but signSGD use, and the steps tried for signSGD."""

    data: str
    hidden: int
    batch: int
    rounds: int
    step: float
    sign_steps: tuple[float, ...]

    def options(self, desk, seed: int) -> dict[str, Any]:
        """What all methods have in common; eight workers."""
        return {
            "problem": {"name": "mlp", "hidden": self.hidden},
            "data": desk.data(self.data),
            "partition": "shuffled",
            "clients": 8,
            "batch": self.batch,
            "rounds": self.rounds,
            "eval_every": max(1, self.rounds // 20),
            "init": "paper",
            "dtype": "float32",
            "seed": seed,
        }


@dataclass(frozen=True)
class Size:
    """The tasks, the first of them on text, and how many seeds are averaged."""

    tasks: tuple[Task, ...]
    seeds: int


def label(method: str, data: str, seed: int) -> str:
    """Of a curve."""
    return f"{method} {data} seed {seed}"


def mean_bits(stored: Stored, count: str = "payload") -> float:
    """Bits of an entry, mean over the uplink messages of a run: of the payload, or all that was sent with it ("message")."""
    s = stored.summary
    return float(8.0 * stored.rows[-1][f"uplink_{count}"] / (s["dim"] * s["clients"] * s["rounds"]))


def row_of(runs: list[Stored], method: str, data: str) -> Row:
    """Means over the seeds."""

    def mean(of) -> float:
        return float(np.mean([of(run) for run in runs]))

    return {
        "data": data,
        "method": method,
        "step": runs[0].summary["step"],
        "accuracy": mean(lambda run: final(run, "accuracy")),
        "accuracy_low": min(final(run, "accuracy") for run in runs),
        "accuracy_high": max(final(run, "accuracy") for run in runs),
        "loss": mean(lambda run: final(run, "loss")),
        "bits": mean(mean_bits),
        "ratio": 32.0 / mean(mean_bits),
        "message_bits": mean(lambda run: mean_bits(run, "message")),
        "bytes": mean(lambda run: message_bytes(run)[-1]),
    }


def bits_by_round(stored: Stored) -> np.ndarray:
    """Mean bits of an entry between evaluations."""
    s = stored.summary
    return (
        8.0 * np.diff(column(stored, "uplink_payload")) / np.diff(column(stored, "round")) / (s["dim"] * s["clients"])
    )


def seconds_row(stored: Stored, method: str, curve: str, goal: float) -> Row:
    """What it took to an accuracy, in the columns of the other studies' tables."""
    row: Row = {"method": method, "curve": curve, "ranks": stored.summary["ranks"], "target": goal}
    axes: dict[str, Axis] = {"rounds": rounds, "paper_bits": up_bits, "message_bytes": message_bytes}
    axes |= {f"seconds {name}": seconds_at(speed) for name, speed in SPEEDS.items()}
    return row | {name: at_accuracy(stored, axis, goal) for name, axis in axes.items()}


# ---- claims -----------------------------------------------------------------------------------------------------------
def tasks(evidence: Evidence) -> list[tuple[str, dict[str, Row]]]:
    """(data set, the row of each method)."""
    sets = dict.fromkeys(r["data"] for r in evidence.tables["accuracy"])
    return [(data, {r["method"]: r for r in evidence.rows("accuracy", data=data)}) for data in sets]


def percent(row: Row) -> str:
    """The accuracy, for people."""
    return f"{100 * row['accuracy']:.2f} %"


def judge_budget(evidence: Evidence) -> Verdict:
    """The mean width, everything in a message included, is within 1 % of the budget and not above it."""
    parts, said = [], []
    for data, rows in tasks(evidence):
        for method, budget in ((RULE, BUDGET), (EQUAL, LITTLE)):
            bits = rows[method]["bits"]
            parts.append(0.99 * budget <= bits <= budget)
            said.append(f"{data}: {bits:.4f} of {budget:g} ({rows[method]['message_bits']:.3f} with headers)")
    return Verdict.of(parts, "bits of an entry: " + "; ".join(said))


def judge_accuracy(evidence: Evidence) -> Verdict:
    """DQ-SGD's accuracy is that of SGD."""
    found = tasks(evidence)
    said = "; ".join(f"{data}: {percent(rows[RULE])} against {percent(rows[SGD])}" for data, rows in found)
    return Verdict.of([rows[RULE]["accuracy"] >= rows[SGD]["accuracy"] - NEAR for _, rows in found], said)


def judge_saving(evidence: Evidence) -> Verdict:
    """Beside 6 bits throughout and beside AdaQS: as accurate, with fewer bits."""
    parts, said = [], []
    for data, rows in tasks(evidence):
        for other in (FIXED[6], ADAPTIVE):
            saved = 1 - rows[RULE]["bits"] / rows[other]["bits"]
            parts.append(saved > 0 and rows[RULE]["accuracy"] >= rows[other]["accuracy"] - NEAR)
            said.append(
                f"{data}: {100 * saved:.1f} % fewer than {other} ({percent(rows[RULE])} against {percent(rows[other])})"
            )
    return Verdict.of(parts, "bits saved (paper: 4 to 25 %): " + "; ".join(said))


def judge_coarse(evidence: Evidence) -> Verdict:
    """signSGD, TernGrad and 2 bits lose more than half a point to SGD."""
    parts, said = [], []
    for data, rows in tasks(evidence):
        for method in (SIGN, TERNARY, FIXED[2]):
            parts.append(rows[method]["accuracy"] < rows[SGD]["accuracy"] - NEAR)
            said.append(f"{data} {method} {percent(rows[method])}")
    sgd = ", ".join(f"{data} {percent(rows[SGD])}" for data, rows in tasks(evidence))
    return Verdict.of(parts, f"SGD {sgd}; " + ", ".join(said))


def judge_rule(evidence: Evidence) -> Verdict:
    """With the bits of 4 throughout, the rule ends at a training loss that is at least 1 % smaller."""
    found, said = tasks(evidence), []
    for data, rows in found:
        mine, fixed = rows[EQUAL], rows[FIXED[4]]
        said.append(
            f"{data}: loss {mine['loss']:.4f} against {fixed['loss']:.4f}, {percent(mine)} against {percent(fixed)}"
        )
    return Verdict.of([rows[EQUAL]["loss"] < 0.99 * rows[FIXED[4]]["loss"] for _, rows in found], "; ".join(said))


def judge_both_ways(evidence: Evidence) -> Verdict:
    """Counted in all bytes, with the dense model that comes back, DQ-SGD still saves more than half of SGD's."""
    savings = [(data, rows[RULE]["ratio"], rows[SGD]["bytes"] / rows[RULE]["bytes"]) for data, rows in tasks(evidence)]
    said = "; ".join(f"{data}: {ratio:.2f}× up, {both:.2f}× in all bytes" for data, ratio, both in savings)
    return Verdict.of([both > 2 for _, _, both in savings], said)


# ---- figures ----------------------------------------------------------------------------------------------------------
def colour(method: str) -> int:
    """The colour of a method, black for SGD."""
    return (SHOWN.index(method) - 1) % len(SHOWN)


def draw_training(evidence: Evidence, figure: Any) -> None:
    """A row for each task: accuracy over rounds, over the bits of the paper, over all bytes; bits of an entry over rounds."""
    found = tasks(evidence)
    panels = figure.subplots(len(found), 4, squeeze=False)
    for row, (data, _) in zip(panels, found, strict=True):
        lines = [Line(m, evidence.curves[label(m, data, 0)], colour(m)) for m in SHOWN]
        axes = {"rounds": rounds, "uplink bits / n": up_bits, "bytes sent, both directions": message_bytes}
        best = 100 * max(column(line.stored, "accuracy").max() for line in lines)
        for ax, (name, axis) in zip(row, axes.items(), strict=False):
            accuracy(ax, lines, axis, name)
            ax.set_ylim(best - 20, best + 1)
        row[0].set_title(data)
        for ax in row[1:3]:
            ax.set_ylabel("")
        for line in lines:
            if line.name in (FIXED[4], FIXED[6], ADAPTIVE, RULE):
                stored = line.stored
                series(row[3], column(stored, "round")[1:], bits_by_round(stored), line.name, line.colour)
        row[3].set_xlabel("rounds")
        row[3].set_ylabel("bits of an entry")
    shared_legend(figure, panels[0, 0], columns=len(SHOWN))


def draw_tradeoff(evidence: Evidence, figure: Any) -> None:
    """Accuracy against the compression ratio, as the paper's second figure; the range over the seeds as a bar."""
    found = tasks(evidence)
    for ax, (data, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for method in SHOWN:
            row = rows[method]
            low, high = (abs(row["accuracy"] - row[f"accuracy_{end}"]) for end in ("low", "high"))
            series(ax, [row["ratio"]], [100 * row["accuracy"]], method, colour(method), linestyle="none", markevery=1)
            ax.errorbar(
                row["ratio"], 100 * row["accuracy"], [[100 * low], [100 * high]], color="#888888", linewidth=0.8
            )
        best = 100 * max(rows[method]["accuracy"] for method in SHOWN)
        ax.set_ylim(best - 6, best + 1)  # signSGD is below
        ax.set_title(data)
        ax.set_xscale("log", base=2)
        ax.set_xlabel("compression ratio of the uplink, 32 / bits of an entry")
        ax.set_ylabel("test accuracy in %")
    shared_legend(figure, figure.axes[0], columns=len(SHOWN))


@papers.register("dq-sgd")
class DQSGDStudy(Study):
    """Eight workers train small networks on words (for AG-News) and on images (for CIFAR); one step for all, signSGD's own is tuned."""

    summary = "bits chosen by DQ-SGD's rule against fixed widths, TernGrad, signSGD, AdaQS"
    paper = "Yan, Tan, Zhou, Huang and Zhang 2021, DQ-SGD (arXiv 2107.14575)"
    sizes: ClassVar = {
        "small": Size((Task("news4", 16, 8, 600, 0.5, (3e-3, 1e-3)), Task("digits", 32, 8, 600, 0.2, (3e-3, 1e-3))), 1),
        "paper": Size(
            (
                Task("news4", 32, 16, 1000, 0.5, (3e-3, 1e-3, 3e-4)),
                Task("mnist5k", 32, 16, 1000, 0.2, (3e-3, 1e-3, 3e-4)),
            ),
            2,
        ),
    }
    claims = (
        Claim("budget", "The rule meets its budget of bits within 1 %", judge_budget, {"small": HOLDS, "paper": HOLDS}),
        Claim(
            "accuracy",
            "With 4.5 bits of an entry on average DQ-SGD is as accurate as SGD",
            judge_accuracy,
            {"small": HOLDS},
        ),
        Claim(
            "saving",
            "At equal accuracy it needs fewer bits than 6 bits throughout and than AdaQS",
            judge_saving,
            {"small": IN_PART},
        ),
        Claim("coarse", "signSGD, TernGrad and 2 bits lose accuracy", judge_coarse, {"small": IN_PART}),
        Claim(
            "rule",
            "Not in the paper: with the very bits of 4 throughout, the rule trains better",
            judge_rule,
            {"small": FAILS},
        ),
        Claim(
            "both-ways",
            "Not in the paper: counting the dense model that comes back, it still halves SGD's bytes",
            judge_both_ways,
            {"small": HOLDS},
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("training", draw_training, (12.0, 6.0)),
        Figure("tradeoff", draw_tradeoff, (9.0, 3.8)),
        Figure(
            "honest", draw_honest(up_bits, "uplink bits / n", accuracy, lambda i, method: colour(method)), (11.0, 3.4)
        ),
    )

    def measure(self, desk, size):
        table = []
        for task in size.tasks:
            for method in OPTIONS:
                table.append(row_of(self.train(desk, task, method, size.seeds), method, task.data))
        desk.table("accuracy", table)
        data = size.tasks[0].data
        labels = {m: label(m, data, 0) for m in (SGD, TERNARY, FIXED[4], FIXED[6], RULE)}
        desk.again_over_mpi(labels.values())
        runs = {m: f"{name} mpi" for m, name in labels.items()}
        goal = min(float(column(desk.evidence.curves[name], "accuracy").max()) for name in runs.values()) - NEAR
        desk.table(TABLE, [seconds_row(desk.evidence.curves[name], m, name, goal) for m, name in runs.items()])

    @staticmethod
    def train(desk, task: Task, method: str, seeds: int) -> list[Stored]:
        """One method with every seed; signSGD with the step that is best for the first."""
        steps: tuple[float, ...] = task.sign_steps if method == SIGN else (task.step,)
        runs = []
        for seed in range(seeds):
            options = {**OPTIONS[method], **task.options(desk, seed)}
            runs.append(desk.tune(label(method, task.data, seed), steps, theory=False, cost=inaccuracy, **options))
            steps = (runs[0].summary["step"],)
        return runs
