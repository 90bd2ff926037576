"""DQ-SGD: bits of each message by a rule, against fixed widths, TernGrad, signSGD and AdaQS, on small networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ...study.compare import Stored
from ..axes import column, message_bytes, rounds, seconds_at, up_bits
from ..drawing import COLOURS, MARKERS, Line, series, shared_legend
from ..effects import Effect
from ..evidence import Evidence, Row
from ..networks import accuracy, at_accuracy, final, inaccuracy
from ..repeated import by_seed, pair_by_seed
from ..reproduction import HOLDS, IN_PART, SEEDS, UNDECIDED, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import SPEEDS, TABLE, draw_honest, same_bits_claim, seconds_claim

SGD, SIGN, TERNARY, RULE, ADAPTIVE, EQUAL = "SGD", "signSGD", "TernGrad", "DQ-SGD", "AdaQS", "DQ-SGD, 4 bits"
FIXED = {bits: f"QSGD {bits} bit" for bits in (2, 4, 6, 8)}
LITTLE = 4.0  # mean bits of an entry, those of a fixed width
PAPER = {"text": 4.70, "images": 4.50}  # and of DQ-SGD in the paper's table, on AG-News and on CIFAR-10
OPTIONS: dict[str, dict[str, Any]] = {
    SGD: {"method": "gd"},
    SIGN: {"method": "signsgd"},
    TERNARY: {"method": "terngrad"},
    **{name: {"method": "qsgd", "compressor": f"qsgd:bits={bits},norm=max"} for bits, name in FIXED.items()},
    ADAPTIVE: {"method": "adaqs:bits=4"},
    RULE: {},  # the budget is the task's
    EQUAL: {"method": {"name": "dq-sgd", "budget": LITTLE}},
}
SHOWN = (SGD, SIGN, TERNARY, FIXED[4], FIXED[6], ADAPTIVE, RULE)
TABULATED = (*SHOWN, FIXED[2])
DEPTH = 20  # points below the best, beyond which a method is only named in the figure
Axis = Callable[[Stored], np.ndarray]
NEAR = 0.005  # accuracies that differ by no more than this, half a point, are equal


@dataclass(frozen=True)
class Task:
    """A network to train on text or on images, and SGD's step γ, which all but signSGD use."""

    kind: str
    data: str
    hidden: str
    batch: int
    rounds: int
    step: float

    def options(self, runner: ExperimentRunner, method: str) -> dict[str, Any]:
        """Of a method's run; eight workers."""
        own = {"method": {"name": "dq-sgd", "budget": PAPER[self.kind]}} if method == RULE else OPTIONS[method]
        return {
            **own,
            "problem": {"name": "mlp", "hidden": self.hidden},
            "data": runner.data(self.data),
            "partition": "shuffled",
            "clients": 8,
            "batch": self.batch,
            "rounds": self.rounds,
            "eval_every": max(1, self.rounds // 20),
            "init": "paper",
            "dtype": "float32",
        }


TEXT = Task("text", "news4", "32+32", 4, 300, 1.0)
SIGN_START = 2.0**-10  # of the search for signSGD's step
CONVEX_ROUNDS, CONVEX_WIDTHS = 400, (3, 4)
FIXED_WIDTH, STRONGLY, NONCONVEX, DUAL = "fixed width", "strongly convex rule", "nonconvex rule", "dual"


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


def row_of(stored: Stored, method: str, data: str, seed: int) -> Row:
    """A run in the table "seeds"."""
    return {
        "data": data,
        "method": method,
        "seed": seed,
        "step": stored.summary["step"],
        "accuracy": final(stored, "accuracy"),
        "loss": final(stored, "loss"),
        "bits": mean_bits(stored),
        "message_bits": mean_bits(stored, "message"),
        "bytes": float(message_bytes(stored)[-1]),
    }


def average(rows: list[Row]) -> Row:
    """Means over the seeds of one method on one task, and the standard deviations of accuracy and loss."""
    row = {name: rows[0][name] for name in ("data", "method", "step")} | {"seeds": len(rows)}
    for name in ("accuracy", "loss", "bits", "message_bits", "bytes"):
        row[name] = float(np.mean([r[name] for r in rows]))
    for name in ("accuracy", "loss"):
        row[f"{name}_std"] = float(np.std([r[name] for r in rows], ddof=1)) if len(rows) > 1 else 0.0
    return row | {"ratio": 32.0 / row["bits"]}


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
    """The accuracy with its standard deviation over the seeds, for people."""
    return f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_std']:.2f} %"


def difference(
    evidence: Evidence, data: str, mine: str, other: str, needed: float = 0.0, at_most: bool = False,
    name: str = "accuracy",
) -> Effect:  # fmt: skip
    """Of a method's value less another's with the same seed; accuracies in points of a per cent."""
    scale, unit = (100.0, " points") if name == "accuracy" else (1.0, "")
    a, b = ([scale * v for v in by_seed(evidence, "seeds", name, data=data, method=m)] for m in (mine, other))
    return Effect.difference(f"{data}: {mine} − {other}", a, b, scale * needed, at_most, unit)


def budget(evidence: Evidence, data: str) -> float:
    """Of DQ-SGD on a task."""
    return float(evidence.value("tasks", "budget", data=data))


def judge_budget(evidence: Evidence) -> Verdict:
    """The mean width, everything in a message included, is within 1 % of the budget and not above it, with every seed."""
    parts, said = [], []
    for data, rows in tasks(evidence):
        for method, wanted in ((RULE, budget(evidence, data)), (EQUAL, LITTLE)):
            bits = [r["bits"] for r in evidence.rows("seeds", data=data, method=method)]
            parts.append(0.99 * wanted <= min(bits) and max(bits) <= wanted)
            said.append(
                f"{data}: {min(bits):.4f} to {max(bits):.4f} of {wanted:g} ({rows[method]['message_bits']:.3f} with headers)"
            )
    return Verdict.of(parts, "bits of an entry: " + "; ".join(said))


def judge_accuracy(evidence: Evidence) -> Verdict:
    """DQ-SGD's accuracy is at most half a point below SGD's."""
    effects = [difference(evidence, data, RULE, SGD, -NEAR) for data, _ in tasks(evidence)]
    said = "; ".join(f"{data}: {percent(rows[RULE])} and {percent(rows[SGD])}" for data, rows in tasks(evidence))
    return Verdict.tested(effects, after=f"; mean and standard deviation of one seed: {said}")


def judge_saving(evidence: Evidence) -> Verdict:
    """Beside 6 bits throughout and beside AdaQS: fewer bits, and at most half a point less accurate."""
    effects = []
    for data, _ in tasks(evidence):
        for other in (FIXED[6], ADAPTIVE):
            bits = pair_by_seed(evidence, "seeds", "bits", "method", (RULE, other), data=data)
            effects.append(Effect.factor(f"{data}: bits over those of {other}", *bits, at_most=True))
            effects.append(difference(evidence, data, RULE, other, -NEAR))
    return Verdict.tested(effects)


def judge_coarse(evidence: Evidence) -> Verdict:
    """signSGD, TernGrad and 2 bits lose more than half a point to SGD."""
    coarse = (SIGN, TERNARY, FIXED[2])
    return Verdict.tested(
        [
            difference(evidence, data, method, SGD, -NEAR, at_most=True)
            for data, _ in tasks(evidence)
            for method in coarse
        ]
    )


def judge_four(evidence: Evidence) -> Verdict:
    """4 bits throughout lose more than half a point to SGD, and are below DQ-SGD."""
    return Verdict.tested(
        [
            difference(evidence, data, FIXED[4], other, -least, at_most=True)
            for data, _ in tasks(evidence)
            for other, least in ((SGD, NEAR), (RULE, 0.0))
        ]
    )


def judge_rule(evidence: Evidence) -> Verdict:
    """With the bits of 4 throughout, the rule ends at a training loss that is at least 1 % smaller."""
    effects = []
    for data, _ in tasks(evidence):
        losses = pair_by_seed(evidence, "seeds", "loss", "method", (EQUAL, FIXED[4]), data=data)
        effects.append(Effect.factor(f"{data}:", *losses, needed=0.99, at_most=True))
    return Verdict.tested(effects, "training loss over that of 4 bits throughout: ")


def judge_convex(evidence: Evidence) -> Verdict:
    """In the theory's own regime the strongly convex rule ends lower than a fixed width with the same bits."""
    effects, other = [], []
    for width in sorted({row["width"] for row in evidence.tables["convex"]}):
        both = pair_by_seed(evidence, "convex", "excess", "rule", (STRONGLY, FIXED_WIDTH), width=width)
        effects.append(Effect.difference(f"{width} bits:", *both, at_most=True))
        plain = np.mean(by_seed(evidence, "convex", "excess", rule=NONCONVEX, width=width))
        other.append(f"{np.mean(both[0]):.3g}, {np.mean(both[1]):.3g} and {plain:.3g} at {width} bits")
    text = f"10⁶ (f − f of gradient descent) of the {STRONGLY}, the {FIXED_WIDTH} and the {NONCONVEX}: {', '.join(other)}; "
    return Verdict.tested(effects, text + "first less second, ")


def judge_dual(evidence: Evidence) -> Verdict:
    """The dual keeps the error that a fixed width makes, with fewer bits."""
    effects = []
    for width in sorted({row["width"] for row in evidence.tables["convex"]}):
        bits = pair_by_seed(evidence, "convex", "bits", "rule", (DUAL, FIXED_WIDTH), width=width)
        effects.append(Effect.factor(f"bits over those of {width} bits throughout", *bits, at_most=True))
        error, allowed = (by_seed(evidence, "convex", c, rule=DUAL, width=width) for c in ("excess", "allowed"))
        effects.append(Effect.difference("10⁶ (error − ε)", error, allowed, at_most=True))
    return Verdict.tested(effects)


def judge_both_ways(evidence: Evidence) -> Verdict:
    """Counted in all bytes, with the dense model that comes back, DQ-SGD still saves more than half of SGD's."""
    savings = [(data, rows[RULE]["ratio"], rows[SGD]["bytes"] / rows[RULE]["bytes"]) for data, rows in tasks(evidence)]
    said = "; ".join(f"{data}: {ratio:.2f}× up, {both:.2f}× in all bytes" for data, ratio, both in savings)
    return Verdict.of([both > 2 for _, _, both in savings], said)


# ---- figures ----------------------------------------------------------------------------------------------------------
def colour(method: str) -> int:
    """The colour of a method."""
    return TABULATED.index(method) % len(COLOURS)


def draw_training(evidence: Evidence, figure: Any) -> None:
    """A row for each task: accuracy over rounds, over the bits of the paper, over all bytes; bits of an entry over rounds."""
    found = tasks(evidence)
    panels = figure.subplots(len(found), 4, squeeze=False)
    for row, (data, _) in zip(panels, found, strict=True):
        lines = [Line(m, evidence.curves[label(m, data, 1)], colour(m)) for m in SHOWN]
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
    """Accuracy against the compression ratio, as the paper's second figure; bars are standard deviations over the seeds."""
    found = tasks(evidence)
    for ax, (data, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for method in TABULATED:
            row = rows[method]
            ax.errorbar(
                row["ratio"], 100 * row["accuracy"], 100 * row["accuracy_std"], color=COLOURS[colour(method)],
                marker=MARKERS[colour(method)], linestyle="none", linewidth=1.0, capsize=3, label=method,
            )  # fmt: skip
        best = max(100 * rows[m]["accuracy"] for m in TABULATED)
        shown = [100 * rows[m]["accuracy"] for m in TABULATED if 100 * rows[m]["accuracy"] > best - DEPTH]
        low = min(shown) - 2.5
        for method in TABULATED:
            if 100 * rows[method]["accuracy"] <= best - DEPTH:
                text = f"{method}: {100 * rows[method]['accuracy']:.0f} %  ↓"
                ax.annotate(
                    text,
                    (rows[method]["ratio"], low),
                    xytext=(0, 5),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                )
        ax.set_ylim(low, best + 2)
        ax.set_title(data)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("compression ratio of the uplink, 32 / bits of an entry")
        ax.set_ylabel("test accuracy in %")
    shared_legend(figure, figure.axes[0], columns=5)


@papers.register("dq-sgd")
class DQSGDReproduction(Reproduction):
    """Eight workers train small networks on words (for AG-News) and on images (for CIFAR); one step for all, signSGD's own is tuned."""

    summary = "bits chosen by DQ-SGD's rule against fixed widths, TernGrad, signSGD, AdaQS"
    paper = "Yan, Huang, Lan and Song 2021, DQ-SGD (arXiv 2107.14575)"
    sizes: ClassVar = {
        "small": Size((TEXT, Task("images", "digits", "64+64+64+64", 2, 500, 0.2)), SEEDS),
        "paper": Size((TEXT, Task("images", "mnist5k", "64+64+64", 2, 500, 0.05)), SEEDS),
    }
    claims = (
        Claim(
            "dual",
            "Under a bound on the error DQ-SGD (its dual rule) needs fewer bits than a fixed width with that error",
            judge_dual,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "convex",
            "With equal bits the strongly convex rule ends nearer to the minimum than a fixed width",
            judge_convex,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "budget",
            "The rule meets its budget of bits within 1 %",
            judge_budget,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "accuracy",
            "With 4.5 to 4.7 bits of an entry on average DQ-SGD is as accurate as SGD",
            judge_accuracy,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "saving",
            "At equal accuracy it needs fewer bits than 6 bits throughout and than AdaQS",
            judge_saving,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "coarse",
            "signSGD, TernGrad and 2 bits lose accuracy",
            judge_coarse,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "four",
            "4 bits throughout lose accuracy to SGD, and to DQ-SGD with half a bit more",
            judge_four,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "rule",
            "Not in the paper: with the very bits of 4 throughout, the rule trains better",
            judge_rule,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "both-ways",
            "Not in the paper: counting the dense model that comes back, it still halves SGD's bytes",
            judge_both_ways,
            {"small": HOLDS, "paper": HOLDS},
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

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        runner.table("tasks", [{**asdict(task), "budget": PAPER[task.kind]} for task in size.tasks])
        seeds = [
            row for task in size.tasks for method in OPTIONS for row in self.train(runner, task, method, size.seeds)
        ]
        runner.table("seeds", seeds)
        places = dict.fromkeys((row["data"], row["method"]) for row in seeds)
        runner.table("accuracy", [average(runner.evidence.rows("seeds", data=d, method=m)) for d, m in places])
        runner.table("convex", convex(runner, size.seeds))
        data = size.tasks[0].data
        labels = {m: label(m, data, 1) for m in (SGD, TERNARY, FIXED[6], RULE)}
        runner.again_over_mpi(labels.values())
        runs = {m: f"{name} mpi" for m, name in labels.items()}
        goal = min(float(column(runner.evidence.curves[name], "accuracy").max()) for name in runs.values()) - NEAR
        runner.table(TABLE, [seconds_row(runner.evidence.curves[name], m, name, goal) for m, name in runs.items()])

    @staticmethod
    def train(runner: ExperimentRunner, task: Task, method: str, seeds: int) -> list[Row]:
        """One method with every seed, with SGD's step; signSGD with its own best, by the rule for all studies."""
        name, step = f"{method} {task.data}", task.step
        if method == SIGN:
            options = task.options(runner, method)
            step = runner.tune(name, cost=inaccuracy, start=SIGN_START, **options).summary["step"]
        runs = runner.seeds(name, seeds, **task.options(runner, method), step=repr(step))
        return [row_of(stored, method, task.data, seed) for seed, stored in enumerate(runs, 1)]


def convex(runner: ExperimentRunner, seeds: int) -> list[Row]:
    """The theory's own regime: ridge logistic regression, exact gradients, γ = 1/L; every rule with the bits of each fixed width.

    "excess" is f at the end above that of the run without quantization, in units of 1e-6; "allowed" is the dual's ε in the same units, the
    mean excess of the fixed width. The rows are dealt alike for all seeds: f depends on how, since the last client has more of them.
    """
    options: dict[str, Any] = {
        "problem": {"name": "logistic", "reg": 0.1, "regularizer": "ridge", "seed": 0}, "data": runner.data("mushrooms"), "clients": 8,
        "partition": "shuffled", "rounds": CONVEX_ROUNDS, "eval_every": CONVEX_ROUNDS // 20, "init": "normal:1",
    }  # fmt: skip
    dense = runner.run("convex, no quantization", method="gd", **options)
    least, step = dense.rows[-1]["loss"], repr(dense.summary["step"])
    rows = []
    for width in CONVEX_WIDTHS:
        fixed = {"method": "dcgd", "compressor": f"dynamic:bits={width}", **options, "step": step}
        runs = {FIXED_WIDTH: runner.seeds(f"convex, {FIXED_WIDTH} {width}", seeds, **fixed)}
        excess = [1e6 * (run.rows[-1]["loss"] - least) for run in runs[FIXED_WIDTH]]
        allowed, budget = float(np.mean(excess)), mean_bits(runs[FIXED_WIDTH][0])
        rules = {
            STRONGLY: {"rule": "strongly-convex", "budget": budget},
            NONCONVEX: {"rule": "nonconvex", "budget": budget},
            DUAL: {"rule": "dual", "error": 1e-6 * allowed},
        }
        for name, rule in rules.items():
            own = {"method": {"name": "dq-sgd", **rule}, **options, "step": step}
            runs[name] = runner.seeds(f"convex, {name} {width}", seeds, **own)
        for name, made in runs.items():
            for seed, run in enumerate(made, 1):
                above = 1e6 * (run.rows[-1]["loss"] - least)
                row = {"width": width, "rule": name, "seed": seed, "excess": above, "allowed": allowed}
                rows.append(row | {"bits": mean_bits(run)})
    return rows
