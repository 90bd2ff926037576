"""Error Feedback Reloaded: the arithmetic mean of the smoothness constants in place of the quadratic one, and rare features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ...study.compare import Stored, common_target
from .. import generated
from ..axes import at_target, column, message_bytes, rounds, up_bits
from ..drawing import Line, convergence, series, shared_legend
from ..effects import Effect
from ..evidence import Evidence, Row
from ..repeated import by_seed
from ..reproduction import HOLDS, IN_PART, SEEDS, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

PAIRS = {  # what is compared: the step of the quadratic mean, and that of the arithmetic one
    "": ("ef21", "ef21-w"),
    "sgd": ("ef21-sgd", "ef21-w-sgd"),
    "pp": ("ef21-pp:p=0.5", "ef21-w-pp:p=0.5"),
}
SHOWN_ROUNDS = 600  # within which all methods must have got where the runs over MPI end
PREDICTED = 0.05  # rounds saved agree with the theory's steps within this
RARE = ("ef21", "ef21-rare", "gd")
WEIGHTED_SHARE = 0.5  # c/n where the two steps for rare features are compared
NAMES = {"ef21": "EF21", "ef21-w": "EF21-W", "ef21-am": "EF21, new step", "ef21-rare": "EF21, rare step", "gd": "GD"}


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes
    ----------
    clients, dim, rows : n, d, N_i of the generated clients. sigmas : deviations of log L_i. shown : the one of further runs.
    rounds : of EF21. dense_rounds : of gradient descent, which needs fewer.
    real : (data set, problem, n) with partition `heterogeneous`. real_rounds : of EF21 there.
    shares : c/n of the rare features. rare_rounds : of EF21 there. seeds : of the variants, which are random.
    """

    clients: int
    dim: int
    rows: int
    sigmas: tuple[float, ...]
    shown: float
    rounds: int
    dense_rounds: int
    real: tuple[tuple[str, str, int], ...]
    real_rounds: int
    shares: tuple[float, ...]
    rare_rounds: int
    seeds: int


# ---- the runs ---------------------------------------------------------------------------------------------------------
def generated_options(runner: ExperimentRunner, size: Size, sigma: float) -> dict[str, Any]:
    """Nonconvex linear regression: L = 50 without the regulariser, λ = 1."""
    clients = generated.uneven(size.clients, size.dim, size.rows, sigma, 50.0)
    path = generated.write(runner.out / "data" / f"uneven-{size.clients}-{size.rows}-{sigma:g}.svm", clients)
    problem = {"name": "least_squares", "reg": 1.0, "regularizer": "nonconvex", "features": size.dim}
    return _options(problem, path, size.clients, size.rounds, init="ones")


def real_options(runner: ExperimentRunner, data: str, problem: str, n: int, length: int) -> dict[str, Any]:
    """A data set, dealt so that the L_i differ; λ = 0.001."""
    what = {"name": problem, "reg": 0.001, "regularizer": "nonconvex"}
    return _options(what, runner.data(data), n, length, partition="heterogeneous")


def rare_options(runner: ExperimentRunner, size: Size, share: float) -> dict[str, Any]:
    """Least squares with rare features: n = 100, d = 500, 12 rows a client, as published."""
    path = generated.write(runner.out / "data" / f"rare-{share:g}.svm", generated.rare(100, 500, 12, share))
    return _options(
        {"name": "least_squares", "reg": 0.0, "regularizer": "none", "features": 500}, path, 100, size.rare_rounds
    )


def _options(problem: dict[str, Any], data: str, n: int, length: int, **more: Any) -> dict[str, Any]:
    every = max(1, length // 400)
    return {
        "problem": problem, "data": data, "clients": n, "rounds": length, "eval_every": every, "wire_dtype": "float32", **more,
    }  # fmt: skip


def dense(options: dict[str, Any], size: Size) -> dict[str, Any]:
    """The same for gradient descent."""
    return {**options, "method": "gd", "rounds": size.dense_rounds, "eval_every": 1}


def gain(old: Stored, new: Stored, where: str) -> Row:
    """What the larger step is, and how many rounds it saves to the smallest ‖∇f‖² that both reached."""
    target = common_target([old, new])
    problem = json.loads((new.directory / "manifest.json").read_text("utf-8"))["problem"]
    return {
        "where": where,
        "clients": problem["clients"],
        **{name: problem[name] for name in ("L", "L_AM", "L_QM", "L_var")},
        "target": target,
        "steps": new.summary["step"] / old.summary["step"],
        "rounds": at_target(old, rounds, target) / at_target(new, rounds, target),
    }


def trajectory(a: Stored, b: Stored, compressor: str) -> Row:
    """The largest difference of f and of ‖∇f‖² along two runs, relative to their start."""
    difference = max(
        float(np.abs(column(a, c) - column(b, c)).max() / column(a, c)[0]) for c in ("loss", "grad_norm_sq")
    )
    return {"compressor": compressor, "difference": difference}


def rare_row(curves: dict[str, Stored], share: float) -> Row:
    """Rounds of EF21 with both steps to where both got; bits and bytes of the new one and of gradient descent to where these two got."""
    old, new, dense = (curves[method] for method in RARE)
    slow, fast = common_target([old, new]), common_target([new, dense])
    row: Row = {"share": share, "rounds target": slow, "bits target": fast}
    for method, stored in zip(RARE[:2], (old, new), strict=True):
        row[f"{method} rounds"] = at_target(stored, rounds, slow)
    for method, stored in zip(RARE[1:], (new, dense), strict=True):
        row[f"{method} bits"] = at_target(stored, up_bits, fast)
        row[f"{method} bytes"] = at_target(stored, message_bytes, fast)
    return row


# ---- claims -----------------------------------------------------------------------------------------------------------
def as_predicted(row: Row) -> Effect:
    """|ratio of rounds / ratio of steps − 1|, which is to be at most PREDICTED, where nothing is random."""
    name = f"{row['where']} (L_var = {row['L_var']:.3g}): {row['rounds']:.3f}× rounds, {row['steps']:.3f}× steps,"
    return Effect.exact(name, abs(row["rounds"] / row["steps"] - 1), PREDICTED, at_most=True)


def judge_gain(evidence: Evidence) -> Verdict:
    """Along the generated sweep the rounds saved are what the steps say, and grow with L_var."""
    rows = sorted(evidence.tables["sweep"], key=lambda row: row["L_var"])
    effects = [as_predicted(row) for row in rows]
    effects += [Effect.exact("growth", b["rounds"] / a["rounds"], 1.0, ratio=True) for a, b in pairwise(rows)]
    return Verdict.tested(effects, "EF21 over EF21-W, and how far the one is from the other: ")


def judge_real(evidence: Evidence) -> Verdict:
    """On each real set the rounds saved are what the steps say."""
    return Verdict.tested(
        [as_predicted(row) for row in evidence.tables["real"]],
        "EF21 over EF21-W, and how far the one is from the other: ",
    )


def judge_variants(evidence: Evidence) -> Verdict:
    """With minibatches, and with half the clients speaking, the rounds saved are what the steps say."""
    effects = []
    for where in dict.fromkeys(row["where"] for row in evidence.tables["variants"]):
        rounds, steps = (by_seed(evidence, "variants", column, where=where) for column in ("rounds", "steps"))
        effects.append(Effect.factor(f"{where} (steps {steps[0]:.2f}×), at least:", rounds, steps, 1 - PREDICTED))
        effects.append(Effect.factor("at most:", rounds, steps, 1 + PREDICTED, at_most=True))
    return Verdict.tested(effects, "rounds of EF21 over EF21-W's, over the ratio of the steps: ")


def judge_same_method(evidence: Evidence) -> Verdict:
    """Top-k: the trajectories agree to rounding; natural compression: they do not."""
    rows = {r["compressor"]: r["difference"] for r in evidence.tables["trajectory"]}
    same = [d < 1e-9 if name.startswith("topk") else d > 1e-6 for name, d in rows.items()]
    return Verdict.of(same, ", ".join(f"{name}: {d:.1e}" for name, d in rows.items()) + " of the value at the start")


def judge_rare(evidence: Evidence) -> Verdict:
    """The new step saves rounds, the more the rarer the features."""
    rows = sorted(evidence.tables["rare"], key=lambda row: row["share"])
    gains = [row["ef21 rounds"] / row["ef21-rare rounds"] for row in rows]
    said = ", ".join(f"{g:.1f}× at c/n = {r['share']:g}" for g, r in zip(gains, rows, strict=True))
    return Verdict.of([all(g > 1 for g in gains), all(a > b for a, b in pairwise(gains))], f"rounds saved: {said}")


def judge_rare_bits(evidence: Evidence) -> Verdict:
    """With the new step Top-1 takes fewer bits than gradient descent, for each c/n."""
    rows = sorted(evidence.tables["rare"], key=lambda row: row["share"])
    gains = [(r["gd bits"] / r["ef21-rare bits"], r["gd bytes"] / r["ef21-rare bytes"]) for r in rows]
    said = "; ".join(
        f"c/n = {r['share']:g}: {bits:.3g}× as the paper counts, {both:.2g}× in all bytes"
        for (bits, both), r in zip(gains, rows, strict=True)
    )
    return Verdict.of([bits > 1 for bits, _ in gains], f"gradient descent's bits over EF21's: {said}")


def judge_weights(evidence: Evidence) -> Verdict:
    """The weighted step for rare features is the larger one where the L_i differ, not where they are equal; rounds follow the steps."""
    effects = []
    for row in sorted(evidence.tables["weights"], key=lambda row: row["sigma"]):
        name, larger = f"σ = {row['sigma']:g}", row["sigma"] > 0
        effects.append(
            Effect.exact(
                f"{name}: weighted step over the uniform one,", row["steps"], 1.0, at_most=not larger, ratio=True
            )
        )
        off = abs(row["rounds"] / row["steps"] - 1)
        effects.append(Effect.exact(f"rounds {row['rounds']:.3f}×, off by", off, PREDICTED, at_most=True))
    return Verdict.tested(effects)


# ---- figures ----------------------------------------------------------------------------------------------------------
def draw_sweep(evidence: Evidence, figure: Any) -> None:
    """‖∇f‖² over rounds for each spread of the L_i."""
    rows = evidence.tables["sweep"]
    panels = figure.subplots(1, len(rows), sharey=True)
    for ax, row in zip(panels, rows, strict=True):
        lines = [Line(NAMES[m], evidence.curves[f"{m} {row['where']}"], i) for i, m in enumerate(PAIRS[""])]
        convergence(ax, lines, rounds, "rounds")
        spread = row["L_var"] if row["L_var"] > 1e-9 * row["L_QM"] ** 2 else 0.0  # else only rounding
        ax.set_title(f"L_var = {spread:.2g}, L_QM/L_AM = {row['L_QM'] / row['L_AM']:.2f}")
        ax.label_outer()
    shared_legend(figure, panels[0])


def averaged(rows: list[Row]) -> list[Row]:
    """Rounds and steps by place, means over the seeds where there are several, in the order of the steps."""
    found = []
    for where in dict.fromkeys(row["where"] for row in rows):
        own = [row for row in rows if row["where"] == where]
        found.append({name: float(np.mean([row[name] for row in own])) for name in ("steps", "rounds")})
    return sorted(found, key=lambda row: row["steps"])


def draw_gains(evidence: Evidence, figure: Any) -> None:
    """Left: rounds saved against what the steps promise, all pairs. Right: rare features."""
    left, right = figure.subplots(1, 2)
    names = {"sweep": "generated, EF21", "real": "real sets, EF21", "variants": "generated, SGD and PP"}
    for i, (table, name) in enumerate(names.items()):
        rows = averaged(evidence.tables[table])
        hollow = {
            "markerfacecolor": "none",
            "markersize": 6 + 2.5 * i,
            "markeredgewidth": 1.4,
        }  # some lie on each other
        steps, saved = ([row[column] for row in rows] for column in ("steps", "rounds"))
        series(left, steps, saved, name, i, linestyle="none", markevery=1, **hollow)
    ends = [0.95, 1.05 * max(r["steps"] for table in names for r in evidence.tables[table])]
    left.plot(ends, ends, color="#888888", linewidth=0.8, linestyle=":", label="rounds = steps")
    for set_ticks in (left.set_xticks, left.set_yticks):
        set_ticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    left.set_xlabel("step of EF21-W / step of EF21")
    left.set_ylabel("rounds of EF21 / rounds of EF21-W")
    left.legend(frameon=False)
    rows = sorted(evidence.tables["rare"], key=lambda row: row["share"])
    shares = [r["share"] for r in rows]
    series(right, shares, [r["ef21 rounds"] / r["ef21-rare rounds"] for r in rows], "rounds: old step / new step", 0)
    series(right, shares, [r["gd bits"] / r["ef21-rare bits"] for r in rows], "uplink bits: GD / new step", 1)
    series(right, shares, [r["gd bytes"] / r["ef21-rare bytes"] for r in rows], "all bytes: GD / new step", 2)
    right.axhline(1.0, color="#888888", linewidth=0.8, linestyle=":")
    right.set_yscale("log")
    right.set_xlabel("share c/n of the clients that have a feature")
    right.set_ylabel("ratio (above 1 the new step wins)")
    right.legend(frameon=False)


def draw_rare(evidence: Evidence, figure: Any) -> None:
    """‖∇f‖² over the bits that the paper counts, a panel for each c/n."""
    rows = sorted(evidence.tables["rare"], key=lambda row: row["share"])
    panels = figure.subplots(1, len(rows))
    for ax, row in zip(panels, rows, strict=True):
        lines = [Line(NAMES[m], evidence.curves[f"{m} rare {row['share']:g}"], i) for i, m in enumerate(RARE)]
        convergence(ax, lines, up_bits, "uplink bits / n")
        ax.set_xlim(0, float(up_bits(lines[0].stored)[-1]))
        ax.set_ylim(bottom=0.1 * float(column(lines[1].stored, "grad_norm_sq").min()))
        ax.set_title(f"c/n = {row['share']:g}")
    for ax in panels[1:]:
        ax.set_ylabel("")
    shared_legend(figure, panels[0])


@papers.register("ef21-w")
class EF21WReproduction(Reproduction):
    """Theoretical steps, Top-1: generated clients whose L_i differ more and more, real sets dealt heterogeneously, rare features."""

    summary = "EF21 against EF21-W with theoretical steps over L_var; rare features"
    paper = "Richtárik, Gasanov and Burlachenko 2024, Error Feedback Reloaded (arXiv 2402.10774); 2023, Rare Features (2305.15264)"
    sizes: ClassVar = {
        "small": Size(
            2000, 10, 5, (0.0, 1.0, 2.0), 2.0, 2000, 300,
            (("mushrooms", "logistic", 1000), ("news4", "least_squares", 1000)), 1000, (0.05, 0.5, 0.9), 3000, SEEDS,
        ),
        "paper": Size(
            2000, 10, 10, (0.0, 0.5, 1.0, 1.5, 2.0), 2.0, 3000, 100,
            (
                ("phishing", "logistic", 1000), ("mushrooms", "logistic", 1000), ("a9a", "logistic", 1000),
                ("australian", "logistic", 100), ("news4", "least_squares", 1000),
            ), 2000, (0.05, 0.5, 0.9), 3000, SEEDS,
        ),
    }  # fmt: skip
    claims = (
        Claim(
            "gain",
            "With theoretical steps EF21-W needs fewer rounds than EF21 by the ratio of the steps, the more the larger L_var",
            judge_gain,
            {"small": HOLDS},
        ),
        Claim(
            "real",
            "On real data dealt heterogeneously to many clients it saves what the theory's steps say (which may be little)",
            judge_real,
            {"small": HOLDS},
        ),
        Claim(
            "variants",
            "So do its variants with minibatches and with partial participation",
            judge_variants,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "same-method",
            "For Top-k EF21-W is EF21 with another step; only for compressors such as natural compression is it another method",
            judge_same_method,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "rare",
            "Rare features allow EF21 a larger step; the rarer, the larger",
            judge_rare,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "rare-weights",
            "Weights L_i/ΣL make the step for rare features larger where the L_i differ (and smaller where they are equal)",
            judge_weights,
            {"small": IN_PART},
        ),
        Claim(
            "rare-bits",
            "With it EF21 + Top-1 needs fewer bits than gradient descent",
            judge_rare_bits,
            {"small": IN_PART, "paper": IN_PART},
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("sweep", draw_sweep, (11.0, 3.4)),
        Figure("gains", draw_gains, (10.0, 4.0)),
        Figure("rare", draw_rare, (10.0, 3.6)),
        Figure("honest", draw_honest(up_bits, "uplink bits / n"), (11.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        runner.table("weights", [with_weights(runner, size, sigma) for sigma in (0.0, size.shown)])
        sweep = [f"σ = {sigma:g}" for sigma in size.sigmas]
        runner.table(
            "sweep",
            [
                self.compare(runner, where, "", generated_options(runner, size, sigma))
                for where, sigma in zip(sweep, size.sigmas, strict=True)
            ],
        )
        runner.table(
            "real",
            [
                self.compare(runner, data, "", real_options(runner, data, problem, n, size.real_rounds))
                for data, problem, n in size.real
            ],
        )
        shown = generated_options(runner, size, size.shown)
        shorter = {**shown, "rounds": size.rounds // 5, "eval_every": 1}
        variants = {"sgd": {**shorter, "batch": max(1, size.rows // 20)}, "pp": shorter}
        runner.table(
            "variants",
            [row for name, options in variants.items() for row in compare_seeds(runner, name, size.seeds, options)],
        )
        self.measure_trajectories(runner, {**shown, "rounds": 400, "eval_every": 1, "wire_dtype": "float64"})
        self.measure_rare(runner, size)
        where = f"σ = {size.shown:g}"
        runner.run(f"ef21-am {where}", method="ef21-am", **shown)
        runner.run(f"gd {where}", **dense(shown, size))
        labels = {NAMES[method]: f"{method} {where}" for method in ("ef21", "ef21-w", "ef21-am", "gd")}
        target = early_target([runner.evidence.curves[label] for label in labels.values()], SHOWN_ROUNDS)
        runner.again_over_mpi(labels.values(), target)
        measure_seconds(runner, {name: f"{label} mpi" for name, label in labels.items()}, up_bits, target)

    @staticmethod
    def compare(runner: ExperimentRunner, where: str, pair: str, options: dict[str, Any]) -> Row:
        """Run both of a pair."""
        old, new = (
            runner.run(f"{method.partition(':')[0]} {where}", method=method, **options) for method in PAIRS[pair]
        )
        return gain(old, new, where)

    @staticmethod
    def measure_trajectories(runner: ExperimentRunner, options: dict[str, Any]) -> None:
        """EF21-W beside EF21 with the same step, for a compressor that is positively homogeneous and for one that is not."""
        rows = []
        for compressor in ("topk:k=1", "natural"):
            a, b = (
                runner.run(f"{method} {compressor}", method=method, compressor=compressor, **options)
                for method in ("ef21-am", "ef21-w")
            )
            rows.append(trajectory(a, b, compressor))
        runner.table("trajectory", rows)

    @staticmethod
    def measure_rare(runner: ExperimentRunner, size: Size) -> None:
        """All methods at each share."""
        rows = []
        for share in size.shares:
            options = rare_options(runner, size, share)
            curves = {}
            for method in RARE:
                wanted = dense(options, size) if method == "gd" else {**options, "method": method}
                curves[method] = runner.run(f"{method} rare {share:g}", **wanted)
            rows.append(rare_row(curves, share))
        runner.table("rare", rows)


def compare_seeds(runner: ExperimentRunner, pair: str, seeds: int, options: dict[str, Any]) -> list[Row]:
    """`gain` of a random pair, a row for each seed."""
    old, new = (
        runner.seeds(f"{method.partition(':')[0]} {pair}", seeds, method=method, **options) for method in PAIRS[pair]
    )
    return [{"seed": seed, **gain(a, b, pair)} for seed, (a, b) in enumerate(zip(old, new, strict=True), 1)]


def with_weights(runner: ExperimentRunner, size: Size, sigma: float) -> Row:
    """EF21 on rare features with the step of either proof, uniform and with weights L_i/ΣL; log L_i with this deviation."""
    clients = generated.rare(100, 500, 12, WEIGHTED_SHARE, sigma=sigma)
    path = generated.write(runner.out / "data" / f"rare-weights-{sigma:g}.svm", clients)
    problem = {"name": "least_squares", "reg": 0.0, "regularizer": "none", "features": 500}
    options = _options(problem, path, 100, size.rare_rounds)
    uniform, weighted = (
        runner.run(f"rare {weights} σ={sigma:g}", method=f"ef21-rare:weights={weights}", **options)
        for weights in ("uniform", "smoothness")
    )
    return {"sigma": sigma, **gain(uniform, weighted, f"σ = {sigma:g}")}
