"""MARINA-P, which compresses what the server sends, and M3, which compresses both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..axes import both_bits, down_bits
from ..drawing import Line, convergence, panels_by_clients, shared_legend
from ..effects import Effect
from ..evidence import Evidence, Row
from ..repeated import by_seed, pair_by_seed, with_seeds
from ..reproduction import FAILS, HOLDS, IN_PART, SEEDS, UNDECIDED, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

# method, --compressor, --downlink-compressor
DOWN = {
    "GD": ("gd", None, None),
    "EF21-P TopK": ("ef21-p", "topk:k={k}", None),
    "MARINA-P SameRandK": ("marina-p", "randk:k={k},mask=shared", None),
    "MARINA-P IndRandK": ("marina-p", "randk:k={k}", None),
    "MARINA-P PermK": ("marina-p", "permk", None),
}
BOTH = {
    "GD": ("gd", None, None),
    "CORE": ("core:m={k}", None, None),
    "EF21-P + DIANA": ("ef21-p+diana", "randk:k={k}", "topk:k={k}"),
    "EF21-P + DCGD": ("ef21-p+dcgd", "randk:k={k}", "topk:k={k}"),
    "M3": ("m3", "randk:k={k}", "permk"),
}
WIRE_BITS = 32
EVERY = 5  # rounds between evaluations: the best methods need few rounds
DETERMINISTIC = ("GD", "EF21-P TopK")
SPARSE, DENSE = "√d e₁", "dense"
STARTS = {
    SPARSE: "paper",
    DENSE: "normal:{seed}",
}  # both of norm about √d; from the first one gradients stay sparse for long
BETAS = (1.0, 0.1, 0.02)  # beside the theory's
THEORY_CLIENTS = (10, 30, 100, 300)  # where the theory's trend is evaluated
PERMK, SAME, INDEPENDENT = "MARINA-P PermK", "MARINA-P SameRandK", "MARINA-P IndRandK"


@dataclass(frozen=True)
class Size:
    """Of the experiments.

    Attributes
    ----------
    dim, reg, noise : d, λ and s of the quadratics. rounds : by n. seeds : of whatever is random; a dense start is another one with each.
    conditions : (start, target): runs stop at ‖∇f‖² ≤ target, and every step is tuned for it.
    noises, mixed : the s, and the n, where the clients' difference is varied, under the first condition.
    images : n of the autoencoder. image_rounds : its rounds.
    shown : n of the runs over MPI, under the first condition.
    """

    dim: int
    reg: float
    noise: float
    rounds: dict[int, int]
    seeds: int
    conditions: tuple[tuple[str, float], ...]
    noises: tuple[float, ...]
    mixed: int
    images: int
    image_rounds: int
    shown: int

    @property
    def target(self) -> float:
        """Of the first condition."""
        return self.conditions[0][1]

    def options(self, n: int, s: float, start: str = SPARSE) -> dict[str, Any]:
        """What all runs on a quadratic have in common."""
        return {
            "problem": {"name": "quadratic", "dim": self.dim, "noise": s, "reg": self.reg},
            "clients": n,
            "init": STARTS[start],
            "wire_dtype": "float32",
            "rounds": self.rounds[n],
            "eval_every": EVERY,
        }


def parts(method: tuple[str, str | None, str | None], k: int) -> dict[str, Any]:
    """A method's options for K = k."""
    names = ("method", "compressor", "downlink_compressor")
    return {key: text.format(k=k) for key, text in zip(names, method, strict=True) if text is not None}


# ---- claims -----------------------------------------------------------------------------------------------------------
Condition = tuple[str, float]


def by_n(evidence: Evidence, table: str, column: str, method: str) -> dict[int, float]:
    """A number of a method by n, of a table without seeds."""
    return {row["n"]: row[column] for row in evidence.rows(table, method=method)}


def listed(values: dict[Any, float], unit: str = "n") -> str:
    """As text."""
    return ", ".join(f"{value:.3g} at {unit} = {key:g}" for key, value in values.items())


def gains(evidence: Evidence, table: str, column: str, more: str, less: str) -> dict[int, float]:
    """How many times as much the method `more` takes, by n, of a table without seeds."""
    few = by_n(evidence, table, column, less)
    return {n: value / few[n] for n, value in by_n(evidence, table, column, more).items()}


def conditions(evidence: Evidence, table: str, start: str | None = None) -> list[Condition]:
    """(start, target) of a table, all or those of one start."""
    found = dict.fromkeys((row["start"], row["target"]) for row in evidence.tables[table])
    return [(own, target) for own, target in found if start in (None, own)]


def clients(evidence: Evidence, table: str) -> list[int]:
    """All n of a table."""
    return sorted({row["n"] for row in evidence.tables[table]})


def pair(
    evidence: Evidence, table: str, column: str, more: str, less: str, n: int, condition: Condition
) -> tuple[list[float], list[float]]:
    """What two methods took, seed by seed."""
    where = {"n": n, "start": condition[0], "target": condition[1]}
    return pair_by_seed(evidence, table, column, "method", (more, less), **where)


def over(
    evidence: Evidence, table: str, column: str, rivals: Sequence[str], mine: str, start: str | None = None,
    needed: float = 1.0, at_most: bool = False,
) -> list[Effect]:  # fmt: skip
    """What each rival takes over what `mine` takes, for every condition and n."""
    return [
        Effect.factor(
            f"{name}, n = {n}, {condition[0]} to {condition[1]:g}",
            *pair(evidence, table, column, name, mine, n, condition), needed, at_most,
        )
        for condition in conditions(evidence, table, start)
        for name in rivals
        for n in clients(evidence, table)
    ]  # fmt: skip


def growth(evidence: Evidence, table: str, column: str, more: str, less: str, start: str | None = None) -> list[Effect]:
    """How the gain more/less grows from the smallest n to the largest, for every condition."""
    n = clients(evidence, table)
    effects = []
    for condition in conditions(evidence, table, start):
        small, large = (
            [a / b for a, b in zip(*pair(evidence, table, column, more, less, m, condition), strict=True)]
            for m in (n[0], n[-1])
        )
        name = f"from n = {n[0]} to {n[-1]}, {condition[0]} to {condition[1]:g}"
        effects.append(Effect.factor(name, large, small))
    return effects


def judge_fewest_down(evidence: Evidence, start: str) -> Verdict:
    """At every n every other method takes more downlink bits than MARINA-P with PermK."""
    rivals = [name for name in DOWN if name != PERMK]
    return Verdict.tested(over(evidence, "down", "down_bits", rivals, PERMK, start), "downlink bits over PermK's: ")


def judge_down_grows(evidence: Evidence) -> Verdict:
    """GD's downlink bits over PermK's grow with n."""
    return Verdict.tested(growth(evidence, "down", "down_bits", "GD", PERMK), "growth of GD/PermK downlink bits: ")


def judge_same(evidence: Evidence) -> Verdict:
    """One mask for all does not gain over GD, by more than a quarter, at any n."""
    effects = over(evidence, "down", "down_bits", ["GD"], SAME, needed=1.25, at_most=True)
    return Verdict.tested(effects, "downlink bits over SameRandK's: ")


def judge_independent(evidence: Evidence) -> Verdict:
    """Independent masks gain over GD, more with more clients."""
    effects = over(evidence, "down", "down_bits", ["GD"], INDEPENDENT)
    effects += growth(evidence, "down", "down_bits", "GD", INDEPENDENT)
    return Verdict.tested(effects, "downlink bits over IndRandK's, and their growth: ")


def judge_real_downlink(evidence: Evidence) -> Verdict:
    """Where 4 workers host all clients, PermK's saving in bytes through the server's downlink is that for each client."""
    rows = {row["method"]: row for row in evidence.tables["hosted"]}
    paper, real = (rows["GD"][c] / rows[PERMK][c] for c in ("down_bits", "down_bytes"))
    n, ranks = rows["GD"]["n"], rows["GD"]["ranks"]
    text = f"n = {n} on {ranks - 1} workers: {paper:.1f}× for each client, {real:.2f}× in bytes through the server's downlink"
    return Verdict.of([real > 0.9 * paper], text)


def judge_m3_core(evidence: Evidence) -> Verdict:
    """M3 needs fewer bits, both directions together, than CORE and than GD at every n."""
    effects = over(evidence, "both", "both_bits", ["CORE", "GD"], "M3")
    return Verdict.tested(effects, "bits up and down over M3's: ")


def judge_m3_stacked(evidence: Evidence) -> Verdict:
    """With tuned steps M3 needs fewer bits than EF21-P with DIANA and with DCGD at every n."""
    effects = over(evidence, "both", "both_bits", ["EF21-P + DIANA", "EF21-P + DCGD"], "M3")
    return Verdict.tested(effects, "bits up and down over M3's: ")


def judge_m3_stacked_theory(evidence: Evidence) -> Verdict:
    """By the theory's own steps M3 needs fewer bits than EF21-P + DIANA, CORE and GD."""
    effects = [
        Effect.exact(f"{name}, n = {n}", value, 1.0, ratio=True)
        for name in ("EF21-P + DIANA", "CORE", "GD")
        for n, value in gains(evidence, "unlike", "bits", name, "M3").items()
    ]
    return Verdict.tested(effects, "bits up and down that theory promises, over M3's: ")


def judge_m3_trend(evidence: Evidence) -> Verdict:
    """M3's bits, tuned, fall with n by at least n^(−1/4)."""
    n = clients(evidence, "both")
    effects = []
    for condition in conditions(evidence, "both"):
        where = {"method": "M3", "start": condition[0], "target": condition[1]}
        large, small = pair_by_seed(evidence, "both", "both_bits", "n", (n[-1], n[0]), **where)
        slope = [np.log(a / b) / np.log(n[-1] / n[0]) for a, b in zip(large, small, strict=True)]
        effects.append(Effect(f"{condition[0]} to {condition[1]:g}: bits ∝ n^", tuple(map(float, slope)), -0.25, True))
    return Verdict.tested(effects)


def judge_beta(evidence: Evidence) -> Verdict:
    """The best β of those that are tried takes at most three quarters of the bits of the theory's."""
    best = min(BETAS, key=lambda beta: float(np.mean(by_seed(evidence, "beta", "both_bits", beta=beta))))
    both = pair_by_seed(evidence, "beta", "both_bits", "beta", (best, 0.0))
    row = evidence.tables["beta"][0]
    where = f"n = {row['n']}, {row['start']} to {row['target']:g}: "
    return Verdict.tested(
        [Effect.factor(f"β = {best:g}", *both, 0.75, at_most=True)], f"bits over those of the theory's β, {where}"
    )


def exponent(values: dict[int, float]) -> float:
    """The slope of the least squares line through the logarithms of what is finite."""
    known = {n: value for n, value in values.items() if np.isfinite(value)}
    n, y = np.log(list(known)), np.log(list(known.values()))
    return float(np.polyfit(n, y, 1)[0])


def judge_m3_theory(evidence: Evidence) -> Verdict:
    """At s = 0 the bits that theory promises M3 fall with n about as n^(−1/3) or faster; CORE's do not fall."""
    mine, other = (exponent(by_n(evidence, "theory", "bits", name)) for name in ("M3", "CORE"))
    saved = listed(gains(evidence, "theory", "bits", "GD", "M3"))
    return Verdict.of([mine < -0.25, other > -0.15], f"bits ∝ n^{mine:.2f} (M3), n^{other:.2f} (CORE); GD/M3: {saved}")


def judge_heterogeneity(evidence: Evidence) -> Verdict:
    """The more the clients differ, the less PermK and M3 gain over GD."""
    noises = sorted({row["s"] for row in evidence.tables["noise"]})
    effects = []
    for method, column in ((PERMK, "down_bits"), ("M3", "both_bits")):
        first, last = (
            [
                a / b
                for a, b in zip(*pair_by_seed(evidence, "noise", column, "method", ("GD", method), s=s), strict=True)
            ]
            for s in (noises[0], noises[-1])
        )
        effects.append(Effect.factor(f"{method}", first, last))
    return Verdict.tested(effects, f"gain over GD at s = {noises[0]:g} over that at s = {noises[-1]:g}: ")


def judge_images(evidence: Evidence) -> Verdict:
    """On the autoencoder PermK needs the fewest downlink bits, with equal clients and with different ones."""
    effects = []
    for equal in sorted({row["homogeneity"] for row in evidence.tables["images"]}):
        for name in DOWN:
            if name != PERMK:
                both = pair_by_seed(evidence, "images", "down_bits", "method", (name, PERMK), homogeneity=equal)
                effects.append(Effect.factor(f"{name}, p̂ = {equal:g}", *both))
    return Verdict.tested(effects, "downlink bits over PermK's: ")


# ---- figures ----------------------------------------------------------------------------------------------------------
def panels_by_n(
    table: str, methods: dict[str, Any], axis: Any, column: str, unit: str
) -> Callable[[Evidence, Any], None]:
    """What draws a panel of curves for each n, and the bits to the target over n."""

    def draw(evidence: Evidence, figure: Any) -> None:
        start, target = conditions(evidence, table)[0]
        where = {"start": start, "target": target}
        panels_by_clients(
            figure,
            list(methods),
            lambda name, n: evidence.curves[label(name, n, start, target)],
            lambda name, n: float(np.mean(by_seed(evidence, table, column, method=name, n=n, **where))),
            axis,
            unit,
            sorted({row["n"] for row in evidence.tables[table]}),
            columns=len(methods),
        )

    return draw


def draw_images(evidence: Evidence, figure: Any) -> None:
    """The autoencoder, a panel for each p̂."""
    values = sorted({row["homogeneity"] for row in evidence.tables["images"]})
    panels = figure.subplots(1, len(values), sharey=True)
    for ax, equal in zip(panels, values, strict=True):
        lines = [Line(name, evidence.curves[image_label(name, equal)], i) for i, name in enumerate(DOWN)]
        convergence(ax, lines, down_bits, "downlink bits / n", logarithmic=True)
        ax.set_title(f"autoencoder, p̂ = {equal:g}")
        ax.label_outer()
    shared_legend(figure, panels[0], columns=len(DOWN))


def image_label(name: str, homogeneity: float) -> str:
    """Of a curve on the autoencoder."""
    return f"{name} images p={homogeneity:g}"


@papers.register("marina-p-m3")
class MarinaPM3(Reproduction):
    """The quadratics of the paper (d = 300), and the linear autoencoder on images of handwritten digits."""

    summary = (
        "MARINA-P against GD and EF21-P in downlink bits, M3 against CORE and EF21-P + DIANA in all; growth with n"
    )
    paper = "Gruntkowska, Tyurin and Richtárik 2024, MARINA-P and M3 (arXiv 2402.06412)"
    sizes: ClassVar = {
        "small": Size(
            300, 1e-3, 0.1, {10: 6000, 30: 6000}, SEEDS, ((SPARSE, 1e-3), (DENSE, 1e-3), (DENSE, 1e-5)), (0.0, 0.5), 30, 10,
            600, 30,
        ),
        "paper": Size(
            300, 1e-3, 0.1, {10: 6000, 100: 12000, 1000: 4000}, SEEDS,
            ((SPARSE, 1e-3), (SPARSE, 1e-5), (DENSE, 1e-3), (DENSE, 1e-5), (DENSE, 1e-7)), (0.0, 0.1, 0.2, 0.8), 100, 100, 400,
            100,
        ),
    }  # fmt: skip
    claims = (
        Claim(
            "fewest-down",
            "From a dense start MARINA-P + PermK needs the fewest downlink bits at every n",
            partial(judge_fewest_down, start=DENSE),
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "fewest-down-sparse",
            "So it does from x⁰ = √d e₁, where gradients stay sparse and Top-k loses little",
            partial(judge_fewest_down, start=SPARSE),
            {"small": IN_PART},
            SEEDS,
        ),
        Claim("down-grows", "Its gain over GD grows with n", judge_down_grows, {"small": HOLDS}, SEEDS),
        Claim("same-mask", "SameRandK does not gain over GD", judge_same, {"small": HOLDS}, SEEDS),
        Claim(
            "independent", "IndRandK gains over GD, the more the larger n", judge_independent, {"small": HOLDS}, SEEDS
        ),
        Claim(
            "real-downlink",
            "Not in the paper: the gain is there in bytes where a few workers host all clients",
            judge_real_downlink,
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "m3-core",
            "What the paper's figure compares: M3 needs fewer bits up and down than CORE and GD at every n",
            judge_m3_core,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "m3-stacked-theory",
            "What the paper compares of worst cases: by the theory's own steps (M3's constants are ours) M3 needs fewer bits than "
            "EF21-P + DIANA, CORE and GD",
            judge_m3_stacked_theory,
            {"small": IN_PART},
        ),
        Claim(
            "m3-stacked",
            "Not in the paper: with tuned steps M3 needs fewer bits up and down than EF21-P with DIANA and with DCGD",
            judge_m3_stacked,
            {"small": FAILS},
            SEEDS,
        ),
        Claim(
            "m3-trend",
            "M3's total bits, tuned, fall with n, about as n^(−1/3)",
            judge_m3_trend,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "m3-theory",
            "By the theory's own steps (M3's constants are ours) M3's bits fall with equal clients as n^(−1/3) or faster, CORE's do not",
            judge_m3_theory,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "beta",
            "Not in the paper: a tuned β saves a quarter of M3's bits or more",
            judge_beta,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "heterogeneity",
            "The gains over GD shrink as the clients become different",
            judge_heterogeneity,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "images",
            "Linear autoencoder on images: MARINA-P + PermK needs the fewest downlink bits",
            judge_images,
            {"small": UNDECIDED},
            SEEDS,
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("downlink", panels_by_n("down", DOWN, down_bits, "down_bits", "downlink bits / n"), (13.0, 3.4)),
        Figure("both", panels_by_n("both", BOTH, both_bits, "both_bits", "bits up and down / n"), (13.0, 3.4)),
        Figure("images", draw_images, (8.0, 3.4)),
        Figure("honest", draw_honest(both_bits, "bits up and down / n"), (12.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        for table, methods in (("down", DOWN), ("both", BOTH)):
            runner.table(
                table,
                [
                    row
                    for start, target in size.conditions
                    for n in size.rounds
                    for name, method in methods.items()
                    for row in on_quadratic(runner, size, name, method, n, size.noise, start, target)
                ],
            )
        chosen = {"GD": DOWN["GD"], PERMK: DOWN[PERMK], "M3": BOTH["M3"]}
        runner.table(
            "noise",
            [
                row
                for s in size.noises
                for name, method in chosen.items()
                for row in on_quadratic(runner, size, name, method, size.mixed, s, *size.conditions[0])
            ],
        )
        runner.table("beta", [row for beta in (0.0, *BETAS) for row in with_beta(runner, size, beta)])
        runner.table("theory", [row for n in THEORY_CLIENTS for row in by_theory(runner, size, n, 0.0)])
        runner.table("unlike", [row for n in THEORY_CLIENTS for row in by_theory(runner, size, n, size.noise)])
        runner.table("images", [row for p in (0.0, 1.0) for row in on_images(runner, size, p)])
        first = {name: label(name, size.shown, *size.conditions[0]) for name in dict.fromkeys([*DOWN, *BOTH])}
        runner.again_over_mpi(first.values())
        runner.table("hosted", [hosted(runner.evidence, name, size) for name in DOWN])
        measure_seconds(runner, {name: f"{first[name]} mpi" for name in BOTH}, both_bits, size.target)


def label(name: str, n: int, start: str, target: float, s: float | None = None) -> str:
    """Of a curve on a quadratic."""
    return f"{name} n={n} {start} {target:g}" + ("" if s is None else f" s={s:g}")


def on_quadratic(
    runner: ExperimentRunner, size: Size, name: str, method: tuple[str, str | None, str | None], n: int, s: float, start: str,
    target: float,
) -> list[Row]:  # fmt: skip
    """What a method took with its best step, a row for each seed."""
    options = {**parts(method, max(1, size.dim // n)), **size.options(n, s, start)}
    curve = label(name, n, start, target, None if s == size.noise else s)
    random = start == DENSE or name not in DETERMINISTIC
    rows = with_seeds(runner, curve, target, size.seeds, random=random, **options)
    return [{"method": name, "n": n, "s": s, "start": start, **row} for row in rows]


def with_beta(runner: ExperimentRunner, size: Size, beta: float) -> list[Row]:
    """M3 with this β, 0 for the theory's, at the largest n of at most `mixed`, under the last condition, with its best step."""
    start, target = size.conditions[-1]
    n = size.mixed
    options = {**parts(BOTH["M3"], max(1, size.dim // n)), **size.options(n, size.noise, start)}
    options["method"] = f"m3:beta={beta:g}" if beta else "m3"
    rows = with_seeds(runner, f"M3 β={beta:g}", target, size.seeds, **options)
    return [{"beta": beta, "n": n, "start": start, **row} for row in rows]


def by_theory(runner: ExperimentRunner, size: Size, n: int, s: float) -> list[Row]:
    """Bits up and down of a round over the theory's step: what the rounds' bound makes of it, up to a common factor.

    EF21-P + DCGD is left out: its bound has a floor, and its step depends on the accuracy.
    """
    k = max(1, size.dim // n)
    options = {**size.options(min(size.rounds), s), "clients": n, "rounds": 1}
    sent = k + (1 - k / size.dim) * k  # M3 sends all d with probability K/d
    values = {"GD": size.dim, "CORE": k, "EF21-P + DIANA": k, "M3": sent}
    rows = []
    for name, count in values.items():
        step = runner.run(f"{name} theory n={n} s={s:g}", **parts(BOTH[name], k), **options).summary["step"]
        rows.append({"method": name, "n": n, "step": step, "bits": 2 * WIRE_BITS * count / step})
    return rows


def on_images(runner: ExperimentRunner, size: Size, homogeneity: float) -> list[Row]:
    """The same on the autoencoder; the target is what GD, tuned for the end, reaches in a quarter of the rounds."""
    n, width = size.images, 16
    dim = 2 * 64 * width
    options: dict[str, Any] = {
        "problem": {"name": "autoencoder", "width": width, "homogeneity": homogeneity},
        "data": "digits",
        "clients": n,
        "init": "paper",
        "wire_dtype": "float32",
        "rounds": size.image_rounds,
        "eval_every": max(1, size.image_rounds // 150),
    }
    start = 2.0**-6
    dense = runner.tune(f"GD images p={homogeneity:g}, to the end", start=start, method="gd", **options)
    target = early_target([dense], size.image_rounds // 4)
    rows = []
    for name, method in DOWN.items():
        own = {**parts(method, max(1, dim // n)), **options}
        random = name not in DETERMINISTIC
        found = with_seeds(
            runner, image_label(name, homogeneity), target, size.seeds, start=start, random=random, **own
        )
        rows += [{"method": name, "homogeneity": homogeneity, **row} for row in found]
    return rows


def hosted(evidence: Evidence, name: str, size: Size) -> Row:
    """Downlink of a run over MPI: the paper's bits for each client, and the bytes through the server's link."""
    stored = evidence.curves[f"{label(name, size.shown, *size.conditions[0])} mpi"]
    row = stored.first_at(size.target) or stored.rows[-1]
    n = stored.summary["clients"]
    return {
        "method": name,
        "n": n,
        "ranks": stored.summary["ranks"],
        "down_bits": 8.0 * row["downlink_values_only"] / n,
        "down_bytes": row["downlink_message"],
    }
